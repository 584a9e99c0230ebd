// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why there is no layout: what is in the way, what there was, and the least change that would do.
//!
//! Every reason is found by asking the planner again about a guest that differs in one thing, and every remedy is
//! tried before it is offered.

use super::Options;
use super::choose::possible;
use super::conflict::{Conflict, conflicting};
use super::demand::Demand;
use super::room::{Obstacle, Room};
use crate::address::{Address, Size};
use crate::guest::{
    FIXED_REGIONS, Guest, HOLE_GRANULARITY, IO_WINDOW, LARGEST_HOLE, RESERVED_TYPE, SMALLEST_HOLE, WIDEST,
};
use crate::layout::{Blocking, Code, Refusal};
use crate::pci::Bdf;

/// Why `plan` found no layout.
pub fn explain(guest: &Guest, options: &Options) -> Refusal {
    if let Some(refusal) = hole_is_in_the_way(guest, options) {
        return refusal;
    }
    // No hole at all would do, so the one that is demanded is not to blame, though it might be in the way of a remedy.
    let asked = options;
    let options = &Options { resize_hole: true, built_hole: None, ..options.clone() };
    let none = bare(guest);
    if !possible(&none, options) {
        let remedy = memory_remedy(guest, options);
        let remedy = match in_the_way(guest, asked) {
            Some(away) if memory_remedy(guest, asked) != remedy => format!("{away}, and then {remedy}"),
            _ => remedy,
        };
        return memory_is_in_the_way(&none, options, remedy);
    }
    let blocking = conflicting(guest, options);
    let (code, cause) = cause(guest, options);
    let free = if blocking.is_of_ports() { free_ports() } else { largest_free(guest, options) };
    let remedy = |options: &Options| remedy(guest, options, &blocking);
    Refusal {
        code,
        message: format!("{} {cause}; {free}{}", blocking.sentence(guest), blocking.proof()),
        remedy: match (in_the_way(guest, asked), remedy(options)) {
            (Some(away), remedy_without) if remedy(asked) != remedy_without => {
                format!("{remedy_without}, and {away}")
            }
            (_, remedy) => remedy,
        },
        blocking: blocking.blocking(),
    }
}

/// How to be rid of the hole that is demanded, if one is.
fn in_the_way(guest: &Guest, options: &Options) -> Option<&'static str> {
    options.fixed_hole(guest)?;
    Some(match options.built_hole {
        Some(_) => "create the guest anew with no mmio_hole",
        None => "no mmio_hole (or --resize-hole)",
    })
}

/// How many ports there are for BARs: what a hole does nothing about.
fn free_ports() -> String {
    let (start, end) = IO_WINDOW;
    let last = end.get().saturating_sub(1);
    format!("a guest has the {} ports from {start} to 0x{last:x} for BARs", end.distance_from(start))
}

/// Refuses a passed-through BAR that does not start a page on the host.
///
/// QEMU maps the page that XEN_PFN(address + page - 1) names (hw/xen/xen_pt.c, xen_pt_region_update): for such a BAR
/// the page after the one that holds it, which belongs to something else.
pub fn unaligned_on_host(guest: &Guest) -> Result<(), Box<Refusal>> {
    let bars = guest.devices.iter().flat_map(|device| device.bars.iter().map(move |bar| (device, bar)));
    let unaligned: Vec<_> = bars.filter(|(_, bar)| !bar.offset_into(guest.page_size).is_zero()).collect();
    let Some((device, bar)) = unaligned.first() else { return Ok(()) };
    let host = device.host.map_or_else(|| "the device".to_owned(), |host| host.to_string());
    let order = guest.page_size.get().trailing_zeros();
    Err(Box::new(Refusal {
        code: Code::Unsafe,
        message: format!(
            "{} BAR 0x{:02x} ({}) lies at {} on the host, {} into a page of {}: the device model maps whole pages and \
             would give the guest the next one",
            device.bdf,
            bar.reg,
            bar.size,
            bar.host_address.unwrap_or_default(),
            bar.offset_into(guest.page_size),
            guest.page_size,
        ),
        blocking: unaligned
            .iter()
            .map(|(device, bar)| Blocking { bdf: device.bdf, reg: bar.reg, size: bar.size })
            .collect(),
        remedy: format!(
            "boot the host's kernel with pci=resource_alignment={order}@{host}, so that each BAR of it starts a page"
        ),
    }))
}

