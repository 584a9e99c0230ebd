// SPDX-License-Identifier: LGPL-2.1-or-later
//! Devices of every kind, from where they are read to where they are planned: virtual functions, resizable BARs, caching
//! hints, relaxed reserved memory, bridges, and what is said about each.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot make its input has failed"
)]

mod common;

use std::path::Path;

use common::program::{run_in, said};
use common::sysfs::{Config, MEM32, MEM64_PREFETCH, Tree};
use serde_json::{Value, json};
use xen_pci_layout::address::Size;
use xen_pci_layout::guest::Guest;
use xen_pci_layout::layout::{Layout, Refusal, check};
use xen_pci_layout::pci::{BarKind, Caching};
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::source::description;
use xen_pci_layout::source::host::Host;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn guest(phys_bits: u8, devices: Value) -> Guest {
    let text = json!({"phys_bits": phys_bits, "low_mem_pgend": 0x80000, "devices": devices}).to_string();
    description::parse(&text).unwrap()
}

fn device(slot: u8, more: Value) -> Value {
    let mut device =
        json!({"bdf": format!("00:{slot:02x}.0"), "vendor": 0x10de, "device": 1, "class": 0x300});
    device.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    device
}

fn planned(guest: &Guest) -> Layout {
    let layout = plan(guest, &Options { explain: true, ..Options::default() }).unwrap();
    assert_eq!(check(guest, &layout), [], "{layout:#?}");
    layout
}

fn refused(guest: &Guest) -> Refusal {
    *plan(guest, &Options::default()).unwrap_err()
}

/// The program's exit code, and what it wrote to standard output and error.
fn run(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    said(&run_in(directory, arguments))
}

#[test]
fn virtual_functions_bars_take_one_stretch_aligned_to_one_share() {
    // Intel's integrated graphics: 7 functions with 16M and with 512M each.
    let functions = json!({"total_vfs": 7, "bars": [
        {"reg": 0x10, "kind": "mem64", "size": 16 * M, "prefetch": false},
        {"reg": 0x18, "kind": "mem64", "size": 512 * M, "prefetch": true}]});
    let guest = guest(39, json!([device(2, json!({"sriov": functions}))]));
    let layout = planned(&guest);
    assert_eq!(layout.vf_bars.len(), 2);
    assert_eq!(layout.mmio_hole_size.get(), 256 * M, "112M fit below, 3.5G go above");
    let place = |reg| layout.vf_bars.iter().find(|bars| bars.reg == reg).unwrap().address.get();
    assert!(place(0x10) < 4 * G && place(0x18) >= 4 * G);
    assert!(place(0x18).is_multiple_of(512 * M));
    let why = layout.explanation.as_ref().unwrap();
    assert!(why.vf_bars[1].reason.contains("7 times 512M"), "{why:?}");
}

#[test]
fn virtual_functions_bars_of_32_bits_that_have_no_room_below_4g_are_refused_by_name() {
    let functions = json!({"total_vfs": 64, "bars": [{"reg": 0x10, "kind": "mem32", "size": 64 * M}]});
    let refusal = refused(&guest(46, json!([device(4, json!({"sriov": functions}))])));
    assert!(
        refusal.message.starts_with("00:04.0 VF BAR 0x10 (64 times 64M, mem32) cannot be placed"),
        "{refusal:?}"
    );
    assert_eq!(refusal.blocking[0].size.get(), 4 * G);
    // An A100's: 16 of them fit.
    let functions = json!({"total_vfs": 16, "bars": [{"reg": 0x10, "kind": "mem32", "size": 64 * M}]});
    let layout = planned(&guest(46, json!([device(4, json!({"sriov": functions}))])));
    assert_eq!(
        layout.mmio_hole_size.get(),
        1088 * M,
        "1G at a multiple of 64M, right below the fixed regions"
    );
}

#[test]
fn a_share_is_a_page_at_least() {
    let functions = json!({"total_vfs": 8, "bars": [{"reg": 0x10, "kind": "mem32", "size": 16384}]});
    let mut guest = guest(39, json!([device(4, json!({"sriov": functions}))]));
    guest.page_size = Size::new(65536);
    let layout = planned(&guest);
    assert_eq!(layout.vf_bars[0].range(guest.page_size).unwrap().size().get(), 8 * 65536);
}

