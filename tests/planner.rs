// SPDX-License-Identifier: LGPL-2.1-or-later
//! The planner against the rules, and against a search that tries everything.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    missing_docs
)]
#![allow(clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::*;
use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::guest::{Guest, HostCpu, MemoryMapEntry, RESERVED_TYPE, Reserve};
use xen_pci_layout::layout::{Blocking, Layout, WindowKind, check};
use xen_pci_layout::pci::{Bar, BarKind, Bdf, Device};
use xen_pci_layout::planner::{Options, plan};

fn bar(reg: u8, kind: BarKind, size: u64) -> Bar {
    Bar { reg, kind, size: Size::new(size), prefetch: false, value: 0, io16: false, host_address: None }
}

fn device(slot: u8, bars: Vec<Bar>) -> Device {
    Device { bars, ..Device::new(Bdf::new(0, slot, 0).unwrap(), (0x1234, 0x5678), 0x0200) }
}

/// One device a BAR, from slot 2 on.
fn guest_with(ram: u64, phys_bits: u8, bars: &[(BarKind, u64)]) -> Guest {
    let low = ram.min(0xf000_0000);
    let high = if ram > low { (1 << 32) + ram - low } else { 0 };
    let mut guest = Guest::new(low >> 12, high >> 12, phys_bits);
    let devices = bars.iter().zip(0_u8..).map(|(&(kind, size), n)| {
        let reg = if kind == BarKind::Rom { 0x30 } else { 0x10 };
        let mut device = device(2 + n % 30, vec![bar(reg, kind, size)]);
        device.bdf = Bdf::new(0, 2 + n / 8, n % 8).unwrap();
        device
    });
    guest.devices = devices.collect();
    guest
}

fn reserve_memory(guest: &mut Guest, start: u64, size: u64) {
    guest.memory_map.push(MemoryMapEntry {
        addr: Address::new(start),
        size: Size::new(size),
        kind: RESERVED_TYPE,
    });
}

fn kept(guest: &Guest) -> Layout {
    let layout = plan(guest, &Options::default()).unwrap();
    assert_eq!(check(guest, &layout), [], "{layout:#?}");
    layout
}

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

#[test]
fn a_gpu_that_does_not_fit_the_default_hole_goes_high_alone() {
    let guest = guest_with(
        6 * G,
        39,
        &[(BarKind::Mem64, G), (BarKind::Mem32, 64 * M), (BarKind::Mem64, 32 * M), (BarKind::Mem32, 16 * M)],
    );
    let layout = kept(&guest);
    assert_eq!(layout.mmio_hole_size.get(), 256 * M);
    let above: Vec<u64> =
        layout.bars.iter().map(|bar| bar.address.get()).filter(|&address| address >= 1 << 32).collect();
    assert_eq!(above.len(), 1, "only the largest moves up: {layout:#?}");
}

#[test]
fn small_bars_of_two_functions_never_share_a_page() {
    for page in [4096, 16384, 65536] {
        let mut guest =
            guest_with(G, 39, &[(BarKind::Mem32, 256), (BarKind::Mem32, 256), (BarKind::Mem64, 16)]);
        guest.page_size = Size::new(page);
        kept(&guest);
    }
}

#[test]
fn device_model_memory_right_after_ram_is_stepped_over() {
    let mut guest = guest_with(3832 * M, 39, &[(BarKind::Mem32, 64 * M), (BarKind::Mem32, 64 * M)]);
    guest.device_model_memory = vec![Size::new(8 * M), Size::new(64 << 10)];
    let layout = kept(&guest);
    let low = layout.window(WindowKind::Low).unwrap();
    assert!(low.start().get() >= 0xf001_0000, "the ROM lies at 0xf0000000: {low}");
}