/// The same guest without devices and reservations.
fn bare(guest: &Guest) -> Guest {
    Guest { devices: Vec::new(), reserve: crate::guest::Reserve::default(), ..guest.clone() }
}

/// A refusal where only the demanded hole prevents a layout.
fn hole_is_in_the_way(guest: &Guest, options: &Options) -> Option<Refusal> {
    let fixed = options.fixed_hole(guest)?;
    let freely = Options { resize_hole: true, built_hole: None, ..options.clone() };
    let other = super::choose::layout(guest, &freely)?.mmio_hole_size;
    let blocking = conflicting(guest, options);
    let expressible = fixed <= LARGEST_HOLE && Address::new(fixed.get()).is_aligned(HOLE_GRANULARITY);
    let (code, cause) = if !expressible {
        let range = format!("{SMALLEST_HOLE} to {LARGEST_HOLE}");
        (Code::DoesNotFit, format!("a layout's hole is a multiple of 2M from {range}"))
    } else if blocking.items.is_empty() && guest.reserve.is_empty() {
        (Code::ReservedMemory, "RAM below it would lie on reserved device memory".to_owned())
    } else {
        let (code, cause) = cause(guest, options);
        (code, format!("under it {} {cause}{}", blocking.sentence(guest), blocking.proof()))
    };
    let mib = other.get().checked_div(Size::MIB.get()).unwrap_or(0);
    Some(Refusal {
        code,
        message: format!("a hole of {fixed} is demanded; {cause}"),
        blocking: blocking.blocking(),
        remedy: if options.built_hole.is_some() {
            format!("create the guest with mmio_hole={mib}")
        } else {
            format!("mmio_hole={mib}, or no mmio_hole and --resize-hole")
        },
    })
}

/// A refusal where RAM itself has no place, whatever the devices.
fn memory_is_in_the_way(bare: &Guest, options: &Options, remedy: String) -> Refusal {
    let demand = Demand::of(bare, options);
    let (code, message) = match Room::new(bare, &demand, LARGEST_HOLE) {
        Err(Obstacle::RamOnReserved(rdm)) => (
            Code::ReservedMemory,
            format!("the guest's RAM lies on reserved device memory {rdm}, however large the hole"),
        ),
        Err(Obstacle::DeviceModelOnFixed(block)) => (
            Code::DoesNotFit,
            format!("the device model's memory {block} reaches the fixed regions at {FIXED_REGIONS}"),
        ),
        Err(Obstacle::NoTop(_) | Obstacle::Pinned(_) | Obstacle::NoMeaning) | Ok(_) => (
            Code::DoesNotFit,
            format!("no hole of {SMALLEST_HOLE} to {LARGEST_HOLE} can be had beside this guest's memory"),
        ),
    };
    Refusal { code, message, blocking: Vec::new(), remedy }
}

/// What would give the guest's memory a place, tried before it is offered.
fn memory_remedy(guest: &Guest, options: &Options) -> String {
    let mut remedies = Vec::new();
    let one_less = guest.reserved_device_memory().find(|rdm| {
        let mut without = guest.clone();
        without.memory_map.retain(|entry| entry.kind != RESERVED_TYPE || entry.addr != rdm.start());
        possible(&without, options)
    });
    if let Some(rdm) = one_less {
        remedies.push(format!(
            "leave out the device that {rdm} is reserved for, or give it rdm_policy=\"relaxed\": the guest's RAM may then \
             cover that memory"
        ));
    }
    if let Some(ram) = most_memory(guest, options) {
        remedies.push(format!(
            "give the guest no more than {} MiB of RAM, its video memory not counted",
            ram.get() >> 20
        ));
    }
    if remedies.is_empty() {
        return "no single change will do: fewer of the devices that have reserved memory, and another memory size"
            .to_owned();
    }
    remedies.join("; or ")
}

