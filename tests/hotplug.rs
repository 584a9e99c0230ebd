// SPDX-License-Identifier: LGPL-2.1-or-later
//! Attach and detach: against trying every placement, over long sequences, and through files.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use proptest::prelude::*;
use xen_pci_layout::address::{Address, Range, Size};
use xen_pci_layout::guest::Guest;
use xen_pci_layout::hotplug::{self, Difference, Present};
use xen_pci_layout::layout::{
    Code, Layout, LayoutDevice, PlacedBar, Reservation, ReservedKind, ReservedMemory, Window, WindowKind,
};
use xen_pci_layout::pci::{Bar, BarKind, Bdf, Device, PresentBar, PresentFunction};
use xen_pci_layout::planner::{self, Options};

const PAGE: u64 = 4096;
const LOW: u64 = 0xf000_0000;
const HIGH: u64 = 0x2_0000_0000;
const IO: u64 = 0xc000;

fn device(slot: u8, wishes: &[(BarKind, u64)]) -> Device {
    let bars = wishes.iter().zip(0_u8..);
    let bars = bars.map(|(&(kind, size), index)| Bar::new(0x10 + 4 * index, kind, Size::new(size), false));
    let bdf = Bdf::new(0, slot, 0).unwrap();
    Device { bars: bars.collect(), ..Device::new(bdf, (0x1234, 0x5678), 0x0200) }
}

fn window(kind: WindowKind, start: u64, size: u64) -> Window {
    Window { kind, start: Address::new(start), end: Address::new(start + size) }
}

/// A layout with windows of so many pages and bytes of ports.
fn layout(low: u64, high: u64, io: u64) -> Layout {
    let mut layout = Layout::default();
    layout.phys_bits = 39;
    layout.low_mem_pgend = 0x8000;
    let windows =
        [(WindowKind::Low, LOW, low * PAGE), (WindowKind::High, HIGH, high * PAGE), (WindowKind::Io, IO, io)];
    layout.windows = windows
        .into_iter()
        .filter(|w| w.2 > 0)
        .map(|(kind, start, size)| window(kind, start, size))
        .collect();
    layout
}

fn put(layout: &mut Layout, slot: u8, reg: u8, kind: BarKind, size: u64, address: u64) {
    let bdf = Bdf::new(0, slot, 0).unwrap();
    let bar = Bar::new(reg, kind, Size::new(size), false);
    layout.bars.push(PlacedBar::new(bdf, &bar, Address::new(address)));
    if layout.device(bdf).is_none() {
        layout.devices.push(LayoutDevice::new(bdf, (0x8086, 1), 0x0200));
    }
}

fn attach(
    layout: &Layout,
    device: &Device,
) -> Result<hotplug::Attachment, Box<xen_pci_layout::layout::Refusal>> {
    hotplug::attach(layout, &Present::default(), device)
}

#[test]
fn a_physical_function_that_is_attached_gets_no_room_for_virtual_ones_and_is_warned_of_it() {
    let mut physical = device(5, &[(BarKind::Mem32, PAGE)]);
    let functions = r#"{"total_vfs": 4, "bars": [{"reg": 16, "kind": "mem64", "size": 16384}]}"#;
    physical.sriov = serde_json::from_str(functions).unwrap();
    let attached = attach(&layout(64, 0, 0), &physical).unwrap();
    assert!(attached.layout.vf_bars.is_empty());
    assert_eq!(attached.layout.bars.len(), 1);
    let warned = attached.forecast.warnings.iter().map(|warning| (warning.code.as_str(), warning.bdf));
    assert!(warned.into_iter().any(|warned| warned == ("virtual-functions-unplaced", Some(physical.bdf))));
}

/// Which units (pages, or 4 ports) of a window are taken, without any of the program's own arithmetic on ranges.
struct Grid {
    start: u64,
    unit: u64,
    taken: Vec<bool>,
}

impl Grid {
    fn of(layout: &Layout, kind: WindowKind) -> Self {
        let window = layout.windows.iter().find(|w| w.kind == kind);
        let bounds = window.map_or((0, 0), |window| (window.start.get(), window.end.get()));
        Self::over(layout, bounds, kind == WindowKind::Io)
    }

