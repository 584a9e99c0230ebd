// SPDX-License-Identifier: GPL-2.0-only
//! One oddity a guest: what a loader trips over, or what a prediction of it may forget.

use super::Maker;
use super::devices::plain;
use crate::guest::{Bar, BarKind, Bdf, Device, Guest, MapEntry, Raw};

/// Makes one thing of a guest odd.
type Oddity = fn(&mut Maker<'_>, &mut Guest);

/// What can be odd. The names are the corpus's labels where it has the like.
const ODDITIES: [(&str, Oddity); 22] = [
    ("bridge", bridge),
    ("c0680", power_management_of_another),
    ("isa", other_isa_bridge),
    ("nopiix", no_isa_bridge),
    ("huge64", huge_bars),
    ("last64", wide_bar_in_the_last_register),
    ("mem1m", bars_below_1m),
    ("bar2g", bar_of_2g),
    ("io64k", io_bar_of_64k),
    ("romen", enabled_roms),
    ("rom_io", enabled_roms_and_no_ports),
    ("tinyrom", smallest_roms),
    ("lowphys", narrow_bus),
    ("twovga", several_displays),
    ("oddids", odd_identifiers),
    ("xenpci", platform_elsewhere),
    ("hi_not_high", high_end_that_is_low),
    ("lowcut", ram_into_the_hole),
    ("manyrmrr", many_regions),
    ("rmrrcover", region_over_the_hole),
    ("dyn", region_in_the_loaders_own),
    ("raw", raw_registers),
];

impl Maker<'_> {
    /// Makes one thing of the guest odd.
    pub(super) fn oddity(&mut self, guest: &mut Guest) {
        if let Some((name, make)) = self.rng.choice(&ODDITIES) {
            guest.weird = Some((*name).to_owned());
            make(self, guest);
        }
    }

    /// Adds a function where there is room.
    fn add(&mut self, guest: &mut Guest, device: impl FnOnce(&mut Self, Bdf) -> Device) {
        if let Some(bdf) = self.free_place(&guest.devices, false) {
            let device = device(self, bdf);
            guest.devices.push(device);
        }
    }
}

fn raw(off: u8, value: u32, wmask: u32) -> Raw {
    Raw { off, value, wmask, len: 4 }
}

/// Its window registers look like BARs to the loader.
fn bridge(maker: &mut Maker<'_>, guest: &mut Guest) {
    maker.add(guest, |maker, bdf| {
        let mut device = maker.bare_device(bdf);
        (device.class, device.header) = (0x0604, 1);
        let secondary = maker.rng.u32(1..255);
        device.raw.push(raw(0x18, secondary << 16 | secondary << 8, 0xffff_ffff));
        device.raw.push(raw(
            0x1c,
            maker.pick(&[0, 0x0101, 0x1010, 0xf1f1], 0),
            maker.pick(&[0xf0f0, 0xffff], 0xf0f0),
        ));
        device.raw.push(raw(0x20, maker.pick(&[0, 0xfff0, 0xfe00_fe00], 0), 0xfff0_fff0));
        device.raw.push(raw(0x24, maker.pick(&[0, 0x0001_fff1, 0x0001_0001], 0), 0xfff0_fff0));
        if maker.chance(50) {
            device.raw.push(raw(0x30, 0, 0xffff_ffff));
        }
        device
    });
}

/// Any register writable, in any way.
fn raw_registers(maker: &mut Maker<'_>, guest: &mut Guest) {
    maker.add(guest, |maker, bdf| {
        let mut device = maker.bare_device(bdf);
        for off in (0x10..0x28).step_by(4).chain([0x30, 0xfc]) {
            if maker.chance(50) {
                let mask =
                    maker.rng.u32(..) & maker.pick(&[u32::MAX, 0xffff_0000, 0xffff, 0xffff_fff0], u32::MAX);
                let value = if maker.chance(50) { 0 } else { maker.rng.u32(..) };
                device.raw.push(raw(off, value, mask));
            }
        }
        device
    });
}