/// The most RAM, less than it has, with which the guest's memory has a place: whole MiB.
fn most_memory(guest: &Guest, options: &Options) -> Option<Size> {
    let ram = guest.ram()?;
    let fits = |ram: Size| possible(&with_memory(guest, ram), options);
    // What can be in the way are reserved ranges, below 4 GiB and above, and what follows RAM.
    let device_model =
        guest.device_model_memory.iter().fold(Size::MIB, |sum, size| sum.saturating_add(*size));
    let starts = guest.reserved_device_memory().map(|rdm| rdm.start());
    let ends = starts.chain([FIXED_REGIONS]).flat_map(|start| {
        let below = start.distance_from(Address::ZERO);
        let above = start.distance_from(Address::FOUR_GIB);
        let low = Address::FOUR_GIB.distance_from(Address::ZERO);
        [SMALLEST_HOLE, LARGEST_HOLE]
            .into_iter()
            .map(move |hole| low.saturating_sub(hole).saturating_add(above))
            .chain([below, below.saturating_sub(device_model)])
    });
    let whole = ends.map(|end| end.round_down(Size::MIB)).filter(|end| *end < ram && *end >= Size::MIB);
    whole.filter(|end| fits(*end)).max()
}

/// The guest with that much RAM.
fn with_memory(guest: &Guest, ram: Size) -> Guest {
    let low = ram.min(Address::FOUR_GIB.distance_from(Address::ZERO).saturating_sub(SMALLEST_HOLE));
    let high = ram.saturating_sub(low);
    let frames = |size: Size| size.get() >> 12;
    let mut guest = guest.clone();
    guest.low_mem_pgend = frames(low);
    guest.high_mem_pgend =
        if high.is_zero() { 0 } else { Address::FOUR_GIB.saturating_add(high).get() >> 12 };
    guest
}

/// What kind of no it is, and the rest of the sentence.
fn cause(guest: &Guest, options: &Options) -> (Code, String) {
    if possible(&without_reserved(guest), options) {
        return (Code::ReservedMemory, "would fit but for reserved device memory".to_owned());
    }
    if guest.usable_phys_bits() < WIDEST && possible(&widened(guest, WIDEST), options) {
        let bits = guest.usable_phys_bits();
        return (Code::Width, format!("cannot be placed below 4G, nor above it within {bits} bits"));
    }
    (Code::DoesNotFit, "cannot be placed".to_owned())
}

fn without_reserved(guest: &Guest) -> Guest {
    let mut guest = guest.clone();
    guest.memory_map.retain(|entry| entry.kind != RESERVED_TYPE);
    guest
}

fn widened(guest: &Guest, bits: u8) -> Guest {
    Guest { phys_bits: bits, cpuid_max_ext: None, ..guest.clone() }
}

/// What the largest hole would leave: the figure that shows how far off it is.
fn largest_free(guest: &Guest, options: &Options) -> String {
    let none = bare(guest);
    let demand = Demand::of(&none, options);
    let holes = super::choose::holes(&none, options, &demand);
    let room = holes.rev().find_map(|index| {
        Room::new(&none, &demand, HOLE_GRANULARITY.checked_mul(index).unwrap_or(LARGEST_HOLE)).ok()
    });
    match room {
        None => "no hole can be had at all".to_owned(),
        Some(room) => {
            format!(
                "the largest hole, {}, has {} free below 4G (largest aligned block {}), and above 4G {} are free \
                 (largest aligned block {})",
                room.hole,
                room.low.bytes().rough(),
                room.low.largest_block(),
                room.high.bytes().rough(),
                room.high.largest_block(),
            )
        }
    }
}

