// SPDX-License-Identifier: GPL-2.0-only
//! Where a loader without symbols keeps its windows.
//!
//! After the PCI phase every loader writes the windows to the variable MTRRs, so for a few probe guests with windows
//! that differ in every bit that matters the right values are known. The places of its memory that hold them in every
//! probe are the variables. Reading those instead of the MTRRs also shows windows that are empty (start and end
//! equal), and those of a loader that crashed.

use unicorn_engine::{Unicorn, uc_error};

use crate::guest::Guest;
use crate::machine::{Emulator, MTRR_RANGES, Machine, RunError, read_u32, read_u64};

/// Addresses of the loader's variables, by their names in Xen's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variables {
    pci_mem_start: u64,
    pci_mem_end: MemEnd,
    pci_hi_mem_start: u64,
    pci_hi_mem_end: u64,
}

/// A constant until 4.20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemEnd {
    Constant(u32),
    At(u64),
}

/// The windows' values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// First byte of the low window.
    pub pci_mem_start: u32,
    /// Its end, exclusive.
    pub pci_mem_end: u32,
    /// First byte of the high window; 0 for none.
    pub pci_hi_mem_start: u64,
    /// Its end, exclusive; 0 for none.
    pub pci_hi_mem_end: u64,
}

impl Windows {
    /// Whether the loader gets through writing MTRRs for these: it looks for the lowest set bit from bit 12 up in a
    /// window's start, for ever if there is none.
    pub const fn have_mtrrs(&self) -> bool {
        let low = self.pci_mem_start == self.pci_mem_end || self.pci_mem_start >> 12 != 0;
        low && (self.pci_hi_mem_start == self.pci_hi_mem_end || self.pci_hi_mem_start >> 12 != 0)
    }

    /// Whether the MTRRs (base and mask by turns) start where the windows start, and those of the low window end where
    /// it ends. If all were used, only as far as they reach.
    pub fn agree_with(&self, mtrrs: &[u64], phys_bits: u8) -> bool {
        // The type that the loader puts into the base's low bits, uncacheable, is 0.
        let ranges: Vec<(u64, u64)> =
            mtrrs.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?))).collect();
        let all_used = u32::try_from(ranges.len()).is_ok_and(|count| count >= MTRR_RANGES);
        let ordered = ranges.is_sorted_by(|(a, _), (b, _)| a < b);
        let low = ranges.partition_point(|(base, _)| *base < 1 << 32);
        let (low, high) = ranges.split_at_checked(low).unwrap_or_default();
        let starts = |ranges: &[(u64, u64)], start: u64, end: u64| {
            ranges.first().map(|(base, _)| *base) == (start != end).then_some(start)
        };
        // A mask has no bits for less than a page.
        let whole_pages = self.pci_mem_start.trailing_zeros() >= 12;
        let low_end = low.last().map(|(base, mask)| base + range_size(*mask, phys_bits));
        ordered
            && starts(low, self.pci_mem_start.into(), self.pci_mem_end.into())
            && (all_used || !whole_pages || low_end.is_none_or(|end| end == u64::from(self.pci_mem_end)))
            && (all_used || starts(high, self.pci_hi_mem_start, self.pci_hi_mem_end))
    }

    /// The windows that MTRRs describe. Only for windows whose ranges are whole pages.
    fn from_mtrrs(mtrrs: &[u64], phys_bits: u8) -> Option<Self> {
        let mut windows = Self { pci_mem_start: 0, pci_mem_end: 0, pci_hi_mem_start: 0, pci_hi_mem_end: 0 };
        for pair in mtrrs.chunks(2) {
            let [base, mask] = pair else { return None };
            let base = base & !0xfff;
            let end = base + range_size(*mask, phys_bits);
            if let Ok(end) = u32::try_from(end) {
                if windows.pci_mem_start == 0 {
                    windows.pci_mem_start = u32::try_from(base).ok()?;
                }
                windows.pci_mem_end = end;
            } else {
                if windows.pci_hi_mem_start == 0 {
                    windows.pci_hi_mem_start = base;
                }
                windows.pci_hi_mem_end = end;
            }
        }
        Some(windows)
    }
}

