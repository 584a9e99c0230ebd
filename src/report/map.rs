// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's address space as it is drawn: what the picture and the text have in common.
//!
//! A [`Map`] is made of a layout or of a prediction, and says for each stretch of addresses what is there. Where things
//! go on paper is the drawers' business.

use crate::address::{Address, Range};
use crate::guest::{FIXED_REGIONS, Guest, IO_WINDOW};
use crate::hvmloader::{Outcome, PredictedBar, Prediction};
use crate::layout::{Layout, ReservedKind, VARIABLE_MTRRS, WindowKind};
use crate::pci::{BarKind, Bdf, Device, Sbdf};
use crate::report::printable;

/// What people call a function with that vendor and device ID, where it is known.
pub type NameOf<'a> = &'a dyn Fn(u16, u16) -> Option<String>;

/// A guest's address space, and whose decision it is.
#[derive(Clone, Debug)]
pub struct Map {
    /// The guest.
    pub name: String,
    /// Who laid it out, and the figures that describe it.
    pub heading: String,
    /// The first address past what the guest can use.
    pub limit: Address,
    /// From the end of what may be RAM to 4 GiB.
    pub hole: Option<Range>,
    /// Everything that has an address, by address; what is inside a window after the window.
    pub items: Vec<Item>,
    /// The BARs that have none.
    pub without_place: Vec<WithoutPlace>,
    /// The functions, by their place on the guest's bus.
    pub devices: Vec<MapDevice>,
    /// What there is to say instead of a map.
    pub nothing: Option<&'static str>,
}

/// A stretch of addresses and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The addresses, or ports.
    pub range: Range,
    /// The window that it lies in.
    pub inside: Option<WindowKind>,
    /// What is there.
    pub what: What,
}

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The guest's memory.
    Ram,
    /// Addresses for PCI.
    Window(WindowKind),
    /// Firmware, APICs, ACPI.
    Fixed,
    /// What no BAR may touch.
    Reserved(ReservedKind),
    /// Free, and kept so for devices to come.
    HotPlug,
    /// A BAR.
    Bar(MapBar),
}

/// A BAR as it is named in a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapBar {
    /// The function.
    pub bdf: Bdf,
    /// "BAR0", "ROM".
    pub register: String,
    /// "64-bit prefetchable"; nothing for a ROM.
    pub kind: &'static str,
    /// What is odd about it, if anything is.
    pub note: String,
}

/// A BAR that has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithoutPlace {
    /// Which.
    pub bar: MapBar,
    /// How large it is.
    pub size: crate::address::Size,
    /// "no place", or "not seen" by the loader.
    pub why: &'static str,
}

/// A function on the guest's bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDevice {
    /// Where the guest sees it.
    pub bdf: Bdf,
    /// What people call it.
    pub name: String,
    /// Where it is on the host, for a passed-through device.
    pub host: Option<Sbdf>,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ram => f.pad("RAM"),
            Self::Window(WindowKind::Io) => f.pad("I/O ports"),
            Self::Window(kind) => f.pad(&format!("{kind} window")),
            Self::Fixed => f.pad("firmware, APICs, ACPI"),
            Self::Reserved(kind) => kind.fmt(f),
            Self::HotPlug => f.pad("kept for hot-plug"),
            Self::Bar(bar) => bar.fmt(f),
        }
    }
}

impl std::fmt::Display for MapBar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bdf, register, kind, note } = self;
        // What is odd about it takes the place of its kind.
        if !note.is_empty() {
            return f.pad(&format!("{bdf} {register}{note}"));
        }
        let space = if kind.is_empty() { "" } else { " " };
        f.pad(&format!("{bdf} {register}{space}{kind}"))
    }
}