/// The least change that makes it fit, tried before it is offered.
fn remedy(guest: &Guest, options: &Options, blocking: &Conflict) -> String {
    if !guest.reserve.is_empty() {
        let without = Guest { reserve: crate::guest::Reserve::default(), ..guest.clone() };
        if possible(&without, options) {
            return match largest_reserve(guest, options) {
                Some((low, high)) => {
                    format!("ask for no more hot-plug space than {low} below 4G and {high} above")
                }
                None => "ask for no hot-plug space".to_owned(),
            };
        }
    }
    if options.high_above.is_some() && possible(guest, &Options { high_above: None, ..options.clone() }) {
        return "let 64-bit BARs stay below 4G where they fit: no --high-above and no --all-high".to_owned();
    }
    let wider = (guest.usable_phys_bits().saturating_add(1)..=WIDEST)
        .find(|bits| possible(&widened(guest, *bits), options));
    if let Some(bits) = wider {
        return format!("give the guest {bits} physical address bits");
    }
    let left_out = fewest_left_out(guest, options, blocking);
    match left_out.as_slice() {
        [] if !guest.reserve.is_empty() => {
            let without = Guest { reserve: crate::guest::Reserve::default(), ..guest.clone() };
            let blocking = conflicting(&without, options);
            format!("ask for no hot-plug space, and {}", remedy(&without, options, &blocking))
        }
        [] => "fewer of these devices".to_owned(),
        [one] => format!("leave out {one}"),
        [all @ .., last] => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            format!("leave out {} and {last}", all.join(", "))
        }
    }
}

/// Functions without which the rest fits: one if one will do, else as they come, those that could come back taken out
/// again. Empty where not even that would do.
fn fewest_left_out(guest: &Guest, options: &Options, blocking: &Conflict) -> Vec<Bdf> {
    let without = |left_out: &[Bdf]| {
        let mut guest = guest.clone();
        guest.devices.retain(|device| {
            !left_out.contains(&device.bdf) && !device.bridge.is_some_and(|above| left_out.contains(&above))
        });
        guest
    };
    let fits = |left_out: &[Bdf]| possible(&without(left_out), options);
    let mut functions: Vec<Bdf> = blocking.items.iter().map(|item| item.bdf).rev().collect();
    functions.dedup();
    if let Some(one) = functions.iter().find(|bdf| fits(&[**bdf])) {
        return vec![*one];
    }
    let mut left_out = Vec::new();
    for _ in 0..guest.devices.len() {
        let reduced = without(&left_out);
        if possible(&reduced, options) {
            break;
        }
        // One of each conflict that is left.
        let next = conflicting(&reduced, options).items.last().map(|item| item.bdf);
        match next {
            Some(bdf) => left_out.push(bdf),
            None => return Vec::new(),
        }
    }
    for index in (0..left_out.len()).rev() {
        let mut fewer = left_out.clone();
        fewer.remove(index);
        if fits(&fewer) {
            left_out = fewer;
        }
    }
    left_out
}

/// The largest powers of two that can be reserved, below and above, up to what was asked for.
fn largest_reserve(guest: &Guest, options: &Options) -> Option<(Size, Size)> {
    let smaller = |size: Size| {
        std::iter::successors(Some(size), |size| Some(Size::new(size.previous_power_of_two().get() >> 1)))
            .take_while(|size| *size >= Size::MIB)
            .chain([Size::ZERO])
    };
    let with = |low, high| {
        let reserve = crate::guest::Reserve { low, high };
        possible(&Guest { reserve, ..guest.clone() }, options)
    };
    let high = smaller(guest.reserve.high).find(|high| with(Size::ZERO, *high))?;
    let low = smaller(guest.reserve.low).find(|low| with(*low, high))?;
    Some((low, high))
}
