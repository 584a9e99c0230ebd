// SPDX-License-Identifier: LGPL-2.1-or-later
//! Bus 0 as a loader sees it: configuration space of which each bit is read-only or writable.
//!
//! A guest's functions are turned into registers the way the corpus of recorded loaders models them: what is not
//! listed reads 0 and is read-only, a missing function reads all ones.

use std::collections::BTreeMap;

use crate::guest::Guest;
use crate::pci::{Bar, BarKind, Bdf, Device};

/// Registers of configuration space that the loader touches (PCI Local Bus Specification 3.0, chapter 6).
pub mod register {
    /// Vendor ID, 16 bits.
    pub const VENDOR: u8 = 0x00;
    /// Device ID, 16 bits.
    pub const DEVICE: u8 = 0x02;
    /// Command, 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// Subclass and class, 16 bits.
    pub const CLASS: u8 = 0x0a;
    /// Header type, 8 bits.
    pub const HEADER: u8 = 0x0e;
    /// The first BAR, 32 bits.
    pub const BAR0: u8 = 0x10;
    /// The expansion ROM's BAR, 32 bits.
    pub const ROM: u8 = 0x30;
    /// Interrupt line, 8 bits.
    pub const INTERRUPT_LINE: u8 = 0x3c;
    /// Interrupt pin, 8 bits.
    pub const INTERRUPT_PIN: u8 = 0x3d;
    /// The first of the PIIX3 ISA bridge's four link routes, 8 bits each.
    pub const LINK_ROUTES: u8 = 0x60;
}

/// The functions of bus 0.
#[derive(Clone, Debug, Default)]
pub struct Bus {
    functions: BTreeMap<u8, Registers>,
}

#[derive(Clone, Debug)]
struct Registers {
    value: [u8; 256],
    writable: [u8; 256],
}

impl Bus {
    /// A guest's bus 0 before its loader runs; what sits behind a bridge is not on it.
    pub fn of(guest: &Guest) -> Self {
        let on_bus_0 = guest.devices.iter().filter(|device| device.bdf.bus() == 0);
        Self { functions: on_bus_0.map(|device| (device.bdf.devfn(), Registers::of(device))).collect() }
    }

    /// Every function there is, by its slot and function number, ascending.
    pub fn devfns(&self) -> impl Iterator<Item = u8> {
        self.functions.keys().copied()
    }

    /// Reads `BYTES` bytes of a register, little-endian.
    fn read<const BYTES: usize>(&self, devfn: u8, register: u8) -> [u8; BYTES] {
        let mut bytes = [0xff; BYTES];
        if let Some(function) = self.functions.get(&devfn) {
            let values = function.value.iter().skip(usize::from(register));
            bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = *value);
        }
        bytes
    }

    /// Writes a register: the writable bits change.
    fn write(&mut self, devfn: u8, register: u8, bytes: &[u8]) {
        if let Some(function) = self.functions.get_mut(&devfn) {
            let cells = function.value.iter_mut().zip(&function.writable).skip(usize::from(register));
            for ((value, writable), new) in cells.zip(bytes) {
                *value = (*value & !writable) | (new & writable);
            }
        }
    }

    /// Reads a byte.
    pub fn read8(&self, devfn: u8, register: u8) -> u8 {
        u8::from_le_bytes(self.read(devfn, register))
    }

    /// Reads a word.
    pub fn read16(&self, devfn: u8, register: u8) -> u16 {
        u16::from_le_bytes(self.read(devfn, register))
    }

    /// Reads a doubleword.
    pub fn read32(&self, devfn: u8, register: u8) -> u32 {
        u32::from_le_bytes(self.read(devfn, register))
    }

    /// Writes a byte.
    pub fn write8(&mut self, devfn: u8, register: u8, value: u8) {
        self.write(devfn, register, &value.to_le_bytes());
    }

    /// Writes a word.
    pub fn write16(&mut self, devfn: u8, register: u8, value: u16) {
        self.write(devfn, register, &value.to_le_bytes());
    }

    /// Writes a doubleword.
    pub fn write32(&mut self, devfn: u8, register: u8, value: u32) {
        self.write(devfn, register, &value.to_le_bytes());
    }
}

