// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a guest wants placed, sorted by where it may go.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Options;
use super::free_space::Shape;
use super::size_classes::SizeClasses;
use crate::address::{Address, Range, Size};
use crate::guest::Guest;
use crate::layout::{PlacedBar, PlacedVfBars, WindowKind};
use crate::pci::{Bar, BarKind, Bdf, Device, VirtualBar, VirtualFunctions};

/// Where a block may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// The low window alone: 32-bit BARs and ROMs.
    Low,
    /// The low or the high window: 64-bit BARs.
    Either,
    /// The high window, as the caller asked.
    High,
    /// Right below the fixed regions, above the low window: the Xen platform device's write-back BAR.
    Top,
    /// I/O ports.
    Io,
}

/// A block of address space that is wanted: a power of two, placed at a multiple of itself.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The function; with `reg` what orders blocks, and of one size the places that they get.
    pub bdf: Bdf,
    /// The register: a BAR's, or a bridge's base register.
    pub reg: u8,
    /// How large: a BAR's size, or a page where that is more; for a bridge's window what it holds, rounded up.
    pub block: Size,
    /// Where it may go.
    pub zone: Zone,
    /// Where it goes: filled in when it is placed.
    pub address: Address,
    /// Where it is to stay, because an earlier layout has it there.
    pub pinned: Option<Address>,
    /// What it is for.
    pub content: Content,
}

/// What a block is for.
#[derive(Clone, Debug)]
pub enum Content {
    /// A BAR, and how far into the block it starts: the host's offset into a page, where that is to be kept.
    Bar(PlacedBar, Size),
    /// Virtual functions' BARs behind a bridge, or too many to be stretches: rounded up to a power of two.
    VfBars(PlacedVfBars),
    /// A bridge's window, and what lies inside.
    Window(BridgeWindow, Vec<Wanted>),
}

/// Which of a bridge's windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeWindow {
    /// Below 4 GiB.
    Memory,
    /// Prefetchable; 64 bits wide.
    Prefetchable,
    /// Ports.
    Io,
}

/// A stretch that is wanted and does not nest as blocks do: no power of two, or no multiple of itself.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// How large, and at a multiple of what.
    pub shape: Shape,
    /// Where it may go.
    pub zone: Zone,
    /// Where it is to stay, because an earlier layout has it there.
    pub pinned: Option<Address>,
    /// What it is for.
    pub content: StretchContent,
}

impl Stretch {
    /// Whether it is hot-plug space, which a layout has as it was asked for and not rounded up.
    fn is_reservation(&self) -> bool {
        matches!(self.content, StretchContent::Reservation(_))
    }

    /// How much more it takes as a block.
    fn lost_as_block(&self) -> Size {
        let block = self.shape.size.next_power_of_two().unwrap_or(Size::new(u64::MAX));
        block.saturating_sub(self.shape.size)
    }
}

/// What a stretch is for.
#[derive(Clone, Debug)]
pub enum StretchContent {
    /// Hot-plug space, in the window of that kind.
    Reservation(WindowKind),
    /// One BAR of all virtual functions of a physical one.
    VfBars(PlacedVfBars),
}

/// All that must be placed.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Every block on the root bus, by function and register.
    pub wanted: Vec<Wanted>,
    /// What only the low window can take, a low reservation that is a power of two with it.
    pub low: SizeClasses,
    /// What either window can take.
    pub either: SizeClasses,
    /// What must go into the high window: a reservation that is a power of two, and BARs sent there by an option.
    pub high: SizeClasses,
    /// The low reservation if it is a power of two, else zero.
    pub reserve_low: Size,
    /// The high reservation if it is a power of two, else zero.
    pub reserve_high: Size,
    /// What is not counted by size: other reservations and virtual functions' BARs, the largest first.
    pub stretches: Vec<Stretch>,
}

/// How many stretches are searched a place for, of those that must lie low and of all others; every one more multiplies
/// the places that would have to be tried.
const MOST_STRETCHES: (usize, usize) = (4, 3);

/// The guest's functions, sorted by the bridge they sit behind and where they are.
struct Buses<'a>(Vec<&'a Device>);

impl<'a> Buses<'a> {
    fn of(guest: &'a Guest) -> Self {
        let mut devices: Vec<&Device> = guest.devices.iter().collect();
        devices.sort_by_key(|device| (device.bridge, device.bdf));
        Self(devices)
    }

