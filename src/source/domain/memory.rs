// SPDX-License-Identifier: LGPL-2.1-or-later
//! RAM as libxl lays it out (libxl__build_hvm, libxl__domain_device_construct_rdm, domain_construct_memmap).

use super::{DomainError, Surroundings, is_for};
use crate::address::{Address, Range, Size};
use crate::guest::{
    DEFAULT_HOLE, Guest, LARGEST_HOLE, MemoryMapEntry, MemoryRange, RESERVED_TYPE, SMALLEST_HOLE,
};
use crate::layout::Warning;
use crate::source::domain_config::{DomainConfig, HostDeviceName, RdmPolicy, RdmStrategy, Vga};

/// E820's type of RAM.
const RAM_TYPE: u32 = 1;
/// What libxl gives a guest that asks for nothing.
const DEFAULT_MEMORY: Size = Size::new(32 << 20);
/// Above this RAM gives way to reserved device memory.
const DEFAULT_RDM_BOUNDARY: Size = Size::new(2 << 30);
/// Where the memory map's first entry starts: below are the BIOS and the video window.
const LOW_MEMORY_START: Address = Address::new(1 << 20);
/// With hardware-assisted paging RAM ends at a superpage.
const SUPERPAGE: Size = Size::new(2 << 20);

/// A reserved range and what happens where it meets RAM.
pub(super) struct Reserved {
    range: Range,
    policy: RdmPolicy,
}

/// The video RAM, which is taken from the guest's RAM: what is asked for, or libxl's default for the card.
pub(super) fn video_memory(config: &DomainConfig) -> Result<Size, DomainError> {
    let (card, least) = match config.vga {
        Vga::Default | Vga::Cirrus => ("Cirrus", 8),
        Vga::Std => ("standard VGA", 16),
        Vga::Qxl => ("QXL", 128),
        Vga::None => ("absent card", 0),
    };
    let least = Size::mib(least).unwrap_or_default();
    match config.video_memory {
        Some(size) if size < least => Err(DomainError::Memory(format!(
            "videoram: a {card} has at least {least}, not {size}: libxl refuses it"
        ))),
        Some(size) => Ok(size),
        None => Ok(least),
    }
}

/// The reserved device memory that the guest is to be shown, each range once.
pub(super) fn reserved(
    config: &DomainConfig,
    surroundings: &Surroundings,
    warnings: &mut Vec<Warning>,
) -> Vec<Reserved> {
    if !config.rdm_found.is_empty() {
        return config.rdm_found.iter().map(|&(range, policy)| Reserved { range, policy }).collect();
    }
    let known = surroundings.host.as_ref().map(|host| host.reserved_memory()).unwrap_or_default();
    let general = config.rdm_policy.unwrap_or(RdmPolicy::Relaxed);
    let mut all: Vec<Reserved> = Vec::new();
    let mut add =
        |range: Range, policy| match all.iter_mut().find(|other| other.range.start() == range.start()) {
            Some(other) => other.policy = policy,
            None => all.push(Reserved { range, policy }),
        };
    if config.rdm_strategy == RdmStrategy::Host {
        known.iter().for_each(|entry| add(entry.range, general));
    }
    let mut strict = false;
    for device in &config.pci {
        let policy = device.rdm_policy.unwrap_or(RdmPolicy::Strict);
        strict |= policy == RdmPolicy::Strict;
        if let HostDeviceName::Address(sbdf) = &device.device {
            known.iter().filter(|entry| is_for(entry, *sbdf)).for_each(|entry| add(entry.range, policy));
        }
    }
    let policy = if strict { RdmPolicy::Strict } else { general };
    surroundings.rdm.iter().for_each(|range| add(*range, policy));
    let nameless = known.iter().filter(|entry| entry.devices.is_empty()).count();
    if nameless > 0 && !config.pci.is_empty() && config.rdm_strategy == RdmStrategy::Ignore {
        let message = format!(
            "the host reserves {nameless} ranges of memory for devices that its tables name only through bridges: if one \
             of the guest's is among them, give its range with --rdm"
        );
        warnings.push(Warning::new("reserved-memory-unknown", message));
    }
    all
}

