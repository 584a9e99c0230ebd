// SPDX-License-Identifier: GPL-2.0-only
//! Real devices, by the BARs that `lspci -vv` shows of them.

use crate::guest::{Bar, BarKind, Bdf, Device};

use BarKind::{Io, Mem32, Mem64, Rom};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// Register, kind, size, prefetchable.
type Row = (u8, BarKind, u64, bool);

/// A kind of device: identifiers, class, BARs.
pub struct Entry {
    vendor: u16,
    device: u16,
    class: u16,
    bars: &'static [Row],
}

impl Entry {
    /// A device of this kind.
    pub fn at(&self, bdf: Bdf, int_pin: u8) -> Device {
        let bar =
            |&(reg, kind, size, prefetch): &Row| Bar { reg, kind, size, prefetch, value: 0, io16: false };
        Device {
            bdf,
            vendor: self.vendor,
            device: self.device,
            class: self.class,
            header: 0,
            command: 0,
            int_pin,
            int_line: 0,
            bars: self.bars.iter().map(bar).collect(),
            raw: Vec::new(),
        }
    }
}

const fn entry(vendor: u16, device: u16, class: u16, bars: &'static [Row]) -> Entry {
    Entry { vendor, device, class, bars }
}

/// QEMU's display adapters.
pub const DISPLAYS: [Entry; 3] = [
    // Cirrus, standard VGA, and QXL.
    entry(
        0x1013,
        0x00b8,
        0x0300,
        &[(0x10, Mem32, 32 * M, true), (0x14, Mem32, 4 * K, false), (0x30, Rom, 64 * K, false)],
    ),
    entry(
        0x1234,
        0x1111,
        0x0300,
        &[(0x10, Mem32, 16 * M, true), (0x18, Mem32, 4 * K, false), (0x30, Rom, 64 * K, false)],
    ),
    entry(
        0x1b36,
        0x0100,
        0x0300,
        &[
            (0x10, Mem32, 64 * M, false),
            (0x14, Mem32, 64 * M, false),
            (0x18, Mem32, 8 * K, false),
            (0x1c, Io, 32, false),
            (0x30, Rom, 64 * K, false),
        ],
    ),
];

/// The Xen platform device.
pub const PLATFORM: Entry =
    entry(0x5853, 0x0001, 0xff80, &[(0x10, Io, 256, false), (0x14, Mem32, 16 * M, true)]);

/// The PIIX3's and PIIX4's functions, and the host bridge.
pub const CHIPSET: [(u8, u8, Entry); 5] = [
    (0, 0, entry(0x8086, 0x1237, 0x0600, &[])),
    (1, 0, entry(0x8086, 0x7000, 0x0601, &[])),
    (1, 1, entry(0x8086, 0x7010, 0x0101, &[(0x20, Io, 16, false)])),
    (1, 2, entry(0x8086, 0x7020, 0x0c03, &[(0x20, Io, 32, false)])),
    (1, 3, entry(0x8086, 0x7113, 0x0680, &[])),
];