    /// The functions behind that bridge, or on the root bus.
    fn behind(&self, bridge: Option<Bdf>) -> &[&'a Device] {
        let from = self.0.partition_point(|device| device.bridge < bridge);
        let rest = self.0.get(from..).unwrap_or_default();
        let count = rest.partition_point(|device| device.bridge == bridge);
        rest.get(..count).unwrap_or_default()
    }
}

impl Demand {
    /// What `guest` wants.
    pub fn of(guest: &Guest, options: &Options) -> Self {
        Self::keeping(guest, options, &Pins::new())
    }

    /// The same, where every block that `pins` names, and has the size it had, stays where it was.
    pub fn keeping(guest: &Guest, options: &Options, pins: &Pins) -> Self {
        let buses = Buses::of(guest);
        let root = buses.behind(None).iter();
        let mut demand = Self {
            wanted: on_bus(guest, options, &buses, None),
            stretches: root.flat_map(|device| vf_stretches(guest, device)).collect(),
            ..Self::default()
        };
        demand.reserve(guest.reserve.low, guest.page_size, WindowKind::Low);
        demand.reserve(guest.reserve.high, guest.page_size, WindowKind::High);
        demand.pin(pins);
        demand.round_up_many();
        demand.stretches.sort_by_key(|stretch| Reverse(stretch.shape.size));
        demand.count();
        demand
    }

    /// Where there are too many stretches to be searched, makes blocks of those that it takes least from.
    fn round_up_many(&mut self) {
        let (kept, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stretches).into_iter().partition(|stretch| stretch.pinned.is_some());
        let (mut low, mut others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|stretch| stretch.zone == Zone::Low);
        // Below 4 GiB it is the alignment of a large block that costs most, above what it is larger.
        low.sort_by_key(|stretch| Reverse((stretch.is_reservation(), stretch.shape.size)));
        others.sort_by_key(|stretch| Reverse((stretch.is_reservation(), stretch.lost_as_block())));
        let (mut low, mut others) = (low.into_iter(), others.into_iter());
        let searched = low.by_ref().take(MOST_STRETCHES.0).chain(others.by_ref().take(MOST_STRETCHES.1));
        self.stretches = kept.into_iter().chain(searched).collect();
        self.wanted.extend(low.chain(others).filter_map(rounded_up));
        self.wanted.sort_by_key(|wanted| (wanted.bdf, wanted.reg));
    }

    /// Adds hot-plug space, whole pages: a block if it is a power of two.
    fn reserve(&mut self, size: Size, page: Size, window: WindowKind) {
        let size = size.round_up(page).unwrap_or(size);
        let low = window == WindowKind::Low;
        if size.is_power_of_two() {
            *(if low { &mut self.reserve_low } else { &mut self.reserve_high }) = size;
        } else if !size.is_zero() {
            self.stretches.push(Stretch {
                shape: Shape { size, alignment: size.previous_power_of_two() },
                zone: if low { Zone::Low } else { Zone::High },
                pinned: None,
                content: StretchContent::Reservation(window),
            });
        }
    }

    /// Counts what has to find a place.
    fn count(&mut self) {
        (self.low, self.either, self.high) = Default::default();
        for wanted in self.wanted.iter().filter(|wanted| wanted.pinned.is_none()) {
            match wanted.zone {
                Zone::Low => self.low.add(wanted.block, 1),
                Zone::Either => self.either.add(wanted.block, 1),
                Zone::High => self.high.add(wanted.block, 1),
                Zone::Top | Zone::Io => {}
            }
        }
        if self.reserve_low.is_power_of_two() {
            self.low.add(self.reserve_low, 1);
        }
        if self.reserve_high.is_power_of_two() {
            self.high.add(self.reserve_high, 1);
        }
    }

    fn pin(&mut self, pins: &Pins) {
        pin_all(&mut self.wanted, pins);
        for stretch in &mut self.stretches {
            let StretchContent::VfBars(bars) = &stretch.content else { continue };
            let pin = pins.get(&Key::vf(bars)).filter(|pin| pin.size() == stretch.shape.size);
            stretch.pinned = pin.map(|pin| pin.start());
        }
    }

    /// How much memory everything that has no place yet takes.
    pub fn bytes(&self) -> Size {
        let stretches = self.stretches.iter().filter(|stretch| stretch.pinned.is_none());
        let stretches = stretches.fold(Size::ZERO, |sum, stretch| sum.saturating_add(stretch.shape.size));
        [&self.low, &self.either, &self.high]
            .into_iter()
            .fold(stretches, |sum, blocks| sum.saturating_add(blocks.total()))
    }

