// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a device does not fit: which BARs, what is free, and the least that would help.

use super::attach::without;
use super::place::place_what_fits;
use super::space::Room;
use super::{Group, Name, Present, Space, Wish, any_order, place, register_name};
use crate::address::{Address, Range, Size};
use crate::guest::WIDEST;
use crate::layout::{Blocking, Code, Layout, PlacedBar, Refusal, ReservedKind, WindowKind};
use crate::pci::{Bar, BarKind, Bdf, Device};
use crate::planner::free_space::{FreeSpace, Shape};

/// How many devices are tried for one whose detachment would help: a guest has 32 slots, and a layout may be anything.
const MOST_CANDIDATES: usize = 256;

/// The refusal for a device that `place` found no room for.
pub fn explain(layout: &Layout, present: &Present, device: &Device, space: &Space) -> Refusal {
    let wishes: Vec<Wish> = device.bars.iter().map(Wish::from).collect();
    let blocking = conflicting(space, &wishes, layout.page_size);
    let (code, cause) = cause(layout, present, device, space, &blocking);
    Refusal {
        code,
        message: format!(
            "{} {} {cause}; {}",
            Name::of(device),
            names(&blocking),
            free(space, all(&blocking, &[BarKind::Io]))
        ),
        remedy: remedy(layout, present, device, space, &blocking),
        blocking: blocking
            .iter()
            .map(|wish| Blocking { bdf: device.bdf, reg: wish.reg, size: wish.size })
            .collect(),
    }
}

/// BARs that cannot all be placed, and that could if any one of them were not there.
fn conflicting(space: &Space, wishes: &[Wish], page: Size) -> Vec<Wish> {
    let mut rest = wishes.to_vec();
    // The smallest go first: what is left is what matters.
    rest.sort_by_key(|wish| wish.block(page));
    let mut at = 0;
    while at < rest.len() {
        let mut fewer = rest.clone();
        fewer.remove(at);
        if place(space, &fewer, page).is_some() { at = at.saturating_add(1) } else { rest = fewer }
    }
    rest.sort_by_key(|wish| wish.reg);
    rest
}

fn names(blocking: &[Wish]) -> String {
    let name = |wish: &Wish| {
        let prefetchable = if wish.prefetch { " prefetchable" } else { "" };
        format!("{} ({}, {}{prefetchable})", register_name(wish.reg), wish.size, wish.kind)
    };
    match blocking {
        [] => "the device".to_owned(),
        [one] => name(one),
        [all @ .., last] => {
            format!("{} and {} together", all.iter().map(name).collect::<Vec<_>>().join(", "), name(last))
        }
    }
}

/// What is free, window by window: of ports where those are short, else of memory.
fn free(space: &Space, ports: bool) -> String {
    let room = |(name, room): (&str, &Room)| {
        let largest = room.free.largest_block();
        format!("{name} {} has {} free, the largest aligned block {largest}", room.window, room.bytes())
    };
    let rooms: Vec<String> =
        space.named().filter(|(name, _)| name.contains("I/O") == ports).map(room).collect();
    if rooms.is_empty() { "the layout has no such window".to_owned() } else { rooms.join("; ") }
}

/// Whether all the blocking BARs are of these kinds.
fn all(blocking: &[Wish], kinds: &[BarKind]) -> bool {
    blocking.iter().all(|wish| kinds.contains(&wish.kind))
}

/// What kind of no it is, and the middle of the sentence.
fn cause(
    layout: &Layout,
    present: &Present,
    device: &Device,
    space: &Space,
    blocking: &[Wish],
) -> (Code, String) {
    let device_model_alone = |what: ReservedKind| what == ReservedKind::DeviceModel;
    let unreserved = Space::barring(layout, present, device.bridge, device_model_alone);
    if place(&unreserved, blocking, layout.page_size).is_some() {
        return (Code::ReservedMemory, "would fit but for reserved memory inside the window".to_owned());
    }
    if let Some(bridge) = device.bridge {
        let windows = [&space.low, &space.high, &space.io];
        return if windows.iter().all(|room| room.is_none()) {
            (Code::NoWindow, format!("cannot be placed: the bridge {bridge} forwards nothing"))
        } else {
            (Code::DoesNotFit, format!("fits into no window of the bridge {bridge}"))
        };
    }
    if all(blocking, &[BarKind::Io]) {
        return match space.io {
            Some(_) => (Code::DoesNotFit, "does not fit into the I/O window".to_owned()),
            None => (Code::NoWindow, "has no window: there is none for I/O ports".to_owned()),
        };
    }
    if all(blocking, &[BarKind::Mem64]) {
        if space.high.is_some() {
            return (Code::DoesNotFit, "fits into neither window".to_owned());
        }
        let bits = layout.phys_bits;
        if !a_window_could_hold(layout, blocking) {
            let sentence =
                format!("does not fit below 4G, and no window above could hold it within {bits} bits");
            return (Code::Width, sentence);
        }
        return (Code::NoWindow, "does not fit below 4G, and there is no window above".to_owned());
    }
    match space.low {
        Some(_) => (Code::DoesNotFit, "does not fit below 4G, where it must go".to_owned()),
        None => (Code::NoWindow, "must go below 4G, and there is no window there".to_owned()),
    }
}