#[test]
fn what_virtual_functions_need_below_4g_is_found_beside_many_that_can_go_up() {
    // Three A100 SXM: 1G each below 4 GiB, at multiples of 64M, where there is no third aligned 1G.
    let bar = |reg: u8, kind: &str, size: u64| json!({"reg": reg, "kind": kind, "size": size, "prefetch": kind == "mem64"});
    let card = |slot: u8| {
        let vfs = [bar(0x10, "mem32", 64 * M), bar(0x14, "mem64", 4 * G), bar(0x1c, "mem64", 32 * M)];
        let own = [bar(0x10, "mem32", 16 * M), bar(0x14, "mem64", 64 * G), bar(0x1c, "mem64", 32 * M)];
        device(slot, json!({"bars": own, "sriov": {"total_vfs": 16, "bars": vfs}}))
    };
    let layout = planned(&guest(46, Value::from([card(4), card(5), card(6)].to_vec())));
    // 3184M would do, with more MTRRs than there are.
    assert_eq!(layout.mmio_hole_size.get(), 3200 * M);
    let refusal = refused(&guest(46, Value::from([card(4), card(5), card(6), card(7)].to_vec())));
    assert_eq!(refusal.blocking.iter().map(|bar| bar.size.get()).collect::<Vec<_>>(), [G; 4]);
}

#[test]
fn all_that_is_said_of_a_guest_is_the_same_whatever_the_order_of_its_devices() {
    let bar = |reg: u8, kind: &str, size: u64| json!({"reg": reg, "kind": kind, "size": size});
    let sizes = json!([M, 2 * M]);
    let card = |slot: u8| {
        device(
            slot,
            json!({"bars": [bar(0x10, "mem1m", 64 * M), bar(0x14, "mem1m", M), bar(0x18, "mem64", M)],
            "sriov": {"total_vfs": 7, "bars": [bar(0x10, "mem64", 4096), bar(0x18, "mem64", 4096)]},
            "virtual_function": true, "resizable": [{"reg": 0x18, "sizes": sizes}]}),
        )
    };
    for bits in [46, 32] {
        let mut there = guest(bits, Value::from([card(4), card(5), card(6)].to_vec()));
        let mut refusable = there.clone();
        refusable.devices[1].bars[0].size = Size::new(2 * G);
        let (layout, refusal) = (planned(&there), refused(&refusable));
        for guest in [&mut there, &mut refusable] {
            guest.devices.reverse();
            for device in &mut guest.devices {
                device.bars.reverse();
                device.sriov.as_mut().unwrap().bars.reverse();
            }
        }
        assert_eq!(planned(&there), layout);
        assert_eq!(refused(&refusable), refusal);
    }
}

#[test]
fn many_physical_functions_are_planned_and_stay_where_they_were() {
    // A network card's four ports and a GPU whose virtual functions take 3.5G: no search through every place of each.
    let bar = |reg: u8, kind: &str, size: u64| json!({"reg": reg, "kind": kind, "size": size, "prefetch": kind == "mem64"});
    let port =
        json!({"sriov": {"total_vfs": 7, "bars": [bar(0x10, "mem64", 16384), bar(0x1c, "mem64", 16384)]}});
    let wide = json!({"sriov": {"total_vfs": 63, "bars": [bar(0x10, "mem32", 32 * M), bar(0x18, "mem64", 512 * M)]}});
    let devices: Vec<Value> =
        (2..10).map(|slot| device(slot, port.clone())).chain([device(10, wide)]).collect();
    let guest = guest(46, Value::from(devices));
    let layout = planned(&guest);
    assert_eq!(layout.vf_bars.len(), 18);
    assert_eq!(check(&guest, &layout), []);
    let again = Options { keep: Some(Box::new(layout.clone())), ..Options::default() };
    let kept = plan(&guest, &again).unwrap();
    assert_eq!(kept.vf_bars, layout.vf_bars);
}

#[test]
fn what_a_description_says_of_virtual_functions_is_checked() {
    let error = |sriov: Value| {
        let devices = json!([device(4, json!({"sriov": sriov}))]);
        let text = json!({"phys_bits": 39, "low_mem_pgend": 1, "devices": devices}).to_string();
        description::parse(&text).unwrap_err().to_string()
    };
    let bar = |reg: u8, kind: &str, size: u64| json!({"reg": reg, "kind": kind, "size": size});
    assert!(error(json!({"total_vfs": 0, "bars": []})).contains("total_vfs is 0"));
    assert!(error(json!({"total_vfs": 1, "bars": [bar(0x30, "mem32", 4096)]})).contains("VF BAR 0x30"));
    assert!(error(json!({"total_vfs": 1, "bars": [bar(0x10, "io", 4096)]})).contains("memory BARs alone"));
    assert!(error(json!({"total_vfs": 1, "bars": [bar(0x10, "mem32", 3000)]})).contains("no power of two"));
    let both = json!({"total_vfs": 1, "bars": [bar(0x10, "mem64", 4096), bar(0x14, "mem32", 4096)]});
    assert!(error(both).contains("register 0x14 belongs to two VF BARs"));
}