impl Registers {
    fn of(device: &Device) -> Self {
        let mut registers = Self { value: [0; 256], writable: [0; 256] };
        registers.set(register::VENDOR, &device.vendor.to_le_bytes(), &[]);
        registers.set(register::DEVICE, &device.device.to_le_bytes(), &[]);
        registers.set(register::COMMAND, &device.command.to_le_bytes(), &[0xff; 2]);
        registers.set(register::CLASS, &device.class.to_le_bytes(), &[]);
        registers.set(register::HEADER, &[device.header], &[]);
        registers.set(register::INTERRUPT_LINE, &[device.int_line], &[0xff]);
        registers.set(register::INTERRUPT_PIN, &[device.int_pin], &[]);
        if (device.vendor, device.device) == (0x8086, 0x7000) {
            registers.set(register::LINK_ROUTES, &[0x80; 4], &[0xff; 4]);
        }
        for bar in &device.bars {
            registers.set_bar(bar);
        }
        for raw in &device.raw {
            let length = usize::from(raw.len.min(8));
            let (value, wmask) = (raw.value.to_le_bytes(), raw.wmask.to_le_bytes());
            registers.set(raw.off, value.get(..length).unwrap_or(&[]), wmask.get(..length).unwrap_or(&[]));
        }
        registers
    }

    /// Sets a register's bytes, and which of their bits a write changes; bytes without a mask are read-only.
    fn set(&mut self, register: u8, value: &[u8], writable: &[u8]) {
        let at = usize::from(register);
        let cells = self.value.iter_mut().zip(self.writable.iter_mut()).skip(at);
        let masks = writable.iter().copied().chain(std::iter::repeat(0));
        for ((cell, mask), (new, writable)) in cells.zip(value.iter().zip(masks)) {
            *cell = *new;
            *mask = writable;
        }
    }

    fn set_bar(&mut self, bar: &Bar) {
        let address_bits = !bar.size.get().wrapping_sub(1);
        let prefetch = u64::from(bar.prefetch) << 3;
        // What a write changes, the bits that say what the BAR is, and how many bytes it has.
        let (writable, fixed, bytes) = match bar.kind {
            BarKind::Mem32 => (address_bits & 0xffff_fff0, prefetch, 4),
            BarKind::Mem1m => (address_bits & 0xffff_fff0, prefetch | 2, 4),
            BarKind::Mem64 => (address_bits & !0xf, prefetch | 4, 8),
            BarKind::Io => (address_bits & if bar.io16 { 0xfffc } else { 0xffff_fffc }, 1, 4),
            BarKind::Rom => ((address_bits & 0xffff_f800) | 1, 0, 4),
        };
        let value = (bar.value & writable) | fixed;
        let (value, writable) = (value.to_le_bytes(), writable.to_le_bytes());
        self.set(bar.reg, value.get(..bytes).unwrap_or(&[]), writable.get(..bytes).unwrap_or(&[]));
    }
}

/// The function of bus 0 with that slot and function number.
pub fn bdf(devfn: u8) -> Option<Bdf> {
    Bdf::new(0, devfn >> 3, devfn & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus(devices: &str) -> Bus {
        let text = format!(r#"{{"phys_bits": 40, "low_mem_pgend": 1, "devices": [{devices}]}}"#);
        Bus::of(&crate::source::description::parse(&text).unwrap())
    }

    #[test]
    fn a_missing_function_reads_all_ones_and_takes_no_writes() {
        let mut bus = bus("");
        bus.write32(8, 0x10, 0);
        assert_eq!((bus.read8(8, 0), bus.read16(8, 0), bus.read32(8, 0x10)), (0xff, 0xffff, 0xffff_ffff));
    }

    #[test]
    fn a_bar_answers_a_write_of_all_ones_with_its_size() {
        let mut bus = bus(r#"{"bdf": "00:04.0", "vendor": 1, "device": 2, "class": 3, "bars": [
            {"reg": 16, "kind": "mem64", "size": 8589934592, "prefetch": true},
            {"reg": 24, "kind": "io", "size": 256, "io16": true},
            {"reg": 48, "kind": "rom", "size": 65536}]}"#);
        for register in [0x10, 0x14, 0x18, 0x1c, 0x30] {
            bus.write32(0x20, register, u32::MAX);
        }
        let read = |register| bus.read32(0x20, register);
        assert_eq!(
            [0x10, 0x14, 0x18, 0x1c, 0x30].map(read),
            [0xc, 0xffff_fffe, 0xff01, 0, 0xffff_0001],
            "an absent BAR stays 0"
        );
    }

    #[test]
    fn a_register_at_the_end_of_configuration_space_does_not_run_over() {
        let mut bus = bus(r#"{"bdf": "00:04.0", "vendor": 1, "device": 2, "class": 3,
            "raw": [{"off": 254, "value": 4660, "wmask": 65535}]}"#);
        assert_eq!(bus.read16(0x20, 254), 0x1234);
        bus.write16(0x20, 255, 0xffff);
        assert_eq!(bus.read32(0x20, 254), 0xffff_ff34, "what is past the end reads as ones");
    }
}