/// The loader asserts that class 0680 is a PIIX4's.
fn power_management_of_another(maker: &mut Maker<'_>, guest: &mut Guest) {
    maker.add(guest, |maker, bdf| {
        let mut device = maker.bare_device(bdf);
        (device.class, device.vendor, device.device) = (0x0680, 0x10de, 0x22a3);
        device.bars.push(plain(0x10, BarKind::Mem32, 32 << 20));
        device
    });
}

/// The loader asserts that 00:01.0 is a PIIX3.
fn other_isa_bridge(maker: &mut Maker<'_>, guest: &mut Guest) {
    let place = Bdf::on_root(1, 0);
    guest.devices.retain(|device| device.bdf != place);
    let mut device = maker.bare_device(place);
    if maker.chance(50) {
        (device.vendor, device.device, device.class) = (0x8086, 0x2918, 0x0601);
    }
    guest.devices.push(device);
}

fn no_isa_bridge(_: &mut Maker<'_>, guest: &mut Guest) {
    guest.devices.retain(|device| device.bdf != Bdf::on_root(1, 0));
}

fn huge_bars(maker: &mut Maker<'_>, guest: &mut Guest) {
    for _ in 0..maker.rng.usize(1..4) {
        maker.add(guest, |maker, bdf| {
            let mut device = maker.bare_device(bdf);
            let size = maker.power(36, 51);
            device.bars.push(Bar { prefetch: true, ..plain(0x10, BarKind::Mem64, size) });
            device
        });
    }
}

/// Its upper half lies beyond the BARs.
fn wide_bar_in_the_last_register(maker: &mut Maker<'_>, guest: &mut Guest) {
    maker.add(guest, |maker, bdf| {
        let mut device = maker.bare_device(bdf);
        let size = maker.power(12, 34);
        device.bars.push(Bar { prefetch: maker.chance(50), ..plain(0x24, BarKind::Mem64, size) });
        device
    });
}

fn bars_below_1m(maker: &mut Maker<'_>, guest: &mut Guest) {
    maker.add(guest, |maker, bdf| {
        let mut device = maker.bare_device(bdf);
        for reg in [0x10, 0x18, 0x24] {
            let size = maker.power(4, 28);
            device.bars.push(Bar { prefetch: maker.chance(30), ..plain(reg, BarKind::Mem1m, size) });
        }
        device
    });
}

fn bar_of_2g(maker: &mut Maker<'_>, guest: &mut Guest) {
    maker.add(guest, |maker, bdf| {
        let mut device = maker.bare_device(bdf);
        device.bars.push(plain(0x10, BarKind::Mem32, 1 << 31));
        device.bars.push(plain(0x14, BarKind::Mem64, 1 << 20));
        device
    });
}

fn io_bar_of_64k(maker: &mut Maker<'_>, guest: &mut Guest) {
    maker.add(guest, |maker, bdf| {
        let mut device = maker.bare_device(bdf);
        let size = maker.power(14, 20);
        device.bars.push(Bar { io16: maker.chance(30), ..plain(0x10, BarKind::Io, size) });
        device.bars.push(plain(0x14, BarKind::Mem32, 4096));
        device
    });
}

fn enabled_roms(maker: &mut Maker<'_>, guest: &mut Guest) {
    for bar in guest.devices.iter_mut().flat_map(|device| &mut device.bars) {
        if bar.kind == BarKind::Rom && maker.chance(70) {
            bar.value = maker.rng.u64(..1 << 32) | 1;
        }
    }
}

fn enabled_roms_and_no_ports(maker: &mut Maker<'_>, guest: &mut Guest) {
    maker.add(guest, |maker, bdf| {
        let mut device = maker.port_device(bdf);
        device.bars.retain(|bar| bar.reg != 0x30);
        let size = maker.power(11, 15);
        device.bars.push(Bar { value: 1, ..plain(0x30, BarKind::Rom, size) });
        device
    });
    enabled_roms(maker, guest);
}

fn smallest_roms(maker: &mut Maker<'_>, guest: &mut Guest) {
    for _ in 0..2 {
        maker.add(guest, |maker, bdf| {
            let mut device = maker.bare_device(bdf);
            device.bars.push(Bar { value: maker.rng.u64(..2), ..plain(0x30, BarKind::Rom, 2048) });
            device
        });
    }
}