/// A physical function with two VF BARs, and one virtual function of it.
fn sriov_host() -> Tree {
    let tree = Tree::new();
    let none = (0, 0, 0);
    let mut resources = vec![(0xf000_0000, 1 << 20, MEM32), none, none, none, none, none, none];
    resources.push((0xf010_0000, 4 * 16384, MEM32));
    resources.push((0x40_0000_0000, 4 * 64 * M, MEM64_PREFETCH));
    tree.add("0000:03:00.0", (0x8086, 0x1521, 0x02_0000), Config::of(4096).sriov(4, 1, 16, 1), &resources);
    let own = [(0xf010_0000, 16384, MEM32), (0x40_0000_0000, 64 * M, MEM64_PREFETCH)];
    tree.add("0000:03:02.0", (0x8086, 0x1520, 0x02_0000), Config::of(4096).virtual_function(), &own);
    tree.link("0000:03:02.0", "physfn", "../0000:03:00.0");
    tree
}

#[test]
fn sysfs_tells_what_virtual_functions_take_and_what_one_alone_has() {
    let tree = sriov_host();
    let host = Host::copied(tree.path()).unwrap();
    let physical = host.device("0000:03:00.0".parse().unwrap()).unwrap();
    let functions = physical.virtual_functions().unwrap().unwrap();
    assert_eq!(functions.total_vfs, 4);
    let shown: Vec<_> = functions.bars.iter().map(|bar| (bar.reg, bar.kind, bar.size.get())).collect();
    assert_eq!(shown, [(0x10, BarKind::Mem32, 16384), (0x14, BarKind::Mem64, 64 * M)]);

    // The virtual function's registers read zero: its sizes are the kernel's.
    let alone = host.device("0000:03:02.0".parse().unwrap()).unwrap();
    let device = alone.for_guest("00:05.0".parse().unwrap()).unwrap();
    assert!(device.virtual_function);
    assert_eq!(device.bars.iter().map(|bar| bar.size.get()).collect::<Vec<_>>(), [16384, 64 * M]);
    let mut guest = Guest::new(0x80000, 0, 39);
    guest.devices.push(device);
    let layout = planned(&guest);
    assert!(
        layout.warnings.iter().any(|warning| warning.code == "vf-memory-enable"),
        "{:?}",
        layout.warnings
    );
}

#[test]
fn a_physical_function_gets_room_for_virtual_ones_only_where_the_guest_is_shown_them() {
    let tree = sriov_host();
    let cfg = "name='g'\ntype='hvm'\nmemory=1024\npci=['03:00.0@5']\n";
    std::fs::write(tree.path().join("guest.cfg"), cfg).unwrap();
    let layout = |more: &[&str]| -> Value {
        let common = ["plan", "--format", "json", "--host", ".", "guest.cfg"];
        let (code, out, error) = run(tree.path(), &[&common, more].concat());
        assert_eq!(code, 0, "{error}");
        serde_json::from_str(&out).unwrap()
    };
    assert_eq!(layout(&[])["vf_bars"], Value::Null);
    let shown = layout(&["--shows-sriov"]);
    assert_eq!(shown["vf_bars"].as_array().unwrap().len(), 2, "{shown}");
    assert_eq!(shown["vf_bars"][0]["count"], 4);
}

#[test]
fn sizes_that_the_source_does_not_tell_are_not_guessed() {
    let text = "0000:03:00.0 Ethernet controller [0200]: Intel Corporation I350 [8086:1521] (rev 01)\n\
                \tRegion 0: Memory at f0000000 (32-bit, non-prefetchable) [size=1M]\n\
                \tCapabilities: [160 v1] Single Root I/O Virtualization (SR-IOV)\n\
                \t\tInitial VFs: 8, Total VFs: 8, Number of VFs: 0, Function Dependency Link: 00\n\
                \t\tVF offset: 384, stride: 4, Device ID: 1520\n\
                \t\tSupported Page Size: 00000553, System Page Size: 00000001\n\
                \t\tRegion 0: Memory at 00000000f0100000 (64-bit, prefetchable)\n";
    let host = Host::lspci_text(Path::new("lspci.txt"), text).unwrap();
    let physical = host.device("0000:03:00.0".parse().unwrap()).unwrap();
    let error = physical.virtual_functions().unwrap_err().to_string();
    assert!(error.contains("0000:03:00.0: VF BAR 0") && error.contains("sysfs"), "{error}");
}