/// The size that an MTRR's mask stands for, where addresses have so many bits.
const fn range_size(mask: u64, phys_bits: u8) -> u64 {
    (1_u64 << phys_bits).wrapping_sub(mask & !0xfff)
}

impl Variables {
    /// The windows as they are in the loader's memory now.
    ///
    /// # Errors
    /// When the emulator does not give it.
    pub fn read(&self, uc: &Unicorn<'_, Machine>) -> Result<Windows, uc_error> {
        Ok(Windows {
            pci_mem_start: read_u32(uc, self.pci_mem_start)?,
            pci_mem_end: match self.pci_mem_end {
                MemEnd::Constant(end) => end,
                MemEnd::At(at) => read_u32(uc, at)?,
            },
            pci_hi_mem_start: read_u64(uc, self.pci_hi_mem_start)?,
            pci_hi_mem_end: read_u64(uc, self.pci_hi_mem_end)?,
        })
    }

    /// Finds them by running the probes.
    ///
    /// # Errors
    /// When a probe does not run to its end, or a variable is in no place or in several.
    pub fn find(emulator: &mut Emulator) -> Result<Self, RunError> {
        let stack = emulator.stack()?;
        let mut seen = Vec::new();
        for guest in probes() {
            let run = emulator.run(&guest)?;
            let last = run.lines.last().cloned().unwrap_or_default();
            let windows = Windows::from_mtrrs(&run.mtrrs, guest.phys_bits)
                .filter(|windows| !run.crashed && windows.pci_hi_mem_start != 0)
                .ok_or_else(|| RunError::Failed { why: "a probe gave no two windows".to_owned(), last })?;
            seen.push((windows, emulator.image()?));
        }
        let places = |name, value: fn(&Windows) -> u64, width: usize| {
            let (start, length) = seen.first().map_or((0, 0), |(_, (start, image))| (*start, image.len()));
            let holds = |offset: &usize| {
                seen.iter().all(|(windows, (_, image))| {
                    let bytes = value(windows).to_le_bytes();
                    image
                        .get(*offset..)
                        .is_some_and(|image| image.starts_with(bytes.get(..width).unwrap_or(&bytes)))
                })
            };
            // The stack holds remains of the functions that worked with these values.
            let found: Vec<u64> = (0..length)
                .step_by(4)
                .filter(holds)
                .map(|offset| start + u64::try_from(offset).unwrap_or_default())
                .filter(|address| !stack.contains(address))
                .collect();
            match *found.as_slice() {
                [address] => Ok(address),
                _ => Err(RunError::Variable { name, found: found.len() }),
            }
        };
        let ends: Vec<u32> = seen.iter().map(|(windows, _)| windows.pci_mem_end).collect();
        let constant = ends.first().filter(|first| ends.iter().all(|end| end == *first));
        Ok(Self {
            pci_mem_start: places("pci_mem_start", |windows| windows.pci_mem_start.into(), 4)?,
            pci_mem_end: match constant {
                Some(end) => MemEnd::Constant(*end),
                None => MemEnd::At(places("pci_mem_end", |windows| windows.pci_mem_end.into(), 4)?),
            },
            pci_hi_mem_start: places("pci_hi_mem_start", |windows| windows.pci_hi_mem_start, 8)?,
            pci_hi_mem_end: places("pci_hi_mem_end", |windows| windows.pci_hi_mem_end, 8)?,
        })
    }
}

