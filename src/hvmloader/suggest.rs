// SPDX-License-Identifier: LGPL-2.1-or-later
//! The smallest `mmio_hole=` under which a stock loader places everything, and safely; or why none does, and what
//! would.
//!
//! There is no shortcut: a larger hole is not always a better one (a BAR's place depends on the hole's exact start), so
//! every hole that xl takes is tried, with RAM as libxl lays it out for that hole, until one is found.

use serde::Serialize;

use super::hazards::hazards;
use super::loader::RAM_TYPE;
use super::{Release, predict};
use crate::address::{Address, Size};
use crate::guest::{Guest, LARGEST_HOLE, MMIO_HOLE_SIZE, MemoryMapEntry, SMALLEST_HOLE};
use crate::layout::Warning;
use crate::pci::{BarKind, Device};

/// libxl moves RAM's border below reserved device memory only from here on (`rdm_mem_boundary`'s default).
const RDM_BOUNDARY: Address = Address::new(2 << 30);
/// How many ways out are looked for among the devices: each costs a whole search.
const MOST_DEVICES: usize = 12;

/// What to write into a guest's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// The smallest `mmio_hole=` that works, MiB; `None` where none does.
    pub mmio_hole: Option<u64>,
    /// The hole that comes closest where none works, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closest: Option<u64>,
    /// What is wrong even with the closest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Warning>,
    /// What would make it work; each has been tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<String>,
}

/// Finds the smallest hole for a guest under a release's loader.
pub fn suggest(guest: &Guest, release: Release) -> Suggestion {
    match search(guest, release) {
        Search::Found(mib) => {
            Suggestion { mmio_hole: Some(mib), closest: None, problems: Vec::new(), remedies: Vec::new() }
        }
        Search::NotFound { closest, problems } => {
            let remedies = remedies(guest, release, &problems);
            Suggestion { mmio_hole: None, closest, problems, remedies }
        }
    }
}

/// The guest as libxl would build it with a hole of that size: RAM, memory map, and the key. `None` where RAM cannot
/// be laid out so.
pub fn with_hole(guest: &Guest, hole: Size) -> Option<Guest> {
    let ram = guest.ram_layout(hole)?;
    let mut low_end = ram.low_end;
    for memory in guest.reserved_device_memory() {
        if memory.start() < low_end && memory.start() > RDM_BOUNDARY {
            low_end = memory.start();
        }
    }
    let high_end = ram.high_end.checked_add(ram.low_end.distance_from(low_end))?;
    let frame = |address: Address| address.get() >> 12;
    let mut guest = guest.clone();
    guest.low_mem_pgend = frame(low_end);
    guest.high_mem_pgend = if high_end > Address::FOUR_GIB { frame(high_end) } else { 0 };
    guest.xenstore.insert(MMIO_HOLE_SIZE.to_owned(), hole.get().to_string());
    if !guest.memory_map.is_empty() {
        guest.memory_map.retain(|entry| entry.kind != RAM_TYPE);
        let low_start = Address::new(Size::MIB.get());
        let ram = |addr, end: Address| MemoryMapEntry { addr, size: end.distance_from(addr), kind: RAM_TYPE };
        guest.memory_map.insert(0, ram(low_start, low_end));
        if high_end > Address::FOUR_GIB {
            guest.memory_map.push(ram(Address::FOUR_GIB, high_end));
        }
    }
    Some(guest)
}

/// Every hole that xl takes, MiB.
fn holes() -> std::ops::RangeInclusive<u64> {
    (SMALLEST_HOLE.get() >> 20)..=(LARGEST_HOLE.get() >> 20)
}

enum Search {
    Found(u64),
    NotFound { closest: Option<u64>, problems: Vec<Warning> },
}

fn search(guest: &Guest, release: Release) -> Search {
    let mut closest: Option<(usize, u64, Vec<Warning>)> = None;
    for mib in holes() {
        let Some(problems) = problems_with(guest, release, mib) else { continue };
        if problems.is_empty() {
            return Search::Found(mib);
        }
        // What stops a loader is found before the hole is looked at: no other hole does better.
        if problems.iter().any(|problem| problem.code == "crash") {
            return Search::NotFound { closest: Some(mib), problems };
        }
        if closest.as_ref().is_none_or(|(fewest, ..)| problems.len() < *fewest) {
            closest = Some((problems.len(), mib, problems));
        }
    }
    match closest {
        Some((_, mib, problems)) => Search::NotFound { closest: Some(mib), problems },
        None => Search::NotFound { closest: None, problems: Vec::new() },
    }
}

