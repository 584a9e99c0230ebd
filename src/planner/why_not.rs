// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why there is no layout: what is in the way, what there was, and the least change that would do.
//!
//! Every reason is found by asking the planner again about a guest that differs in one thing, and every remedy is
//! tried before it is offered.

use super::Options;
use super::choose::possible;
use super::demand::Demand;
use super::room::{Obstacle, Room};
use crate::address::{Address, Range, Size};
use crate::guest::{Guest, HOLE_GRANULARITY, LARGEST_HOLE, RESERVED_TYPE, SMALLEST_HOLE};
use crate::layout::{Blocking, Code, Refusal};
use crate::pci::{Bar, Bdf};

/// The widest guest there is, bits.
const WIDEST: u8 = 52;
/// From how many BARs on the conflicting set is not thinned out one by one.
const THIN_OUT: usize = 64;

/// Why `plan` found no layout.
pub fn explain(guest: &Guest, options: &Options) -> Refusal {
    if let Some(refusal) = hole_is_in_the_way(guest, options) {
        return refusal;
    }
    // No hole at all would do, so the one that is demanded is not to blame.
    let options = &Options { resize_hole: true, built_hole: None, ..options.clone() };
    let none = bare(guest);
    if !possible(&none, options) {
        return memory_is_in_the_way(&none, options);
    }
    let blocking = conflicting(guest, options);
    let (code, cause) = cause(guest, options);
    let free = largest_free(guest, options);
    Refusal {
        code,
        message: format!("{} {cause}; {free}", sentence(&blocking, guest)),
        remedy: remedy(guest, options, &blocking),
        blocking: blocking
            .iter()
            .map(|(bdf, bar)| Blocking { bdf: *bdf, reg: bar.reg, size: bar.size })
            .collect(),
    }
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
    } else if blocking.is_empty() && guest.reserve.is_empty() {
        (Code::ReservedMemory, "RAM below it would lie on reserved device memory".to_owned())
    } else {
        let (code, cause) = cause(guest, options);
        (code, format!("under it {} {cause}", sentence(&blocking, guest)))
    };
    let mib = other.get().checked_div(Size::MIB.get()).unwrap_or(0);
    Some(Refusal {
        code,
        message: format!("a hole of {fixed} is demanded; {cause}"),
        blocking: blocking
            .iter()
            .map(|(bdf, bar)| Blocking { bdf: *bdf, reg: bar.reg, size: bar.size })
            .collect(),
        remedy: if options.built_hole.is_some() {
            format!("create the guest with mmio_hole={mib}")
        } else {
            format!("mmio_hole={mib}, or no mmio_hole and --resize-hole")
        },
    })
}

/// A refusal where RAM itself has no place, whatever the devices.
fn memory_is_in_the_way(guest: &Guest, options: &Options) -> Refusal {
    let demand = Demand::of(guest, options);
    let hole = options.fixed_hole(guest).unwrap_or(LARGEST_HOLE);
    let (code, message, remedy) = match Room::new(guest, &demand, hole) {
        Err(Obstacle::RamOnReserved(rdm)) => (
            Code::ReservedMemory,
            format!("the guest's RAM lies on reserved device memory {rdm}, however large the hole"),
            "leave out the device that the reserved memory belongs to, use rdm_policy=\"relaxed\" for it, or give the \
             guest less memory"
                .to_owned(),
        ),
        Err(Obstacle::DeviceModelOnFixed(block)) => (
            Code::DoesNotFit,
            format!("the device model's memory {block} reaches the fixed regions at 0xfc000000"),
            "less video memory, or a larger hole so that RAM continues above 4G".to_owned(),
        ),
        Err(Obstacle::NoTop(_) | Obstacle::Pinned(_) | Obstacle::NoMeaning) | Ok(_) => (
            Code::DoesNotFit,
            format!("no hole of {SMALLEST_HOLE} to {LARGEST_HOLE} can be had beside this guest's memory"),
            "another memory size".to_owned(),
        ),
    };
    Refusal { code, message, blocking: Vec::new(), remedy }
}

