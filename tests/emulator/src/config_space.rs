// SPDX-License-Identifier: GPL-2.0-only
//! The modelled PCI bus: 256 bytes a function, each bit read-only or writable, as tests/corpus/FORMAT.md lays down.
//!
//! It answers configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2): the address port 0xcf8 and the data ports
//! 0xcfc to 0xcff.

use std::collections::BTreeMap;

use crate::guest::{BarKind, Bdf, Device, Guest};

/// Offsets that the model knows by name.
pub mod register {
    /// Command, 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// Class and subclass, 16 bits.
    pub const CLASS: u8 = 0x0a;
    /// Interrupt line, 8 bits.
    pub const INTERRUPT_LINE: u8 = 0x3c;
    /// Interrupt pin, 8 bits.
    pub const INTERRUPT_PIN: u8 = 0x3d;
    /// The first PCI interrupt route of an ISA bridge 8086:7000; three more follow.
    pub const PIIX_ROUTE: u8 = 0x60;
    /// Where Intel graphics keep their OpRegion's address.
    pub const OPREGION: u8 = 0xfc;
}

#[derive(Clone, Debug)]
struct Function {
    bytes: [u8; 256],
    writable: [u8; 256],
}

impl Function {
    fn new(device: &Device) -> Self {
        let mut function = Self { bytes: [0; 256], writable: [0; 256] };
        function.wire(0x00, 2, device.vendor.into(), 0);
        function.wire(0x02, 2, device.device.into(), 0);
        function.wire(register::COMMAND, 2, device.command.into(), 0xffff);
        function.wire(register::CLASS, 2, device.class.into(), 0);
        function.wire(0x0e, 1, device.header.into(), 0);
        function.wire(register::INTERRUPT_LINE, 1, device.int_line.into(), 0xff);
        function.wire(register::INTERRUPT_PIN, 1, device.int_pin.into(), 0);
        if (device.vendor, device.device) == (0x8086, 0x7000) {
            function.wire(register::PIIX_ROUTE, 4, 0x8080_8080, 0xffff_ffff);
        }
        for bar in &device.bars {
            let decoded = !bar.size.wrapping_sub(1);
            let low = |mask: u64| mask & 0xffff_ffff;
            let prefetch = u64::from(bar.prefetch) << 3;
            match bar.kind {
                BarKind::Mem32 => {
                    let mask = low(decoded) & !0xf;
                    function.wire(bar.reg, 4, bar.value & mask | prefetch, mask);
                }
                BarKind::Mem1m => {
                    let mask = low(decoded) & !0xf;
                    function.wire(bar.reg, 4, bar.value & mask | 2 | prefetch, mask);
                }
                BarKind::Mem64 => {
                    let mask = decoded & !0xf;
                    function.wire(bar.reg, 8, bar.value & mask | 4 | prefetch, mask);
                }
                BarKind::Io => {
                    let mask = low(decoded) & if bar.io16 { 0xfffc } else { 0xffff_fffc };
                    function.wire(bar.reg, 4, bar.value & mask | 1, mask);
                }
                BarKind::Rom => {
                    let mask = low(decoded) & 0xffff_f800 | 1;
                    function.wire(bar.reg, 4, bar.value & mask, mask);
                }
            }
        }
        for raw in &device.raw {
            function.wire(raw.off, raw.len.min(4), raw.value.into(), raw.wmask.into());
        }
        function
    }

    /// Lays a register of `len` bytes down: its content and which of its bits can be written.
    fn wire(&mut self, at: u8, len: u8, value: u64, writable: u64) {
        let content = value.to_le_bytes().into_iter().zip(writable.to_le_bytes());
        let places = self.bytes.iter_mut().zip(&mut self.writable).skip(at.into());
        for ((byte, mask), (value, writable)) in places.zip(content.take(len.into())) {
            *byte = value;
            *mask = writable;
        }
    }

    fn read(&self, at: u8, len: usize) -> u64 {
        self.bytes.iter().skip(at.into()).take(len).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn write(&mut self, at: u8, len: usize, value: u64) {
        let places = self.bytes.iter_mut().zip(&self.writable).skip(at.into());
        for ((byte, mask), value) in places.zip(value.to_le_bytes().into_iter().take(len)) {
            *byte = *byte & !mask | value & mask;
        }
    }
}

/// All functions of a guest, and the address port.
#[derive(Clone, Debug, Default)]
pub struct Bus {
    functions: BTreeMap<Bdf, Function>,
    address: u32,
    opregion: u32,
}

impl Bus {
    /// The bus of this guest before its loader ran.
    pub fn new(guest: &Guest) -> Self {
        let functions = guest.devices.iter().map(|device| (device.bdf, Function::new(device)));
        Self { functions: functions.collect(), address: 0, opregion: 0 }
    }

