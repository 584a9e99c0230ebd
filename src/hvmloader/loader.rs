// SPDX-License-Identifier: LGPL-2.1-or-later
//! The loader as it runs: its variables, and the order in which it does things.
//!
//! The arithmetic is that of a 32-bit C program, so it wraps where that wraps; numbers are plain here and become
//! addresses in the [`Prediction`].

use std::collections::{BTreeMap, BTreeSet};

use super::bus::{self, Bus, register};
use super::prediction::{IgnoredBar, Outcome, PredictedBar, Prediction, Relocation, Space};
use super::release::{Algorithm, Release};
use crate::address::{Address, Size};
use crate::guest::{ALLOW_MEMORY_RELOCATE, Guest, MMIO_HOLE_SIZE, MemoryMapEntry, PLATFORM_BAR_UC, strtoll};
use crate::guest::{DEFAULT_HOLE, FIXED_REGIONS, RESERVED_TYPE};
use crate::pci::BarKind;

/// Where the low window starts if nothing is asked for: 0xf0000000, so the default window has only 192 MiB.
pub(super) const DEFAULT_MEM_START: u32 = low32(Address::FOUR_GIB.get() - DEFAULT_HOLE.get());
/// How many entries of the memory map the loader has room for.
const MAP_ENTRIES: usize = 128;
/// E820's type of RAM.
pub(super) const RAM_TYPE: u32 = 1;
/// Where the loader keeps its own tables: a reserved region here stops it.
const DYNAMIC_REGION: (u64, u64) = (0xfc10_0000, 0xfe00_0000);
/// The frame that the loader hands out first of that region's end is the shared info page's; an OpRegion comes next.
const OPREGION_FRAME: u64 = (DYNAMIC_REGION.1 >> 12) - 1 - OPREGION_PAGES;
const OPREGION_PAGES: u64 = 3;
/// The PIIX3 ISA bridge, 01.0, which routes the four PCI interrupt links.
pub(super) const ISA_BRIDGE: u8 = 0x08;
/// Where the links are routed to: the loader goes round ISA interrupts 5, 10 and 11.
const LINK_INTERRUPTS: [u8; 4] = [5, 10, 11, 5];

/// The lower half.
pub(super) const fn low32(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// The upper half.
pub(super) const fn high32(value: u64) -> u32 {
    low32(value >> 32)
}

/// A number as the loader prints 64 bits: the upper half plainly, the lower one with eight digits. Zero is
/// `000000000`.
pub(super) fn long(value: u64) -> String {
    format!("{:x}{:08x}", high32(value), low32(value))
}

/// The loader met an assertion; what it says is in the log.
pub(super) struct Crashed;

/// One BAR that the scan found.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundBar {
    pub(super) devfn: u8,
    pub(super) reg: u8,
    pub(super) is_64bit: bool,
    pub(super) size: u64,
}

/// A BAR that the loader dealt with.
#[derive(Clone, Copy, Debug)]
pub(super) struct AssignedBar {
    pub(super) found: FoundBar,
    pub(super) in_io: bool,
    /// Where it is, and what the log says of it.
    pub(super) place: Option<(u64, u64)>,
    pub(super) above_4g: bool,
}