/// Whether a high window that the guest's processor reaches could hold these.
fn a_window_could_hold(layout: &Layout, blocking: &[Wish]) -> bool {
    let Some((window, free)) = above_memory(layout, layout.phys_bits) else { return false };
    let space = Space { high: Some(Room { window, free }), ..Space::default() };
    place(&space, blocking, layout.page_size).is_some()
}

/// The fewest bits with which a guest could reserve that much above 4 GiB.
fn bits_for(layout: &Layout, reservation: Size) -> Option<u8> {
    let shape = Shape { size: reservation, alignment: reservation.previous_power_of_two() };
    (layout.phys_bits..=WIDEST).find(|bits| {
        above_memory(layout, *bits).is_some_and(|(_, free)| free.carve(&[shape], |_, _| true).is_some())
    })
}

/// Where a high window of a guest of `bits` bits may lie, and what of it is free.
fn above_memory(layout: &Layout, bits: u8) -> Option<(Range, FreeSpace)> {
    let end = Address::new(1_u64.checked_shl(bits.into())?);
    let start = layout
        .ram()
        .chain(
            layout
                .reserved_memory
                .iter()
                .filter_map(|memory| memory.range().filter(|_| memory.what == ReservedKind::DeviceModel)),
        )
        .fold(Address::FOUR_GIB, |start, memory| start.max(memory.end()));
    let window = Range::new(start, end)?;
    let barred = layout.reserved_memory.iter().filter_map(|memory| memory.range());
    Some((window, FreeSpace::new(Some(window), barred)))
}

/// The least change: another device gone now, or more space kept at the guest's next boot.
fn remedy(layout: &Layout, present: &Present, device: &Device, space: &Space, blocking: &[Wish]) -> String {
    let all: Vec<Wish> = device.bars.iter().map(Wish::from).collect();
    let helps = layout.hot_plugged.iter().take(MOST_CANDIDATES).find(|bdf| {
        let space = Space::of(&without(layout, **bdf), present, device.bridge);
        place(&space, &all, layout.page_size).is_some()
    });
    let now = helps.map(|bdf| {
        let host = layout.device(*bdf).and_then(|device| device.host);
        let host = host.map_or_else(String::new, |host| format!(" (host {host})"));
        format!("detach {bdf}{host} first; or, ")
    });
    format!("{}{}", now.unwrap_or_default(), next_boot(layout, device, space, blocking))
}

/// What to ask `plan` for when the guest is built next.
fn next_boot(layout: &Layout, device: &Device, space: &Space, blocking: &[Wish]) -> String {
    if device.bridge.is_some() {
        return "plan the guest with this device behind that bridge before its next boot, or attach it to the root bus"
            .to_owned();
    }
    if all(blocking, &[BarKind::Io]) {
        return match space.io {
            Some(_) => {
                "detach a device that has ports: a guest has 16K of them for BARs, not more".to_owned()
            }
            None => "plan the guest with a device that has ports".to_owned(),
        };
    }
    let wanted = Wanted::of(layout, device, space);
    let (low, high) = wanted.reservations(layout);
    let mut options = Vec::new();
    if !low.is_zero() {
        options.push(format!("--reserve-low {low}"));
    }
    if !high.is_zero() {
        options.push(format!("--reserve-high {high}"));
    }
    let wider = match bits_for(layout, high) {
        _ if high.is_zero() => String::new(),
        Some(bits) if bits == layout.phys_bits => String::new(),
        Some(bits) => format!(" and give the guest {bits} physical address bits (cpuid=)"),
        None => ", for which no guest has addresses".to_owned(),
    };
    format!("before the guest's next boot, plan it with {} in all{wider}", options.join(" "))
}

