// SPDX-License-Identifier: LGPL-2.1-or-later
//! Guests of any number of BARs, and the peers that place the same BARs.
#![allow(dead_code, missing_docs, reason = "each bench takes what it needs")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a bench that cannot make its input has failed"
)]

pub mod peers;

use xen_pci_layout::address::Size;
use xen_pci_layout::guest::Guest;
use xen_pci_layout::pci::{Bar, BarKind, Bdf, Device};

/// How many BARs the benches plan: a small guest, a typical one, many devices, a full bus (32 slots of 8 functions of 6
/// registers), and far more than any bus holds.
pub const COUNTS: [usize; 5] = [10, 20, 100, 1536, 10_000];

/// One function's BARs, over and over: what GPUs, network cards and controllers have.
const PATTERN: [(BarKind, u64, bool); 10] = [
    (BarKind::Mem32, 16 << 10, false),
    (BarKind::Mem64, 256 << 20, true),
    (BarKind::Mem32, 4 << 10, false),
    (BarKind::Mem64, 16 << 10, false),
    (BarKind::Mem32, 128 << 10, false),
    (BarKind::Mem64, 32 << 20, true),
    (BarKind::Mem32, 256, false),
    (BarKind::Mem64, 1 << 20, true),
    (BarKind::Mem32, 64 << 10, false),
    (BarKind::Mem32, 32 << 10, false),
];

/// 4 GiB of RAM, 46 bits, and that many BARs on as many functions as they need.
pub fn guest(bars: usize) -> Guest {
    let mut guest = Guest::new(0xf_0000, 0x11_0000, 46);
    let mut left = bars;
    let mut pattern = PATTERN.iter().cycle();
    for number in 0_u32.. {
        let part = |bits: u32| u8::try_from(bits).unwrap();
        let bdf = Bdf::new(part(number >> 8), part((number >> 3) & 31), part(number & 7)).unwrap();
        let mut device = Device::new(bdf, (0x8086, 0x1572), 0x0200);
        device.model = Some("nic".to_owned());
        let mut reg = 0x10;
        while reg <= 0x20 && left > 0 {
            let &(kind, size, prefetch) = pattern.next().unwrap();
            device.bars.push(Bar::new(reg, kind, Size::new(size), prefetch));
            reg += if kind == BarKind::Mem64 { 8 } else { 4 };
            left -= 1;
        }
        guest.devices.push(device);
        if left == 0 {
            return guest;
        }
    }
    unreachable!("the numbers of functions do not end before the BARs")
}
