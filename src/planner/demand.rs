// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a guest wants placed, sorted by where it may go.

use super::Options;
use super::size_classes::SizeClasses;
use crate::address::{Address, Size};
use crate::guest::Guest;
use crate::layout::PlacedBar;
use crate::pci::BarKind;

/// Where a block may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// The low window alone: 32-bit BARs and ROMs.
    Low,
    /// The low or the high window: 64-bit BARs.
    Either,
    /// The high window, as the caller asked.
    High,
    /// Right below the fixed regions, above the low window: the Xen platform device's write-back BAR.
    Top,
    /// I/O ports.
    Io,
}

/// A BAR with the block of address space it needs.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The BAR; its address is filled in when it is placed.
    pub bar: PlacedBar,
    /// What it takes: its size, or a page where that is more.
    pub block: Size,
    /// Where it may go.
    pub zone: Zone,
}

/// All that must be placed.
#[derive(Debug, Default)]
pub struct Demand {
    /// Every BAR, the largest block first, then by function and register: the order of everything that follows.
    pub wanted: Vec<Wanted>,
    /// What only the low window can take, a low reservation that is a power of two with it.
    pub low: SizeClasses,
    /// What either window can take.
    pub either: SizeClasses,
    /// What must go into the high window: a reservation that is a power of two, and BARs sent there by an option.
    pub high: SizeClasses,
    /// The low reservation, whole pages; zero for none.
    pub reserve_low: Size,
    /// The high reservation, whole pages; zero for none.
    pub reserve_high: Size,
}

impl Demand {
    /// What `guest` wants.
    pub fn of(guest: &Guest, options: &Options) -> Self {
        let page = guest.page_size;
        let mut demand = Self::default();
        for device in &guest.devices {
            let top = guest.platform_bar_above_window() && device.is_xen_platform();
            for bar in &device.bars {
                let zone = match bar.kind {
                    BarKind::Io => Zone::Io,
                    BarKind::Mem64 if options.sends_high(bar.size) => Zone::High,
                    BarKind::Mem64 => Zone::Either,
                    BarKind::Mem32 | BarKind::Mem1m | BarKind::Rom if top => Zone::Top,
                    BarKind::Mem32 | BarKind::Mem1m | BarKind::Rom => Zone::Low,
                };
                let block = if zone == Zone::Io { bar.size } else { bar.size.max(page) };
                match zone {
                    Zone::Low => demand.low.add(block, 1),
                    Zone::Either => demand.either.add(block, 1),
                    Zone::High => demand.high.add(block, 1),
                    Zone::Top | Zone::Io => {}
                }
                let bar = PlacedBar {
                    bdf: device.bdf,
                    reg: bar.reg,
                    kind: bar.kind,
                    size: bar.size,
                    prefetch: bar.prefetch,
                    address: Address::ZERO,
                    host: device.host,
                };
                demand.wanted.push(Wanted { bar, block, zone });
            }
        }
        demand.wanted.sort_unstable_by(|a, b| {
            b.block.cmp(&a.block).then(a.bar.bdf.cmp(&b.bar.bdf)).then(a.bar.reg.cmp(&b.bar.reg))
        });
        let pages = |size: Size| size.round_up(page).unwrap_or(size);
        demand.reserve_low = pages(guest.reserve.low);
        demand.reserve_high = pages(guest.reserve.high);
        if demand.reserve_low.is_power_of_two() {
            demand.low.add(demand.reserve_low, 1);
        }
        if demand.reserve_high.is_power_of_two() {
            demand.high.add(demand.reserve_high, 1);
        }
        demand
    }

    /// The low reservation if it is no power of two: it needs a place of its own before the blocks are placed.
    pub fn odd_low(&self) -> Option<Size> {
        odd(self.reserve_low)
    }

    /// The high reservation if it is no power of two.
    pub fn odd_high(&self) -> Option<Size> {
        odd(self.reserve_high)
    }
}

fn odd(size: Size) -> Option<Size> {
    (!size.is_zero() && !size.is_power_of_two()).then_some(size)
}
