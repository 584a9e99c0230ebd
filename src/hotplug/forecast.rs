// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where Linux puts a hot-added device's BARs.
//!
//! A model of what acpiphp's enable_slot makes the kernel do (drivers/pci/setup-bus.c, setup-res.c, bus.c and
//! kernel/resource.c): the largest alignment first, BARs of one alignment in register order; a 64-bit BAR above 4 GiB
//! first, prefetchable or not, and below only where that fails; the lowest free multiple of the BAR's own size in the
//! first window that has one. Unlike [`attach`](super::attach()) it knows no pages: small BARs of two devices may
//! come to lie on one.

use serde::Serialize;

use super::Present;
use super::space::pages;
use crate::address::{Address, Range, Size};
use crate::layout::{Layout, ReservedKind, Warning, WindowKind};
use crate::pci::{Bar, BarKind, Bdf, Device};

/// The kernels that the model was compared with (tests/stages/70-forecast, tests/recordings).
pub const CHECKED_ON: &[&str] = &["6.1", "6.12"];

/// Below this Linux places no BAR (BIOS_END in arch/x86/include/asm/e820/api.h).
const LOWEST_MEMORY: Address = Address::new(1 << 20);
/// What a guest's _CRS leaves for ports; the range below 0xcf8 starts at 0 and so below Linux's own least, 0x1000.
const PORTS: (Address, Address) = (Address::new(0xd00), Address::new(0x1_0000));
/// Ports of Xen's virtual platform: ACPI hot-plug, power management, SMBus.
const PLATFORM_PORTS: [(u64, u64); 3] = [(0xae00, 0xae10), (0xb000, 0xb040), (0xb100, 0xb110)];
/// The class of a VGA adapter.
const VGA: u16 = 0x0300;

/// Where Linux would put each BAR, and what to know about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Each BAR of the device, by register.
    pub bars: Vec<ForecastBar>,
    /// BARs that find no place, or one that they should not have.
    pub warnings: Vec<Warning>,
}

/// A BAR and where Linux would put it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForecastBar {
    /// The function.
    pub bdf: Bdf,
    /// The register's offset in configuration space.
    pub reg: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// The BAR's own size.
    pub size: Size,
    /// Whether it is prefetchable.
    pub prefetch: bool,
    /// Its address; `None` where Linux finds none.
    pub address: Option<Address>,
}

/// A range that Linux may give to the devices of a bus: a window of _CRS, or a bridge's.
struct Resource {
    range: Range,
    io: bool,
    prefetch: bool,
    mem64: bool,
}

/// What Linux sees: the bus's windows in the order that it tries them, and what is in use.
struct Bus {
    windows: Vec<Resource>,
    /// Used memory, exact to the byte, ascending.
    memory: Vec<Range>,
    /// Used ports.
    ports: Vec<Range>,
}

/// A BAR that Linux is to place.
struct Newcomer {
    bdf: Bdf,
    bar: Bar,
}

/// Where Linux would put `device`'s BARs.
///
/// Functions of the same slot that were attached before it wait for function 0, and all are placed together.
pub fn linux(layout: &Layout, present: &Present, device: &Device) -> Forecast {
    let waiting = waiting(layout, device);
    let mut bus = Bus::new(layout, present, device.bridge, &waiting);
    let others = layout.bars.iter().filter(|bar| waiting.contains(&bar.bdf));
    let others = others.map(|bar| {
        let (bdf, bar) = (bar.bdf, Bar::new(bar.reg, bar.kind, bar.size, bar.prefetch));
        Newcomer { bdf, bar }
    });
    let own = device.bars.iter().map(|bar| Newcomer { bdf: device.bdf, bar: bar.clone() });
    let mut order: Vec<Newcomer> = own.chain(others).collect();
    order.sort_by_key(|newcomer| (newcomer.bdf, newcomer.bar.reg));
    order.sort_by_key(|newcomer| std::cmp::Reverse(newcomer.bar.size));
    let placed: Vec<(Newcomer, Option<Address>)> = order
        .into_iter()
        .map(|newcomer| {
            let address = bus.assign(&newcomer.bar);
            (newcomer, address)
        })
        .collect();
    let own = placed.iter().filter(|(newcomer, _)| newcomer.bdf == device.bdf);
    let mut bars: Vec<ForecastBar> = own
        .map(|(Newcomer { bdf, bar }, address)| ForecastBar {
            bdf: *bdf,
            reg: bar.reg,
            kind: bar.kind,
            size: bar.size,
            prefetch: bar.prefetch,
            address: *address,
        })
        .collect();
    bars.sort_by_key(|bar| bar.reg);
    let neighbours = Neighbours::of(layout, present, &waiting, &placed);
    let mut warnings = function_order(layout, device);
    if device.sriov.is_some() {
        warnings.push(Warning::about(
            "virtual-functions-unplaced",
            device.bdf,
            "only a device that a guest is built with has room for virtual functions' BARs; this one gets none for them",
        ));
    }
    warnings.extend(bars.iter().flat_map(|bar| neighbours.warnings(layout, device, bar)));
    Forecast { bars, warnings }
}

