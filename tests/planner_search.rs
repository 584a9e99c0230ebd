// SPDX-License-Identifier: LGPL-2.1-or-later
//! The planner against a search that tries every place for everything, under every hole.
//!
//! Worlds of up to 128 cells: all below 8 GiB in cells of 64 MiB, or two stretches of pages where all else is barred. The
//! search knows nothing of blocks that nest, of powers of two, or of what the planner takes for best; it shares no code
//! with it. `cargo test` looks at some hundred worlds; more: `SEARCH_WORLDS=1000000 cargo test --release --test
//! planner_search`.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test stops where it fails"
)]

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::guest::{Guest, MemoryMapEntry, RESERVED_TYPE, Reserve};
use xen_pci_layout::layout::{Layout, WindowKind, check};
use xen_pci_layout::pci::{Bar, BarKind, Bdf, Device, VirtualBar, VirtualFunctions};
use xen_pci_layout::planner::{Options, plan};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
/// Cells below 4 GiB, and as many above.
const CELLS: u64 = 64;

/// A guest in plain numbers, bytes.
#[derive(Clone, Debug)]
struct World {
    page: u64,
    /// The size of a cell, and where the cells below and above 4 GiB start. Everything is a multiple of a cell, or bars
    /// the cells that it touches.
    cell: u64,
    bases: [u64; 2],
    ram: u64,
    phys_bits: u8,
    device_model: Vec<u64>,
    /// Start and size.
    rdm: Vec<(u64, u64)>,
    /// 64 bits wide or not, and the size.
    bars: Vec<(bool, u64)>,
    /// 64 bits wide or not, one function's share, and how many functions.
    virtual_bars: Vec<(bool, u64, u16)>,
    reserve: [u64; 2],
    demanded: Option<u64>,
    high_above: Option<u64>,
}

/// Something to be placed: cells, at a multiple of how many cells, and whether it may lie below and above 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Item {
    cells: u64,
    align: u64,
    may: [bool; 2],
}

impl World {
    fn guest(&self) -> Guest {
        let low = self.ram.min(4 * G - self.demanded.unwrap_or(256 * M));
        let high = if self.ram > low { 4 * G + self.ram - low } else { 0 };
        let mut guest = Guest::new(low >> 12, high >> 12, self.phys_bits);
        guest.page_size = Size::new(self.page);
        for &(start, size) in &self.rdm {
            let (addr, size) = (Address::new(start), Size::new(size));
            guest.memory_map.push(MemoryMapEntry { addr, size, kind: RESERVED_TYPE });
        }
        guest.device_model_memory = self.device_model.iter().map(|size| Size::new(*size)).collect();
        guest.reserve = Reserve { low: Size::new(self.reserve[0]), high: Size::new(self.reserve[1]) };
        if let Some(hole) = self.demanded {
            guest.xenstore.insert("platform/mmio_hole_size".to_owned(), hole.to_string());
        }
        for (&(wide, size), slot) in self.bars.iter().zip(2..) {
            let mut device = Device::new(Bdf::new(0, slot, 0).unwrap(), (0x1234, 1), 0x0200);
            device.bars.push(Bar {
                reg: 0x10,
                kind: if wide { BarKind::Mem64 } else { BarKind::Mem32 },
                size: Size::new(size),
                prefetch: false,
                value: 0,
                io16: false,
                host_address: None,
            });
            guest.devices.push(device);
        }
        for (&(wide, size, total_vfs), slot) in self.virtual_bars.iter().zip(20..) {
            let mut device = Device::new(Bdf::new(0, slot, 0).unwrap(), (0x1234, 2), 0x0200);
            let kind = if wide { BarKind::Mem64 } else { BarKind::Mem32 };
            let bar = VirtualBar { reg: 0x10, kind, size: Size::new(size), prefetch: wide };
            device.sriov = Some(VirtualFunctions { total_vfs, bars: vec![bar] });
            guest.devices.push(device);
        }
        guest
    }

    fn items(&self) -> Vec<Item> {
        let cells = |bytes: u64| bytes.div_ceil(self.cell);
        let mut items = Vec::new();
        for &(wide, size) in &self.bars {
            let up = self.high_above.is_some_and(|limit| size > limit);
            let may = if wide { [!up, true] } else { [true, false] };
            items.push(Item { cells: cells(size), align: cells(size), may });
        }
        for &(wide, size, count) in &self.virtual_bars {
            let one = cells(size.max(self.page));
            items.push(Item { cells: one * u64::from(count), align: one, may: [true, wide] });
        }
        for (size, may) in self.reserve.into_iter().zip([[true, false], [false, true]]) {
            if size > 0 {
                items.push(Item { cells: cells(size), align: 1 << cells(size).ilog2(), may });
            }
        }
        // The hardest first, those that are alike next to each other.
        items.sort_by_key(|item| (u64::MAX - item.cells, item.align, item.may));
        items
    }

