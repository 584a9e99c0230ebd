// SPDX-License-Identifier: GPL-2.0-only
//! Functions: the emulated machine's own, real ones, and made-up ones.

use super::Maker;
use super::catalogue::{CHIPSET, DEVICES, DISPLAYS, PLATFORM};
use crate::guest::{Bar, BarKind, Bdf, Device};

const VENDORS: [u16; 8] = [0x8086, 0x10de, 0x1002, 0x14e4, 0x15b3, 0x1af4, 0x5853, 0x1000];
const CLASSES: [u16; 11] =
    [0x0100, 0x0108, 0x0200, 0x0207, 0x0300, 0x0302, 0x0380, 0x0403, 0x0b40, 0x0c03, 0xff00];
const LAST_BAR: u8 = 0x24;
const ROM: u8 = 0x30;

impl Maker<'_> {
    /// QEMU's i440fx machine as Xen uses it.
    pub(super) fn machine(&mut self) -> Vec<Device> {
        let mut devices = Vec::new();
        for (slot, function, entry) in &CHIPSET {
            let usb = (*slot, *function) == (1, 2);
            if usb && self.chance(75) {
                continue;
            }
            let power = (*slot, *function) == (1, 3);
            let mut device = entry.at(Bdf::on_root(*slot, *function), if usb { 4 } else { u8::from(power) });
            if power {
                device.int_line = 9;
            }
            if (*slot, *function) == (1, 0) {
                device.header = 0x80;
            }
            devices.push(device);
        }
        if self.chance(92) {
            let mut platform = PLATFORM.at(Bdf::on_root(2, 0), 1);
            if self.chance(5) {
                platform.device = 2;
            }
            devices.push(platform);
        }
        if self.chance(80) {
            let which = self.rng.usize(..DISPLAYS.len());
            if let Some(display) = DISPLAYS.get(which) {
                let mut device = display.at(Bdf::on_root(3, 0), u8::from(which == 2));
                // Video memory is the administrator's to choose.
                if let Some(bar) = device.bars.first_mut()
                    && self.chance(25)
                {
                    bar.size = self.power(22, 27);
                }
                devices.push(device);
            }
        }
        devices
    }

    /// The ISA bridge and up to three others, anywhere.
    pub(super) fn few_functions(&mut self) -> Vec<Device> {
        let mut devices = Vec::new();
        if self.chance(90) {
            devices.extend(CHIPSET.get(1).map(|(_, _, entry)| entry.at(Bdf::on_root(1, 0), 0)));
        }
        let more = self.random_functions(3);
        devices.extend(more.into_iter().filter(|device| device.bdf.slot() > 1));
        devices
    }

    /// Up to `most` random functions, anywhere but in the ISA bridge's place.
    pub(super) fn random_functions(&mut self, most: usize) -> Vec<Device> {
        let mut devices: Vec<Device> = Vec::new();
        for _ in 0..self.rng.usize(1..=most) {
            let bdf = Bdf::on_root(self.rng.u8(2..32), if self.chance(70) { 0 } else { self.rng.u8(..8) });
            if devices.iter().all(|device| device.bdf != bdf) {
                let device = if self.chance(30) { self.real_device(bdf) } else { self.random_device(bdf) };
                devices.push(device);
            }
        }
        devices
    }

    /// One from the catalogue.
    pub(super) fn real_device(&mut self, bdf: Bdf) -> Device {
        match self.rng.choice(&DEVICES) {
            Some(entry) => entry.at(bdf, 1),
            None => self.random_device(bdf),
        }
    }

    /// One with BARs of any kind and size.
    pub(super) fn random_device(&mut self, bdf: Bdf) -> Device {
        let mut device = self.bare_device(bdf);
        let mut reg = 0x10;
        while reg <= LAST_BAR {
            if self.chance(45) {
                let bar = self.random_bar(reg);
                reg += if bar.kind == BarKind::Mem64 { 4 } else { 0 };
                device.bars.push(bar);
            }
            reg += 4;
        }
        if self.chance(25) {
            let size = self.power(11, 21);
            device.bars.push(plain(ROM, BarKind::Rom, size));
        }
        device
    }

    /// No BAR yet.
    pub(super) fn bare_device(&mut self, bdf: Bdf) -> Device {
        Device {
            bdf,
            vendor: self.pick(&VENDORS, 0x8086),
            device: self.rng.u16(1..0xfff0),
            class: self.pick(&CLASSES, 0x0200),
            header: 0,
            command: if self.chance(15) { self.pick(&[3, 7, 0x107, 0x406, 2, 1], 7) } else { 0 },
            int_pin: if self.chance(75) { self.rng.u8(1..5) } else { 0 },
            int_line: 0,
            bars: Vec::new(),
            raw: Vec::new(),
        }
    }

    fn random_bar(&mut self, reg: u8) -> Bar {
        let kind = match self.rng.u32(..100) {
            0..18 => BarKind::Io,
            18..58 => BarKind::Mem32,
            // A 64-bit BAR takes two registers.
            58..97 if reg < LAST_BAR => BarKind::Mem64,
            58..99 => BarKind::Mem32,
            _ => BarKind::Mem1m,
        };
        let size = match (kind, self.rng.u32(..100)) {
            (BarKind::Io, 0..95) => self.power(2, 8),
            (BarKind::Io, _) => self.power(9, 13),
            (BarKind::Mem1m, _) => self.power(4, 19),
            (BarKind::Mem64, 0..12) => self.power(29, 38),
            (_, 0..30) => self.power(4, 11),
            (_, 30..85) => self.power(12, 24),
            _ => self.power(25, 29),
        };
        let prefetch = matches!(kind, BarKind::Mem32 | BarKind::Mem64) && self.chance(50);
        Bar { prefetch, io16: kind == BarKind::Io && self.chance(10), ..plain(reg, kind, size) }
    }

    /// An accelerator: one or two BARs that decide everything.
    pub(super) fn large_device(&mut self, bdf: Bdf) -> Device {
        if self.chance(30) {
            return self.real_device(bdf);
        }
        let mut device = self.bare_device(bdf);
        device.class = self.pick(&[0x0300, 0x0302, 0x1200], 0x0302);
        let mut reg = 0x10;
        for _ in 0..self.rng.usize(1..4) {
            let size = if self.chance(60) { self.power(27, 38) } else { self.power(12, 28) };
            let bar = if size < 1 << 31 && self.chance(15) {
                plain(reg, BarKind::Mem32, size)
            } else {
                Bar { prefetch: self.chance(70), ..plain(reg, BarKind::Mem64, size) }
            };
            reg += if bar.kind == BarKind::Mem64 { 8 } else { 4 };
            device.bars.push(bar);
        }
        device
    }

    /// BARs near a quarter, a half and the whole of the usual holes, and crumbs to fill them.
    pub(super) fn boundary_device(&mut self, bdf: Bdf) -> Device {
        let mut device = self.bare_device(bdf);
        let mut reg = 0x10;
        while reg <= LAST_BAR {
            let wide = reg < LAST_BAR && self.chance(40);
            let size = match self.rng.u32(..10) {
                0..3 => self.power(26, 30),
                3..7 => self.power(20, 25),
                _ => self.power(4, 19),
            };
            let kind = if wide { BarKind::Mem64 } else { BarKind::Mem32 };
            device.bars.push(Bar { prefetch: self.chance(40), ..plain(reg, kind, size) });
            reg += if wide { 8 } else { 4 };
            if self.chance(15) {
                break;
            }
        }
        device
    }

    /// Mostly I/O.
    pub(super) fn port_device(&mut self, bdf: Bdf) -> Device {
        let mut device = self.bare_device(bdf);
        let mut reg = 0x10;
        while reg <= LAST_BAR && !self.chance(20) {
            let size = if self.chance(70) { self.power(2, 8) } else { self.power(9, 14) };
            device.bars.push(Bar { io16: self.chance(20), ..plain(reg, BarKind::Io, size) });
            reg += 4;
        }
        if self.chance(30) {
            let size = self.power(11, 18);
            device.bars.push(plain(ROM, BarKind::Rom, size));
        }
        device
    }

    /// Registers as another firmware, or a host, left them.
    pub(super) fn dirty(&mut self, devices: &mut [Device]) {
        for device in devices {
            if self.chance(60) {
                device.command = self.pick(&[7, 6, 2, 3, 1, 0x107, 0x403, 0x507], 7);
            }
            if self.chance(40) {
                device.int_line = self.pick(&[11, 255, 5, 10, 0], 11);
            }
            for bar in &mut device.bars {
                if self.chance(50) {
                    let bits = if bar.kind == BarKind::Mem64 { self.rng.u32(30..52) } else { 32 };
                    bar.value = self.rng.u64(..1 << bits);
                }
                if bar.kind == BarKind::Rom && self.chance(70) {
                    bar.value &= !1;
                }
            }
        }
    }
}

/// A BAR that says nothing but its kind and size.
pub(super) const fn plain(reg: u8, kind: BarKind, size: u64) -> Bar {
    Bar { reg, kind, size, prefetch: false, value: 0, io16: false }
}