/// The guest with only these BARs.
fn with_bars(guest: &Guest, kept: &[(Bdf, Bar)]) -> Guest {
    let mut guest = guest.clone();
    for device in &mut guest.devices {
        let bdf = device.bdf;
        device.bars.retain(|bar| kept.iter().any(|(other, same)| *other == bdf && same.reg == bar.reg));
    }
    guest
}

/// BARs that cannot all be placed, and that could if any one of them were not there; empty where none is to blame.
fn conflicting(guest: &Guest, options: &Options) -> Vec<(Bdf, Bar)> {
    let mut bars: Vec<(Bdf, Bar)> = guest
        .devices
        .iter()
        .flat_map(|device| device.bars.iter().map(|bar| (device.bdf, bar.clone())))
        .collect();
    bars.sort_by(|a, b| b.1.size.cmp(&a.1.size).then(a.0.cmp(&b.0)).then(a.1.reg.cmp(&b.1.reg)));
    let fits = |kept: &[(Bdf, Bar)]| possible(&with_bars(guest, kept), options);
    if !fits(&[]) {
        return Vec::new();
    }
    // The shortest run of the largest that does not fit; what comes after it is not to blame.
    let (mut fitting, mut failing) = (0, bars.len());
    while failing.saturating_sub(fitting) > 1 {
        let middle = fitting.midpoint(failing);
        if fits(bars.get(..middle).unwrap_or_default()) { fitting = middle } else { failing = middle }
    }
    bars.truncate(failing);
    if bars.len() <= THIN_OUT {
        let mut at = 0;
        while at < bars.len() {
            let mut without = bars.clone();
            without.remove(at);
            if fits(&without) { at = at.saturating_add(1) } else { bars = without }
        }
    }
    bars
}

/// Who does not fit, as the start of a sentence.
fn sentence(blocking: &[(Bdf, Bar)], guest: &Guest) -> String {
    let name = |(bdf, bar): &(Bdf, Bar)| format!("{bdf} BAR 0x{:02x} ({}, {})", bar.reg, bar.size, bar.kind);
    match blocking {
        [] => format!(
            "the hot-plug space asked for ({} below 4G, {} above)",
            guest.reserve.low, guest.reserve.high
        ),
        [one] => name(one),
        [first, .., last] if blocking.len() > 6 => {
            format!("{} BARs from {} to {} together", blocking.len(), name(first), name(last))
        }
        [all @ .., last] => {
            format!("{} and {} together", all.iter().map(name).collect::<Vec<_>>().join(", "), name(last))
        }
    }
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
            let free = |ranges: &[Range]| {
                Size::new(ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.size().get())))
            };
            format!(
                "the largest hole, {}, has {} free below 4G (largest aligned block {}), and above 4G {} are free \
                 (largest aligned block {})",
                room.hole,
                free(room.low.ranges()).rough(),
                room.low.largest_block(),
                free(room.high.ranges()).rough(),
                room.high.largest_block(),
            )
        }
    }
}

/// The least change that makes it fit, tried before it is offered.
fn remedy(guest: &Guest, options: &Options, blocking: &[(Bdf, Bar)]) -> String {
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
    let wider = (guest.usable_phys_bits().saturating_add(1)..=WIDEST)
        .find(|bits| possible(&widened(guest, *bits), options));
    if let Some(bits) = wider {
        return format!("a guest with {bits} physical address bits");
    }
    let mut functions: Vec<Bdf> = blocking.iter().map(|(bdf, _)| *bdf).collect();
    functions.dedup();
    let least = functions.iter().rev().find(|bdf| {
        let mut without = guest.clone();
        without.devices.retain(|device| device.bdf != **bdf);
        possible(&without, options)
    });
    match least {
        Some(bdf) => format!("leave out {bdf}"),
        None => "leave out more than one of these devices".to_owned(),
    }
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
