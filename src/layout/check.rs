// SPDX-License-Identifier: LGPL-2.1-or-later
//! The rules a layout keeps, as a checker that shares no code with the planner.
//!
//! Deliberately plain: it compares what is there with what the rules say, pair by pair where order does not make that
//! needless. Tests run it over every layout; commands run it over every layout before it is printed or stored.

use crate::address::{Address, Range, Size};
use crate::guest::{FIXED_REGIONS, Guest, HOLE_GRANULARITY, LARGEST_HOLE, SMALLEST_HOLE};
use crate::layout::{Layout, PlacedBar, WindowKind};
use crate::pci::{BarKind, Bdf};

/// A rule that a layout breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

/// Something with an address, for the pairwise rules.
struct Item {
    name: String,
    range: Range,
    /// What two items of the same owner may share is still nothing; the owner is for the message.
    io: bool,
}

/// Every rule of docs/layout-rules.md that `layout` breaks for `guest`; empty for a good layout.
pub fn check(guest: &Guest, layout: &Layout) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut broken = |message: String| found.push(Violation(message));

    ram(guest, layout, &mut broken);
    bars_are_the_guests(guest, layout, &mut broken);
    windows(layout, &mut broken);
    let items = items(guest, layout, &mut broken);
    overlaps(items, &mut broken);
    strangers_behind_bridges(guest, layout, &mut broken);
    found
}

/// Nothing on another bus lies in a bridge's window.
fn strangers_behind_bridges(guest: &Guest, layout: &Layout, broken: &mut impl FnMut(String)) {
    let above = |bdf: Bdf| {
        let parent = |bdf: &Bdf| guest.devices.iter().find(|device| device.bdf == *bdf)?.bridge;
        std::iter::successors(parent(&bdf), parent)
    };
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
fn items(guest: &Guest, layout: &Layout, broken: &mut impl FnMut(String)) -> Vec<Item> {
    let mut items = Vec::new();
    let uncached_only = guest.platform_bar_above_window();
    for bar in &layout.bars {
        let name = format!("{} BAR 0x{:02x} ({})", bar.bdf, bar.reg, bar.size);
        let io = !bar.kind.is_memory();
        let alignment = if io { bar.size } else { bar.size.max(layout.page_size) };
        let start = bar.address.align_down(alignment);
        let offset = bar.address.distance_from(start);
        if !bar.address.is_aligned(bar.size)
            || (!offset.is_zero() && offset != host_offset(guest, bar, alignment))
        {
            broken(format!("{name} at {} is not aligned to {alignment}", bar.address));
        }
        let Some(range) = Range::sized(start, alignment) else {
            broken(format!("{name} at {} runs past the highest address", bar.address));
            continue;
        };
        let behind = bridge_above(guest, bar.bdf);
        let inside = in_its_window(layout, bar.kind, behind.is_some() && !bar.prefetch, range);
        let platform = uncached_only
            && guest.devices.iter().any(|device| device.bdf == bar.bdf && device.is_xen_platform())
            && layout.window(WindowKind::Low).is_some_and(|low| low.end() <= range.start())
            && range.end() <= FIXED_REGIONS;
        if !inside && !platform {
            broken(format!("{name} at {range} lies in no window"));
        }
        if let Some(bridge) = behind {
            inside_bridges(guest, layout, bridge, &name, range, bar.kind, broken);
        }
        items.push(Item { name, range, io });
    }
    for bars in &layout.vf_bars {
        let name =
            format!("{} VF BAR 0x{:02x} ({} for each of {})", bars.bdf, bars.reg, bars.size, bars.count);
        if !bars.address.is_aligned(bars.size.max(layout.page_size)) {
            broken(format!("{name} at {} is not aligned to one function's share", bars.address));
        }
        let Some(range) = bars.range(layout.page_size) else {
            broken(format!("{name} at {} runs past the highest address", bars.address));
            continue;
        };
        let behind = bridge_above(guest, bars.bdf);
        if !in_its_window(layout, bars.kind, behind.is_some() && !bars.prefetch, range) {
            broken(format!("{name} at {range} lies in no window"));
        }
        if let Some(bridge) = behind {
            inside_bridges(guest, layout, bridge, &name, range, bars.kind, broken);
        }
        items.push(Item { name, range, io: false });
    }
    for reservation in &layout.reserved {
        let name = format!("the {} reservation ({})", reservation.window, reservation.size);
        let Some(range) = reservation.range() else {
            broken(format!("{name} runs past the highest address"));
            continue;
        };
        if !reservation.start.is_aligned(reservation.size.previous_power_of_two()) {
            broken(format!("{name} at {} is not aligned", reservation.start));
        }
        if !layout.window(reservation.window).is_some_and(|window| window.contains(range)) {
            broken(format!("{name} at {range} lies outside its window"));
        }
        items.push(Item { name, range, io: false });
    }
    let guest_reserved = guest.barred_memory().chain(guest.hypertransport_hole());
    for barred in layout.reserved_memory.iter().filter_map(|memory| memory.range()).chain(guest_reserved) {
        for item in items.iter().filter(|item| !item.io && item.range.overlaps(barred)) {
            broken(format!("{} at {} lies on reserved memory {barred}", item.name, item.range));
        }
    }
    items
}

fn bridge_above(guest: &Guest, bdf: Bdf) -> Option<Bdf> {
    guest.devices.iter().find(|device| device.bdf == bdf)?.bridge
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
fn host_offset(guest: &Guest, bar: &PlacedBar, page: Size) -> Size {
    let device = guest.devices.iter().find(|device| device.bdf == bar.bdf);
    let host = device.and_then(|device| device.bars.iter().find(|other| other.reg == bar.reg)?.host_address);
    host.map_or(Size::ZERO, |address| address.distance_from(address.align_down(page)))
}

/// A range behind a bridge lies in a window of it, that window in one of the bridge above, and so on.
fn inside_bridges(
    guest: &Guest,
    layout: &Layout,
    bridge: Bdf,
    name: &str,
    range: Range,
    kind: BarKind,
    broken: &mut impl FnMut(String),
) {
    let mut range = range;
    let mut at = Some(bridge);
    while let Some(bdf) = at {
        let windows = layout.bridges.iter().find(|windows| windows.bdf == bdf);
        let usable = windows.map(|windows| match kind {
            BarKind::Io => [windows.io, None],
            _ => [windows.memory, windows.prefetchable],
        });
        let window = usable
            .into_iter()
            .flatten()
            .flatten()
            .find_map(|(start, end)| Range::new(start, end).filter(|window| window.contains(range)));
        let Some(window) = window else {
            broken(format!("{name} at {range} lies in no window of its bridge {bdf}"));
            return;
        };
        range = window;
        at = guest.devices.iter().find(|device| device.bdf == bdf).and_then(|device| device.bridge);
    }
}

/// No two on one page: each item's range is already whole pages, so sorted neighbours tell.
fn overlaps(mut items: Vec<Item>, broken: &mut impl FnMut(String)) {
    items.sort_by_key(|item| (item.io, item.range));
    let mut reach: Option<&Item> = None;
    for item in &items {
        match reach {
            Some(before) if before.io == item.io && before.range.overlaps(item.range) => {
                broken(format!("{} and {} share {}", before.name, item.name, item.range.start()));
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