    /// What is pinned on the root bus: whose it is, where it may be, and where it is.
    pub fn pinned(&self) -> impl Iterator<Item = (Bdf, Zone, Range)> {
        let blocks = self.wanted.iter().filter_map(|wanted| {
            Some((wanted.bdf, wanted.zone, Range::sized(wanted.pinned?, wanted.block)?))
        });
        let stretches = self.stretches.iter().filter_map(|stretch| match &stretch.content {
            StretchContent::VfBars(bars) => {
                Some((bars.bdf, stretch.zone, Range::sized(stretch.pinned?, stretch.shape.size)?))
            }
            StretchContent::Reservation(_) => None,
        });
        blocks.chain(stretches)
    }

    /// The blocks for that zone with their indices, the largest first.
    pub fn largest_first(&self, zone: Zone) -> Vec<(usize, &Wanted)> {
        let blocks = self.wanted.iter().enumerate().filter(|(_, wanted)| wanted.zone == zone);
        let mut blocks: Vec<_> = blocks.collect();
        blocks.sort_by_key(|(_, wanted)| Reverse(wanted.block));
        blocks
    }

    /// The stretches that have no place yet and may go there, by their numbers.
    pub fn stretches_in(&self, zone: Zone) -> impl Iterator<Item = usize> {
        let free = move |stretch: &Stretch| stretch.zone == zone && stretch.pinned.is_none();
        self.stretches.iter().enumerate().filter(move |(_, stretch)| free(stretch)).map(|(index, _)| index)
    }

    /// The shapes of the stretches with those numbers.
    pub fn shapes(&self, numbers: &[usize]) -> Vec<Shape> {
        numbers.iter().filter_map(|number| self.stretches.get(*number)).map(|stretch| stretch.shape).collect()
    }
}

/// A block by its owner: the function, the register, and whether it is its virtual functions' register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    bdf: Bdf,
    reg: u8,
    virtual_functions: bool,
}

impl Key {
    /// A BAR, or a bridge's window by its base register.
    pub fn own(bdf: Bdf, reg: u8) -> Self {
        Self { bdf, reg, virtual_functions: false }
    }

    /// Virtual functions' BARs.
    pub fn vf(bars: &PlacedVfBars) -> Self {
        Self { bdf: bars.bdf, reg: bars.reg, virtual_functions: true }
    }
}

/// Where blocks were in an earlier layout.
pub type Pins = BTreeMap<Key, Range>;

fn pin_all(wanted: &mut [Wanted], pins: &Pins) {
    for block in wanted {
        let key = match &block.content {
            Content::VfBars(bars) => Key::vf(bars),
            Content::Bar(..) | Content::Window(..) => Key::own(block.bdf, block.reg),
        };
        let pin = pins.get(&key).filter(|pin| pin.size() == block.block);
        // What lies above the low window is placed from the top down and never searched.
        block.pinned = pin.filter(|_| block.zone != Zone::Top).map(|pin| pin.start());
        if let Content::Window(_, inside) = &mut block.content {
            pin_all(inside, pins);
        }
    }
}

/// The blocks that the functions on one bus want, a bridge's windows among them, by function and register.
fn on_bus(guest: &Guest, options: &Options, buses: &Buses<'_>, bridge: Option<Bdf>) -> Vec<Wanted> {
    let devices = buses.behind(bridge);
    let mut wanted =
        Vec::with_capacity(devices.iter().map(|device| device.bars.len()).fold(0, usize::saturating_add));
    for device in devices {
        wanted.extend(device.bars.iter().map(|bar| wanted_bar(guest, options, device, bar)));
        if bridge.is_some() {
            wanted.extend(vf_stretches(guest, device).filter_map(rounded_up));
        }
        if device.is_bridge() {
            let inside = on_bus(guest, options, buses, Some(device.bdf));
            wanted.extend(bridge_windows(device.bdf, inside));
        }
    }
    wanted.sort_by_key(|wanted| (wanted.bdf, wanted.reg));
    wanted
}

