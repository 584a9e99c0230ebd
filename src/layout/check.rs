// SPDX-License-Identifier: LGPL-2.1-or-later
//! The rules a layout keeps, as a checker that shares no code with the planner.
//!
//! Deliberately plain: it compares what is there with what the rules say, pair by pair where order does not make that
//! needless. Tests run it over every layout; commands run it over every layout before it is printed or stored.

use std::collections::BTreeMap;
use std::fmt;

use crate::address::{Address, Range, Size};
use crate::guest::{FIXED_REGIONS, Guest, HOLE_GRANULARITY, LARGEST_HOLE, SMALLEST_HOLE};
use crate::layout::{BridgeWindows, Layout, PlacedBar, PlacedVfBars, Reservation, WindowKind};
use crate::pci::{BarKind, Bdf, Device};

/// A rule that a layout breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

/// Something with an address, for the pairwise rules.
struct Item<'a> {
    /// What two items of the same owner may share is still nothing; the owner is for the message.
    owner: Owner<'a>,
    range: Range,
    io: bool,
}

/// Whose an address is. It is shown only where a rule is broken.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Bar(&'a PlacedBar),
    VfBars(&'a PlacedVfBars),
    Reservation(&'a Reservation),
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar(bar) => write!(f, "{} BAR 0x{:02x} ({})", bar.bdf, bar.reg, bar.size),
            Self::VfBars(bars) => {
                write!(f, "{} VF BAR 0x{:02x} ({} for each of {})", bars.bdf, bars.reg, bars.size, bars.count)
            }
            Self::Reservation(reservation) => {
                write!(f, "the {} reservation ({})", reservation.window, reservation.size)
            }
        }
    }
}

/// The guest's functions and the layout's bridges by where they are.
struct Functions<'a> {
    devices: BTreeMap<Bdf, &'a Device>,
    bridges: BTreeMap<Bdf, &'a BridgeWindows>,
}

impl<'a> Functions<'a> {
    fn of(guest: &'a Guest, layout: &'a Layout) -> Self {
        Self {
            devices: guest.devices.iter().map(|device| (device.bdf, device)).collect(),
            bridges: layout.bridges.iter().map(|bridge| (bridge.bdf, bridge)).collect(),
        }
    }

    /// The bridge that a function sits behind.
    fn above(&self, bdf: Bdf) -> Option<Bdf> {
        self.devices.get(&bdf)?.bridge
    }
}

/// Every rule of docs/layout-rules.md that `layout` breaks for `guest`; empty for a good layout.
pub fn check(guest: &Guest, layout: &Layout) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut broken = |message: String| found.push(Violation(message));

    ram(guest, layout, &mut broken);
    bars_are_the_guests(guest, layout, &mut broken);
    windows(layout, &mut broken);
    let functions = Functions::of(guest, layout);
    let items = items(guest, layout, &functions, &mut broken);
    overlaps(items, &mut broken);
    strangers_behind_bridges(layout, &functions, &mut broken);
    found
}

/// Nothing on another bus lies in a bridge's window.
fn strangers_behind_bridges(layout: &Layout, functions: &Functions<'_>, broken: &mut impl FnMut(String)) {
    let above = |bdf: Bdf| std::iter::successors(functions.above(bdf), |bdf| functions.above(*bdf));
    for bridge in &layout.bridges {
        let unit = |start: Address, end: Address, unit| start.is_aligned(unit) && end.is_aligned(unit);
        for (io, window) in [(false, bridge.memory), (false, bridge.prefetchable), (true, bridge.io)] {
            let Some((start, end)) = window else { continue };
            if !unit(start, end, if io { Size::new(4 << 10) } else { Size::MIB }) {
                broken(format!("a window of bridge {} at {start} is not aligned", bridge.bdf));
            }
            let Some(range) = Range::new(start, end) else { continue };
            for bar in layout.bars.iter().filter(|bar| bar.kind.is_memory() != io) {
                let inside = bar.range().is_some_and(|bar| bar.overlaps(range));
                if inside && !above(bar.bdf).any(|bdf| bdf == bridge.bdf) {
                    broken(format!(
                        "{} BAR 0x{:02x} lies in a window of bridge {}",
                        bar.bdf, bar.reg, bridge.bdf
                    ));
                }
            }
        }
    }
}