/// What keeps a guest from being started with that hole.
fn problems_with(guest: &Guest, release: Release, mib: u64) -> Option<Vec<Warning>> {
    let candidate = with_hole(guest, Size::mib(mib)?)?;
    let prediction = predict(&candidate, release).ok()?;
    let all = hazards(&candidate, &prediction);
    Some(all.into_iter().filter(|hazard| hazard.unsafe_to_start).map(|hazard| hazard.warning).collect())
}

fn found(guest: &Guest, release: Release) -> Option<u64> {
    match search(guest, release) {
        Search::Found(mib) => Some(mib),
        Search::NotFound { .. } => None,
    }
}

/// What would make a guest work for which no hole does: another release, a wider guest, one device fewer.
fn remedies(guest: &Guest, release: Release, problems: &[Warning]) -> Vec<String> {
    let mut remedies = Vec::new();
    for other in other_algorithms(release) {
        if let Some(mib) = found(guest, other) {
            remedies.push(format!("Xen {other} with mmio_hole={mib}"));
        }
    }
    if lacks_width(guest, problems) {
        let wider = |bits| Guest { phys_bits: bits, cpuid_max_ext: None, ..guest.clone() };
        let widths = (guest.loader_phys_bits().saturating_add(1))..=52;
        if found(&wider(52), release).is_some()
            && let Some((bits, mib)) =
                widths.into_iter().find_map(|bits| Some((bits, found(&wider(bits), release)?)))
        {
            remedies.push(format!("{bits}-bit physical addresses in the guest with mmio_hole={mib}"));
        }
    }
    let with_bars = guest.devices.iter().filter(|device| device.bars.iter().any(|bar| bar.kind.is_memory()));
    // Those that are in the way first.
    let mut devices: Vec<_> = with_bars.collect();
    let blocks = |device: &Device| problems.iter().any(|problem| problem.bdf == Some(device.bdf));
    devices.sort_unstable_by_key(|device| (!blocks(device), device.bdf));
    for device in devices.into_iter().take(MOST_DEVICES) {
        let mut fewer = guest.clone();
        fewer.devices.retain(|other| other.bdf != device.bdf);
        if let Some(mib) = found(&fewer, release) {
            remedies.push(format!("{} with mmio_hole={mib}", without(device)));
        }
    }
    remedies
}

/// The newest release of each algorithm that places BARs in another way.
fn other_algorithms(release: Release) -> Vec<Release> {
    let places = |release: Release| {
        let algorithm = release.algorithm();
        (algorithm.always_high_above, algorithm.reads_platform_bar_key)
    };
    let mut others: Vec<Release> = Vec::new();
    for other in Release::one_of_each_algorithm() {
        if places(other) != places(release) && others.iter().all(|seen| places(*seen) != places(other)) {
            others.push(other);
        }
    }
    others
}

/// Whether a 64-bit BAR has no place, which a wider guest may have.
fn lacks_width(guest: &Guest, problems: &[Warning]) -> bool {
    problems.iter().filter(|problem| problem.code == "no-space").any(|problem| {
        let device = guest.devices.iter().find(|device| Some(device.bdf) == problem.bdf);
        device.is_some_and(|device| device.bars.iter().any(|bar| bar.kind == BarKind::Mem64))
    })
}