    /// The cells that a range of bytes touches.
    fn touched(&self, start: u64, end: u64) -> u128 {
        let mut mask = 0;
        for (base, first) in self.bases.iter().zip([0, CELLS]) {
            let from = start.max(*base).saturating_sub(*base) / self.cell;
            let to = end.saturating_sub(*base).div_ceil(self.cell).min(CELLS);
            for cell in from..to.max(from) {
                mask |= 1 << (first + cell);
            }
        }
        mask
    }

    /// What is barred under a hole; `None` where the guest's memory has no place.
    fn taken(&self, hole: u64) -> Option<u128> {
        let low_end = self.ram.min(4 * G - hole);
        let high_end = 4 * G + (self.ram - low_end);
        let on_ram = |&(start, size): &(u64, u64)| {
            start < low_end || (high_end > 4 * G && start < high_end && start + size > 4 * G)
        };
        if self.rdm.iter().any(on_ram) {
            return None;
        }
        let mut end = if high_end > 4 * G { high_end } else { low_end };
        for size in &self.device_model {
            end = end.next_multiple_of(256 * K) + size;
        }
        let (mut low, mut high) = (4 * G - hole, 4 * G);
        if high_end > 4 * G {
            high = end;
        } else if !self.device_model.is_empty() {
            if end > 0xfc00_0000 {
                return None;
            }
            low = low.max(end);
        }
        let reserved =
            self.rdm.iter().fold(0, |mask, (start, size)| mask | self.touched(*start, start + size));
        let past_width = self.touched(1 << self.phys_bits, 1 << 50);
        Some(reserved | self.touched(0, low) | self.touched(0xfc00_0000, high) | past_width)
    }

    /// The smallest hole for which trying everything finds a layout.
    fn smallest_hole(&self) -> Option<u64> {
        let mut known = HashMap::new();
        let items = self.items();
        let all = (256..=3840).step_by(2).map(|mib| mib * M);
        let mut holes = all.filter(|hole| self.demanded.is_none_or(|demanded| demanded == *hole));
        holes.find(|&hole| {
            self.taken(hole).is_some_and(|taken| {
                *known.entry(taken).or_insert_with(|| self.place(&items, 0, taken, 0, &mut HashSet::new()))
            })
        })
    }

    /// Whether the items from `next` on have places; one like the item before it goes past that one.
    fn place(
        &self,
        items: &[Item],
        next: usize,
        taken: u128,
        past: u64,
        seen: &mut HashSet<(usize, u128, u64)>,
    ) -> bool {
        let Some(item) = items.get(next) else { return true };
        let past = if next > 0 && items.get(next - 1) == Some(item) { past } else { 0 };
        if item.cells > CELLS || !seen.insert((next, taken, past)) {
            return false;
        }
        (past..=2 * CELLS - item.cells).any(|at| {
            let high = at >= CELLS;
            let last = at + item.cells - 1;
            if (last >= CELLS) != high || !item.may[usize::from(high)] {
                return false;
            }
            let base = self.bases[usize::from(high)] / self.cell;
            if !(base + at % CELLS).is_multiple_of(item.align) {
                return false;
            }
            let whole = if item.cells == 128 { u128::MAX } else { (1 << item.cells) - 1 };
            let mask = whole << at;
            mask & taken == 0 && self.place(items, next + 1, taken | mask, last + 1, seen)
        })
    }

    /// Whether all that may lie low does, under that hole.
    fn all_low(&self, hole: u64) -> bool {
        let mut items = self.items();
        items.iter_mut().filter(|item| item.may[0]).for_each(|item| item.may[1] = false);
        let taken = self.taken(hole).unwrap();
        self.place(&items, 0, taken, 0, &mut HashSet::new())
    }

    fn options(&self) -> Options {
        Options { high_above: self.high_above.map(Size::new), ..Options::default() }
    }
}

fn judge(world: &World) -> Result<(), TestCaseError> {
    let guest = world.guest();
    let smallest = world.smallest_hole();
    match plan(&guest, &world.options()) {
        Ok(layout) => {
            prop_assert_eq!(check(&guest, &layout), []);
            let hole = layout.mmio_hole_size.get();
            let least = smallest.unwrap_or(0);
            prop_assert!(least <= hole && hole <= least + least / 50, "{:#x}, not {:?}", hole, smallest);
            reserved_is_kept(world, &layout)?;
            let up = layout.bars.iter().filter(|bar| bar.address.get() >= 4 * G).count();
            if hole == least && up > 0 && world.high_above.is_none() && world.all_low(hole) {
                return Err(TestCaseError::fail(format!("{up} BARs went up, and all fit below {hole:#x}")));
            }
        }
        Err(refusal) => prop_assert_eq!(smallest, None, "{:?}", refusal),
    }
    Ok(())
}

fn reserved_is_kept(world: &World, layout: &Layout) -> Result<(), TestCaseError> {
    for (kind, wanted) in [WindowKind::Low, WindowKind::High].into_iter().zip(world.reserve) {
        let kept = layout.reserved.iter().filter(|kept| kept.window == kind);
        prop_assert_eq!(kept.map(|kept| kept.size.get()).sum::<u64>(), wanted.next_multiple_of(world.page));
    }
    Ok(())
}

