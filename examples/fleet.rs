// SPDX-License-Identifier: LGPL-2.1-or-later
//! Makes up a fleet: guest descriptions, one a line, for `plan --batch` and `predict --batch` (docs/fleet.md).
//!
//!     cargo run --release --example fleet -- 100000 > fleet.jsonl
//!
//! The same number gives the same guests. Every one has the platform device, IDE, a VGA and a network card as QEMU has
//! them; four in ten have something of the host's beside, from a NIC's virtual function to eight accelerators.
#![allow(clippy::arithmetic_side_effects, reason = "sizes and numbers that are written here")]

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};

/// What guests are given of the host: vendor, device, class, and each BAR's register, kind, size and prefetchable bit.
type Model = (u16, u16, u16, &'static [(u8, &'static str, u64, bool)]);

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MODELS: [Model; 7] = [
    // A virtual function of an Intel X710.
    (0x8086, 0x154c, 0x0200, &[(0x10, "mem64", 64 << 10, true), (0x1c, "mem64", 16 << 10, true)]),
    // A solid-state disk.
    (0x144d, 0xa808, 0x0108, &[(0x10, "mem64", 16 << 10, false)]),
    // A graphics card of 2014: 256M.
    (
        0x10de,
        0x1380,
        0x0300,
        &[
            (0x10, "mem32", 16 * MIB, false),
            (0x14, "mem64", 256 * MIB, true),
            (0x1c, "mem64", 32 * MIB, true),
            (0x24, "io", 128, false),
            (0x30, "rom", 512 << 10, false),
        ],
    ),
    // One of today: 16G.
    (
        0x10de,
        0x2f04,
        0x0300,
        &[
            (0x10, "mem32", 64 * MIB, false),
            (0x14, "mem64", 16 * GIB, true),
            (0x1c, "mem64", 32 * MIB, true),
            (0x24, "io", 128, false),
            (0x30, "rom", 512 << 10, false),
        ],
    ),
    // An accelerator: 128G.
    (
        0x10de,
        0x2331,
        0x0302,
        &[(0x10, "mem64", 16 * MIB, true), (0x18, "mem64", 128 * GIB, true), (0x20, "mem64", 32 * MIB, true)],
    ),
    // An accelerator card of 2016: 1G and 512M.
    (0x1db5, 0x0001, 0x1200, &[(0x10, "mem64", GIB, true), (0x18, "mem64", 512 * MIB, true)]),
    // A capture card with 32-bit BARs.
    (0x1131, 0x7160, 0x0480, &[(0x10, "mem32", 64 * MIB, false), (0x14, "mem32", 32 * MIB, false)]),
];

/// A number of the guest's own, below `limit`: SplitMix64 of its number and of what is asked.
fn choice(guest: u64, question: u64, limit: u64) -> u64 {
    let mut bits = guest.wrapping_mul(64).wrapping_add(question).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)) % limit
}

/// A function of the guest's with its BARs.
fn device(bdf: &str, (vendor, device, class, bars): Model, model: Option<&str>) -> Value {
    let bar = |&(reg, kind, size, prefetch): &(u8, &str, u64, bool)| json!({"reg": reg, "kind": kind, "size": size, "prefetch": prefetch});
    let bars: Vec<Value> = bars.iter().map(bar).collect();
    let mut device = json!({"bdf": bdf, "vendor": vendor, "device": device, "class": class, "bars": bars});
    if let (Some(name), Some(device)) = (model, device.as_object_mut()) {
        device.insert("model".to_owned(), json!(name));
    }
    device
}

fn one_of(values: &[u64], which: u64) -> u64 {
    usize::try_from(which).ok().and_then(|which| values.get(which)).copied().unwrap_or_default()
}

/// Guest number so many of the fleet.
pub fn guest(number: u64) -> Value {
    let memory = one_of(&[2, 4, 8, 16, 32, 64, 256], choice(number, 0, 7)) * GIB;
    // One in five has a hole that somebody chose.
    let hole = match choice(number, 1, 10) {
        0 => 1024 * MIB,
        1 => 2048 * MIB,
        _ => 256 * MIB,
    };
    let low = memory.min(4 * GIB - hole);
    let high = if memory > low { 4 * GIB + memory - low } else { 0 };
    let vga = one_of(&[8, 16, 16, 32], choice(number, 2, 4)) * MIB;
    let vga_bars = [(0x10, "mem32", vga, true), (0x18, "mem32", 4096, false), (0x30, "rom", 64 << 10, false)];
    let vga = json!({"bdf": "00:03.0", "vendor": 0x1234, "device": 0x1111, "class": 0x0300, "model": "VGA",
        "bars": vga_bars.map(|(reg, kind, size, prefetch)| json!({"reg": reg, "kind": kind, "size": size, "prefetch": prefetch}))});
    let mut devices = vec![
        device("00:00.0", (0x8086, 0x1237, 0x0600, &[]), Some("i440fx")),
        device("00:01.0", (0x8086, 0x7000, 0x0601, &[]), Some("piix3")),
        device("00:01.1", (0x8086, 0x7010, 0x0101, &[(0x20, "io", 16, false)]), Some("piix3-ide")),
        device(
            "00:02.0",
            (0x5853, 1, 0xff80, &[(0x10, "io", 256, false), (0x14, "mem32", 16 * MIB, true)]),
            Some("xen-platform"),
        ),
        vga,
        device(
            "00:04.0",
            (
                0x8086,
                0x100e,
                0x0200,
                &[
                    (0x10, "mem32", 128 << 10, false),
                    (0x14, "io", 64, false),
                    (0x30, "rom", 256 << 10, false),
                ],
            ),
            Some("e1000"),
        ),
    ];
    if choice(number, 3, 10) < 4 {
        let kind = usize::try_from(choice(number, 4, 7)).unwrap_or_default();
        let most = if kind == 6 { 2 } else { 8 };
        for slot in 0..=choice(number, 5, most) {
            devices.extend(
                MODELS.get(kind).map(|model| device(&format!("00:{:02x}.0", slot + 5), *model, None)),
            );
        }
    }
    let mut xenstore = serde_json::Map::new();
    if hole != 256 * MIB {
        xenstore.insert("platform/mmio_hole_size".to_owned(), json!(hole.to_string()));
    }
    // libxl turns relocation off for QEMU upstream. And one in a hundred has asked for a write-back platform BAR.
    xenstore.insert("hvmloader/allow-memory-relocate".to_owned(), json!("0"));
    if choice(number, 6, 100) == 0 {
        xenstore.insert("hvmloader/pci/xen-platform-pci-bar-uc".to_owned(), json!("0"));
    }
    json!({"id": format!("guest-{number:06}"), "phys_bits": 46, "low_mem_pgend": low >> 12, "high_mem_pgend": high >> 12,
        "device_model_memory": [16 * MIB, 64 << 10, 256 << 10], "xenstore": xenstore, "devices": devices})
}

/// Writes as many guests as the command line says.
#[allow(dead_code, reason = "a test has the guests alone")]
fn main() -> io::Result<()> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(100_000);
    let mut out = BufWriter::new(io::stdout().lock());
    (0..count).try_for_each(|number| writeln!(out, "{}", guest(number)))?;
    out.flush()
}