fn ram(guest: &Guest, layout: &Layout, broken: &mut impl FnMut(String)) {
    let hole = layout.mmio_hole_size;
    let border = Address::FOUR_GIB.checked_sub(hole);
    let whole = Address::ZERO.checked_add(hole).is_some_and(|end| end.is_aligned(HOLE_GRANULARITY));
    if !whole || hole < SMALLEST_HOLE || hole > LARGEST_HOLE {
        broken(format!("the hole of {hole} is no multiple of 2M from 256M to 3840M"));
    }
    let low_end = Address::from_frame(layout.low_mem_pgend);
    let high_end = Address::from_frame(layout.high_mem_pgend).unwrap_or_default();
    let sum = low_end.and_then(|end| {
        end.distance_from(Address::ZERO).checked_add(high_end.distance_from(Address::FOUR_GIB))
    });
    if sum != guest.ram() {
        broken(format!("RAM is {sum:?} where the guest has {:?}", guest.ram()));
    }
    if low_end.is_none() || border.is_none() || low_end > border {
        broken(format!("RAM ends at {low_end:?}, inside the hole of {hole}"));
    }
    if high_end > Address::FOUR_GIB && low_end != border {
        broken("there is RAM above 4G although there is room below the hole".to_owned());
    }
    let taken: Vec<Range> = guest.reserved_device_memory().collect();
    for ram in layout.ram() {
        for rdm in taken.iter().filter(|rdm| rdm.overlaps(ram)) {
            broken(format!("RAM {ram} overlaps reserved device memory {rdm}"));
        }
    }
}

fn bars_are_the_guests(guest: &Guest, layout: &Layout, broken: &mut impl FnMut(String)) {
    let mut asked: Vec<(Bdf, u8, BarKind, Size)> = guest
        .devices
        .iter()
        .flat_map(|device| device.bars.iter().map(|bar| (device.bdf, bar.reg, bar.kind, bar.size)))
        .collect();
    let mut placed: Vec<(Bdf, u8, BarKind, Size)> =
        layout.bars.iter().map(|bar| (bar.bdf, bar.reg, bar.kind, bar.size)).collect();
    asked.sort_unstable();
    placed.sort_unstable();
    if asked != placed {
        broken("the layout's BARs are not the guest's".to_owned());
    }
    let mut asked: Vec<(Bdf, u8, BarKind, Size, u16)> = Vec::new();
    for device in &guest.devices {
        if let Some(functions) = &device.sriov {
            let bars = functions.bars.iter();
            asked.extend(bars.map(|bar| (device.bdf, bar.reg, bar.kind, bar.size, functions.total_vfs)));
        }
    }
    let placed = layout.vf_bars.iter();
    let mut placed: Vec<_> =
        placed.map(|bars| (bars.bdf, bars.reg, bars.kind, bars.size, bars.count)).collect();
    asked.sort_unstable();
    placed.sort_unstable();
    if asked != placed {
        broken("the layout's VF BARs are not those of the guest's physical functions".to_owned());
    }
}

fn windows(layout: &Layout, broken: &mut impl FnMut(String)) {
    for kind in [WindowKind::Low, WindowKind::High, WindowKind::Io] {
        if layout.windows.iter().filter(|window| window.kind == kind).count() > 1 {
            broken(format!("there are two {kind} windows"));
        }
    }
    let border = Address::FOUR_GIB.checked_sub(layout.mmio_hole_size).unwrap_or(Address::FOUR_GIB);
    for window in &layout.windows {
        let (lowest, highest) = match window.kind {
            WindowKind::Low => (border, FIXED_REGIONS),
            WindowKind::High => {
                (Address::FOUR_GIB, Address::new(1_u64.checked_shl(layout.phys_bits.into()).unwrap_or(0)))
            }
            WindowKind::Io => (Address::ZERO, Address::new(0x1_0000)),
        };
        let Some(range) = window.range() else {
            broken(format!("the {} window runs backwards", window.kind));
            continue;
        };
        if range.start() < lowest || range.end() > highest {
            broken(format!("the {} window {range} leaves {lowest} to {highest}", window.kind));
        }
        if window.kind == WindowKind::Io {
            continue;
        }
        let device_model = layout
            .reserved_memory
            .iter()
            .filter(|memory| memory.what == crate::layout::ReservedKind::DeviceModel)
            .filter_map(|memory| memory.range());
        for other in layout.ram().chain(device_model).filter(|other| other.overlaps(range)) {
            broken(format!("the {} window {range} touches RAM or device-model memory {other}", window.kind));
        }
    }
}