/// What is passed through, or given by QEMU.
pub const DEVICES: [Entry; 28] = [
    // Network: e1000, rtl8139, 82574L, I350, X722, 82540EM, virtio.
    entry(
        0x8086,
        0x100e,
        0x0200,
        &[(0x10, Mem32, 128 * K, false), (0x14, Io, 64, false), (0x30, Rom, 256 * K, false)],
    ),
    entry(
        0x10ec,
        0x8139,
        0x0200,
        &[(0x10, Io, 256, false), (0x14, Mem32, 256, false), (0x30, Rom, 256 * K, false)],
    ),
    entry(
        0x8086,
        0x10d3,
        0x0200,
        &[
            (0x10, Mem32, 128 * K, false),
            (0x14, Mem32, 512 * K, false),
            (0x18, Io, 32, false),
            (0x1c, Mem32, 16 * K, false),
            (0x30, Rom, 256 * K, false),
        ],
    ),
    entry(
        0x8086,
        0x1521,
        0x0200,
        &[(0x10, Mem32, M, false), (0x18, Io, 32, false), (0x1c, Mem32, 16 * K, false)],
    ),
    entry(
        0x8086,
        0x37d2,
        0x0200,
        &[(0x10, Mem64, 16 * M, true), (0x1c, Mem64, 32 * K, true), (0x30, Rom, 512 * K, false)],
    ),
    entry(0x8086, 0x154c, 0x0200, &[(0x10, Mem64, 64 * K, true), (0x1c, Mem64, 16 * K, true)]),
    entry(
        0x1af4,
        0x1000,
        0x0200,
        &[(0x10, Io, 32, false), (0x14, Mem32, 4 * K, false), (0x20, Mem64, 16 * K, true)],
    ),
    // Graphics and accelerators: RTX 5070, RX 6800 before and after resizing, V100, P100, A30, A100, H100, T4, B70, A750,
    // an integrated one.
    entry(
        0x10de,
        0x2f04,
        0x0300,
        &[
            (0x10, Mem32, 64 * M, false),
            (0x14, Mem64, 16 * G, true),
            (0x1c, Mem64, 32 * M, true),
            (0x24, Io, 128, false),
            (0x30, Rom, 512 * K, false),
        ],
    ),
    entry(
        0x1002,
        0x73bf,
        0x0300,
        &[
            (0x10, Mem64, 256 * M, true),
            (0x18, Mem64, 2 * M, true),
            (0x20, Io, 256, false),
            (0x24, Mem32, M, false),
            (0x30, Rom, 128 * K, false),
        ],
    ),
    entry(
        0x1002,
        0x73bf,
        0x0300,
        &[
            (0x10, Mem64, 16 * G, true),
            (0x18, Mem64, 256 * M, true),
            (0x20, Io, 256, false),
            (0x24, Mem32, M, false),
            (0x30, Rom, 128 * K, false),
        ],
    ),
    entry(
        0x10de,
        0x1db6,
        0x0302,
        &[(0x10, Mem32, 16 * M, false), (0x14, Mem64, 32 * G, true), (0x1c, Mem64, 32 * M, true)],
    ),
    entry(
        0x10de,
        0x15f8,
        0x0302,
        &[(0x10, Mem32, 16 * M, false), (0x14, Mem64, 16 * G, true), (0x1c, Mem64, 32 * M, true)],
    ),
    entry(
        0x10de,
        0x20b7,
        0x0302,
        &[(0x10, Mem32, 16 * M, false), (0x14, Mem64, 32 * G, true), (0x1c, Mem64, 32 * M, true)],
    ),
    entry(
        0x10de,
        0x20f1,
        0x0302,
        &[(0x10, Mem32, 16 * M, false), (0x14, Mem64, 64 * G, true), (0x1c, Mem64, 32 * M, true)],
    ),
    entry(
        0x10de,
        0x2331,
        0x0302,
        &[(0x10, Mem64, 16 * M, true), (0x18, Mem64, 128 * G, true), (0x20, Mem64, 32 * M, true)],
    ),
    entry(
        0x10de,
        0x1eb8,
        0x0302,
        &[(0x10, Mem32, 16 * M, false), (0x14, Mem64, 256 * M, true), (0x1c, Mem64, 32 * M, true)],
    ),
    entry(
        0x8086,
        0xe223,
        0x0300,
        &[(0x10, Mem64, 16 * M, true), (0x18, Mem64, 32 * G, true), (0x30, Rom, 2 * M, false)],
    ),
    entry(
        0x8086,
        0x56a1,
        0x0300,
        &[(0x10, Mem64, 16 * M, false), (0x18, Mem64, 256 * M, true), (0x30, Rom, 2 * M, false)],
    ),
    entry(
        0x8086,
        0x46a6,
        0x0300,
        &[(0x10, Mem64, 16 * M, false), (0x18, Mem64, 256 * M, true), (0x20, Io, 64, false)],
    ),
    // Their sound functions.
    entry(0x10de, 0x1aef, 0x0403, &[(0x10, Mem32, 16 * K, false)]),
    entry(0x8086, 0xa170, 0x0403, &[(0x10, Mem64, 16 * K, false), (0x20, Mem64, 64 * K, false)]),
    // Storage: SN570, another NVMe, AHCI, LSI SAS.
    entry(0x15b7, 0x501a, 0x0108, &[(0x10, Mem64, 16 * K, false), (0x20, Mem64, 256, false)]),
    entry(0x144d, 0xa80a, 0x0108, &[(0x10, Mem64, 16 * K, false)]),
    entry(0x8086, 0x2922, 0x0106, &[(0x20, Io, 32, false), (0x24, Mem32, 4 * K, false)]),
    entry(
        0x1000,
        0x0072,
        0x0107,
        &[
            (0x10, Io, 256, false),
            (0x14, Mem64, 16 * K, false),
            (0x1c, Mem64, 256 * K, false),
            (0x30, Rom, 512 * K, false),
        ],
    ),
    // USB: xHCI and OHCI.
    entry(0x8086, 0x8c31, 0x0c03, &[(0x10, Mem64, 64 * K, false)]),
    entry(0x106b, 0x003f, 0x0c03, &[(0x10, Mem32, 256, false)]),
    // The PCI endpoint test function.
    entry(
        0x104c,
        0xb500,
        0xff00,
        &[
            (0x10, Mem32, 256, false),
            (0x14, Mem32, 512, false),
            (0x18, Mem32, K, false),
            (0x1c, Mem32, 16 * K, false),
            (0x20, Mem32, 128 * K, false),
            (0x24, Mem32, M, false),
        ],
    ),
];