/// The slot's other functions that were attached after the guest was built: Linux looks at a slot when QEMU says that
/// something is there, and QEMU does so when function 0 has come.
fn waiting(layout: &Layout, device: &Device) -> Vec<Bdf> {
    let same_slot = |other: &Bdf| {
        (other.bus(), other.slot()) == (device.bdf.bus(), device.bdf.slot()) && *other != device.bdf
    };
    layout.hot_plugged.iter().copied().filter(same_slot).collect()
}

/// That a function other than 0 has come too late, or is not seen yet.
fn function_order(layout: &Layout, device: &Device) -> Vec<Warning> {
    if device.bdf.function() == 0 {
        return Vec::new();
    }
    let (bdf, zero) = (device.bdf, device.bdf.with_function(0));
    let (code, message) = if zero.is_some_and(|zero| layout.device(zero).is_some()) {
        (
            "function-0-first",
            format!(
                "QEMU takes {bdf} only before function 0 of that slot, which is there: attach function 0 last"
            ),
        )
    } else {
        (
            "function-0-missing",
            format!("the guest sees {bdf} when function 0 of that slot is attached, which must come last"),
        )
    };
    vec![Warning::about(code, bdf, message)]
}

impl Bus {
    fn new(layout: &Layout, present: &Present, bridge: Option<Bdf>, waiting: &[Bdf]) -> Self {
        let mut bus = Self { windows: windows(layout, bridge), memory: Vec::new(), ports: Vec::new() };
        let shadowed = shadowed_rom(layout);
        let stored = layout.bars.iter().filter(|bar| Some((bar.bdf, bar.reg)) != shadowed);
        let stored = stored.filter(|bar| !waiting.contains(&bar.bdf));
        let stored = stored.filter_map(|bar| Some((bar.range()?, bar.kind)));
        for (range, kind) in stored.chain(present.elsewhere.iter().copied()) {
            if kind.is_memory() { &mut bus.memory } else { &mut bus.ports }.push(range);
        }
        for other in layout.bridges.iter().filter(|other| Some(other.bdf) != bridge) {
            let range = |(start, end)| Range::new(start, end);
            bus.memory.extend([other.memory, other.prefetchable].into_iter().flatten().filter_map(range));
            bus.ports.extend(other.io.and_then(range));
        }
        bus.memory.extend(layout.vf_bars.iter().filter_map(|bars| bars.range(layout.page_size)));
        let platform = PLATFORM_PORTS.map(|(start, end)| Range::new(Address::new(start), Address::new(end)));
        bus.ports.extend(platform.into_iter().flatten());
        // The guest's E820 map reserves it, and so does Linux (e820__reserve_resources_late).
        let reserved = layout.reserved_memory.iter().filter(|memory| memory.what == ReservedKind::Rdm);
        bus.memory.extend(reserved.filter_map(|memory| memory.range()));
        bus.memory.sort_unstable();
        bus.ports.sort_unstable();
        bus
    }

    /// As __pci_assign_resource: three rounds over the windows, from an exact match to any that can take it.
    fn assign(&mut self, bar: &Bar) -> Option<Address> {
        let io = bar.kind == BarKind::Io;
        let wide = bar.kind == BarKind::Mem64;
        let prefetch = is_prefetchable(bar);
        let exact = |window: &Resource| window.prefetch == prefetch && window.mem64 == wide;
        let prefetchable = |window: &Resource| window.prefetch == prefetch;
        let any = |_: &Resource| true;
        let address = self
            .allocate(bar, exact)
            .or_else(|| if wide && prefetch { self.allocate(bar, prefetchable) } else { None })
            .or_else(|| if wide || prefetch { self.allocate(bar, any) } else { None })?;
        let used = if io { &mut self.ports } else { &mut self.memory };
        used.extend(Range::sized(address, bar.size));
        used.sort_unstable();
        Some(address)
    }