fn wanted_bar(guest: &Guest, options: &Options, device: &Device, bar: &Bar) -> Wanted {
    let zone = match bar.kind {
        BarKind::Io => Zone::Io,
        // A bridge's prefetchable window is the only one that reaches above 4 GiB (PCI-to-PCI Bridge
        // Architecture Specification 1.2, section 3.2.5.10).
        BarKind::Mem64 if device.bridge.is_some() && !bar.prefetch => Zone::Low,
        BarKind::Mem64 if options.sends_high(bar.size) => Zone::High,
        BarKind::Mem64 => Zone::Either,
        BarKind::Mem32 | BarKind::Mem1m | BarKind::Rom => {
            if guest.platform_bar_above_window() && device.is_xen_platform() { Zone::Top } else { Zone::Low }
        }
    };
    let block = if zone == Zone::Io { bar.size } else { bar.size.max(guest.page_size) };
    let placed = PlacedBar {
        bdf: device.bdf,
        reg: bar.reg,
        kind: bar.kind,
        size: bar.size,
        prefetch: bar.prefetch,
        caching: device.caching_of(bar.reg),
        address: Address::ZERO,
        host: device.host,
    };
    let offset = if options.maps_containing_page { bar.offset_into(guest.page_size) } else { Size::ZERO };
    Wanted {
        bdf: device.bdf,
        reg: bar.reg,
        block,
        zone,
        address: Address::ZERO,
        pinned: None,
        content: Content::Bar(placed, offset),
    }
}

/// The room that each BAR of a physical function's virtual functions takes: one function's after the other's, at a
/// multiple of one function's share (PCI Express, section 9.2.1.1.1: all of them decode from one base).
fn vf_stretches(guest: &Guest, device: &Device) -> impl Iterator<Item = Stretch> {
    let of = |functions: &VirtualFunctions, bar: &VirtualBar| {
        let bars = PlacedVfBars {
            bdf: device.bdf,
            reg: bar.reg,
            kind: bar.kind,
            size: bar.size,
            count: functions.total_vfs,
            prefetch: bar.prefetch,
            address: Address::ZERO,
            host: device.host,
        };
        let alignment = bars.spacing(guest.page_size);
        let size = alignment.checked_mul(bars.count.into()).unwrap_or(Size::new(u64::MAX));
        let low = bar.kind != BarKind::Mem64 || (device.bridge.is_some() && !bar.prefetch);
        Stretch {
            shape: Shape { size, alignment },
            zone: if low { Zone::Low } else { Zone::Either },
            pinned: None,
            content: StretchContent::VfBars(bars),
        }
    };
    device.sriov.iter().flat_map(move |functions| functions.bars.iter().map(move |bar| of(functions, bar)))
}

/// Virtual functions' BARs as a block, for what nests in a bridge's window or is one of many.
fn rounded_up(stretch: Stretch) -> Option<Wanted> {
    let StretchContent::VfBars(bars) = stretch.content else { return None };
    Some(Wanted {
        bdf: bars.bdf,
        reg: bars.reg,
        block: stretch.shape.size.next_power_of_two().unwrap_or(stretch.shape.size),
        zone: stretch.zone,
        address: Address::ZERO,
        pinned: None,
        content: Content::VfBars(bars),
    })
}

/// The windows of a bridge around what lies behind it: each a power of two, so that windows nest as BARs do. What
/// that rounding adds is room for hot-plug behind the bridge.
fn bridge_windows(bdf: Bdf, inside: Vec<Wanted>) -> impl Iterator<Item = Wanted> {
    let (ports, memory): (Vec<_>, Vec<_>) = inside.into_iter().partition(|wanted| wanted.zone == Zone::Io);
    let (low, wide): (Vec<_>, Vec<_>) =
        memory.into_iter().partition(|wanted| matches!(wanted.zone, Zone::Low | Zone::Top));
    // The base registers' offsets in a type 1 header, and the windows' granularity (the same specification, 3.2.5).
    let window = move |kind, reg, unit: Size, inside: Vec<Wanted>| {
        let total = inside.iter().fold(Size::ZERO, |sum, wanted| sum.saturating_add(wanted.block));
        let zone = match kind {
            BridgeWindow::Memory => Zone::Low,
            BridgeWindow::Io => Zone::Io,
            BridgeWindow::Prefetchable if inside.iter().any(|wanted| wanted.zone == Zone::High) => Zone::High,
            BridgeWindow::Prefetchable => Zone::Either,
        };
        let block = total.max(unit).next_power_of_two().unwrap_or(total);
        let content = Content::Window(kind, inside);
        let wanted = Wanted { bdf, reg, block, zone, address: Address::ZERO, pinned: None, content };
        (!total.is_zero()).then_some(wanted)
    };
    [
        window(BridgeWindow::Io, 0x1c, Size::new(4 << 10), ports),
        window(BridgeWindow::Memory, 0x20, Size::MIB, low),
        window(BridgeWindow::Prefetchable, 0x24, Size::MIB, wide),
    ]
    .into_iter()
    .flatten()
}
