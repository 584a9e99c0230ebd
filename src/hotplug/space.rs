// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is free in a layout's windows, for a device on the root bus or behind a bridge.

use super::{Present, Wish};
use crate::address::{Address, Range, Size};
use crate::layout::{BridgeWindows, Layout, ReservedKind, WindowKind};
use crate::pci::{BarKind, Bdf};
use crate::planner::free_space::FreeSpace;

/// A window and what is free in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The window.
    pub window: Range,
    /// What of it nothing uses and nothing bars; space kept for hot-plug is free.
    pub free: FreeSpace,
}

impl Room {
    /// How many bytes are free.
    pub fn bytes(&self) -> Size {
        self.free.ranges().iter().fold(Size::ZERO, |sum, range| sum.saturating_add(range.size()))
    }
}

/// The windows that a device's BARs may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// For every memory BAR: the low window, or the bridge's memory window.
    pub low: Option<Room>,
    /// For 64-bit BARs too: the high window, or the bridge's prefetchable one.
    pub high: Option<Room>,
    /// For I/O BARs.
    pub io: Option<Room>,
    /// Whether `high` takes prefetchable BARs alone, as a bridge's window does.
    pub high_is_prefetchable: bool,
}

impl Space {
    /// The space for a device behind `bridge`, or on the root bus.
    pub fn of(layout: &Layout, present: &Present, bridge: Option<Bdf>) -> Self {
        Self::barring(layout, present, bridge, |_| true)
    }

    /// The same where only the reserved memory counts that `bars` says yes to.
    pub fn barring(
        layout: &Layout,
        present: &Present,
        bridge: Option<Bdf>,
        bars: impl Fn(ReservedKind) -> bool,
    ) -> Self {
        let (mut memory, mut ports) = taken(layout, present);
        let reserved = layout.reserved_memory.iter().filter(|reserved| bars(reserved.what));
        memory.extend(reserved.filter_map(|reserved| reserved.range()));
        memory.extend(layout.ram());
        memory.extend(out_of_reach(layout.phys_bits));
        let above = ancestors(layout, bridge);
        for other in layout.bridges.iter().filter(|other| !above.contains(&other.bdf)) {
            memory.extend([other.memory, other.prefetchable].into_iter().flatten().filter_map(range));
            ports.extend(other.io.and_then(range));
        }
        let room = |window: Option<Range>, barred: &[Range]| {
            let window = window.filter(|window| !window.is_empty())?;
            Some(Room { window, free: FreeSpace::new(Some(window), barred.iter().copied()) })
        };
        let windows = match bridge {
            None => [
                layout.window(WindowKind::Low),
                layout.window(WindowKind::High),
                layout.window(WindowKind::Io),
            ],
            Some(bdf) => match layout.bridges.iter().find(|windows| windows.bdf == bdf) {
                None => [None; 3],
                Some(BridgeWindows { memory, prefetchable, io, .. }) => {
                    [memory.and_then(range), prefetchable.and_then(range), io.and_then(range)]
                }
            },
        };
        let [low, high, io] = windows;
        Self {
            low: room(low, &memory),
            high: room(high, &memory),
            io: room(io, &ports),
            high_is_prefetchable: bridge.is_some(),
        }
    }

    /// Whether a memory BAR may use `high`: above 4 GiB a 64-bit one may; a bridge's prefetchable window takes
    /// prefetchable BARs, and 32-bit ones among them where it lies below 4 GiB.
    pub fn high_takes(&self, wish: &Wish) -> bool {
        let below = self.high.as_ref().is_some_and(|room| room.window.end() <= Address::FOUR_GIB);
        let reaches = wish.kind == BarKind::Mem64 || (self.high_is_prefetchable && below);
        reaches && (wish.prefetch || !self.high_is_prefetchable)
    }

    /// Each window with a name for people.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Room)> {
        let names = if self.high_is_prefetchable {
            ["the bridge's memory window", "the bridge's prefetchable window", "the bridge's I/O window"]
        } else {
            ["the low window", "the high window", "the I/O window"]
        };
        names
            .into_iter()
            .zip([&self.low, &self.high, &self.io])
            .filter_map(|(name, room)| Some((name, room.as_ref()?)))
    }
}

fn range((start, end): (Address, Address)) -> Option<Range> {
    Range::new(start, end)
}

/// The bridge itself and those above it: windows that the device may lie in.
fn ancestors(layout: &Layout, bridge: Option<Bdf>) -> Vec<Bdf> {
    let mut above: Vec<Bdf> = Vec::new();
    let mut next = bridge;
    while let Some(bdf) = next.filter(|bdf| !above.contains(bdf)) {
        above.push(bdf);
        next = layout.device(bdf).and_then(|device| device.bridge);
    }
    above
}

/// What BARs use: memory in whole pages, so that no two functions ever share one, and ports.
fn taken(layout: &Layout, present: &Present) -> (Vec<Range>, Vec<Range>) {
    let stored = layout.bars.iter().map(|bar| (bar.range(), bar.address, bar.kind));
    let elsewhere = present.elsewhere.iter().map(|(range, kind)| (Some(*range), range.start(), *kind));
    let (mut memory, mut ports) = (Vec::new(), Vec::new());
    for (range, start, kind) in stored.chain(elsewhere) {
        // What would run past the highest address takes all from its start on.
        let range = range.or_else(|| Range::new(start, Address::new(u64::MAX)));
        if kind.is_memory() {
            memory.extend(range.and_then(|range| pages(range, layout.page_size)));
        } else {
            ports.extend(range);
        }
    }
    memory.extend(layout.vf_bars.iter().filter_map(|bars| bars.range(layout.page_size)));
    (memory, ports)
}

/// The whole pages that a range touches.
pub(super) fn pages(range: Range, page: Size) -> Option<Range> {
    let end = range.end().align_up(page).unwrap_or(Address::new(u64::MAX));
    Range::new(range.start().align_down(page), end)
}

/// What the guest's processor cannot address.
fn out_of_reach(bits: u8) -> Option<Range> {
    Range::new(Address::new(1_u64.checked_shl(bits.into())?), Address::new(u64::MAX))
}