fn narrow_bus(maker: &mut Maker<'_>, guest: &mut Guest) {
    guest.phys_bits = maker.rng.u8(32..37);
    maker.add(guest, |maker, bdf| maker.large_device(bdf));
}

fn several_displays(maker: &mut Maker<'_>, guest: &mut Guest) {
    for _ in 0..2 {
        maker.add(guest, |maker, bdf| {
            let mut device = maker.random_device(bdf);
            device.class = 0x0300;
            device.vendor = maker.pick(&[0x8086, 0x1002, 0x10de], 0x8086);
            if maker.chance(30) {
                device.raw.push(raw(0xfc, 0, 0xffff_ffff));
            }
            device
        });
    }
}

/// All ones in one identifier is a function all the same; in both it is none.
fn odd_identifiers(maker: &mut Maker<'_>, guest: &mut Guest) {
    for _ in 0..2 {
        maker.add(guest, |maker, bdf| {
            let mut device = maker.random_device(bdf);
            let ids = [(0xffff, 1), (0, 0), (0x8086, 0xffff), (0xffff, 0), (0xffff, 0xffff)];
            (device.vendor, device.device) = maker.pick(&ids, (0, 0));
            device
        });
    }
}

fn platform_elsewhere(maker: &mut Maker<'_>, guest: &mut Guest) {
    guest.devices.retain(|device| device.vendor != 0x5853);
    let place = Bdf::on_root(maker.rng.u8(20..32), 0);
    guest.devices.retain(|device| device.bdf != place);
    let mut device = maker.bare_device(place);
    (device.vendor, device.device, device.class) = (0x5853, maker.rng.u16(1..4), 0xff80);
    device.bars.push(plain(0x10, BarKind::Io, 256));
    let kind = maker.pick(&[BarKind::Mem32, BarKind::Mem64], BarKind::Mem32);
    let size = maker.power(12, 29);
    device.bars.push(Bar { prefetch: true, ..plain(0x14, kind, size) });
    guest.devices.push(device);
    let uncached = maker.pick(&["0", "1", ""], "0").to_owned();
    guest.xenstore.insert("hvmloader/pci/xen-platform-pci-bar-uc".to_owned(), uncached);
}

fn high_end_that_is_low(maker: &mut Maker<'_>, guest: &mut Guest) {
    guest.high_mem_pgend = maker.pick(&[1, 0x8_0000, 0xf_0000, 0xf_ffff, 0x10_0000], 1);
    guest.memory_map.retain(|entry| entry.addr < 1 << 32);
}

/// RAM where the hole is to be: the loader moves it.
fn ram_into_the_hole(maker: &mut Maker<'_>, guest: &mut Guest) {
    guest.low_mem_pgend = maker.rng.u32(0xe_0000..0xf_c000);
    if let Some(first) = guest.memory_map.iter_mut().find(|entry| entry.kind == 1) {
        first.size = (u64::from(guest.low_mem_pgend) << 12) - (1 << 20);
    }
    let value = maker.pick(&["0", "1"], "1").to_owned();
    guest.xenstore.insert("hvmloader/allow-memory-relocate".to_owned(), value);
}

fn many_regions(maker: &mut Maker<'_>, guest: &mut Guest) {
    for _ in 0..maker.rng.usize(4..8) {
        maker.reserved_memory(guest);
    }
}

fn region_over_the_hole(maker: &mut Maker<'_>, guest: &mut Guest) {
    let addr = maker.pick(&[0xf000_0000, 0xe000_0000, 0x8000_0000, 0xf800_0000], 0xf000_0000);
    let size = if maker.chance(50) { 0xfc00_0000 - addr } else { 0x400_0000 };
    guest.memory_map.push(MapEntry { addr, size, kind: 2 });
}

/// The loader stops before it looks at the bus.
fn region_in_the_loaders_own(maker: &mut Maker<'_>, guest: &mut Guest) {
    let addr = maker.pick(&[0xfc0f_f000, 0xfc10_0000, 0xfd00_0000, 0xfdff_f000, 0xfe00_0000], 0xfd00_0000);
    guest.memory_map.push(MapEntry { addr, size: 0x1000, kind: 2 });
}
