// SPDX-License-Identifier: GPL-2.0-only
//! RAM, and the reserved device memory in and around it.

use super::Maker;
use crate::guest::{Guest, MapEntry};

const RESERVED: u32 = 2;
const LEAST_PAGES: u32 = 0x1000;
const PAGES_BELOW_4G: u32 = 0x10_0000;
/// Where the loader's own pages start; reserved memory there stops it.
const LOADERS_OWN: u64 = 0xfc10_0000;

impl Maker<'_> {
    /// RAM as libxl lays it out: up to the hole, the rest from 4 GiB; sometimes not quite so.
    pub(super) fn ram(&mut self, guest: &mut Guest) {
        let border = if self.chance(80) { self.border(guest) } else { 0xf_0000 };
        let total = match self.rng.u32(..10) {
            0..2 => self.pick(&[0x1_8000, 0x2_0000, 0x4_0000, 0x8_0000, 0xa_0000], 0x2_0000),
            2..4 => self.rng.u32(0x1_0000..0x20_0000),
            4..6 => self.pick(
                &[0xc_0000, 0xd_0000, 0xe_0000, 0xe_f800, 0xe_fff0, 0xf_0000, 0xf_0100, 0x10_0000],
                0xf_0000,
            ),
            _ => self.rng.u32(4..160) << 16 >> self.rng.u32(..2),
        };
        guest.low_mem_pgend = total.min(border);
        if total > border {
            guest.high_mem_pgend = PAGES_BELOW_4G + (total - border);
        }
        guest.memory_map = guest.loaders_map();
    }

    /// The page at which the hole begins, by the hole's key; some RAM is always below.
    fn border(&mut self, guest: &Guest) -> u32 {
        let size = guest.xenstore.get("platform/mmio_hole_size").and_then(|value| value.parse::<u32>().ok());
        size.filter(|size| *size >= 0x1000_0000)
            .map_or(0xf_0000, |size| ((u32::MAX - size) >> 12).max(LEAST_PAGES))
    }

    /// One to five regions of reserved device memory, where they hurt.
    pub(super) fn reserved_memory(&mut self, guest: &mut Guest) {
        for _ in 0..self.rng.usize(1..6) {
            let entry = self.reserved(guest);
            if entry.addr.saturating_add(entry.size) > LOADERS_OWN && entry.addr < 0xfe00_0000 {
                continue;
            }
            guest.memory_map.push(entry);
        }
        // libxl sorts by address; the loader takes what it gets.
        if self.chance(80) {
            guest.memory_map.sort_by_key(|entry| entry.addr);
        } else {
            self.rng.shuffle(&mut guest.memory_map);
        }
    }

    fn reserved(&mut self, guest: &Guest) -> MapEntry {
        let size = match self.rng.u32(..10) {
            0 => 0x1000,
            1 => 0x2_1000,
            2 => self.rng.u64(1..0x400) << 12,
            3 => self.rng.u64(1..0x10_0000),
            _ => self.power(12, 28),
        };
        let low_end = u64::from(guest.low_mem_pgend) << 12;
        let page = |at: u64| at & !0xfff;
        let addr = match self.rng.u32(..100) {
            // In the hole, at its start, at its very end, over the end of RAM, in RAM, above 4 GiB, and unaligned.
            0..40 => page(self.rng.u64(low_end.min(0xfbff_0000)..0xfc00_0000)),
            40..50 => self.pick(&[0xf000_0000, 0xe000_0000, 0xc000_0000, 0x8000_0000, low_end], 0xf000_0000),
            50..57 => 0xfc00_0000_u64.saturating_sub(size),
            57..64 => page(low_end.saturating_sub(size / 2)),
            64..72 => page(self.rng.u64(1 << 20..1 << 32)),
            72..92 => {
                let ram_end = (u64::from(guest.high_mem_pgend) << 12).max(1 << 32);
                let near = ram_end + self.rng.u64(..1 << 30);
                page(if self.chance(60) { near } else { self.rng.u64(1 << 32..1 << 40) })
            }
            _ => self.rng.u64(1 << 20..LOADERS_OWN),
        };
        MapEntry { addr, size, kind: RESERVED }
    }
}