/// Every BAR and reservation, checked on its own, with the pages it takes.
fn items<'a>(
    guest: &Guest,
    layout: &'a Layout,
    functions: &Functions<'_>,
    broken: &mut impl FnMut(String),
) -> Vec<Item<'a>> {
    let mut items = Vec::new();
    let uncached_only = guest.platform_bar_above_window();
    for bar in &layout.bars {
        let owner = Owner::Bar(bar);
        let io = !bar.kind.is_memory();
        let alignment = if io { bar.size } else { bar.size.max(layout.page_size) };
        let start = bar.address.align_down(alignment);
        let offset = bar.address.distance_from(start);
        if !bar.address.is_aligned(bar.size)
            || (!offset.is_zero() && offset != host_offset(functions, bar, alignment))
        {
            broken(format!("{owner} at {} is not aligned to {alignment}", bar.address));
        }
        let Some(range) = Range::sized(start, alignment) else {
            broken(format!("{owner} at {} runs past the highest address", bar.address));
            continue;
        };
        let behind = functions.above(bar.bdf);
        let inside = in_its_window(layout, bar.kind, behind.is_some() && !bar.prefetch, range);
        let platform = uncached_only
            && functions.devices.get(&bar.bdf).is_some_and(|device| device.is_xen_platform())
            && layout.window(WindowKind::Low).is_some_and(|low| low.end() <= range.start())
            && range.end() <= FIXED_REGIONS;
        if !inside && !platform {
            broken(format!("{owner} at {range} lies in no window"));
        }
        inside_bridges(functions, bar.bdf, owner, range, bar.kind, broken);
        items.push(Item { owner, range, io });
    }
    for bars in &layout.vf_bars {
        let owner = Owner::VfBars(bars);
        if !bars.address.is_aligned(bars.size.max(layout.page_size)) {
            broken(format!("{owner} at {} is not aligned to one function's share", bars.address));
        }
        let Some(range) = bars.range(layout.page_size) else {
            broken(format!("{owner} at {} runs past the highest address", bars.address));
            continue;
        };
        let behind = functions.above(bars.bdf);
        if !in_its_window(layout, bars.kind, behind.is_some() && !bars.prefetch, range) {
            broken(format!("{owner} at {range} lies in no window"));
        }
        inside_bridges(functions, bars.bdf, owner, range, bars.kind, broken);
        items.push(Item { owner, range, io: false });
    }
    for reservation in &layout.reserved {
        let owner = Owner::Reservation(reservation);
        let Some(range) = reservation.range() else {
            broken(format!("{owner} runs past the highest address"));
            continue;
        };
        if !reservation.start.is_aligned(reservation.size.previous_power_of_two()) {
            broken(format!("{owner} at {} is not aligned", reservation.start));
        }
        if !layout.window(reservation.window).is_some_and(|window| window.contains(range)) {
            broken(format!("{owner} at {range} lies outside its window"));
        }
        items.push(Item { owner, range, io: false });
    }
    let guest_reserved = guest.barred_memory().chain(guest.hypertransport_hole());
    for barred in layout.reserved_memory.iter().filter_map(|memory| memory.range()).chain(guest_reserved) {
        for item in items.iter().filter(|item| !item.io && item.range.overlaps(barred)) {
            broken(format!("{} at {} lies on reserved memory {barred}", item.owner, item.range));
        }
    }
    items
}

/// Whether a range lies in a window that its kind of BAR may use; `low_alone`: although it is 64 bits wide.
fn in_its_window(layout: &Layout, kind: BarKind, low_alone: bool, range: Range) -> bool {
    let kinds: &[WindowKind] = match kind {
        BarKind::Io => &[WindowKind::Io],
        BarKind::Mem64 if low_alone => &[WindowKind::Low],
        BarKind::Mem64 => &[WindowKind::Low, WindowKind::High],
        BarKind::Mem32 | BarKind::Mem1m | BarKind::Rom => &[WindowKind::Low],
    };
    kinds.iter().any(|&kind| layout.window(kind).is_some_and(|window| window.contains(range)))
}

/// Where in its page the host has a BAR.
fn host_offset(functions: &Functions<'_>, bar: &PlacedBar, page: Size) -> Size {
    let device = functions.devices.get(&bar.bdf);
    let host = device.and_then(|device| device.bars.iter().find(|other| other.reg == bar.reg)?.host_address);
    host.map_or(Size::ZERO, |address| address.distance_from(address.align_down(page)))
}

/// A range behind a bridge lies in a window of it, that window in one of the bridge above, and so on.
fn inside_bridges(
    functions: &Functions<'_>,
    bdf: Bdf,
    owner: Owner<'_>,
    range: Range,
    kind: BarKind,
    broken: &mut impl FnMut(String),
) {
    let mut range = range;
    let mut at = functions.above(bdf);
    while let Some(bdf) = at {
        let usable = functions.bridges.get(&bdf).map(|windows| match kind {
            BarKind::Io => [windows.io, None],
            _ => [windows.memory, windows.prefetchable],
        });
        let window = usable
            .into_iter()
            .flatten()
            .flatten()
            .find_map(|(start, end)| Range::new(start, end).filter(|window| window.contains(range)));
        let Some(window) = window else {
            broken(format!("{owner} at {range} lies in no window of its bridge {bdf}"));
            return;
        };
        range = window;
        at = functions.above(bdf);
    }
}

/// No two on one page: each item's range is already whole pages, so sorted neighbours tell.
fn overlaps(mut items: Vec<Item<'_>>, broken: &mut impl FnMut(String)) {
    items.sort_by_key(|item| (item.io, item.range));
    let mut reach: Option<&Item<'_>> = None;
    for item in &items {
        match reach {
            Some(before) if before.io == item.io && before.range.overlaps(item.range) => {
                broken(format!("{} and {} share {}", before.owner, item.owner, item.range.start()));
            }
            _ => {}
        }
        let farther =
            reach.is_none_or(|before| before.io != item.io || before.range.end() < item.range.end());
        if farther {
            reach = Some(item);
        }
    }
}