impl Map {
    /// The map of a layout.
    pub fn of_layout(layout: &Layout, names: NameOf<'_>) -> Self {
        let hole = Address::FOUR_GIB.checked_sub(layout.mmio_hole_size);
        let hole = hole.and_then(|start| Range::new(start, Address::FOUR_GIB));
        let mut map = Self {
            name: printable(layout.name.as_deref().unwrap_or("guest")),
            heading: format!(
                "mmio_hole={} MiB, {}-bit addresses, {} of {VARIABLE_MTRRS} MTRRs",
                layout.mmio_hole_size.get() >> 20,
                layout.phys_bits,
                layout.mtrrs
            ),
            limit: limit(layout.phys_bits),
            hole,
            items: Vec::new(),
            without_place: Vec::new(),
            devices: layout
                .devices
                .iter()
                .map(|device| MapDevice {
                    bdf: device.bdf,
                    name: name(device.model.as_deref(), (device.vendor, device.device), names),
                    host: device.host,
                })
                .collect(),
            nothing: None,
        };
        layout.ram().for_each(|range| map.add(Some(range), What::Ram));
        map.add(Range::new(FIXED_REGIONS, Address::FOUR_GIB), What::Fixed);
        layout.windows.iter().for_each(|window| map.add(window.range(), What::Window(window.kind)));
        layout.reserved_memory.iter().for_each(|memory| map.add(memory.range(), What::Reserved(memory.what)));
        layout.reserved.iter().for_each(|kept| map.add(kept.range(), What::HotPlug));
        for bar in &layout.bars {
            map.add(bar.range(), What::Bar(MapBar::of(bar.bdf, bar.reg, bar.kind, bar.prefetch)));
        }
        for bars in &layout.vf_bars {
            let bar = MapBar::of(bars.bdf, bars.reg, bars.kind, bars.prefetch);
            let register = format!("VF {} x{}", bar.register, bars.count);
            map.add(bars.range(layout.page_size), What::Bar(MapBar { register, ..bar }));
        }
        map.settle()
    }

    /// The map of what a loader will leave; `loader` says which.
    pub fn of_prediction(guest: &Guest, loader: &str, prediction: &Prediction, names: NameOf<'_>) -> Self {
        let device = |device: &Device| MapDevice {
            bdf: device.bdf,
            name: name(device.model.as_deref(), (device.vendor, device.device), names),
            host: device.host,
        };
        let mut map = Self {
            name: printable(guest.name.as_deref().unwrap_or("guest")),
            heading: format!("stock hvmloader of {loader}"),
            limit: limit(guest.phys_bits),
            hole: Range::new(prediction.pci_mem_start, Address::FOUR_GIB),
            items: Vec::new(),
            without_place: Vec::new(),
            devices: guest.devices.iter().map(device).collect(),
            nothing: None,
        };
        if prediction.result == Outcome::Crash {
            map.nothing = Some("crashes before the guest starts");
            return map;
        }
        prediction.ram().for_each(|range| map.add(Some(range), What::Ram));
        map.add(Range::new(FIXED_REGIONS, Address::FOUR_GIB), What::Fixed);
        map.add(Range::new(prediction.pci_mem_start, FIXED_REGIONS), What::Window(WindowKind::Low));
        map.add(prediction.high_window(), What::Window(WindowKind::High));
        if prediction.bars.iter().filter_map(PredictedBar::range).any(is_port) {
            map.add(Range::new(IO_WINDOW.0, IO_WINDOW.1), What::Window(WindowKind::Io));
        }
        for memory in guest.reserved_device_memory() {
            map.add(Some(memory), What::Reserved(ReservedKind::Rdm));
        }
        for memory in guest.populated_memory() {
            map.add(Some(memory), What::Reserved(ReservedKind::DeviceModel));
        }
        map.add(guest.hypertransport_hole(), What::Reserved(ReservedKind::Hypertransport));
        for predicted in &prediction.bars {
            let bar = predicted_bar(guest, predicted);
            match predicted.address {
                Some(_) => map.add(predicted.range(), What::Bar(bar)),
                None => {
                    let size = predicted.size;
                    map.without_place.push(WithoutPlace { bar, size, why: "no place" });
                }
            }
        }
        for bar in &prediction.ignored_bars {
            let size = bar.size;
            let bar = MapBar::of(bar.bdf, bar.reg, bar.kind, false);
            map.without_place.push(WithoutPlace { bar, size, why: "not seen" });
        }
        map.settle()
    }