#[test]
fn the_two_gigabyte_hole_of_the_recorded_accident_keeps_clear_of_the_rom() {
    // memory=3072, mmio_hole=2048, two 1G BARs: hvmloader put one on QEMU's option ROM at 0x140000000.
    let mut guest = guest_with(3064 * M, 40, &[(BarKind::Mem64, G), (BarKind::Mem64, G)]);
    guest.device_model_memory = vec![Size::new(8 * M), Size::new(64 << 10)];
    guest.xenstore.insert("platform/mmio_hole_size".to_owned(), (2 * G).to_string());
    let layout = kept(&guest);
    assert_eq!(layout.high_mem_pgend << 12, 0x1_3f80_0000);
}

#[test]
fn a_demanded_hole_is_kept_or_refused_with_the_one_that_would_do() {
    let mut guest = guest_with(2 * G, 39, &[(BarKind::Mem32, 512 * M), (BarKind::Mem32, 128 * M)]);
    guest.xenstore.insert("platform/mmio_hole_size".to_owned(), (300 * M).to_string());
    let refusal = plan(&guest, &Options::default()).unwrap_err();
    assert!(refusal.remedy.contains("mmio_hole=1024"), "{refusal:?}");
    let free = plan(&guest, &Options { resize_hole: true, ..Options::default() }).unwrap();
    // 512M aligned ends at 0xe0000000: from there on 4G only 448M are left.
    assert_eq!(free.mmio_hole_size.get(), 1024 * M);
}

#[test]
fn eight_h100_need_41_bits_and_step_over_the_hypertransport_hole() {
    let bars = [(BarKind::Mem64, 128 * G); 8];
    let mut guest = guest_with(16 * G, 40, &bars);
    let refusal = plan(&guest, &Options::default()).unwrap_err();
    assert_eq!(serde_json::to_value(refusal.code).unwrap(), "width");
    assert!(refusal.remedy.contains("41"), "{refusal:?}");
    guest.phys_bits = 41;
    kept(&guest);
    guest.cpu = Some(HostCpu { vendor: "AMD".to_owned(), family: 0x15, phys_bits: 48 });
    guest.phys_bits = 48;
    let layout = kept(&guest);
    assert!(layout.window(WindowKind::High).unwrap().start().get() >= 1 << 40, "on one side of the hole");
}

#[test]
fn ram_is_cut_below_reserved_memory_and_not_lost() {
    let mut guest = guest_with(6 * G, 39, &[(BarKind::Mem32, 16 * M)]);
    reserve_memory(&mut guest, 0xb800_0000, 0x10_0000);
    let layout = kept(&guest);
    assert!(layout.low_mem_pgend << 12 <= 0xb800_0000);
}

#[test]
fn a_write_back_platform_bar_lies_above_the_window() {
    let mut guest = guest_with(G, 39, &[(BarKind::Mem32, 16 * M), (BarKind::Mem32, 16 * M)]);
    (guest.devices[0].vendor, guest.devices[0].device) = (0x5853, 1);
    guest.xenstore.insert("hvmloader/pci/xen-platform-pci-bar-uc".to_owned(), "0".to_owned());
    let layout = kept(&guest);
    assert_eq!(layout.window(WindowKind::Low).unwrap().end().get(), 0xfb00_0000);
    assert!(layout.bars.iter().any(|bar| bar.address.get() == 0xfb00_0000));
}

#[test]
fn reservations_are_aligned_and_inside_their_windows() {
    let mut guest = guest_with(2 * G, 46, &[(BarKind::Mem32, 16 * M), (BarKind::Mem64, 256 * M)]);
    guest.reserve = Reserve { low: Size::new(256 * M), high: Size::new(24 * G) };
    let layout = kept(&guest);
    assert_eq!(layout.reserved.len(), 2);
    guest.reserve.low = Size::new(384 * M);
    kept(&guest);
}

