// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a device does not fit: which BARs, what is free, and the least that would help.

use super::attach::without;
use super::space::Room;
use super::{Name, Present, Space, Wish, place, register_name};
use crate::address::{Address, Range, Size};
use crate::layout::{Blocking, Code, Layout, Refusal, ReservedKind};
use crate::pci::{BarKind, Device};
use crate::planner::free_space::FreeSpace;

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
    let end = 1_u64.checked_shl(layout.phys_bits.into()).map(Address::new).unwrap_or(Address::new(u64::MAX));
    let start = layout
        .ram()
        .chain(
            layout
                .reserved_memory
                .iter()
                .filter_map(|memory| memory.range().filter(|_| memory.what == ReservedKind::DeviceModel)),
        )
        .fold(Address::FOUR_GIB, |start, memory| start.max(memory.end()));
    let Some(window) = Range::new(start, end) else { return false };
    let barred = layout.reserved_memory.iter().filter_map(|memory| memory.range());
    let high = Room { window, free: FreeSpace::new(Some(window), barred) };
    let space = Space { high: Some(high), ..Space::default() };
    place(&space, blocking, layout.page_size).is_some()
}

/// The least change: another device gone now, or more space kept at the guest's next boot.
fn remedy(layout: &Layout, present: &Present, device: &Device, space: &Space, blocking: &[Wish]) -> String {
    let all: Vec<Wish> = device.bars.iter().map(Wish::from).collect();
    let helps = layout.hot_plugged.iter().find(|bdf| {
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
    let bytes = |wishes: &[Wish]| {
        wishes
            .iter()
            .filter(|wish| wish.kind.is_memory())
            .fold(Size::ZERO, |sum, wish| sum.saturating_add(wish.block(layout.page_size)))
    };
    let (either, low): (Vec<Wish>, Vec<Wish>) = blocking.iter().partition(|wish| wish.kind == BarKind::Mem64);
    if all(blocking, &[BarKind::Io]) {
        return match space.io {
            Some(_) => {
                "detach a device that has ports: a guest has 16K of them for BARs, not more".to_owned()
            }
            None => "plan the guest with a device that has ports".to_owned(),
        };
    }
    let mut options = Vec::new();
    if !low.is_empty() {
        options.push(format!("--reserve-low {}", bytes(&low)));
    }
    if !either.is_empty() {
        options.push(format!("--reserve-high {}", bytes(&either)));
    }
    let wider = if either.is_empty() || a_window_could_hold(layout, &either) {
        String::new()
    } else {
        format!(" and give the guest more than {} physical address bits (cpuid=)", layout.phys_bits)
    };
    format!("before the guest's next boot, plan it with {}{wider}", options.join(" "))
}