    /// As pci_bus_alloc_resource: for a 64-bit BAR what lies above 4 GiB first.
    fn allocate(&self, bar: &Bar, fits: impl Fn(&Resource) -> bool) -> Option<Address> {
        let top = Address::new(u64::MAX);
        let above = Range::new(Address::FOUR_GIB, top);
        let below = Range::new(Address::ZERO, Address::FOUR_GIB);
        let all = Range::new(Address::ZERO, top);
        let regions = if bar.kind == BarKind::Mem64 { [above, all] } else { [below, None] };
        let io = bar.kind == BarKind::Io;
        regions.into_iter().flatten().find_map(|region| {
            self.windows
                .iter()
                .filter(|window| {
                    window.io == io && fits(window) && (is_prefetchable(bar) || !window.prefetch)
                })
                .filter_map(|window| Some((window.range, window.range.intersection(region)?)))
                .find_map(|(window, limits)| self.first_fit(window, limits, bar))
        })
    }

    /// As __find_resource: the gaps between what is used, lowest first.
    fn first_fit(&self, window: Range, limits: Range, bar: &Bar) -> Option<Address> {
        let io = bar.kind == BarKind::Io;
        let used = if io { &self.ports } else { &self.memory };
        let mut start = window.start();
        let inside = used.iter().filter(|range| range.overlaps(window));
        for end in inside.map(|range| (range.start(), range.end())).chain([(window.end(), window.end())]) {
            let (gap_end, next) = end;
            let gap = Range::new(start, gap_end).and_then(|gap| gap.intersection(limits));
            if let Some(place) = gap.and_then(|gap| if io { in_ports(gap, bar) } else { in_memory(gap, bar) })
            {
                return Some(place);
            }
            start = start.max(next);
        }
        None
    }
}

/// To Linux a ROM is prefetchable (probe.c, __pci_read_base).
fn is_prefetchable(bar: &Bar) -> bool {
    bar.prefetch || bar.kind == BarKind::Rom
}

/// The lowest place in a gap of memory, above the BIOS's.
fn in_memory(gap: Range, bar: &Bar) -> Option<Address> {
    let place = gap.start().max(LOWEST_MEMORY).align_up(bar.size)?;
    Range::sized(place, bar.size).filter(|range| gap.contains(*range)).map(Range::start)
}

/// The lowest place in a gap of ports: in the first quarter of a KiB, where ISA cards do not decode
/// (pcibios_align_resource).
fn in_ports(gap: Range, bar: &Bar) -> Option<Address> {
    let place = gap.start().align_up(bar.size)?;
    let place = if place.get() & 0x300 == 0 { place } else { place.align_up(Size::KIB)? };
    Range::sized(place, bar.size).filter(|range| gap.contains(*range)).map(Range::start)
}

/// The windows of a bus: of the root bus those of _CRS, where nothing is marked prefetchable or 64 bits wide.
fn windows(layout: &Layout, bridge: Option<Bdf>) -> Vec<Resource> {
    let plain =
        |range: Option<Range>, io| range.map(|range| Resource { range, io, prefetch: false, mem64: false });
    let Some(bridge) = bridge else {
        let memory = [WindowKind::Low, WindowKind::High].map(|kind| plain(layout.window(kind), false));
        let ports = plain(Range::new(PORTS.0, PORTS.1), true);
        return memory.into_iter().chain([ports]).flatten().collect();
    };
    let Some(windows) = layout.bridges.iter().find(|windows| windows.bdf == bridge) else {
        return Vec::new();
    };
    let range = |bounds: Option<(Address, Address)>| bounds.and_then(|(start, end)| Range::new(start, end));
    let prefetchable =
        range(windows.prefetchable).map(|range| Resource { range, io: false, prefetch: true, mem64: true });
    [plain(range(windows.io), true), plain(range(windows.memory), false), prefetchable]
        .into_iter()
        .flatten()
        .collect()
}

/// The boot VGA's ROM: Linux uses the copy at 0xc0000 and forgets where the BAR is (pci_fixup_video).
fn shadowed_rom(layout: &Layout) -> Option<(Bdf, u8)> {
    let vga = layout.devices.iter().filter(|device| device.class == VGA).map(|device| device.bdf);
    let vga = vga.filter(|bdf| !layout.hot_plugged.contains(bdf)).min()?;
    Some((vga, 0x30))
}

