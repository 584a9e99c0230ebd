// SPDX-License-Identifier: LGPL-2.1-or-later
//! The judge is judged: one layout that keeps every rule of docs/layout-rules.md, broken one rule at a time, and `check`
//! names the rule.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use serde_json::json;
use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::guest::{Guest, HostCpu, MemoryMapEntry, RESERVED_TYPE};
use xen_pci_layout::layout::{Layout, PlacedBar, Window, WindowKind, check};
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::source::description;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
/// Reserved device memory inside the low window.
const RDM: u64 = 0xf900_0000;

/// A guest with something of every kind: RAM on both sides of 4 GiB, reserved device memory, device-model memory, space
/// for hot-plug, virtual functions, and a bridge with a device behind it.
fn good() -> (Guest, Layout) {
    let device =
        |bdf: &str, bars| json!({"bdf": bdf, "vendor": 0x10de, "device": 1, "class": 0x300, "bars": bars});
    let mut physical = device("00:05.0", json!([{"reg": 16, "kind": "mem32", "size": 4096}]));
    physical["sriov"] = json!({"total_vfs": 4, "bars": [{"reg": 16, "kind": "mem64", "size": 16384}]});
    let mut bridge = device("00:06.0", json!([]));
    bridge["header"] = 1.into();
    bridge["class"] = 0x604.into();
    let mut behind = device(
        "01:00.0",
        json!([{"reg": 16, "kind": "mem64", "size": M}, {"reg": 24, "kind": "mem64", "size": M, "prefetch": true},
            {"reg": 32, "kind": "io", "size": 256}]),
    );
    behind["bridge"] = "00:06.0".into();
    let small = json!([{"reg": 16, "kind": "mem32", "size": 256}, {"reg": 20, "kind": "io", "size": 256}]);
    let text = json!({
        "phys_bits": 40, "low_mem_pgend": 0xf_0000, "high_mem_pgend": 0x20_0000, "passthrough": true,
        "memory_map": [{"addr": RDM, "size": M, "type": 2}], "device_model_memory": [16 * M],
        "reserve": {"low": 4 * M, "high": 64 * M},
        "devices": [device("00:03.0", small.clone()), device("00:04.0", small), physical, bridge, behind,
            device("00:07.0", json!([{"reg": 16, "kind": "mem64", "size": 16 * G, "prefetch": true}]))],
    });
    let guest = description::parse(&text.to_string()).unwrap();
    let layout = plan(&guest, &Options::default()).unwrap();
    assert_eq!(check(&guest, &layout), [], "{layout:#?}");
    (guest, layout)
}

/// What `check` says after a change to the good guest or its layout: one sentence at least has these words.
fn broken(words: &str, change: impl FnOnce(&mut Guest, &mut Layout)) {
    let (mut guest, mut layout) = good();
    change(&mut guest, &mut layout);
    let found: Vec<String> = check(&guest, &layout).iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|said| said.contains(words)), "\"{words}\" is not in {found:#?}");
}

/// The same for the change of one BAR.
fn broken_bar(words: &str, bdf: &str, reg: u8, address: u64) {
    broken(words, |_, layout| bar(layout, bdf, reg).address = Address::new(address));
}

fn bar<'layout>(layout: &'layout mut Layout, bdf: &str, reg: u8) -> &'layout mut PlacedBar {
    let bdf = bdf.parse().unwrap();
    layout.bars.iter_mut().find(|bar| bar.bdf == bdf && bar.reg == reg).unwrap()
}

fn window(layout: &mut Layout, kind: WindowKind) -> &mut Window {
    layout.windows.iter_mut().find(|window| window.kind == kind).unwrap()
}

fn start(kind: WindowKind) -> u64 {
    window(&mut good().1, kind).start.get()
}

#[test]
fn ram_is_the_guests_and_ends_where_the_hole_begins() {
    broken("RAM is", |_, layout| layout.low_mem_pgend -= 1);
    broken("inside the hole", |_, layout| {
        layout.low_mem_pgend += 0x1000;
        layout.high_mem_pgend -= 0x1000;
    });
    broken("although there is room below the hole", |_, layout| {
        layout.low_mem_pgend -= 0x1000;
        layout.high_mem_pgend += 0x1000;
    });
    broken("overlaps reserved device memory", |guest, _| {
        let (addr, size) = (Address::new(G), Size::new(M));
        guest.memory_map.push(MemoryMapEntry { addr, size, kind: RESERVED_TYPE });
    });
}

#[test]
fn the_hole_is_a_multiple_of_two_mebibytes_within_its_limits() {
    for hole in [257 * M, 254 * M, 3842 * M] {
        broken("no multiple of 2M from 256M to 3840M", |_, layout| layout.mmio_hole_size = Size::new(hole));
    }
}

#[test]
fn every_bar_is_there_once_with_its_own_size() {
    let words = "the layout's BARs are not the guest's";
    broken(words, |_, layout| layout.bars.truncate(1));
    broken(words, |_, layout| layout.bars.push(layout.bars[0].clone()));
    broken(words, |_, layout| bar(layout, "00:03.0", 16).size = Size::new(4096));
    let words = "the layout's VF BARs are not those of";
    broken(words, |_, layout| layout.vf_bars.clear());
    broken(words, |_, layout| layout.vf_bars[0].count = 3);
}