#[test]
fn a_resizable_bar_is_planned_with_its_size_a_chosen_or_the_largest_and_each_has_its_cost() {
    let sizes: Vec<u64> = (8..15).map(|bit| M << bit).collect();
    let with = |plan: Value| {
        let resizable = json!([{"reg": 0x10, "sizes": sizes, "plan": plan}]);
        let bars = json!([{"reg": 0x10, "kind": "mem64", "size": 256 * M, "prefetch": true}]);
        guest(36, json!([device(5, json!({"bars": bars, "resizable": resizable}))]))
    };
    for (plan, size) in [(Value::Null, 256 * M), (json!(G), G), (json!("largest"), 16 * G)] {
        let layout = planned(&with(plan));
        assert_eq!(layout.bars[0].size.get(), size);
        let costs = &layout.explanation.as_ref().unwrap().resizable[0];
        assert_eq!((costs.planned.get(), costs.sizes.len()), (size, 7));
        assert!(costs.sizes.iter().all(|cost| cost.mmio_hole_size.is_some_and(|hole| hole.get() == 256 * M)));
        assert_eq!(costs.sizes[6].high_window.get(), 16 * G);
    }
    let text = json!({"phys_bits": 36, "low_mem_pgend": 1, "devices": [device(5, json!({
        "bars": [{"reg": 0x10, "kind": "mem64", "size": 256 * M}],
        "resizable": [{"reg": 0x10, "sizes": [256 * M, 512 * M], "plan": G}]}))]});
    let error = description::parse(&text.to_string()).unwrap_err().to_string();
    assert_eq!(error, "device 00:05.0: BAR 0x10 cannot have 1G: it can have 256M, 512M");
}

#[test]
fn the_kernels_file_tells_the_sizes_where_the_capability_cannot_be_read() {
    let tree = Tree::new();
    let vga = [(0x60_0000_0000, 256 * M, MEM64_PREFETCH)];
    tree.add("0000:03:00.0", (0x1002, 0x73bf, 0x03_0000), &Config::of(64), &vga);
    tree.write("0000:03:00.0", "resource0_resize", "0000000000007f00\n");
    let cfg = "name='g'\ntype='hvm'\nmemory=1024\npci=['03:00.0']\npci_bar_size='03:00.0:0x10=largest'\n\
               pci_caching=['03:00.0:0x10=write-combining']\n";
    std::fs::write(tree.path().join("guest.cfg"), cfg).unwrap();
    let (code, out, error) =
        run(tree.path(), &["plan", "--explain", "--format", "json", "--host", ".", "guest.cfg"]);
    assert_eq!(code, 0, "{error}");
    let layout: Layout = serde_json::from_str(&out).unwrap();
    let bar = layout.bars.iter().find(|bar| bar.host.is_some()).unwrap();
    assert_eq!((bar.size.get(), bar.caching), (16 * G, Caching::WriteCombining));
    let others = layout.bars.iter().filter(|bar| bar.host.is_none());
    assert!(others.clone().any(|bar| bar.prefetch), "the VGA's and the platform device's are");
    assert!(others.clone().all(|bar| bar.caching == Caching::Unknown), "prefetchable is no hint");
    let (code, _, error) =
        run(tree.path(), &["plan", "--host", ".", "--bar-size", "03:00.0:0x10=3M", "guest.cfg"]);
    assert!(code == 2 && error.contains("no size of a BAR"), "{error}");
    let (code, _, error) =
        run(tree.path(), &["plan", "--host", ".", "--bar-size", "03:00.0:0x10=64G", "guest.cfg"]);
    assert!(code == 2 && error.contains("0x10 cannot have 64G"), "{error}");
}

#[test]
fn relaxed_reserved_memory_may_lie_under_ram_and_never_under_a_bar() {
    let relaxed = json!([{"addr": 0x3000_0000, "size": M}, {"addr": 0xf000_0000_u64, "size": 4 * M}]);
    let bars = json!([{"reg": 0x10, "kind": "mem32", "size": 16 * M}]);
    let text = json!({"phys_bits": 39, "low_mem_pgend": 0x80000, "relaxed_memory": relaxed,
                      "devices": [device(5, json!({"bars": bars}))]});
    let guest = description::parse(&text.to_string()).unwrap();
    let layout = planned(&guest);
    assert_eq!(layout.bars[0].address.get(), 0xf100_0000, "past what is reserved");
    let warned: Vec<_> =
        layout.warnings.iter().filter(|warning| warning.code == "ram-on-relaxed-memory").collect();
    assert!(warned.len() == 1 && warned[0].message.contains("0x30000000-0x300fffff"), "{warned:?}");
    // What RAM does not cover is still reserved.
    assert_eq!(layout.reserved_memory.len(), 1);
    // The same memory under the policy strict: no hole of libxl's reaches down to it.
    let mut strict = guest;
    let [under, _] = strict.relaxed_memory[..] else { unreachable!() };
    let entry = json!({"addr": 0x0800_0000, "size": under.size, "type": 2});
    strict.memory_map.push(serde_json::from_value(entry).unwrap());
    let refusal = refused(&strict);
    assert!(refusal.message.contains("0x8000000-0x80fffff"), "{refusal:?}");
    assert!(refusal.remedy.contains("rdm_policy=\"relaxed\""), "{refusal:?}");
    assert!(refusal.remedy.contains("no more than 128 MiB"), "{refusal:?}");
}