    /// What an item of that kind in that place is inside of is not known before all windows are.
    fn add(&mut self, range: Option<Range>, what: What) {
        if let Some(range) = range.filter(|range| !range.is_empty()) {
            self.items.push(Item { range, inside: None, what });
        }
    }

    /// Finds each item's window, and sorts.
    fn settle(mut self) -> Self {
        let windows: Vec<(WindowKind, Range)> = self
            .items
            .iter()
            .filter_map(|item| match item.what {
                What::Window(kind) => Some((kind, item.range)),
                _ => None,
            })
            .collect();
        for item in &mut self.items {
            let ports = matches!(item.what, What::Bar(_)) && is_port(item.range);
            if matches!(item.what, What::Ram | What::Window(_) | What::Fixed) {
                continue;
            }
            let around = windows
                .iter()
                .find(|(kind, window)| ports == (*kind == WindowKind::Io) && window.overlaps(item.range));
            item.inside = around.map(|(kind, _)| *kind);
        }
        let first =
            |item: &Item| item.inside == Some(WindowKind::Io) || item.what == What::Window(WindowKind::Io);
        self.items.sort_by_key(|item| (first(item), item.range.start(), item.inside, item.range.end()));
        self.devices.sort_by_key(|device| device.bdf);
        self
    }

    /// The window of that kind.
    pub fn window(&self, kind: WindowKind) -> Option<Range> {
        self.items.iter().find(|item| item.what == What::Window(kind)).map(|item| item.range)
    }

    /// What lies in that window.
    pub fn inside(&self, kind: WindowKind) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| item.inside == Some(kind))
    }

    /// What lies in no window, the windows for memory among it.
    pub fn outside(&self) -> impl Iterator<Item = &Item> {
        let ports = What::Window(WindowKind::Io);
        self.items.iter().filter(move |item| item.inside.is_none() && item.what != ports)
    }
}

/// How an I/O BAR is called.
pub const IO: &str = "I/O";

impl MapBar {
    fn of(bdf: Bdf, reg: u8, kind: BarKind, prefetch: bool) -> Self {
        let kind = match (kind, prefetch) {
            (BarKind::Mem64, true) => "64-bit prefetchable",
            (BarKind::Mem64, false) => "64-bit",
            (BarKind::Mem32 | BarKind::Mem1m, true) => "32-bit prefetchable",
            (BarKind::Mem32 | BarKind::Mem1m, false) => "32-bit",
            (BarKind::Rom, _) => "",
            (BarKind::Io, _) => IO,
        };
        let register = match reg.checked_sub(0x10) {
            Some(offset) if offset < 0x18 => format!("BAR{}", offset >> 2),
            _ => "ROM".to_owned(),
        };
        Self { bdf, register, kind, note: String::new() }
    }
}

fn predicted_bar(guest: &Guest, bar: &PredictedBar) -> MapBar {
    let device = guest.devices.iter().find(|device| device.bdf == bar.bdf);
    let declared = device.and_then(|device| device.bars.iter().find(|other| other.reg == bar.reg));
    let Some(declared) = declared else {
        let kind = if bar.range().is_some_and(is_port) { IO } else { "" };
        let (register, note) = (format!("0x{:02x}", bar.reg), " which is no BAR".to_owned());
        return MapBar { bdf: bar.bdf, register, kind, note };
    };
    let real = bar.register.filter(|_| bar.address.is_some());
    let note = real.map(|register| format!(" really at {}", Address::new(register & !0xf)));
    MapBar {
        note: note.unwrap_or_default(),
        ..MapBar::of(bar.bdf, bar.reg, declared.kind, declared.prefetch)
    }
}

/// Whether a BAR's range is one of ports: no BAR in memory lies that low.
fn is_port(range: Range) -> bool {
    IO_WINDOW.0 <= range.start() && range.end() <= IO_WINDOW.1
}

fn limit(phys_bits: u8) -> Address {
    Address::new(1_u64.checked_shl(phys_bits.into()).unwrap_or(u64::MAX))
}

fn name(model: Option<&str>, (vendor, device): (u16, u16), names: NameOf<'_>) -> String {
    let known = model.map(printable).or_else(|| names(vendor, device));
    known.unwrap_or_else(|| format!("{vendor:04x}:{device:04x}"))
}