/// The memory BARs that may come to lie on one page with a new one.
struct Neighbours {
    /// Whose, which, how large; the range that it decodes.
    bars: Vec<(Bdf, u8, Size, Range)>,
    /// What has moved, nobody knows whose.
    moved: Vec<Range>,
    maps_containing_page: bool,
}

impl Neighbours {
    fn of(
        layout: &Layout,
        present: &Present,
        waiting: &[Bdf],
        placed: &[(Newcomer, Option<Address>)],
    ) -> Self {
        let shadowed = shadowed_rom(layout);
        let there = layout
            .bars
            .iter()
            .filter(|bar| Some((bar.bdf, bar.reg)) != shadowed && !waiting.contains(&bar.bdf))
            .filter(|bar| bar.kind.is_memory())
            .filter_map(|bar| Some((bar.bdf, bar.reg, bar.size, bar.range()?)));
        let new = placed.iter().filter(|(newcomer, _)| newcomer.bar.kind.is_memory()).filter_map(
            |(Newcomer { bdf, bar }, address)| {
                Some((*bdf, bar.reg, bar.size, Range::sized((*address)?, bar.size)?))
            },
        );
        let moved = present.elsewhere.iter().filter(|(_, kind)| kind.is_memory()).map(|(range, _)| *range);
        Self {
            bars: there.chain(new).collect(),
            moved: moved.collect(),
            maps_containing_page: present.maps_containing_page,
        }
    }

    /// What is odd about a BAR's place.
    fn warnings(&self, layout: &Layout, device: &Device, bar: &ForecastBar) -> Vec<Warning> {
        let name = super::register_name(bar.reg);
        let Some(address) = bar.address else {
            return vec![Warning::about(
                "forecast-no-place",
                bar.bdf,
                format!("Linux would leave {name} ({}, {}) without an address", bar.size, bar.kind),
            )];
        };
        let Some(range) = Range::sized(address, bar.size).filter(|_| bar.kind.is_memory()) else {
            return Vec::new();
        };
        let warning = |code, rest: String| {
            Warning::about(
                code,
                bar.bdf,
                format!("Linux would put {name} ({}) at {address}, {rest}", bar.size),
            )
        };
        let mut found = Vec::new();
        let own_pages = pages(range, layout.page_size).unwrap_or(range);
        let on_page = self.bars.iter().filter(|(.., other)| other.overlaps(own_pages));
        for (bdf, reg, size, _) in on_page.filter(|(bdf, ..)| *bdf != bar.bdf) {
            let other = super::register_name(*reg);
            let rest = format!(
                "on one page with {bdf} {other} ({size}): the two devices would not be isolated from each other"
            );
            found.push(warning("forecast-shared-page", rest));
        }
        if self.moved.iter().any(|other| other.overlaps(own_pages)) {
            found.push(warning(
                "forecast-shared-page",
                "on one page with a BAR that has moved there".to_owned(),
            ));
        }
        found.extend(self.offset(layout, device, bar, address).map(|rest| warning("forecast-offset", rest)));
        let on_hole = layout
            .reserved_memory
            .iter()
            .filter(|memory| memory.what == ReservedKind::Hypertransport)
            .any(|memory| memory.range().is_some_and(|hole| hole.overlaps(range)));
        if on_hole {
            let rest = "in AMD's HyperTransport hole: it would not work there".to_owned();
            found.push(warning("forecast-on-hypertransport", rest));
        }
        found
    }

    /// That a passed-through BAR would lie elsewhere in its page than the device model maps it: stock QEMU maps the
    /// host's page at the first whole one from the BAR's address on (xen_pt.c, xen_pt_region_update).
    fn offset(
        &self,
        layout: &Layout,
        device: &Device,
        bar: &ForecastBar,
        address: Address,
    ) -> Option<String> {
        let own = device.bars.iter().find(|own| own.reg == bar.reg)?;
        if device.host.is_none() && own.host_address.is_none() {
            return None;
        }
        let wanted = if self.maps_containing_page { own.offset_into(layout.page_size) } else { Size::ZERO };
        let offset = address.distance_from(address.align_down(layout.page_size));
        let wrong = bar.size < layout.page_size && offset != wanted;
        wrong.then(|| {
            format!("{offset} into a page, and the device model maps it {wanted} into one: the guest would not reach its registers")
        })
    }
}