    /// A write to the address port.
    pub const fn select(&mut self, address: u32) {
        self.address = address;
    }

    /// Which function and register a data port stands for; none while the enable bit is clear.
    fn selected(&self, port: u32) -> Option<(Bdf, u8)> {
        let [register, devfn, bus, enable] = self.address.to_le_bytes();
        let lane = u8::try_from(port & 3).ok()?;
        (enable & 0x80 != 0).then_some((Bdf { bus, devfn }, register & !3 | lane))
    }

    /// A read of `len` bytes from a data port; a function that is not there reads all ones.
    pub fn data_read(&self, port: u32, len: usize) -> u32 {
        self.selected(port)
            .and_then(|(bdf, register)| Some(self.functions.get(&bdf)?.read(register, len)))
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or(u32::MAX)
    }

    /// A write of `len` bytes to a data port.
    pub fn data_write(&mut self, port: u32, len: usize, value: u32) {
        let Some((bdf, register)) = self.selected(port) else { return };
        let Some(function) = self.functions.get_mut(&bdf) else { return };
        function.write(register, len, value.into());
        // Display controllers of Intel's are told where the loader put the OpRegion. Seen here, not read back: the
        // model's register is read-only unless the guest says otherwise, as a device model traps the write.
        let is_intel_vga = function.read(0, 2) == 0x8086 && function.read(register::CLASS, 2) == 0x0300;
        if register == register::OPREGION && len == 4 && is_intel_vga {
            self.opregion = value;
        }
    }

    /// `len` bytes (8 at most) of a function's configuration space; all ones where there is none.
    pub fn peek(&self, bdf: Bdf, at: u8, len: usize) -> u64 {
        self.functions.get(&bdf).map_or(u64::MAX, |function| function.read(at, len))
    }

    /// The OpRegion's address as the loader announced it; 0 if it did not.
    pub const fn opregion(&self) -> u32 {
        self.opregion
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Bar, Line};

    fn bus(bars: Vec<Bar>) -> Bus {
        let text =
            r#"{"phys_bits":36,"low_mem_pgend":1,"devices":[{"bdf":"00:05.0","vendor":1,"device":2}]}"#;
        let mut guest = text.parse::<Line>().unwrap().guest;
        guest.devices[0].bars = bars;
        Bus::new(&guest)
    }

    fn sized(kind: BarKind, size: u64, bytes: usize) -> u64 {
        let mut bus = bus(vec![Bar { reg: 0x10, kind, size, prefetch: true, value: 0, io16: false }]);
        bus.select(0x8000_2810);
        bus.data_write(0xcfc, 4, u32::MAX);
        bus.select(0x8000_2814);
        bus.data_write(0xcfc, 4, u32::MAX);
        bus.peek(Bdf::on_root(5, 0), 0x10, bytes)
    }

    #[test]
    fn sizing_reads_the_mask_and_the_type_bits() {
        assert_eq!(sized(BarKind::Mem32, 0x1000, 4), 0xffff_f008);
        assert_eq!(sized(BarKind::Mem1m, 0x10, 4), 0xffff_fffa);
        assert_eq!(sized(BarKind::Mem64, 1 << 34, 8), 0xffff_fffc_0000_000c);
        assert_eq!(sized(BarKind::Io, 0x20, 4), 0xffff_ffe1);
        assert_eq!(sized(BarKind::Rom, 0x800, 4), 0xffff_f801);
    }

    #[test]
    fn a_missing_function_or_a_cleared_enable_bit_reads_all_ones() {
        let mut bus = bus(vec![]);
        bus.select(0x8000_3000);
        assert_eq!(bus.data_read(0xcfc, 4), u32::MAX);
        bus.select(0x2800);
        assert_eq!(bus.data_read(0xcfc, 4), u32::MAX);
        bus.select(0x8000_2800);
        assert_eq!(bus.data_read(0xcfc, 4), 0x0002_0001);
        assert_eq!(bus.data_read(0xcfe, 2), 2);
    }
}