/// The guest's RAM and memory map.
pub(super) fn layout(
    config: &DomainConfig,
    video_memory: Size,
    mut reserved: Vec<Reserved>,
    phys_bits: u8,
    warnings: &mut Vec<Warning>,
) -> Result<Guest, DomainError> {
    let wrong = |problem: String| Err(DomainError::Memory(problem));
    let maxmem = config.maxmem.or(config.memory).unwrap_or_else(|| {
        warnings.push(Warning::new("no-memory", "neither memory= nor maxmem=: libxl gives such a guest 32M"));
        DEFAULT_MEMORY
    });
    let ram = maxmem.saturating_sub(video_memory);
    let hole = config.mmio_hole.unwrap_or(DEFAULT_HOLE);
    if !(SMALLEST_HOLE..=LARGEST_HOLE).contains(&hole) {
        return wrong(format!("mmio_hole: {hole}: xl takes 256 to 3840 MiB"));
    }
    if ram.get() <= LOW_MEMORY_START.get() || ram.get() >= 1 << 52 {
        return wrong(format!("memory: {maxmem} with {video_memory} of it for video is no RAM for a guest"));
    }
    if ram.round_up(Size::MIB) != Some(ram) {
        let message = format!(
            "{ram} of RAM are no whole number of MiB: QEMU is told the next one, and puts its own memory there"
        );
        warnings.push(Warning::new("ram-not-mib", message));
    }
    let border = Address::FOUR_GIB.checked_sub(hole).unwrap_or(Address::ZERO);
    let mut low_end = Address::ZERO.saturating_add(ram).min(border);
    let qemus_end = low_end;
    let boundary = config.rdm_boundary.unwrap_or(DEFAULT_RDM_BOUNDARY);
    for entry in &reserved {
        let start = entry.range.start();
        if overlaps(Address::ZERO, low_end, entry.range) && start.get() > boundary.get() {
            low_end = if config.hap == Some(false) { start } else { start.align_down(SUPERPAGE) };
        }
    }
    let high = ram.saturating_sub(low_end.distance_from(Address::ZERO));
    let high_end = Address::FOUR_GIB.saturating_add(high);
    if low_end < qemus_end {
        let needed = Address::FOUR_GIB.distance_from(low_end).get().div_ceil(1 << 20);
        let message = format!(
            "reserved device memory makes libxl end low RAM at {low_end}, and QEMU, which is not told, ends it at \
             {qemus_end}: mmio_hole={needed} makes both agree"
        );
        warnings.push(Warning::new("ram-border-disagrees", message));
    }
    let mut relaxed = Vec::new();
    reserved.retain(|entry| {
        let range = entry.range;
        let conflict = overlaps(Address::ZERO, low_end, range)
            || (!high.is_zero() && overlaps(Address::FOUR_GIB, high_end, range));
        let kept = !conflict || entry.policy == RdmPolicy::Strict;
        if conflict {
            let outcome = if kept {
                "libxl refuses that under the policy strict, unless the hole covers it"
            } else {
                "under the policy relaxed libxl does not tell the guest of it"
            };
            let message = format!("reserved device memory {range} meets the guest's RAM: {outcome}");
            warnings.push(Warning::new("reserved-memory-conflict", message));
        }
        if !kept {
            relaxed.push(MemoryRange { addr: range.start(), size: range.size() });
        }
        kept
    });
    let frames = |address: Address| address.align_down(Size::FRAME).get() >> 12;
    let high_frames = if high.is_zero() { 0 } else { frames(high_end) };
    let mut guest = Guest::new(frames(low_end), high_frames, phys_bits);
    // Under another hole RAM may not cover it, and libxl would tell the guest: no BAR lies there in any case.
    guest.relaxed_memory = relaxed;
    let low_size = low_end.distance_from(LOW_MEMORY_START);
    guest.memory_map.push(MemoryMapEntry { addr: LOW_MEMORY_START, size: low_size, kind: RAM_TYPE });
    for entry in &reserved {
        let (addr, size) = (entry.range.start(), entry.range.size());
        guest.memory_map.push(MemoryMapEntry { addr, size, kind: RESERVED_TYPE });
    }
    if !high.is_zero() {
        guest.memory_map.push(MemoryMapEntry { addr: Address::FOUR_GIB, size: high, kind: RAM_TYPE });
    }
    Ok(guest)
}

fn overlaps(start: Address, end: Address, range: Range) -> bool {
    Range::new(start, end).is_some_and(|ram| ram.overlaps(range))
}