#[test]
fn a_guest_with_passthrough_gets_a_high_window_for_later() {
    let mut guest = guest_with(2 * G, 46, &[(BarKind::Mem32, 16 * M)]);
    assert_eq!(kept(&guest).window(WindowKind::High), None, "a guest with neither is left to stock");
    guest.passthrough = true;
    let high = kept(&guest).window(WindowKind::High).unwrap();
    assert!(high.size().get() >= 129 * G && high.end().get() <= 1 << 44);
}

#[test]
fn bars_behind_nested_bridges_lie_in_their_windows_and_non_prefetchable_ones_below_4g() {
    let mut guest = guest_with(
        2 * G,
        40,
        &[(BarKind::Mem64, 16 * G), (BarKind::Mem64, 64 << 10), (BarKind::Mem32, 16 * M), (BarKind::Io, 32)],
    );
    put_behind_bridges(&mut guest, &[2, 2, 1, 1]);
    let layout = kept(&guest);
    let place = |bdf: &str, reg| {
        let bdf: Bdf = bdf.parse().unwrap();
        layout.bars.iter().find(|bar| bar.bdf == bdf && bar.reg == reg).unwrap().address.get()
    };
    assert!(place("02:02.0", 0x10) >= 4 * G, "16G, prefetchable");
    assert!(place("02:02.1", 0x10) < 4 * G, "64-bit, not prefetchable");
    let outer = layout.bridges[0];
    let inner = layout.bridges[1];
    assert!(outer.prefetchable.unwrap().0 <= inner.prefetchable.unwrap().0);
    assert!(inner.io.is_none() && outer.io.is_some());
}

#[test]
fn a_bar_that_does_not_start_a_page_on_the_host_is_refused_with_the_kernel_argument() {
    let mut guest = guest_with(G, 39, &[(BarKind::Mem32, 256), (BarKind::Mem32, 16 << 10)]);
    guest.devices[0].host = Some("0000:3b:00.0".parse().unwrap());
    guest.devices[0].bars[0].host_address = Some(Address::new(0x9000_0900));
    let refusal = plan(&guest, &Options::default()).unwrap_err();
    assert!(refusal.remedy.contains("pci=resource_alignment=12@0000:3b:00.0"), "{refusal:?}");
    let stated = Options { maps_containing_page: true, ..Options::default() };
    let layout = plan(&guest, &stated).unwrap();
    assert_eq!(check(&guest, &layout), []);
    let address = layout.bars.iter().find(|bar| bar.size.get() == 256).unwrap().address.get();
    assert_eq!(address & 0xfff, 0x900, "the guest's offset equals the host's");
}

fn kind() -> impl Strategy<Value = BarKind> {
    prop_oneof![Just(BarKind::Mem32), Just(BarKind::Mem64), Just(BarKind::Rom), Just(BarKind::Io)]
}

prop_compose! {
    fn any_bar()(kind in kind(), bits in 4_u32..38) -> (BarKind, u64) {
        let bits = match kind {
            BarKind::Io => bits.min(11),
            BarKind::Rom => bits.clamp(11, 24),
            BarKind::Mem64 => bits,
            _ => bits.min(30),
        };
        (kind, 1 << bits)
    }
}

prop_compose! {
    fn any_guest()(
        ram in 64_u64..200_000,
        phys_bits in 36_u8..49,
        bars in prop::collection::vec(any_bar(), 0..40),
        rdm in prop::collection::vec((0_u64..3 << 30, 1_u64..0x4000, any::<bool>()), 0..4),
        device_model in prop::collection::vec(1_u64..0x1000, 0..3),
        page in prop_oneof![Just(4096_u64), Just(16384), Just(65536)],
        reserve in prop_oneof![3 => Just((0_u64, 0_u64)), 1 => (0_u64..600, 0_u64..5000)],
        passthrough in any::<bool>(),
        amd in prop_oneof![Just(None), Just(Some(0x15_u32)), Just(Some(0x19))],
        hole in prop_oneof![4 => Just(None), 1 => (128_u64..1920).prop_map(Some)],
        buses in prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(0_u8..3, 40)],
    ) -> Guest {
        let mut guest = guest_with(ram * M, phys_bits, &bars);
        for (start, pages, high) in rdm {
            let start = if high { (start + (4 << 30)) * 2 } else { start + G };
            reserve_memory(&mut guest, start & !0xfff, pages << 12);
        }
        guest.device_model_memory = device_model.into_iter().map(|pages| Size::new(pages << 12)).collect();
        guest.page_size = Size::new(page);
        guest.reserve = Reserve { low: Size::new(reserve.0 * M), high: Size::new(reserve.1 * M) };
        guest.passthrough = passthrough;
        guest.cpu = amd.map(|family| HostCpu { vendor: "AMD".to_owned(), family, phys_bits });
        if let Some(hole) = hole {
            guest.xenstore.insert("platform/mmio_hole_size".to_owned(), (hole * 2 * M).to_string());
        }
        put_behind_bridges(&mut guest, &buses);
        guest
    }
}