/// Guests with two windows each: holes of different depth, BARs above 1 GiB that every release puts high, and keys
/// that move the low window's end in loaders that know them: the platform device's from 4.21 on, a layout's in our own.
fn probes() -> impl Iterator<Item = Guest> {
    let probe = |hole: Option<u64>, sizes: &[u64], high_mem_pgend: u32, moved_end: &[(&str, &str)]| {
        let mut devices =
            vec![serde_json::json!({"bdf": "00:01.0", "vendor": 0x8086, "device": 0x7000, "class": 0x601})];
        for (slot, size) in (4..).zip(sizes) {
            let bar = serde_json::json!({"reg": 16, "kind": "mem64", "size": size, "prefetch": true});
            devices.push(serde_json::json!({
                "bdf": format!("00:{slot:02x}.0"), "vendor": 0x10de, "device": 0x20b7, "class": 0x302, "bars": [bar]
            }));
        }
        devices.push(serde_json::json!({
            "bdf": "00:02.0", "vendor": 0x5853, "device": 1, "class": 0xff80,
            "bars": [{"reg": 16, "kind": "io", "size": 256}, {"reg": 20, "kind": "mem32", "size": 1 << 24}]
        }));
        let mut xenstore =
            serde_json::json!({"hvmloader/bios": "seabios", "hvmloader/allow-memory-relocate": "0"});
        if let (Some(hole), Some(keys)) = (hole, xenstore.as_object_mut()) {
            keys.insert("platform/mmio_hole_size".to_owned(), hole.to_string().into());
        }
        for (key, value) in moved_end {
            if let Some(keys) = xenstore.as_object_mut() {
                keys.insert(format!("hvmloader/pci/{key}"), (*value).into());
            }
        }
        serde_json::from_value(serde_json::json!({
            "phys_bits": 46, "low_mem_pgend": 0x40000, "high_mem_pgend": high_mem_pgend,
            "memory_map": [{"addr": 0x10_0000, "size": 0x3ff0_0000, "type": 1}],
            "xenstore": xenstore, "devices": devices
        }))
    };
    const GIB: u64 = 1 << 30;
    [
        probe(None, &[16 * GIB], 0, &[]),
        probe(Some(GIB), &[8 * GIB, 4 * GIB], 0x23_4000, &[("xen-platform-pci-bar-uc", "0")]),
        probe(
            Some(0x6800_0000),
            &[64 * GIB, 2 * GIB],
            0x51_2000,
            &[
                ("layout/low", "98000000:60000000"),
                ("layout/high", "1000000000:2000000000"),
                ("layout/io", "c000:4000"),
                ("layout/version", "1"),
            ],
        ),
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows {
        pci_mem_start: 0xf000_0000,
        pci_mem_end: 0xfc00_0000,
        pci_hi_mem_start: 1 << 34,
        pci_hi_mem_end: 1 << 35,
    };
    const MTRRS: [u64; 8] = [
        0xf000_0000,
        0x3f_f800_0800,
        0xf800_0000,
        0x3f_fe00_0800,
        0xfa00_0000,
        0x3f_fe00_0800,
        1 << 34,
        0x3c_0000_0800,
    ];

    #[test]
    fn every_probe_is_a_guest() {
        assert_eq!(probes().count(), 3);
    }

    #[test]
    fn mtrrs_give_both_windows() {
        assert_eq!(Windows::from_mtrrs(&MTRRS, 38), Some(WINDOWS));
        assert!(WINDOWS.agree_with(&MTRRS, 38));
    }

    #[test]
    fn windows_that_the_mtrrs_do_not_have_are_noticed() {
        assert!(!Windows { pci_mem_start: 0xe000_0000, ..WINDOWS }.agree_with(&MTRRS, 38));
        assert!(!Windows { pci_hi_mem_start: 1 << 36, ..WINDOWS }.agree_with(&MTRRS, 38));
        assert!(!Windows { pci_hi_mem_start: 0, pci_hi_mem_end: 0, ..WINDOWS }.agree_with(&MTRRS, 38));
        assert!(!Windows { pci_mem_end: 0xfb00_0000, ..WINDOWS }.agree_with(&MTRRS, 38));
        assert!(!WINDOWS.agree_with(&[], 38));
    }

    #[test]
    fn a_window_in_the_first_page_has_no_mtrrs() {
        assert!(!Windows { pci_mem_start: 0, ..WINDOWS }.have_mtrrs());
        assert!(Windows { pci_hi_mem_start: 0, pci_hi_mem_end: 0, ..WINDOWS }.have_mtrrs());
    }
}