    fn over(layout: &Layout, (start, end): (u64, u64), ports: bool) -> Self {
        let unit = if ports { 4 } else { PAGE };
        let mut taken = vec![false; ((end - start) / unit) as usize];
        let bars = layout.bars.iter().filter(|bar| (bar.kind == BarKind::Io) == ports);
        let bars = bars.map(|bar| (bar.address.get(), bar.size.get()));
        let barred = layout.reserved_memory.iter().map(|memory| (memory.start.get(), memory.size.get()));
        let barred = barred.filter(|_| !ports);
        for (from, size) in bars.chain(barred) {
            for (index, taken) in taken.iter_mut().enumerate() {
                let unit_start = start + index as u64 * unit;
                *taken |= from < unit_start + unit && unit_start < from + size;
            }
        }
        Self { start, unit, taken }
    }

    fn places(&self, size: u64) -> Vec<usize> {
        let size = size.max(self.unit);
        let units = (size / self.unit) as usize;
        let whole = self.taken.len().saturating_sub(units - 1);
        let aligned = |index: &usize| (self.start + *index as u64 * self.unit).is_multiple_of(size);
        (0..whole)
            .filter(aligned)
            .filter(|index| !self.taken[*index..index + units].contains(&true))
            .collect()
    }

    fn set(&mut self, index: usize, size: u64, value: bool) {
        let units = (size.max(self.unit) / self.unit) as usize;
        self.taken[index..index + units].fill(value);
    }
}

/// On the root bus.
fn some_placement(grids: &mut [Grid; 3], wishes: &[(BarKind, u64)]) -> bool {
    some_placement_in(grids, wishes, &|kind| match kind {
        BarKind::Io => &[2],
        BarKind::Mem64 => &[0, 1],
        _ => &[0],
    })
}

/// Tries every place for every BAR, in the windows that its kind may use.
fn some_placement_in(
    grids: &mut [Grid; 3],
    wishes: &[(BarKind, u64)],
    windows: &dyn Fn(BarKind) -> &'static [usize],
) -> bool {
    let Some((&(kind, size), rest)) = wishes.split_first() else { return true };
    for &window in windows(kind) {
        for place in grids[window].places(size) {
            grids[window].set(place, size, true);
            let found = some_placement_in(grids, rest, windows);
            grids[window].set(place, size, false);
            if found {
                return true;
            }
        }
    }
    false
}

fn grids(layout: &Layout) -> [Grid; 3] {
    [WindowKind::Low, WindowKind::High, WindowKind::Io].map(|kind| Grid::of(layout, kind))
}

/// That the BARs lie in their windows, aligned, on pages of their own, off reserved memory.
fn assert_placed(before: &Layout, bars: &[PlacedBar]) {
    let mut grids = grids(before);
    for bar in bars {
        let window = match bar.kind {
            BarKind::Io => 2,
            BarKind::Mem64 if bar.address.get() >= HIGH => 1,
            _ => 0,
        };
        let grid = &mut grids[window];
        let index = ((bar.address.get() - grid.start) / grid.unit) as usize;
        assert!(grid.places(bar.size.get()).contains(&index), "{bar:?} in {before:#?}");
        grid.set(index, bar.size.get(), true);
    }
}

fn memory_kind() -> impl Strategy<Value = BarKind> {
    prop_oneof![Just(BarKind::Mem32), Just(BarKind::Mem64), Just(BarKind::Mem64), Just(BarKind::Rom)]
}

fn wish() -> impl Strategy<Value = (BarKind, u64)> {
    prop_oneof![
        6 => (memory_kind(), 8_u32..16).prop_map(|(kind, bits)| (kind, 1 << bits)),
        1 => (2_u32..7).prop_map(|bits| (BarKind::Io, 1 << bits)),
    ]
}