/// The loader's variables.
pub(super) struct Loader<'a> {
    pub(super) guest: &'a Guest,
    pub(super) algorithm: &'static Algorithm,
    pub(super) bus: Bus,
    pub(super) log: Vec<String>,
    /// struct hvm_info_table.
    pub(super) low_mem_pgend: u32,
    pub(super) high_mem_pgend: u32,
    pub(super) map: Vec<MemoryMapEntry>,
    pub(super) relocations: Vec<Relocation>,
    pub(super) may_relocate: bool,
    pub(super) platform_bars_below_window: bool,
    pub(super) asked_hole: u64,
    pub(super) mem_start: u32,
    pub(super) mem_end: u32,
    pub(super) high_start: u64,
    pub(super) high_end: u64,
    /// What the BARs that the scan found and that count will need below 4 GiB.
    pub(super) total: u64,
    /// Whether 64-bit BARs may go above 4 GiB.
    pub(super) use_high: bool,
    /// In descending order of size, and of one size in the scan's order.
    pub(super) found: Vec<FoundBar>,
    pub(super) assigned: Vec<AssignedBar>,
    /// The command bits that each function gets at the end.
    pub(super) decode: BTreeMap<u8, u16>,
    pub(super) opregion_frame: u64,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        guest: &'a Guest,
        release: Release,
        (low_mem_pgend, high_mem_pgend): (u32, u32),
    ) -> Self {
        let algorithm = release.algorithm();
        let key = |name| guest.xenstore.get(name).map(|text| strtoll(text, algorithm.upper_hex_prefix));
        Self {
            guest,
            algorithm,
            bus: Bus::of(guest),
            log: Vec::new(),
            low_mem_pgend,
            high_mem_pgend,
            map: memory_map(guest),
            relocations: Vec::new(),
            // An absent key means yes; a text that is no number means no.
            may_relocate: key(ALLOW_MEMORY_RELOCATE).is_none_or(|value| value != 0),
            platform_bars_below_window: !algorithm.reads_platform_bar_key
                || key(PLATFORM_BAR_UC).is_none_or(|value| value != 0),
            asked_hole: key(MMIO_HOLE_SIZE).unwrap_or(0).cast_unsigned(),
            mem_start: DEFAULT_MEM_START,
            mem_end: low32(FIXED_REGIONS.get()),
            high_start: 0,
            high_end: 0,
            total: 0,
            use_high: false,
            found: Vec::new(),
            assigned: Vec::new(),
            decode: BTreeMap::new(),
            opregion_frame: 0,
        }
    }

    /// Runs the PCI setup to its end, or to the assertion that stops it.
    pub(super) fn run(mut self) -> Prediction {
        let result = match self.set_up() {
            Ok(()) => Outcome::Ok,
            Err(Crashed) => {
                self.log.push("*** HVMLoader crashed.".to_owned());
                Outcome::Crash
            }
        };
        self.into_prediction(result)
    }

    fn set_up(&mut self) -> Result<(), Crashed> {
        self.check_memory_map()?;
        self.log_settings();
        self.route_links();
        self.scan()?;
        self.size_hole();
        self.relocate_ram();
        self.sync_memory_map();
        self.assign();
        self.enable_decoding();
        Ok(())
    }

    fn check_memory_map(&mut self) -> Result<(), Crashed> {
        if self.map.is_empty() {
            self.log.push("Get guest memory maps[0] failed. (0)".to_owned());
            self.log.push("*** HVMLoader bug at e820.c:39".to_owned());
            return Err(Crashed);
        }
        let (start, end) = DYNAMIC_REGION;
        if self.map.iter().any(|entry| is_reserved_within(entry, start, end.wrapping_sub(start))) {
            self.log.push(
                "Fail to setup memory map due to conflict on dynamic reserved memory range.".to_owned(),
            );
            self.log.push("*** HVMLoader bug at e820.c:52".to_owned());
            return Err(Crashed);
        }
        Ok(())
    }

    fn log_settings(&mut self) {
        let relocation = if self.may_relocate { "enabled" } else { "disabled" };
        self.log.push(format!("Relocating guest memory for lowmem MMIO space {relocation}"));
        if self.algorithm.reads_platform_bar_key {
            let attribute = if self.platform_bars_below_window { "UC" } else { "WB" };
            self.log.push(format!("Xen platform PCI device BAR MTRR cache attribute set to {attribute}"));
        }
    }

    fn route_links(&mut self) {
        for (link, interrupt) in (0_u8..).zip(LINK_INTERRUPTS) {
            self.bus.write8(ISA_BRIDGE, register::LINK_ROUTES.wrapping_add(link), interrupt);
            self.log.push(format!("PCI-ISA link {link} routed to IRQ{interrupt}"));
        }
    }

    /// Adds bits that a function's command register gets at the end.
    pub(super) fn will_enable(&mut self, devfn: u8, bits: u16) {
        *self.decode.entry(devfn).or_default() |= bits;
    }

    fn enable_decoding(&mut self) {
        for (&devfn, bits) in &self.decode {
            let command = self.bus.read16(devfn, register::COMMAND) | bits;
            self.bus.write16(devfn, register::COMMAND, command);
        }
    }

    fn into_prediction(self, result: Outcome) -> Prediction {
        let functions = || self.bus.devfns().filter_map(|devfn| Some((bus::bdf(devfn)?, devfn)));
        let initial_lines: BTreeMap<_, _> =
            self.guest.devices.iter().map(|device| (device.bdf, device.int_line)).collect();
        let int_line = functions()
            .map(|(bdf, devfn)| (bdf, self.bus.read8(devfn, register::INTERRUPT_LINE)))
            .filter(|(bdf, line)| initial_lines.get(bdf) != Some(line))
            .collect();
        let bars: Vec<_> = self.assigned.iter().filter_map(|bar| self.predicted_bar(bar)).collect();
        Prediction {
            result,
            ignored_bars: if result == Outcome::Ok { self.ignored_bars() } else { Vec::new() },
            bars,
            command: functions().map(|(bdf, at)| (bdf, self.bus.read16(at, register::COMMAND))).collect(),
            int_line: Some(int_line),
            low_mem_pgend: self.low_mem_pgend.into(),
            high_mem_pgend: self.high_mem_pgend.into(),
            pages_relocated: self.relocations.iter().fold(0, |sum, moved| moved.pages.saturating_add(sum)),
            pci_mem_start: Address::new(self.mem_start.into()),
            pci_mem_end: Address::new(self.mem_end.into()),
            pci_hi_mem_start: Address::new(self.high_start),
            pci_hi_mem_end: Address::new(self.high_end),
            igd_opregion_pgbase: self.opregion_frame,
            memory_map: (self.map != memory_map(self.guest)).then_some(self.map),
            relocations: self.relocations,
            log: Some(self.log),
        }
    }

    fn predicted_bar(&self, bar: &AssignedBar) -> Option<PredictedBar> {
        let FoundBar { devfn, reg, is_64bit, size } = bar.found;
        let bdf = bus::bdf(devfn)?;
        let declared = self.guest.devices.iter().find(|device| device.bdf == bdf);
        let kind =
            declared.and_then(|device| device.bars.iter().find(|bar| bar.reg == reg)).map(|bar| bar.kind);
        let space = if bar.in_io { Space::Io } else { Space::Mem };
        let implied = if kind == Some(BarKind::Io) { Space::Io } else { Space::Mem };
        let low = u64::from(self.bus.read32(devfn, reg));
        let high = if is_64bit { u64::from(self.bus.read32(devfn, reg.wrapping_add(4))) } else { 0 };
        let register = (high << 32) | low;
        Some(PredictedBar {
            bdf,
            reg,
            size: Size::new(size),
            address: bar.place.map(|(base, _)| Address::new(base)),
            above_4g: bar.above_4g,
            space: (space != implied).then_some(space),
            register: bar.place.is_none_or(|(_, logged)| logged != register).then_some(register),
        })
    }

    fn ignored_bars(&self) -> Vec<IgnoredBar> {
        let seen: BTreeSet<_> = self
            .assigned
            .iter()
            .filter_map(|bar| Some((bus::bdf(bar.found.devfn)?, bar.found.reg)))
            .collect();
        let declared =
            self.guest.devices.iter().flat_map(|device| device.bars.iter().map(|bar| (device.bdf, bar)));
        let unseen = declared.filter(|(bdf, bar)| !seen.contains(&(*bdf, bar.reg)));
        unseen.map(|(bdf, bar)| IgnoredBar { bdf, reg: bar.reg, kind: bar.kind, size: bar.size }).collect()
    }

    /// Takes the frames for an Intel graphics device's OpRegion.
    pub(super) fn take_opregion(&mut self) -> u64 {
        self.opregion_frame = OPREGION_FRAME;
        OPREGION_FRAME
    }
}

/// The memory map that the loader reads: the guest's, or for one that does not say what libxl
/// (libxl__arch_domain_construct_memmap) makes of its RAM.
fn memory_map(guest: &Guest) -> Vec<MemoryMapEntry> {
    if !guest.memory_map.is_empty() {
        return guest.memory_map.iter().copied().take(MAP_ENTRIES).collect();
    }
    let ram = |start: u64, end_frame: u64| {
        let size = Size::new((end_frame << 12).saturating_sub(start));
        Some(MemoryMapEntry { addr: Address::new(start), size, kind: RAM_TYPE }).filter(|_| !size.is_zero())
    };
    let parts = [ram(1 << 20, guest.low_mem_pgend), ram(Address::FOUR_GIB.get(), guest.high_mem_pgend)];
    parts.into_iter().flatten().collect()
}

/// Whether an entry of the memory map is reserved and shares a byte with `size` bytes from `start`, as the loader
/// compares them.
pub(super) fn is_reserved_within(entry: &MemoryMapEntry, start: u64, size: u64) -> bool {
    let (addr, length) = (entry.addr.get(), entry.size.get());
    entry.kind == RESERVED_TYPE && start.wrapping_add(size) > addr && start < addr.wrapping_add(length)
}
