// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hole below 4 GiB: how far it reaches down, and the RAM that has to leave it.

use super::loader::{DEFAULT_MEM_START, Loader, RAM_TYPE, is_reserved_within, long, low32};
use super::prediction::Relocation;
use crate::address::{Address, Size};
use crate::guest::MemoryMapEntry;

/// RAM moves in chunks of at most this many 4 KiB pages.
const CHUNK: u32 = 0xffff;

impl Loader<'_> {
    pub(super) fn size_hole(&mut self) {
        if self.asked_hole == 0 {
            self.grow_hole();
            self.make_room_for_reserved();
        } else {
            // Neither the total nor reserved memory is looked at, and RAM will move even if it must not.
            self.take_asked_hole();
        }
        if self.total > u64::from(self.hole_size()) || self.use_high {
            self.use_high = true;
            self.log.push(
                "Low MMIO hole not large enough for all devices, relocating some BARs to 64-bit".to_owned(),
            );
        }
    }

    fn hole_size(&self) -> u32 {
        self.mem_end.wrapping_sub(self.mem_start)
    }

    fn take_asked_hole(&mut self) {
        let start = Address::FOUR_GIB.get().wrapping_sub(self.asked_hole);
        if start > u64::from(DEFAULT_MEM_START) {
            self.log.push(format!(
                "max_ram_below_4g=0x{} too big for mmio_hole_size=0x{} has been ignored.",
                long(start),
                long(self.asked_hole)
            ));
            return;
        }
        self.mem_start = low32(start);
        // The size is printed as a 32-bit number: 4 GiB is 0.
        let asked = low32(self.asked_hole);
        let asked = if self.algorithm.logs_hole_in_hex { format!("0x{asked:x}") } else { asked.to_string() };
        self.log.push(format!(
            "pci_mem_start=0x{:x} (was 0x{DEFAULT_MEM_START:x}) for mmio_hole_size={asked}",
            self.mem_start
        ));
    }

    /// Doubles the hole until all that counts fits or it starts at 2 GiB; without relocation, not into RAM.
    fn grow_hole(&mut self) {
        while self.total > u64::from(self.hole_size()) {
            let start = self.mem_start << 1;
            if start == 0 || !(self.may_relocate || start >> 12 >= self.low_mem_pgend) {
                break;
            }
            self.mem_start = start;
        }
    }

    /// A reserved region inside the hole drags the hole's start down to the end of RAM.
    fn make_room_for_reserved(&mut self) {
        let ram_end = self.low_mem_pgend << 12;
        let (start, size) = (u64::from(self.mem_start), u64::from(self.hole_size()));
        if self.mem_start > ram_end && self.map.iter().any(|entry| is_reserved_within(entry, start, size)) {
            self.mem_start = ram_end;
        }
    }

    pub(super) fn relocate_ram(&mut self) {
        let border = self.mem_start >> 12;
        while border < self.low_mem_pgend {
            let pages = self.low_mem_pgend.wrapping_sub(border).min(CHUNK);
            if self.high_mem_pgend == 0 {
                self.high_mem_pgend = 1 << 20;
            }
            self.low_mem_pgend = self.low_mem_pgend.wrapping_sub(pages);
            let (idx, gpfn) = (u64::from(self.low_mem_pgend), u64::from(self.high_mem_pgend));
            self.log.push(format!(
                "Relocating 0x{pages:x} pages from {} to {} for lowmem MMIO hole",
                long(idx << 12),
                long(gpfn << 12)
            ));
            self.relocations.push(Relocation { idx, gpfn, pages: pages.into() });
            self.high_mem_pgend = self.high_mem_pgend.wrapping_add(pages);
        }
    }

    /// Brings the loader's copy of the memory map to where RAM is now.
    pub(super) fn sync_memory_map(&mut self) {
        let low_end = u64::from(self.low_mem_pgend << 12);
        let high_end = u64::from(self.high_mem_pgend) << 12;
        let mut left = (high_end != 0).then_some(high_end);
        for entry in self.map.iter_mut().filter(|entry| entry.kind == RAM_TYPE) {
            let start = entry.addr.get();
            if low_end > start && low_end < start.wrapping_add(entry.size.get()) {
                entry.size = Size::new(low_end.wrapping_sub(start));
            } else if entry.addr == Address::FOUR_GIB
                && let Some(end) = left.take()
            {
                entry.size = Size::new(end.wrapping_sub(start));
            }
        }
        if let Some(end) = left {
            let size = Size::new(end.wrapping_sub(Address::FOUR_GIB.get()));
            self.map.push(MemoryMapEntry { addr: Address::FOUR_GIB, size, kind: RAM_TYPE });
        }
    }
}