/// Bus 1 hangs off 00:1e.0, bus 2 off 01:00.0: each device on the bus that `buses` says.
fn put_behind_bridges(guest: &mut Guest, buses: &[u8]) {
    let bridges = [Bdf::new(0, 30, 0).unwrap(), Bdf::new(1, 0, 0).unwrap()];
    for (device, &bus) in guest.devices.iter_mut().zip(buses).filter(|(_, bus)| **bus > 0) {
        device.bridge = Some(bridges[usize::from(bus) - 1]);
        device.bdf = Bdf::new(bus, device.bdf.slot(), device.bdf.function()).unwrap();
        device.bars.iter_mut().for_each(|bar| bar.prefetch = bar.size.get() > M);
    }
    if !buses.is_empty() {
        let mut outer = device(30, vec![bar(0x10, BarKind::Mem64, 4096)]);
        (outer.header, outer.bdf) = (1, bridges[0]);
        let mut inner = outer.clone();
        (inner.bdf, inner.bridge) = (bridges[1], Some(bridges[0]));
        guest.devices.extend([outer, inner]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_layout_keeps_every_rule(guest in any_guest()) {
        match plan(&guest, &Options::default()) {
            Ok(layout) => {
                prop_assert_eq!(check(&guest, &layout), []);
                if let Some(hole) = guest.demanded_hole() {
                    prop_assert_eq!(hole, layout.mmio_hole_size);
                }
                let kept = |kind| layout.reserved.iter().filter(|r| r.window == kind).map(|r| r.size.get()).sum::<u64>();
                prop_assert!(kept(WindowKind::Low) >= guest.reserve.low.get());
                prop_assert!(kept(WindowKind::High) >= guest.reserve.high.get());
            }
            Err(refusal) => {
                prop_assert!(!refusal.message.is_empty() && !refusal.remedy.is_empty());
                prop_assert!(!refusal.message.contains("NoMeaning"));
            }
        }
    }

    #[test]
    fn a_layout_planned_again_is_the_same_and_a_device_more_moves_nothing_that_can_stay(
        guest in any_guest(), extra in any_bar()
    ) {
        let Ok(first) = plan(&guest, &Options::default()) else { return Ok(()) };
        let keep = Options { keep: Some(Box::new(first.clone())), ..Options::default() };
        let again = plan(&guest, &keep).unwrap();
        prop_assert_eq!(&again.bars, &first.bars);
        let mut more = guest.clone();
        more.devices.push(device(31, vec![bar(0x10, extra.0, extra.1)]));
        if let Ok(fresh) = plan(&more, &Options::default()) {
            let kept = plan(&more, &keep).unwrap();
            prop_assert_eq!(check(&more, &kept), []);
            let moved = |layout: &Layout| first.bars.iter().filter(|bar| !layout.bars.contains(bar)).count();
            prop_assert!(moved(&kept) <= moved(&fresh));
        }
    }

    #[test]
    fn the_order_of_devices_does_not_matter(guest in any_guest(), seed in any::<u64>()) {
        let mut other = guest.clone();
        let mut state = seed | 1;
        other.devices.sort_by_cached_key(|_| { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); state >> 33 });
        prop_assert_eq!(plan(&guest, &Options::default()), plan(&other, &Options::default()));
    }
}

/// The guest with those BARs alone.
fn with_bars(guest: &Guest, kept: &[Blocking]) -> Guest {
    let mut guest = guest.clone();
    for device in &mut guest.devices {
        let bdf = device.bdf;
        device.bars.retain(|bar| kept.iter().any(|other| (other.bdf, other.reg) == (bdf, bar.reg)));
    }
    guest
}

/// The number after `before` in a text.
fn number_after(text: &str, before: &str) -> Option<u64> {
    let digits = text.split_once(before)?.1;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_a_refusal_names_conflicts_and_its_remedy_helps(guest in any_guest()) {
        let Err(refusal) = plan(&guest, &Options::default()) else { return Ok(()) };
        let resize_hole = !refusal.message.starts_with("a hole of");
        let options = Options { resize_hole, ..Options::default() };
        let without_hole = "no mmio_hole (or --resize-hole)";
        let helped = Options { resize_hole: refusal.remedy.contains(without_hole), ..Options::default() };
        let fits = |guest: &Guest| plan(guest, &options).is_ok();
        if !refusal.blocking.is_empty() {
            prop_assert!(!fits(&with_bars(&guest, &refusal.blocking)), "{:?}", refusal);
            if !refusal.message.contains("fewer of them might conflict") {
                for left_out in 0..refusal.blocking.len() {
                    let mut fewer = refusal.blocking.clone();
                    fewer.remove(left_out);
                    prop_assert!(fits(&with_bars(&guest, &fewer)), "{:?}", refusal);
                }
            }
        }
        let mut other = guest.clone();
        let remedy = refusal.remedy.replace(&format!(", and {without_hole}"), "");
        let remedy = remedy.trim_start_matches(&format!("{without_hole}, and then "));
        let remedy = match remedy.strip_prefix("ask for no hot-plug space, and ") {
            None => remedy,
            Some(rest) => {
                other.reserve = Reserve::default();
                rest
            }
        };
        if let Some(names) = remedy.strip_prefix("leave out 0").map(|rest| format!("0{rest}")) {
            let left_out: Vec<Bdf> = names.replace(" and ", ", ").split(", ").map(|bdf| bdf.parse().unwrap()).collect();
            other.devices.retain(|device| {
                !left_out.contains(&device.bdf) && !device.bridge.is_some_and(|above| left_out.contains(&above))
            });
        } else if remedy.ends_with("physical address bits") {
            other.phys_bits = u8::try_from(number_after(remedy, "give the guest ").unwrap()).unwrap();
            if let Some(cpu) = &mut other.cpu { cpu.phys_bits = guest.phys_bits; }
        } else if let Some(mib) = number_after(remedy, "mmio_hole=") {
            other.xenstore.insert("platform/mmio_hole_size".to_owned(), (mib * M).to_string());
        } else if remedy.starts_with("ask for no") {
            let text = remedy.trim_start_matches("ask for no more hot-plug space than ");
            let (low, high) = text.strip_suffix(" above").and_then(|text| text.split_once(" below 4G and ")).unwrap();
            other.reserve = Reserve { low: Size::parse(low).unwrap(), high: Size::parse(high).unwrap() };
        } else if let Some(mib) = number_after(remedy, "give the guest no more than ") {
            let low = (mib * M).min(4 * G - 256 * M);
            other.low_mem_pgend = low >> 12;
            other.high_mem_pgend = if mib * M > low { (4 * G + mib * M - low) >> 12 } else { 0 };
        } else {
            prop_assert!(remedy.contains("rdm_policy") || remedy.contains("no single change"), "{}", remedy);
            return Ok(());
        }
        prop_assert!(plan(&other, &helped).is_ok(), "{:?}", refusal);
    }
}

#[test]
fn no_address_of_a_layout_is_past_52_bits() {
    let mut guest = guest_with(G, 52, &[(BarKind::Mem64, G)]);
    for (addr, size) in [(1 << 63, 4096), ((1 << 52) - 4096, 8192)] {
        let (addr, size) = (Address::new(addr), Size::new(size));
        guest.memory_map.push(MemoryMapEntry { addr, size, kind: RESERVED_TYPE });
    }
    let layout = plan(&guest, &Options::default()).unwrap();
    let reserved: Vec<_> =
        layout.reserved_memory.iter().map(|memory| (memory.start.get(), memory.size.get())).collect();
    assert_eq!(reserved, [((1 << 52) - 4096, 4096)]);
}

#[test]
fn ports_that_are_too_few_are_counted_in_ports_and_no_hole_is_blamed() {
    let mut guest = guest_with(G, 39, &[(BarKind::Io, 8 << 10), (BarKind::Io, 16 << 10)]);
    guest.xenstore.insert("platform/mmio_hole_size".to_owned(), G.to_string());
    let refusal = plan(&guest, &Options::default()).unwrap_err();
    assert!(
        refusal.message.contains("a guest has the 16K ports from 0xc000 to 0xffff for BARs"),
        "{refusal:?}"
    );
    assert_eq!(refusal.blocking.len(), 2, "{refusal:?}");
    assert_eq!(refusal.remedy, "leave out 00:02.0");
}

#[test]
fn a_demanded_hole_that_is_in_a_remedys_way_is_named_and_no_other() {
    // RAM above 4 GiB would lie on reserved memory under any hole, and BARs of 512M need more than the one demanded.
    let mut guest = guest_with(6 * G, 39, &[(BarKind::Mem32, 512 * M)]);
    guest.memory_map.push(MemoryMapEntry {
        addr: Address::new(5 * G),
        size: Size::new(M),
        kind: RESERVED_TYPE,
    });
    let remedy = |guest: &Guest| plan(guest, &Options::default()).unwrap_err().remedy;
    assert!(remedy(&guest).starts_with("leave out the device that"), "{}", remedy(&guest));
    guest.xenstore.insert("platform/mmio_hole_size".to_owned(), (256 * M).to_string());
    assert!(
        remedy(&guest).starts_with("no mmio_hole (or --resize-hole), and then leave out"),
        "{}",
        remedy(&guest)
    );
    guest.xenstore.insert("platform/mmio_hole_size".to_owned(), G.to_string());
    assert!(remedy(&guest).starts_with("leave out the device that"), "{}", remedy(&guest));
}

#[test]
fn a_smallest_set_of_conflicting_bars_is_named_and_proven() {
    // Four BARs of 1G: 3 have room below 4 GiB. Two of 2G are a smaller conflict, and found.
    let mut bars = vec![(BarKind::Mem32, G); 4];
    bars.extend([(BarKind::Mem32, 2 * G); 1]);
    bars.extend([(BarKind::Mem32, 16 * M); 9]);
    let refusal = plan(&guest_with(G, 39, &bars), &Options::default()).unwrap_err();
    assert_eq!(refusal.blocking.len(), 1, "{refusal:?}");
    assert_eq!(refusal.blocking[0].size.get(), 2 * G, "no hole has an aligned 2G: {refusal:?}");
    let bars = [(BarKind::Mem32, G), (BarKind::Mem32, G), (BarKind::Mem32, G), (BarKind::Mem32, G)];
    let refusal = plan(&guest_with(128 * M, 39, &bars), &Options::default()).unwrap_err();
    assert_eq!(refusal.blocking.len(), 3, "{refusal:?}");
    assert!(refusal.message.contains("no fewer BARs conflict"), "{refusal:?}");
    assert_eq!(refusal.remedy, "leave out 00:02.2 and 00:02.3");
}