#[test]
fn everything_has_a_reason() {
    let bars = json!([
        {"reg": 0x10, "kind": "mem32", "size": 16 * M}, {"reg": 0x14, "kind": "mem64", "size": 128 * G},
        {"reg": 0x1c, "kind": "mem64", "size": 4096}, {"reg": 0x24, "kind": "io", "size": 128},
        {"reg": 0x30, "kind": "rom", "size": 512 * 1024}]);
    let small =
        json!([{"reg": 0x10, "kind": "mem32", "size": 256}, {"reg": 0x14, "kind": "mem32", "size": 512 * M}]);
    let mut guest = guest(46, json!([device(5, json!({"bars": bars})), device(6, json!({"bars": small}))]));
    guest.reserve.low = Size::new(384 * M);
    let layout = planned(&guest);
    let why = layout.explanation.as_ref().unwrap();
    assert_eq!(why.bars.len(), layout.bars.len());
    assert_eq!(why.reserved.len(), 1);
    let reason = |bdf: &str, reg: u8| {
        &why.bars.iter().find(|bar| bar.bdf.to_string() == bdf && bar.reg == reg).unwrap().reason
    };
    assert!(reason("00:05.0", 0x10).starts_with("below 4G: it has 32 address bits"), "{why:#?}");
    assert!(reason("00:05.0", 0x14).starts_with("above 4G: no hole has room for it below"), "{why:#?}");
    assert!(
        reason("00:05.0", 0x1c).starts_with("below 4G: 64-bit BARs stay there while they fit"),
        "{why:#?}"
    );
    assert!(reason("00:05.0", 0x24).starts_with("I/O ports"), "{why:#?}");
    assert!(reason("00:05.0", 0x30).starts_with("below 4G: a ROM"), "{why:#?}");
    assert!(reason("00:06.0", 0x10).ends_with("in a page of 4K of its own"), "{why:#?}");
    assert!(why.hole.contains("cannot be placed"), "{why:#?}");
    let (code, out, _) = run(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        &["plan", "--explain", "--host", "examples/consumer-gpu/host", "examples/consumer-gpu/guest.cfg"],
    );
    assert_eq!(code, 0);
    assert!(out.contains("above 4G: no hole has room for it below beside the rest"), "{out}");
}

#[test]
fn a_layout_with_a_bridge_is_planned_and_not_stored() {
    let directory = tempfile::tempdir().unwrap();
    let bars = json!([{"reg": 0x10, "kind": "mem32", "size": M}]);
    let bridge = device(3, json!({"class": 0x604, "header": 1}));
    let mut behind = device(5, json!({"bars": bars, "bridge": "00:03.0"}));
    behind["bdf"] = json!("01:00.0");
    let text = json!({"phys_bits": 39, "low_mem_pgend": 0x80000, "devices": [bridge, behind]}).to_string();
    std::fs::write(directory.path().join("guest.json"), text).unwrap();
    let (code, out, error) = run(directory.path(), &["plan", "--format", "json", "guest.json"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("\"bridges\""));
    std::fs::write(directory.path().join("layout.json"), out).unwrap();
    if cfg!(feature = "xenstore") {
        let (code, out, _) =
            run(directory.path(), &["apply", "--domid", "1", "--format", "json", "guest.json"]);
        let answer: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &answer["error"]["code"]), (1, &json!("unsafe")));
        assert!(answer["error"]["message"].as_str().unwrap().contains("numbers the buses"), "{answer}");
        assert_eq!(answer["error"]["blocking"].as_array().unwrap().len(), 1, "what lies behind it");
        let stored = ["apply", "--domid", "1", "--stored", "--format", "json", "layout.json"];
        let (code, out, _) = run(directory.path(), &stored);
        assert!(code == 1 && out.contains("numbers the buses"), "{out}");
    }
}