/// How a guest is built without a device.
fn without(device: &Device) -> String {
    let bdf = device.bdf;
    match device.host {
        Some(host) => format!("without the host's {host} ({bdf} in the guest)"),
        None if device.is_xen_platform() => format!("xen_platform_pci=0 (it is {bdf})"),
        None if matches!((device.vendor, device.device), (0x1234, 0x1111) | (0x1013, 0x00b8)) => {
            format!("vga=\"none\" (it is {bdf})")
        }
        None => format!("without {bdf} ({:04x}:{:04x})", device.vendor, device.device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(low_mem_pgend: u64, high_mem_pgend: u64, devices: &str) -> Guest {
        let text = format!(
            r#"{{"phys_bits": 39, "low_mem_pgend": {low_mem_pgend}, "high_mem_pgend": {high_mem_pgend},
                "xenstore": {{"hvmloader/allow-memory-relocate": "0"}}, "devices": [
                {{"bdf": "00:02.0", "vendor": 22611, "device": 1, "class": 65408,
                  "bars": [{{"reg": 20, "kind": "mem32", "size": 16777216}}]}}{devices}]}}"#
        );
        crate::source::description::parse(&text).unwrap()
    }

    fn device(slot: u8, bars: &str) -> String {
        format!(
            r#", {{"bdf": "00:{slot:02x}.0", "vendor": 4318, "device": 7864, "class": 770, "bars": [{bars}]}}"#
        )
    }

    fn release() -> Release {
        "4.17.7".parse().unwrap()
    }

    #[test]
    fn a_gpu_in_a_6g_guest_needs_a_1g_hole() {
        let bars = r#"{"reg": 16, "kind": "mem64", "size": 1073741824}, {"reg": 24, "kind": "mem32", "size": 134217728},
            {"reg": 28, "kind": "mem32", "size": 67108864}"#;
        let guest = guest(0xf0000, 0x190_000, &device(4, bars));
        let prediction = predict(&guest, release()).unwrap();
        assert!(!prediction.is_complete(), "the default hole is too small");
        let suggestion = suggest(&guest, release());
        let mib = suggestion.mmio_hole.unwrap();
        assert_eq!(problems_with(&guest, release(), mib), Some(Vec::new()));
        let smaller = problems_with(&guest, release(), mib - 1).unwrap();
        assert!(!smaller.is_empty(), "{mib} MiB is the smallest");
    }

    #[test]
    fn where_no_hole_helps_the_device_that_is_in_the_way_is_named() {
        // A 32-bit BAR of 2 GiB never fits: the hole ends at 0xfc000000.
        let guest = guest(0x80000, 0, &device(4, r#"{"reg": 16, "kind": "mem32", "size": 2147483648}"#));
        let suggestion = suggest(&guest, release());
        assert_eq!(suggestion.mmio_hole, None);
        assert!(suggestion.problems.iter().any(|problem| problem.code == "no-space"), "{suggestion:?}");
        assert_eq!(suggestion.remedies, ["without 00:04.0 (10de:1eb8) with mmio_hole=256"]);
    }

    #[test]
    fn where_the_loader_stops_the_device_that_stops_it_is_named() {
        let switch = device(4, r#"{"reg": 16, "kind": "mem32", "size": 33554432}"#).replace("770", "1664");
        let suggestion = suggest(&guest(0x80000, 0, &switch), release());
        assert_eq!((suggestion.mmio_hole, suggestion.closest), (None, Some(256)));
        assert_eq!(suggestion.problems[0].code, "crash");
        assert_eq!(suggestion.remedies, ["without 00:04.0 (10de:1eb8) with mmio_hole=256"]);
    }

    #[test]
    fn where_addresses_are_too_short_the_width_is_named() {
        let bars = r#"{"reg": 16, "kind": "mem64", "size": 137438953472}"#;
        let gpus: String = (4..8).map(|slot| device(slot, bars)).collect();
        let suggestion = suggest(&guest(0x80000, 0, &gpus), release());
        assert_eq!(suggestion.mmio_hole, None);
        assert_eq!(suggestion.remedies[0], "40-bit physical addresses in the guest with mmio_hole=256");
    }

    #[test]
    fn ram_is_laid_out_as_libxl_would_for_the_hole() {
        let mut before = guest(0xf0000, 0x110_000, "");
        before.memory_map = crate::source::description::parse(
            r#"{"phys_bits": 39, "low_mem_pgend": 1, "devices": [], "memory_map": [
                {"addr": 1048576, "size": 4025483264, "type": 1}, {"addr": 3222274048, "size": 4096, "type": 2},
                {"addr": 4294967296, "size": 268435456, "type": 1}]}"#,
        )
        .unwrap()
        .memory_map;
        let after = with_hole(&before, Size::mib(512).unwrap()).unwrap();
        // The reserved region at 0xc0100000 cuts RAM short of the 512 MiB hole.
        assert_eq!((after.low_mem_pgend, after.high_mem_pgend), (0xc0100, 0x13f_f00));
        assert_eq!(after.ram(), before.ram());
        let kinds: Vec<_> = after.memory_map.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [1, 2, 1]);
    }
}