/// A window's first bytes hold what is there already: pages at random, some of them reserved memory.
fn crowded() -> impl Strategy<Value = Layout> {
    let pages = || proptest::collection::vec(prop_oneof![3 => Just(0), 2 => Just(1), 1 => Just(2)], 0..20);
    (pages(), pages(), 0_u64..9).prop_map(|(low, high, io)| {
        let mut layout = layout(low.len() as u64, high.len() as u64, io * 16);
        for (start, pages) in [(LOW, low), (HIGH, high)] {
            for (index, what) in pages.into_iter().enumerate() {
                let address = start + index as u64 * PAGE;
                match what {
                    1 => put(&mut layout, 1, 0x10, BarKind::Mem64, 256, address),
                    2 => layout.reserved_memory.push(ReservedMemory {
                        start: Address::new(address + 0x100),
                        size: Size::new(0x100),
                        what: ReservedKind::Rdm,
                    }),
                    _ => {}
                }
            }
        }
        layout
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The answer is yes exactly where some placement exists, and then it is one.
    #[test]
    fn yes_exactly_where_some_placement_exists(before in crowded(), wishes in proptest::collection::vec(wish(), 0..6)) {
        let exists = some_placement(&mut grids(&before), &wishes);
        match attach(&before, &device(4, &wishes)) {
            Ok(found) => {
                prop_assert!(exists);
                assert_placed(&before, &found.bars);
            }
            Err(refusal) => {
                prop_assert!(!exists, "{refusal:?}");
                prop_assert!(!refusal.blocking.is_empty());
                let blocking: Vec<_> = wishes.iter().zip(0_u8..)
                    .filter(|(_, index)| refusal.blocking.iter().any(|bar| bar.reg == 0x10 + 4 * index))
                    .map(|(wish, _)| *wish)
                    .collect();
                prop_assert!(!some_placement(&mut grids(&before), &blocking), "the blocking BARs alone do not fit");
                for left_out in 0..blocking.len() {
                    let mut fewer = blocking.clone();
                    fewer.remove(left_out);
                    prop_assert!(some_placement(&mut grids(&before), &fewer), "each of them is needed to block");
                }
            }
        }
    }

    /// The same behind a bridge: its windows, and the prefetchable one for prefetchable BARs that reach it.
    #[test]
    fn yes_behind_a_bridge_exactly_where_some_placement_exists(
        mut before in crowded(),
        wishes in proptest::collection::vec(wish(), 0..6),
        prefetch in any::<bool>(),
        below in any::<bool>(),
        sizes in (1_u64..8, 1_u64..8, 0_u64..9),
    ) {
        let bridge = Bdf::new(0, 3, 0).unwrap();
        let memory = (LOW, LOW + sizes.0 * PAGE);
        let start = if below { LOW + 8 * PAGE } else { HIGH };
        let prefetchable = (start, start + sizes.1 * PAGE);
        let io = (IO, IO + sizes.2 * 16);
        let range = |(start, end)| Some((Address::new(start), Address::new(end)));
        before.bridges.push(xen_pci_layout::layout::BridgeWindows {
            bdf: bridge, memory: range(memory), prefetchable: range(prefetchable), io: range(io),
        });
        let mut device = device(4, &wishes);
        device.bridge = Some(bridge);
        device.bars.iter_mut().for_each(|bar| bar.prefetch = prefetch);
        let mut grids = [(memory, false), (prefetchable, false), (io, true)]
            .map(|(bounds, ports)| Grid::over(&before, bounds, ports));
        let exists = some_placement_in(&mut grids, &wishes, &|kind| match kind {
            BarKind::Io => &[2],
            _ if prefetch && (below || kind == BarKind::Mem64) => &[0, 1],
            _ => &[0],
        });
        prop_assert_eq!(attach(&before, &device).is_ok(), exists);
    }

    /// Over a long sequence nothing moves, every answer is right, and at the end all is as it was.
    #[test]
    fn a_sequence_moves_nothing_and_gives_everything_back(
        steps in proptest::collection::vec((2_u8..9, proptest::collection::vec(wish(), 1..4)), 1..40),
        reserved in proptest::collection::vec((any::<bool>(), 0_u64..4, 0_u32..3), 0..4),
    ) {
        let mut start = layout(24, 24, 128);
        for (high, at, bits) in reserved {
            let (window, base) = if high { (WindowKind::High, HIGH) } else { (WindowKind::Low, LOW) };
            let size = PAGE << bits;
            let address = base + at * 4 * PAGE;
            let taken = |other: &Reservation| other.start.get() == address;
            if !start.reserved.iter().any(taken) {
                start.reserved.push(Reservation { window, start: Address::new(address), size: Size::new(size) });
            }
        }
        let mut now = start.clone();
        for (slot, wishes) in steps {
            let wanted = device(slot, &wishes);
            if now.device(wanted.bdf).is_some() {
                let gone = hotplug::detach(&now, wanted.bdf).unwrap();
                prop_assert!(gone.layout.bars.iter().all(|bar| now.bars.contains(bar)), "the others stay");
                prop_assert_eq!(gone.layout.bars.len() + gone.bars.len(), now.bars.len());
                now = gone.layout;
                continue;
            }
            let exists = some_placement(&mut grids(&now), &wishes);
            let answer = attach(&now, &wanted);
            prop_assert_eq!(answer.is_ok(), exists);
            let Ok(found) = answer else { continue };
            assert_placed(&now, &found.bars);
            prop_assert!(now.bars.iter().all(|bar| found.layout.bars.contains(bar)), "nothing moves");
            let again = attach(&found.layout, &wanted).unwrap();
            prop_assert_eq!((&again.bars, &again.forecast, &again.layout), (&found.bars, &found.forecast, &found.layout));
            let back = hotplug::detach(&found.layout, wanted.bdf).unwrap().layout;
            prop_assert_eq!(&back, &now, "a detach undoes an attach");
            assert_reserved(&start, &found.layout);
            now = found.layout;
        }
        for bdf in now.hot_plugged.clone() {
            now = hotplug::detach(&now, bdf).unwrap().layout;
        }
        prop_assert_eq!(now, start);
    }
}

/// What is reserved is what the BARs leave of the promise, in aligned pieces.
fn assert_reserved(start: &Layout, now: &Layout) {
    let pages = |layout: &Layout| {
        let mut pages: Vec<u64> = layout
            .reserved
            .iter()
            .flat_map(|r| (0..r.size.get() / PAGE).map(move |page| r.start.get() + page * PAGE))
            .collect();
        pages.sort_unstable();
        pages
    };
    let taken = |page: &u64| {
        let page = Range::sized(Address::new(*page), Size::FRAME).unwrap();
        now.bars.iter().any(|bar| bar.kind.is_memory() && bar.range().unwrap().overlaps(page))
    };
    let left: Vec<u64> = pages(start).into_iter().filter(|page| !taken(page)).collect();
    assert_eq!(pages(now), left);
    for reservation in &now.reserved {
        assert!(reservation.start.is_aligned(reservation.size.previous_power_of_two()), "{reservation:?}");
    }
}

fn refusal(layout: &Layout, device: &Device) -> xen_pci_layout::layout::Refusal {
    *attach(layout, device).unwrap_err()
}

#[test]
fn a_refusal_says_what_kind_of_no_it_is() {
    let m = 1_u64 << 20;
    let big = device(4, &[(BarKind::Mem64, 16 << 30)]);
    let no_window = layout(4096, 0, 0);
    assert_eq!(refusal(&no_window, &big).code, Code::NoWindow);
    let mut narrow = no_window.clone();
    narrow.phys_bits = 33;
    assert_eq!(refusal(&narrow, &big).code, Code::Width);
    let small = layout(4096, 4096, 0);
    let answer = refusal(&small, &big);
    assert_eq!(answer.code, Code::DoesNotFit);
    assert!(answer.message.contains("the high window"), "{answer:?}");
    assert!(answer.remedy.contains("--reserve-high 16G"), "{answer:?}");
    let mut barred = layout(4096, 0, 0);
    barred.reserved_memory.push(ReservedMemory {
        start: Address::new(LOW + 8 * m),
        size: Size::new(PAGE),
        what: ReservedKind::Rdm,
    });
    assert_eq!(refusal(&barred, &device(4, &[(BarKind::Mem32, 16 * m)])).code, Code::ReservedMemory);
    assert_eq!(refusal(&no_window, &device(4, &[(BarKind::Io, 256)])).code, Code::NoWindow);
}

#[test]
fn a_refusal_names_the_device_that_could_go() {
    let mut now = layout(4096, 0, 0);
    put(&mut now, 2, 0x10, BarKind::Mem32, 1 << 20, LOW);
    let first = attach(&now, &device(4, &[(BarKind::Mem32, 8 << 20)])).unwrap().layout;
    let answer = refusal(&first, &device(5, &[(BarKind::Mem32, 8 << 20)]));
    assert!(answer.remedy.starts_with("detach 00:04.0 first"), "{answer:?}");
}

#[test]
fn an_address_that_is_taken_is_refused() {
    let mut now = layout(64, 0, 0);
    put(&mut now, 3, 0x10, BarKind::Mem32, PAGE, LOW);
    assert_eq!(refusal(&now, &device(3, &[(BarKind::Mem32, PAGE)])).code, Code::SlotTaken);
    let with = attach(&now, &device(4, &[(BarKind::Mem32, PAGE)])).unwrap().layout;
    assert_eq!(refusal(&with, &device(4, &[(BarKind::Mem32, 2 * PAGE)])).code, Code::SlotTaken);
    assert_eq!(hotplug::detach(&now, Bdf::new(0, 9, 0).unwrap()).unwrap_err().code, Code::NotAttached);
}

#[test]
fn a_larger_page_keeps_devices_farther_apart() {
    let mut now = layout(64, 0, 0);
    now.page_size = Size::new(65536);
    put(&mut now, 3, 0x10, BarKind::Mem32, PAGE, LOW + PAGE);
    let found = attach(&now, &device(4, &[(BarKind::Mem32, PAGE), (BarKind::Mem32, 16)])).unwrap();
    let places: Vec<u64> = found.bars.iter().map(|bar| bar.address.get()).collect();
    assert_eq!(places, [LOW + 0x10000, LOW + 0x20000]);
}

#[test]
fn behind_a_bridge_only_its_windows_count() {
    let bridge = Bdf::new(0, 3, 0).unwrap();
    let mut now = layout(4096, 4096, 0);
    put(&mut now, 3, 0x10, BarKind::Mem64, 256, LOW);
    let m = 1 << 20;
    now.bridges.push(xen_pci_layout::layout::BridgeWindows {
        bdf: bridge,
        memory: Some((Address::new(LOW + 2 * m), Address::new(LOW + 3 * m))),
        prefetchable: Some((Address::new(HIGH + 4 * m), Address::new(HIGH + 8 * m))),
        io: None,
    });
    let behind = |wishes: &[(BarKind, u64)], prefetch| {
        let mut device = device(0, wishes);
        device.bdf = Bdf::new(1, 0, 0).unwrap();
        device.bridge = Some(bridge);
        device.bars.iter_mut().for_each(|bar| bar.prefetch = prefetch);
        attach(&now, &device).map(|found| found.bars[0].address.get())
    };
    assert_eq!(behind(&[(BarKind::Mem64, 4 * m)], true).unwrap(), HIGH + 4 * m);
    assert_eq!(behind(&[(BarKind::Mem64, 4 * m)], false).unwrap_err().code, Code::DoesNotFit);
    assert_eq!(behind(&[(BarKind::Mem64, m)], false).unwrap(), LOW + 2 * m);
    let mut nowhere = device(6, &[(BarKind::Mem32, m)]);
    nowhere.bridge = Bdf::new(0, 9, 0);
    assert_eq!(refusal(&now, &nowhere).code, Code::NoWindow);
    let root = attach(&now, &device(5, &[(BarKind::Mem32, 2 * m), (BarKind::Mem64, 4 * m)])).unwrap();
    let places: Vec<u64> = root.bars.iter().map(|bar| bar.address.get()).collect();
    assert_eq!(places, [LOW + 4 * m, HIGH], "a bridge's windows are not the root bus's");
}

/// Plays against a region: devices come and go, and whoever places them chooses as badly as it can by chance.
fn survives(size: u64, devices: &[Device], at_once: usize, moves: &[(usize, u64)]) -> Result<(), String> {
    let base = 1 << 50;
    let mut taken: Vec<(usize, Range)> = Vec::new();
    for &(device, chance) in moves {
        let device = device % devices.len();
        if taken.iter().any(|(other, _)| *other == device) {
            taken.retain(|(other, _)| *other != device);
            continue;
        }
        let mut there: Vec<usize> = taken.iter().map(|(other, _)| *other).collect();
        there.dedup();
        if there.len() == at_once {
            continue;
        }
        let mut blocks: Vec<u64> = devices[device].bars.iter().map(|bar| bar.size.get().max(PAGE)).collect();
        blocks.sort_unstable_by(|a, b| b.cmp(a));
        for (index, block) in blocks.iter().zip(1_u64..).map(|(block, index)| (index, *block)) {
            let places = (0..size / block)
                .map(|n| Range::sized(Address::new(base + n * block), Size::new(block)).unwrap());
            let free: Vec<Range> =
                places.filter(|place| !taken.iter().any(|(_, other)| other.overlaps(*place))).collect();
            if free.is_empty() {
                return Err(format!("{block:#x} found no place of {size:#x}: {taken:?}"));
            }
            // Often the first, often the last, else anywhere.
            let index = match chance % 4 {
                0 => 0,
                1 => free.len() - 1,
                _ => ((chance / 4).wrapping_mul(index) % free.len() as u64) as usize,
            };
            taken.push((device, free[index]));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What `--reserve-any` keeps is enough, whatever the order and whoever chooses the places.
    #[test]
    fn any_order_of_attaches_and_detaches_finds_room(
        sizes in proptest::collection::vec(proptest::collection::vec(10_u32..18, 1..4), 1..6),
        at_once in 1_usize..5,
        moves in proptest::collection::vec((0_usize..6, any::<u64>()), 1..80),
    ) {
        let devices: Vec<Device> = sizes.iter()
            .map(|bits| device(4, &bits.iter().map(|bits| (BarKind::Mem64, 1 << bits)).collect::<Vec<_>>()))
            .collect();
        let at_once = at_once.min(devices.len());
        let group = hotplug::Group { at_once, devices: devices.clone() };
        let reserve = hotplug::any_order(&[group], Size::FRAME).unwrap();
        prop_assert_eq!(reserve.low, Size::ZERO);
        prop_assert_eq!(survives(reserve.high.get(), &devices, at_once, &moves), Ok(()));
    }
}

/// The blocks that may be at one time when `d`'s block of `s` bytes is to be placed, as the bound counts them: those of
/// d that are as large, and of the K - 1 others that take most.
fn worst_case(devices: &[Device], at_once: usize) -> (u64, Vec<u64>, u64) {
    let blocks =
        |device: &Device| -> Vec<u64> { device.bars.iter().map(|bar| bar.size.get().max(PAGE)).collect() };
    let mut worst = (0, Vec::new(), 0);
    for (index, device) in devices.iter().enumerate() {
        for size in blocks(device) {
            let mut there: Vec<u64> = blocks(device).into_iter().filter(|block| *block >= size).collect();
            let mut others: Vec<Vec<u64>> = devices
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, d)| blocks(d))
                .collect();
            others.sort_by_key(|other| {
                std::cmp::Reverse(other.iter().map(|block| block.max(&size)).sum::<u64>())
            });
            there.extend(others.into_iter().take(at_once - 1).flatten());
            let sum = there.iter().map(|block| block.max(&size)).sum();
            if sum > worst.0 {
                worst = (sum, there, size);
            }
        }
    }
    worst
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// It is the least: with a page less, whoever chooses the places can leave none for the last block.
    #[test]
    fn a_page_less_than_what_any_order_takes_is_not_enough(
        sizes in proptest::collection::vec(proptest::collection::vec(10_u32..18, 1..4), 1..6),
        at_once in 1_usize..5,
    ) {
        let devices: Vec<Device> = sizes.iter()
            .map(|bits| device(4, &bits.iter().map(|bits| (BarKind::Mem64, 1 << bits)).collect::<Vec<_>>()))
            .collect();
        let at_once = at_once.min(devices.len());
        let group = hotplug::Group { at_once, devices: devices.clone() };
        let enough = hotplug::any_order(&[group], Size::FRAME).unwrap().high.get();
        let (sum, mut there, last) = worst_case(&devices, at_once);
        prop_assert_eq!(enough, sum);
        // The largest first, each at the next multiple of the last block's size: one block a place.
        let own = there.iter().position(|block| *block == last).unwrap();
        there.remove(own);
        there.sort_unstable_by(|a, b| b.cmp(a));
        let mut free = free_pages(enough - PAGE);
        let mut at = 0;
        for block in there {
            prop_assert!(at % block == 0 && free.iter().skip((at / PAGE) as usize).take((block / PAGE) as usize).all(|free| *free));
            (at / PAGE..(at + block) / PAGE).for_each(|page| free[page as usize] = false);
            at += block.max(last);
        }
        let pages = (last / PAGE) as usize;
        let place = free.chunks_exact(pages).any(|place| place.iter().all(|free| *free));
        prop_assert!(!place, "a block of {last:#x} still finds a place in {enough:#x} less a page");
    }
}

/// So many bytes of free pages.
fn free_pages(bytes: u64) -> Vec<bool> {
    vec![true; (bytes / PAGE) as usize]
}

fn any_kind() -> impl Strategy<Value = (BarKind, u64)> {
    prop_oneof![
        6 => (memory_kind(), 6_u32..27).prop_map(|(kind, bits)| {
            (kind, if kind == BarKind::Rom { 1 << bits.clamp(11, 24) } else { 1 << bits })
        }),
        1 => (2_u32..9).prop_map(|bits| (BarKind::Io, 1 << bits)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A planned guest's reservation, from end to end: in any order every device finds room, in this program's eyes and
    /// in Linux's, and whichever of the two chose the places before.
    #[test]
    fn a_planned_reservation_takes_its_devices_in_any_order(
        wishes in proptest::collection::vec(proptest::collection::vec(any_kind(), 1..5), 1..6),
        at_once in 1_usize..5,
        moves in proptest::collection::vec((0_usize..6, any::<bool>()), 1..60),
    ) {
        let devices: Vec<Device> = (4..).zip(&wishes).map(|(slot, wishes)| device(slot, wishes)).collect();
        let at_once = at_once.min(devices.len());
        let group = hotplug::Group { at_once, devices: devices.clone() };
        let mut guest = Guest::new(0x10_0000, 0, 46);
        guest.devices = vec![device(2, &[(BarKind::Mem32, 16 << 20), (BarKind::Io, 256)])];
        guest.reserve = hotplug::any_order(&[group], Size::FRAME).unwrap();
        let mut stored = planner::plan(&guest, &Options::default()).unwrap();
        let mut real: std::collections::BTreeMap<Bdf, PresentFunction> = std::collections::BTreeMap::new();
        for (index, linux) in moves {
            let device = &devices[index % devices.len()];
            if real.remove(&device.bdf).is_some() {
                stored = hotplug::detach(&stored, device.bdf).unwrap().layout;
                continue;
            }
            if real.len() == at_once {
                continue;
            }
            let functions: Vec<PresentFunction> = real.values().cloned().collect();
            let seen = hotplug::observe(&stored, &functions);
            let answer = hotplug::attach(&seen.layout, &seen.present, device);
            let found = answer.map_err(|refusal| TestCaseError::fail(format!("{refusal:?} {:#?}", seen.layout)))?;
            stored = found.layout;
            let bars = found.bars.iter().zip(&found.forecast.bars).map(|(own, forecast)| {
                let address = forecast.address.unwrap_or_else(|| panic!("Linux finds no place: {:?}", found.forecast));
                let address = Some(if linux { address } else { own.address });
                PresentBar { reg: own.reg, kind: own.kind, size: own.size, address }
            });
            let bars = bars.collect();
            real.insert(device.bdf, PresentFunction { bdf: device.bdf, vendor: 0x1234, device: 0x5678, passed_through: true, bars });
        }
    }
}

#[test]
fn any_order_of_one_device_is_its_own_size_and_of_two_no_byte_less_will_do() {
    let gpu =
        device(4, &[(BarKind::Mem64, 16 << 30), (BarKind::Mem64, 32 << 20), (BarKind::Mem32, 16 << 20)]);
    let of = |at_once, devices: &[&Device]| {
        let group =
            hotplug::Group { at_once, devices: devices.iter().map(|device| (*device).clone()).collect() };
        let reserve = hotplug::any_order(&[group], Size::FRAME).unwrap();
        (reserve.low.get(), reserve.high.get())
    };
    assert_eq!(of(1, &[&gpu, &gpu]), (16 << 20, (16 << 30) + (32 << 20)));
    assert_eq!(of(2, &[&gpu, &gpu]), (32 << 20, 48 << 30));
    // With a page less there are two places for a large block, and the first device's small one lies in the second.
    let small = device(5, &[(BarKind::Mem64, 16 * PAGE), (BarKind::Mem64, PAGE)]);
    let (_, enough) = of(2, &[&small, &small]);
    assert_eq!(enough, 48 * PAGE);
    let both = [small.clone(), small.clone()];
    assert!(survives(enough, &both, 2, &[(0, 0), (1, 0)]).is_ok());
    assert!(survives(enough - PAGE, &both, 2, &[(0, 0), (1, 0)]).is_err());
}

/// A function as the device model has it: 32-bit BARs of a page each, by register.
fn present(slot: u8, bars: &[(u8, Option<u64>)]) -> PresentFunction {
    let bars = bars.iter().map(|&(reg, address)| PresentBar {
        reg,
        kind: BarKind::Mem32,
        size: Size::new(PAGE),
        address: address.map(Address::new),
    });
    PresentFunction {
        bdf: Bdf::new(0, slot, 0).unwrap(),
        vendor: 0x8086,
        device: 1,
        passed_through: false,
        bars: bars.collect(),
    }
}

#[test]
fn a_bar_that_the_guest_moved_counts_where_it_is() {
    let mut stored = layout(2, 0, 0);
    put(&mut stored, 3, 0x10, BarKind::Mem32, PAGE, LOW);
    let seen = hotplug::observe(&stored, &[present(3, &[(0x10, Some(LOW + PAGE))])]);
    assert_eq!(seen.differences.len(), 1, "{:?}", seen.differences);
    let found = hotplug::attach(&seen.layout, &seen.present, &device(4, &[(BarKind::Mem32, PAGE)])).unwrap();
    assert_eq!(found.bars[0].address.get(), LOW, "its old place is free");
    assert_eq!(found.layout.bars[0].address.get(), LOW + PAGE, "and its new one is recorded");
}

#[test]
fn a_bar_without_decode_keeps_its_place_and_is_uncertain() {
    let mut stored = layout(1, 0, 0);
    put(&mut stored, 3, 0x10, BarKind::Mem32, PAGE, LOW);
    let seen = hotplug::observe(&stored, &[present(3, &[(0x10, None)])]);
    assert!(matches!(seen.differences[..], [Difference::Uncertain { reg: 0x10, .. }]));
    let no = hotplug::attach(&seen.layout, &seen.present, &device(4, &[(BarKind::Mem32, PAGE)]));
    assert_eq!(no.unwrap_err().code, Code::DoesNotFit);
}

#[test]
fn a_function_that_nobody_recorded_takes_its_slot_and_its_space() {
    let stored = layout(2, 0, 0);
    let seen = hotplug::observe(&stored, &[present(2, &[(0x10, Some(LOW))])]);
    assert!(matches!(seen.differences[..], [Difference::Unrecorded { .. }]));
    assert_eq!(hotplug::free_slot(&seen.layout, &seen.present), Bdf::new(0, 3, 0));
    let found = hotplug::attach(&seen.layout, &seen.present, &device(4, &[(BarKind::Mem32, PAGE)])).unwrap();
    assert_eq!(found.bars[0].address.get(), LOW + PAGE);
    let taken = hotplug::attach(&seen.layout, &seen.present, &device(2, &[(BarKind::Mem32, PAGE)]));
    assert_eq!(taken.unwrap_err().code, Code::SlotTaken);
}

#[test]
fn a_bar_that_moved_where_no_layout_may_have_it_bars_both_places() {
    let mut stored = layout(4, 0, 0);
    put(&mut stored, 3, 0x10, BarKind::Mem32, 256, LOW);
    put(&mut stored, 5, 0x10, BarKind::Mem32, 256, LOW + PAGE);
    let mut packed = present(5, &[(0x10, Some(LOW + 256))]);
    packed.bars[0].size = Size::new(256);
    let mut still = present(3, &[(0x10, Some(LOW))]);
    still.bars[0].size = Size::new(256);
    let seen = hotplug::observe(&stored, &[still, packed]);
    assert_eq!(seen.layout, stored, "two on a page is no layout");
    let found = hotplug::attach(&seen.layout, &seen.present, &device(6, &[(BarKind::Mem32, PAGE)])).unwrap();
    assert_eq!(found.bars[0].address.get(), LOW + 2 * PAGE);
}

#[test]
fn another_device_at_a_recorded_place_bars_what_it_uses_and_what_is_recorded() {
    let mut stored = layout(4, 0, 0);
    put(&mut stored, 3, 0x10, BarKind::Mem32, PAGE, LOW);
    // Somebody detached the recorded device and attached another, and told nobody.
    let mut other = present(3, &[(0x10, Some(LOW + 2 * PAGE))]);
    other.device = 0x77;
    other.bars[0].size = Size::new(2 * PAGE);
    let seen = hotplug::observe(&stored, &[other]);
    assert!(
        matches!(seen.differences[..], [Difference::Unrecorded { .. }, Difference::Absent { .. }]),
        "{:?}",
        seen.differences
    );
    assert_eq!(seen.layout, stored);
    let found = hotplug::attach(&seen.layout, &seen.present, &device(4, &[(BarKind::Mem32, PAGE)])).unwrap();
    assert_eq!(found.bars[0].address.get(), LOW + PAGE);
    let two = device(4, &[(BarKind::Mem32, PAGE), (BarKind::Mem32, PAGE)]);
    assert_eq!(hotplug::attach(&seen.layout, &seen.present, &two).unwrap_err().code, Code::DoesNotFit);
}

#[test]
fn a_bar_that_moved_onto_reserved_memory_is_not_taken_into_the_layout() {
    let mut stored = layout(4, 0, 0);
    put(&mut stored, 3, 0x10, BarKind::Mem32, PAGE, LOW);
    stored.reserved_memory.push(ReservedMemory {
        start: Address::new(LOW + 3 * PAGE),
        size: Size::new(PAGE),
        what: ReservedKind::Rdm,
    });
    let seen = hotplug::observe(&stored, &[present(3, &[(0x10, Some(LOW + 3 * PAGE))])]);
    assert_eq!(seen.layout, stored);
    assert!(matches!(seen.differences[..], [Difference::Moved { .. }]));
}