#[test]
fn a_memory_bar_is_aligned_and_shares_no_page() {
    let low = start(WindowKind::Low);
    broken_bar("is not aligned to 4K", "00:03.0", 16, low + 0x100);
    broken_bar("is not aligned to 1M", "01:00.0", 16, low + 0x1000);
    broken_bar("is not aligned to 256", "00:03.0", 20, 0xc010);
    broken("share", |_, layout| {
        let there = bar(layout, "00:03.0", 16).address;
        bar(layout, "00:04.0", 16).address = there;
    });
    broken("share", |_, layout| {
        let there = bar(layout, "00:03.0", 20).address;
        bar(layout, "00:04.0", 20).address = there;
    });
    // An offset into the page is the host's or none.
    let offset = |host: u64| {
        let (mut guest, mut layout) = good();
        guest.devices[0].bars[0].host_address = Some(Address::new(host));
        let placed = bar(&mut layout, "00:03.0", 16);
        placed.address = placed.address.checked_add(Size::new(0x200)).unwrap();
        check(&guest, &layout)
    };
    assert_eq!(offset(0xe000_0200), []);
    assert_eq!(offset(0xe000_0100).len(), 1);
}

#[test]
fn nothing_lies_on_memory_of_another_kind() {
    broken_bar("lies on reserved memory", "00:03.0", 16, RDM);
    broken_bar("lies in no window", "00:03.0", 16, G);
    broken_bar("lies in no window", "00:03.0", 16, 0xfec0_0000);
    broken_bar("lies in no window", "00:07.0", 16, 1 << 40);
    broken_bar("runs past the highest address", "00:03.0", 16, u64::MAX - 0xfff);
    broken("lies on reserved memory", |guest, layout| {
        guest.cpu = Some(HostCpu { vendor: "AMD".to_owned(), family: 0x10, phys_bits: 40 });
        bar(layout, "00:07.0", 16).address = Address::new(0xfc_0000_0000);
    });
}

#[test]
fn there_is_one_window_of_a_kind_and_it_keeps_its_place() {
    for (kind, words) in [
        (WindowKind::Low, "two low windows"),
        (WindowKind::High, "two high windows"),
        (WindowKind::Io, "two io windows"),
    ] {
        broken(words, |_, layout| {
            let one = *window(layout, kind);
            layout.windows.push(one);
        });
    }
    broken("the high window runs backwards", |_, layout| {
        let high = window(layout, WindowKind::High);
        (high.start, high.end) = (high.end, high.start);
    });
    broken("leaves", |_, layout| window(layout, WindowKind::Low).end = Address::FOUR_GIB);
    broken("leaves", |_, layout| window(layout, WindowKind::High).end = Address::new(1 << 41));
    broken("leaves", |_, layout| window(layout, WindowKind::Io).end = Address::new(0x1_1000));
    broken("touches RAM", |_, layout| window(layout, WindowKind::Low).start = Address::new(G));
    broken("touches RAM", |_, layout| window(layout, WindowKind::High).start = Address::FOUR_GIB);
}

#[test]
fn a_bar_lies_in_a_window_of_its_kind() {
    let high = start(WindowKind::High);
    broken_bar("lies in no window", "00:03.0", 16, high);
    broken_bar("lies in no window", "01:00.0", 16, high);
    broken("lies in no window", |_, layout| layout.windows.clear());
}

#[test]
fn a_reservation_is_aligned_and_inside_its_window() {
    let change = |words: &str, start: u64| {
        broken(words, |_, layout| {
            let low = layout.reserved.iter_mut().find(|kept| kept.window == WindowKind::Low).unwrap();
            low.start = Address::new(start);
        });
    };
    change("is not aligned", start(WindowKind::Low) + M);
    change("lies outside its window", 8 * G);
    change("runs past the highest address", u64::MAX - (4 * M - 1));
    change("lies on reserved memory", RDM / (4 * M) * (4 * M));
}

#[test]
fn virtual_functions_bars_take_whole_shares_in_a_window() {
    let change = |words: &str, address: u64| {
        broken(words, |_, layout| layout.vf_bars[0].address = Address::new(address));
    };
    change("is not aligned to one function's share", start(WindowKind::Low) + 4096);
    change("lies in no window", G);
    change("runs past the highest address", u64::MAX - 0x3fff);
    change("lies on reserved memory", RDM);
}

#[test]
fn what_is_behind_a_bridge_lies_in_its_windows_and_nothing_else_does() {
    let words = "lies in no window of its bridge 00:06.0";
    broken(words, |_, layout| layout.bridges.clear());
    for remove in [
        |layout: &mut Layout| layout.bridges[0].memory = None,
        |layout: &mut Layout| layout.bridges[0].prefetchable = None,
        |layout: &mut Layout| layout.bridges[0].io = None,
    ] {
        broken(words, |_, layout| remove(layout));
    }
    let words = "lies in a window of bridge 00:06.0";
    broken(words, |_, layout| {
        bar(layout, "00:03.0", 16).address = layout.bridges[0].memory.unwrap().0;
    });
    broken(words, |_, layout| {
        bar(layout, "00:03.0", 20).address = layout.bridges[0].io.unwrap().0;
    });
    broken("a window of bridge 00:06.0", |_, layout| {
        let (start, end) = layout.bridges[0].memory.unwrap();
        layout.bridges[0].memory = Some((start, end.checked_add(Size::new(4096)).unwrap()));
    });
}
