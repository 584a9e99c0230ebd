// SPDX-License-Identifier: LGPL-2.1-or-later
//! The placement: the largest BAR first, each at the next aligned address of its window. Nothing is ever tried twice.

use super::bus::register;
use super::loader::{AssignedBar, FoundBar, Loader, high32, is_reserved_within, long, low32};
use super::scan::command;
use crate::address::Address;
use crate::guest::IO_WINDOW;

/// A window that is filled upwards.
#[derive(Clone, Copy)]
struct Window {
    next: u64,
    end: u64,
}

/// The three windows.
struct Windows {
    low: Window,
    high: Window,
    io: Window,
}

impl Windows {
    fn of(&mut self, in_io: bool, above_4g: bool) -> &mut Window {
        match (in_io, above_4g) {
            (true, _) => &mut self.io,
            (false, true) => &mut self.high,
            (false, false) => &mut self.low,
        }
    }
}

fn align(address: u64, size: u64) -> u64 {
    address.wrapping_add(size).wrapping_sub(1) & !size.wrapping_sub(1)
}

impl Loader<'_> {
    pub(super) fn assign(&mut self) {
        let mut windows = Windows {
            low: Window { next: self.mem_start.into(), end: self.mem_end.into() },
            high: Window {
                next: self.high_base(),
                end: 1_u64.wrapping_shl(self.guest.loader_phys_bits().into()),
            },
            io: Window { next: IO_WINDOW.0.get(), end: IO_WINDOW.1.get() },
        };
        for found in std::mem::take(&mut self.found) {
            let bar = self.assign_one(&mut windows, found);
            self.log.push(format!(
                "pci dev {:02x}:{:x} bar {:02x} size {}: {}",
                found.devfn >> 3,
                found.devfn & 7,
                found.reg,
                long(found.size),
                bar.place.map_or("no space for resource!".to_owned(), |(_, logged)| long(logged))
            ));
            self.assigned.push(bar);
        }
        if self.high_start != 0 {
            // The end gets the start's alignment, past the width of addresses if need be.
            let start_alignment = self.high_start & self.high_start.wrapping_neg();
            let last = windows.high.next.wrapping_sub(1) | start_alignment.wrapping_sub(1);
            self.high_end = last.wrapping_add(1);
        }
    }

    /// Where BARs above 4 GiB start: the end of RAM, whatever the device model has put there.
    fn high_base(&mut self) -> u64 {
        let four_gib = Address::FOUR_GIB.get();
        let ram_end = u64::from(self.high_mem_pgend) << 12;
        let mut line = String::new();
        if self.high_mem_pgend == 0 {
            line.push_str("No ");
        } else if ram_end < four_gib {
            // The loader ends this warning without a line break.
            let pages = self.high_mem_pgend;
            line = format!("WARNING: hvm_info->high_mem_pgend {pages:x} does not point into high memory!");
        }
        let base = ram_end.max(four_gib);
        self.log.push(format!("{line}RAM in high memory; setting high_mem resource base to {}", long(base)));
        base
    }

    fn assign_one(&mut self, windows: &mut Windows, found: FoundBar) -> AssignedBar {
        let FoundBar { devfn, reg, is_64bit, size } = found;
        let low_left = windows.low.end.wrapping_sub(windows.low.next);
        let always_high = self.is_always_high(size);
        let above_4g = is_64bit && self.use_high && (self.total > low_left || always_high);
        let data = self.bus.read32(devfn, reg);
        // A ROM's enable bit is where other BARs say "I/O", and is taken for that.
        let in_io = data & 1 != 0;
        if !in_io {
            if above_4g {
                windows.high.next = align(windows.high.next, size);
                // The window has a start even where the BAR then does not fit.
                if self.high_start == 0 {
                    self.high_start = windows.high.next;
                }
            }
            // What never fits and is above the limit stays in the total to the end.
            if !always_high {
                self.total = self.total.wrapping_sub(size);
            }
        }
        let window = windows.of(in_io, above_4g);
        let mut base = align(window.next, size);
        if !in_io && !above_4g {
            // Above 4 GiB reserved memory is not looked at.
            base = self.skip_reserved(base, size);
        }
        let end = base.wrapping_add(size);
        let unplaced = AssignedBar { found, in_io, place: None, above_4g: false };
        if end < window.next || end > window.end {
            return unplaced;
        }
        window.next = end;
        let type_bits = data & if in_io { 3 } else { 0xf };
        let data = type_bits | low32(base);
        self.bus.write32(devfn, reg, data);
        // Without this write, so for every BAR below 4 GiB, the upper half keeps what it had.
        if above_4g {
            self.bus.write32(devfn, reg.wrapping_add(4), high32(base));
        }
        let is_memory = reg == register::ROM || data & 1 == 0;
        self.will_enable(devfn, if is_memory { command::MEMORY } else { command::IO });
        let logged = (u64::from(high32(base)) << 32) | u64::from(data);
        AssignedBar { place: Some((base, logged)), above_4g: above_4g && !in_io, ..unplaced }
    }

    /// Moves a BAR past the reserved region that ends first above its base, and past the next, until it is clear of
    /// that one; a region around or across that one is missed.
    fn skip_reserved(&self, mut base: u64, size: u64) -> u64 {
        while let Some((end, overlaps)) = self.next_reserved(base, size) {
            if !overlaps {
                break;
            }
            base = align(end, size);
        }
        base
    }

    /// The reserved region that ends first above `base` and not above 4 GiB: where it ends, and whether it shares a
    /// byte with `size` bytes from `base`. Of several that end there, the last in the map.
    fn next_reserved(&self, base: u64, size: u64) -> Option<(u64, bool)> {
        let base32 = u64::from(low32(base));
        let regions = self.map.iter().filter(|entry| entry.kind == crate::guest::RESERVED_TYPE);
        let ends = regions.map(|entry| (entry.addr.get().wrapping_add(entry.size.get()), entry));
        let candidates = ends.filter(|(end, _)| *end > base32 && *end <= Address::FOUR_GIB.get());
        let (end, entry) = candidates.rev().min_by_key(|(end, _)| *end)?;
        Some((end, is_reserved_within(entry, base, size)))
    }
}