/// A device that finds no room, as the next boot is to have room for it.
struct Wanted {
    /// The function.
    bdf: Bdf,
    /// What lies below 4 GiB.
    low: Vec<Wish>,
    /// Whether that is short of room.
    short_low: bool,
    /// What lies above.
    high: Vec<Wish>,
    /// Whether that is short of room.
    short_high: bool,
}

impl Wanted {
    /// Where the low window is short only because 64-bit BARs have no room above, it is those: space above 4 GiB costs
    /// a guest no RAM. A 64-bit BAR that has room below stays there.
    fn of(layout: &Layout, device: &Device, space: &Space) -> Self {
        let memory = device.bars.iter().map(Wish::from).filter(|wish| wish.kind.is_memory());
        let memory: Vec<Wish> = memory.collect();
        let wide = |wish: &Wish| wish.kind == BarKind::Mem64;
        let places = place_what_fits(space, &memory, layout.page_size);
        let placed: Vec<(Wish, Option<Address>)> = memory.iter().copied().zip(places).collect();
        let above = |place: Option<Address>| place.is_some_and(|address| address >= Address::FOUR_GIB);
        let others = placed.iter().filter(|(wish, place)| !wide(wish) || above(*place));
        let others: Vec<Wish> = others.map(|(wish, _)| *wish).collect();
        if place(space, &others, layout.page_size).is_some() {
            let (high, low) = memory.into_iter().partition(wide);
            return Self { bdf: device.bdf, low, short_low: false, high, short_high: true };
        }
        let homeless =
            |wanted: bool| placed.iter().any(|(wish, place)| wide(wish) == wanted && place.is_none());
        let goes_up =
            |(wish, place): &(Wish, Option<Address>)| wide(wish) && (place.is_none() || above(*place));
        let (high, low): (Vec<_>, Vec<_>) = placed.iter().partition(|placed| goes_up(placed));
        let wishes =
            |placed: Vec<(Wish, Option<Address>)>| placed.into_iter().map(|(wish, _)| wish).collect();
        let bdf = device.bdf;
        Self {
            bdf,
            low: wishes(low),
            short_low: homeless(false),
            high: wishes(high),
            short_high: homeless(true),
        }
    }

    /// What to reserve in all, below and above 4 GiB, for this device beside the hot-plugged ones, whatever the order;
    /// no less than was reserved. Zero for a window that is large enough.
    fn reservations(&self, layout: &Layout) -> (Size, Size) {
        let needed = |window: WindowKind, own: &[Wish]| {
            let high = window == WindowKind::High;
            // Each gets the kind that has no choice. A 64-bit BAR that lies below now may go above when there is room.
            let kind = if high { BarKind::Mem64 } else { BarKind::Mem32 };
            let counts = |bar: &&PlacedBar| match bar.kind {
                BarKind::Io => false,
                BarKind::Mem64 => high || bar.address < Address::FOUR_GIB,
                _ => !high,
            };
            let device = |sizes: Vec<Size>| {
                let bars = sizes.into_iter().map(|size| Bar::new(0, kind, size, false)).collect();
                Device { bars, ..Device::new(self.bdf, (0, 0), 0) }
            };
            let there = layout.hot_plugged.iter().map(|bdf| {
                let bars = layout.bars.iter().filter(|bar| bar.bdf == *bdf).filter(counts);
                device(bars.map(|bar| bar.size).collect())
            });
            let devices: Vec<Device> =
                there.chain([device(own.iter().map(|wish| wish.size).collect())]).collect();
            let all = any_order(&[Group { at_once: devices.len(), devices }], layout.page_size);
            let all = all.unwrap_or_default();
            if high { all.high } else { all.low }
        };
        let promised = if layout.promised.is_empty() { &layout.reserved } else { &layout.promised };
        let asked = |short, window, own| {
            let reserved = promised.iter().filter(|whole| whole.window == window);
            let reserved = reserved.fold(Size::ZERO, |sum, whole| sum.saturating_add(whole.size));
            if short { reserved.max(needed(window, own)) } else { Size::ZERO }
        };
        (
            asked(self.short_low, WindowKind::Low, self.low.as_slice()),
            asked(self.short_high, WindowKind::High, self.high.as_slice()),
        )
    }
}
