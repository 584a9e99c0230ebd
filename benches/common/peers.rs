// SPDX-License-Identifier: LGPL-2.1-or-later
//! The peers: crates.io's vm-allocator, and the least that any planner has to do.
//!
//! Neither decides anything. Each is given the windows that this planner chose, and which BARs go into which: what is
//! compared is the placing alone, in the peers' favour.

use vm_allocator::{AddressAllocator, AllocPolicy};
use xen_pci_layout::address::Address;
use xen_pci_layout::guest::Guest;
use xen_pci_layout::layout::{Layout, PlacedBar, WindowKind};
use xen_pci_layout::pci::BarKind;

/// What is to be placed in one window: size and a BAR's place in the guest, largest first.
pub struct Requests {
    pub start: u64,
    pub size: u64,
    pub blocks: Vec<(u64, u32)>,
}

/// The two windows' requests, of a layout that the planner made.
pub fn requests(layout: &Layout) -> Vec<Requests> {
    let window = |kind| {
        let range = layout.window(kind)?;
        let inside = |bar: &&PlacedBar| bar.range().is_some_and(|bar| range.contains(bar));
        let page = layout.page_size.get();
        let mut blocks: Vec<(u64, u32)> = layout
            .bars
            .iter()
            .filter(inside)
            .zip(0..)
            .map(|(bar, number)| (bar.size.get().max(page), number))
            .collect();
        blocks.sort_unstable_by(|a, b| b.cmp(a));
        Some(Requests { start: range.start().get(), size: range.size().get(), blocks })
    };
    [WindowKind::Low, WindowKind::High].into_iter().filter_map(window).collect()
}

/// vm-allocator, first match: one allocation a BAR, at its natural alignment, the largest first.
pub fn vm_allocator(windows: &[Requests]) -> u64 {
    let mut sum = 0;
    for window in windows {
        let mut allocator = AddressAllocator::new(window.start, window.size).unwrap();
        for &(size, _) in &window.blocks {
            sum ^= allocator.allocate(size, size, AllocPolicy::FirstMatch).unwrap().start();
        }
    }
    sum
}

/// A sorted bump allocator that starts where the planner starts, at a guest, and ends where it ends, at a list of placed
/// BARs: BARs are collected, the largest first, 64-bit ones above 4 GiB, and each gets the next aligned address.
pub fn bump(guest: &Guest, mut low: u64, mut high: u64) -> Vec<PlacedBar> {
    let page = guest.page_size.get();
    let mut placed: Vec<PlacedBar> = Vec::new();
    for device in &guest.devices {
        placed.extend(device.bars.iter().map(|bar| PlacedBar::new(device.bdf, bar, Address::ZERO)));
    }
    placed.sort_unstable_by(|a, b| b.size.cmp(&a.size).then(a.bdf.cmp(&b.bdf)).then(a.reg.cmp(&b.reg)));
    for bar in &mut placed {
        let next = if bar.kind == BarKind::Mem64 { &mut high } else { &mut low };
        let block = bar.size.get().max(page);
        let address = next.next_multiple_of(block);
        bar.address = Address::new(address);
        *next = address + block;
    }
    placed.sort_unstable_by_key(|bar| (bar.bdf, bar.reg));
    placed
}