fn reservation() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 3 => 1_u64..24]
}

prop_compose! {
    /// Everything below 8 GiB, in cells of 64 MiB; what bars them need be no whole cells.
    fn coarse()(
        ram in prop_oneof![1_u64..64, 1_u64..3000, 1000_u64..7000],
        device_model in prop::collection::vec(prop_oneof![1_u64..5000, 1_u64..200_000], 0..3),
        rdm in prop::collection::vec(
            (prop_oneof![256_u64..8192, 3000_u64..4100], prop_oneof![Just(1_u64), 1_u64..300]), 0..4),
        bars in prop::collection::vec((any::<bool>(), 0_u32..6), 0..7),
        virtual_bars in prop_oneof![
            3 => Just(Vec::new()),
            1 => prop::collection::vec((any::<bool>(), 0_u32..3, 1_u16..8), 1..3),
        ],
        reserve in (reservation(), reservation()),
        demanded in prop_oneof![5 => Just(None), 1 => (128_u64..1920).prop_map(|two| Some(two * 2 * M))],
        high_above in prop_oneof![5 => Just(None), 1 => (0_u32..6).prop_map(|log| Some((64 * M) << log))],
        phys_bits in prop_oneof![1 => Just(32_u8), 5 => Just(33)],
    ) -> World {
        let cell = 64 * M;
        World {
            page: 4 * K,
            cell,
            bases: [0, 4 * G],
            ram: ram * M,
            phys_bits,
            device_model: device_model.into_iter().map(|kib| kib * 4 * K).collect(),
            rdm: rdm.into_iter().map(|(start, size)| (start * M, size * M)).collect(),
            bars: bars.into_iter().map(|(wide, log)| (wide, cell << log)).collect(),
            virtual_bars: virtual_bars.into_iter().map(|(wide, log, count)| (wide, cell << log, count)).collect(),
            reserve: [reserve.0 * cell, reserve.1 * cell],
            demanded,
            high_above,
        }
    }
}

prop_compose! {
    /// Two stretches of 64 pages, below and above 4 GiB, holes in them, and all else barred.
    fn fine()(
        page in prop_oneof![Just(4 * K), Just(16 * K), Just(64 * K)],
        starts in (0x8_0000_u64..0xf_0000, 0x10_0000_u64..0x100_0000),
        barred in prop::collection::vec((0_u64..128, 1_u64..12), 0..8),
        bars in prop::collection::vec((any::<bool>(), 4_u32..20), 0..9),
        virtual_bars in prop_oneof![
            3 => Just(Vec::new()),
            1 => prop::collection::vec((any::<bool>(), 4_u32..16, 1_u16..9), 1..3),
        ],
        reserve in (reservation(), reservation()),
    ) -> World {
        let bases = [starts.0 * 4 * K / page * page, starts.1 * 4 * K / page * page];
        let end = |base| base + CELLS * page;
        let mut rdm = vec![
            (256 * M, bases[0] - 256 * M),
            (end(bases[0]), 4 * G - end(bases[0])),
            (4 * G, bases[1] - 4 * G),
            (end(bases[1]), (1 << 37) - end(bases[1])),
        ];
        for (cell, count) in barred {
            let start = if cell < CELLS { bases[0] + cell * page } else { bases[1] + (cell - CELLS) * page };
            rdm.push((start, count * page));
        }
        World {
            page,
            cell: page,
            bases,
            ram: 64 * M,
            phys_bits: 37,
            device_model: Vec::new(),
            rdm: rdm.into_iter().filter(|(_, size)| *size > 0).collect(),
            bars: bars.into_iter().map(|(wide, log)| (wide, 1 << log)).collect(),
            virtual_bars: virtual_bars.into_iter().map(|(wide, log, count)| (wide, 1 << log, count)).collect(),
            reserve: [reserve.0 * page, reserve.1 * page],
            demanded: None,
            high_above: None,
        }
    }
}

#[test]
fn three_stretches_and_two_bars_fill_the_high_window_to_the_last_byte() {
    judge(&World {
        page: 4 * K,
        cell: 64 * M,
        bases: [0, 4 * G],
        ram: M,
        phys_bits: 33,
        device_model: Vec::new(),
        rdm: Vec::new(),
        bars: vec![(true, 512 * M), (true, G)],
        // Next to the reservation there is a place for the seven, and only then one for the six.
        virtual_bars: vec![(true, 128 * M, 6), (true, 64 * M, 7)],
        reserve: [0, 21 * 64 * M],
        demanded: None,
        high_above: None,
    })
    .unwrap();
}

/// How many worlds of each kind.
fn worlds() -> u32 {
    std::env::var("SEARCH_WORLDS").map_or(200, |count| count.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: worlds(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layout_is_found_exactly_where_trying_everything_finds_one(world in coarse()) {
        judge(&world)?;
    }

    #[test]
    fn so_it_is_where_pages_are_scarce(world in fine()) {
        judge(&world)?;
    }
}
