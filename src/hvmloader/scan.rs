// SPDX-License-Identifier: LGPL-2.1-or-later
//! The scan of bus 0: every function's quirks, BAR sizes and interrupt. Buses behind bridges are never looked at.

use super::bus::register;
use super::loader::{AssignedBar, Crashed, FoundBar, ISA_BRIDGE, Loader, long};

/// Bits of the command register.
pub(super) mod command {
    pub(in crate::hvmloader) const IO: u16 = 1;
    pub(in crate::hvmloader) const MEMORY: u16 = 2;
    pub(in crate::hvmloader) const MASTER: u16 = 4;
}

/// Where an Intel graphics device takes its OpRegion's address.
const OPREGION_REGISTER: u8 = 0xfc;
/// The PIIX4 power management function's I/O block.
const PM_IO_BLOCK: u32 = 0xb000;

/// The graphics device that the loader takes for the first one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vga {
    None,
    Emulated(u8),
    PassedThrough(u8),
}

impl Loader<'_> {
    pub(super) fn scan(&mut self) -> Result<(), Crashed> {
        let mut vga = Vga::None;
        for devfn in self.bus.devfns().collect::<Vec<_>>() {
            let vendor = self.bus.read16(devfn, register::VENDOR);
            let device = self.bus.read16(devfn, register::DEVICE);
            if (vendor, device) == (0xffff, 0xffff) {
                continue;
            }
            if devfn == ISA_BRIDGE && (vendor, device) != (0x8086, 0x7000) {
                let text = "(devfn != PCI_ISA_DEVFN) || ((vendor_id == 0x8086) && (device_id == 0x7000))";
                return Err(self.assertion(text, self.algorithm.assertion_lines.0));
            }
            match self.bus.read16(devfn, register::CLASS) {
                0x0300 => vga = self.see_vga(vga, devfn, vendor, device),
                0x0680 => self.set_up_power_management(devfn, vendor, device)?,
                0x0101 if vendor == 0x8086 => {
                    // Both channels of the IDE controller.
                    self.bus.write16(devfn, 0x40, 0x8000);
                    self.bus.write16(devfn, 0x42, 0x8000);
                }
                _ => {}
            }
            let decoding = command::MEMORY | command::IO;
            let quiet = self.bus.read16(devfn, register::COMMAND) & !decoding;
            self.bus.write16(devfn, register::COMMAND, quiet);
            self.scan_bars(devfn, vendor, device);
            self.route_interrupt(devfn);
            self.will_enable(devfn, command::MASTER);
        }
        // The VGA's registers are ports even where it has no I/O BAR.
        if let Vga::Emulated(devfn) | Vga::PassedThrough(devfn) = vga {
            self.will_enable(devfn, command::IO);
        }
        Ok(())
    }

    fn assertion(&mut self, text: &str, line: u32) -> Crashed {
        self.log.push(format!("*** HVMLoader assertion '{text}' failed at pci.c:{line}"));
        Crashed
    }

    /// The last emulated VGA is the first graphics device; without one it is the first passed-through one, and only
    /// then does an Intel device get an OpRegion.
    fn see_vga(&mut self, vga: Vga, devfn: u8, vendor: u16, device: u16) -> Vga {
        match (vendor, device, vga) {
            (0x1234, 0x1111, _) | (0x1013, 0x00b8, _) => Vga::Emulated(devfn),
            (_, _, Vga::None) => {
                if vendor == 0x8086 {
                    let address = self.take_opregion() << 12;
                    self.bus.write32(devfn, OPREGION_REGISTER, super::loader::low32(address));
                }
                Vga::PassedThrough(devfn)
            }
            _ => vga,
        }
    }

    /// Any other device of this class stops the loader.
    fn set_up_power_management(&mut self, devfn: u8, vendor: u16, device: u16) -> Result<(), Crashed> {
        if (vendor, device) != (0x8086, 0x7113) {
            let text = "(vendor_id == 0x8086) && (device_id == 0x7113)";
            return Err(self.assertion(text, self.algorithm.assertion_lines.1));
        }
        // The last is meant for 0x3d, the pin: pci_write drops the lowest bit of a word's register, so it is the line.
        for (register, value) in [(0x20, 0), (0xd2, 0), (0x22, 0), (0x3c, 9), (0x3c, 1)] {
            self.bus.write16(devfn, register, value);
        }
        self.bus.write32(devfn, 0x40, PM_IO_BLOCK | 1);
        self.bus.write8(devfn, 0x80, 1);
        Ok(())
    }

    fn scan_bars(&mut self, devfn: u8, vendor: u16, device: u16) {
        let mut bar = 0_u8;
        while bar < 7 {
            let reg = match bar {
                6 => register::ROM,
                _ => register::BAR0.wrapping_add(bar << 2),
            };
            let number = bar;
            bar = bar.wrapping_add(1);
            let data = self.bus.read32(devfn, reg);
            let (is_64bit, size) = self.measure(devfn, reg, data);
            // An I/O BAR of 64 KiB and more leaves nothing of its size: the loader does not see it.
            if size == 0 {
                continue;
            }
            let found = FoundBar { devfn, reg, is_64bit, size };
            let is_memory = data & 1 == 0;
            let is_platform_bar = is_memory && vendor == 0x5853 && (device == 1 || device == 2);
            if is_platform_bar
                && !self.platform_bars_below_window
                && self.place_above_window(found, number, data)
            {
                continue;
            }
            let before = self.found.iter().position(|other| other.size < size).unwrap_or(self.found.len());
            self.found.insert(before, found);
            if is_64bit && self.is_always_high(size) {
                self.use_high = true;
            } else if is_memory || reg == register::ROM {
                self.total = self.total.wrapping_add(size);
            }
            // The upper half belongs to this BAR; after BAR 5 it is the ROM's BAR that is left out instead.
            if is_64bit {
                bar = bar.wrapping_add(1);
            }
        }
    }

    /// Whether a BAR is above the size from which this release never places a 64-bit BAR low.
    pub(super) fn is_always_high(&self, size: u64) -> bool {
        self.algorithm.always_high_above.is_some_and(|limit| size > limit)
    }

    /// Whether a BAR has 64 bits, and its size: the lowest bit that a write of ones sets. The register keeps its value.
    fn measure(&mut self, devfn: u8, reg: u8, data: u32) -> (bool, u64) {
        let is_rom = reg == register::ROM;
        let is_64bit = !is_rom && data & 7 == 4;
        let probe = if is_rom { (data | 0xffff_f800) & !1 } else { u32::MAX };
        let mask = match (is_rom, data & 1) {
            (true, _) => 0xffff_f800,
            (false, 0) => 0xffff_fff0,
            (false, _) => 0xfffc,
        };
        let mut bits = u64::from(self.probe(devfn, reg, probe, data) & mask);
        if is_64bit {
            let upper = reg.wrapping_add(4);
            let data = self.bus.read32(devfn, upper);
            bits |= u64::from(self.probe(devfn, upper, u32::MAX, data)) << 32;
        }
        (is_64bit, bits & bits.wrapping_neg())
    }

    fn probe(&mut self, devfn: u8, register: u8, ones: u32, restore: u32) -> u32 {
        self.bus.write32(devfn, register, ones);
        let bits = self.bus.read32(devfn, register);
        self.bus.write32(devfn, register, restore);
        bits
    }

    /// Places a memory BAR of the Xen platform device at the window's end, which shrinks; whether it did.
    fn place_above_window(&mut self, found: FoundBar, number: u8, data: u32) -> bool {
        let FoundBar { devfn, reg, is_64bit, size } = found;
        let name = format!("xen platform pci dev {:02x}:{:x}", devfn >> 3, devfn & 7);
        if is_64bit {
            self.log.push(format!("{name} unexpected MMIO 64bit BAR{number}"));
            return false;
        }
        let end = u64::from(self.mem_end);
        let base = end.checked_sub(size).map(|base| base & !size.wrapping_sub(1));
        let Some(base) = base.filter(|&base| base >= u64::from(self.mem_start)) else {
            // The loader's printf does not know %ll.
            self.log.push(format!("{name} BAR{number} size lx overflows low PCI hole"));
            return false;
        };
        self.mem_end = super::loader::low32(base);
        let data = (data & 0xf) | self.mem_end;
        self.bus.write32(devfn, reg, data);
        self.will_enable(devfn, command::MEMORY);
        self.log.push(format!(
            "pci dev {:02x}:{:x} bar {reg:02x} size {}: 0{data:08x}",
            devfn >> 3,
            devfn & 7,
            long(size)
        ));
        let place = Some((base, data.into()));
        self.assigned.push(AssignedBar { found, in_io: false, place, above_4g: false });
        true
    }

    fn route_interrupt(&mut self, devfn: u8) {
        let pin = self.bus.read8(devfn, register::INTERRUPT_PIN);
        if pin == 0 {
            return;
        }
        let link = pin.wrapping_sub(1).wrapping_add(devfn >> 3) & 3;
        let interrupt = self.bus.read8(ISA_BRIDGE, register::LINK_ROUTES.wrapping_add(link));
        self.bus.write8(devfn, register::INTERRUPT_LINE, interrupt);
        // Xen's console drops what cannot be printed.
        let letter = char::from(pin.wrapping_sub(1).wrapping_add(b'A'));
        let letter = Some(letter).filter(|letter| letter.is_ascii_graphic() || *letter == ' ');
        let letter = letter.map(String::from).unwrap_or_default();
        self.log.push(format!("pci dev {:02x}:{:x} INT{letter}->IRQ{interrupt}", devfn >> 3, devfn & 7));
    }
}
