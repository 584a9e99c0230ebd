// SPDX-License-Identifier: LGPL-2.1-or-later
//! The room that one size of the hole gives: where RAM ends, and what is free below and above 4 GiB.

use super::demand::{Demand, Zone};
use super::free_space::FreeSpace;
use super::size_classes::SizeClasses;
use crate::address::{Address, Range, Size};
use crate::guest::{FIXED_REGIONS, Guest, RamLayout};
use crate::pci::Bdf;

/// The free space under one hole.
#[derive(Clone, Debug)]
pub struct Room {
    /// The hole.
    pub hole: Size,
    /// Where RAM and device-model memory lie.
    pub ram: RamLayout,
    /// The low window at its widest.
    pub low_window: Range,
    /// What is free in it.
    pub low: FreeSpace,
    /// What is free above 4 GiB.
    pub high: FreeSpace,
    /// The platform device's BARs that lie above the low window, by index into the demand.
    pub top: Vec<(usize, Address)>,
    /// Device-model memory that lies on reserved device memory.
    pub device_model_on_reserved: Option<(Range, Range)>,
}

/// Why a hole cannot be had at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// RAM would lie on reserved device memory.
    RamOnReserved(Range),
    /// RAM and what follows it run past the highest address there is.
    NoMeaning,
    /// The device model's memory would reach the fixed regions below 4 GiB.
    DeviceModelOnFixed(Range),
    /// A block of an earlier layout cannot stay where it was.
    Pinned(Bdf),
    /// The platform device's BAR has no place right below the fixed regions.
    NoTop(Bdf),
}

/// More room than any hole gives: what is free below 4 GiB under the largest, and above it under the smallest.
///
/// Where not even this is enough, no hole needs to be tried.
pub fn most_room(guest: &Guest, demand: &Demand, smallest: Size, largest: Size) -> Option<Room> {
    let (_, low_end) = place_top(guest, demand).ok()?;
    let ram = guest.ram_layout(smallest)?;
    let low_window = Range::new(Address::FOUR_GIB.checked_sub(largest)?.min(low_end), low_end)?;
    let low = FreeSpace::new(Some(low_window), guest.reserved_device_memory());
    let barred = guest.reserved_device_memory().chain(guest.hypertransport_hole());
    let high = FreeSpace::new(Range::new(ram.high_end, guest.address_limit()), barred);
    Some(Room { hole: largest, ram, low_window, low, high, top: Vec::new(), device_model_on_reserved: None })
}

impl Room {
    /// The room under `hole`.
    pub fn new(guest: &Guest, demand: &Demand, hole: Size) -> Result<Self, Obstacle> {
        let limit = guest.address_limit();
        let ram = guest.ram_layout(hole).ok_or(Obstacle::NoMeaning)?;
        let only_low = ram.high_end == Address::FOUR_GIB;
        let low_ram = Range::new(Address::ZERO, ram.low_end);
        let high_ram = Range::new(Address::FOUR_GIB, ram.high_end);
        for part in [low_ram, high_ram].into_iter().flatten() {
            if let Some(rdm) = guest.reserved_device_memory().find(|rdm| rdm.overlaps(part)) {
                return Err(Obstacle::RamOnReserved(rdm));
            }
        }
        let end = ram.populated_end();
        let device_model_on_reserved = ram.device_model.iter().find_map(|block| {
            guest.reserved_device_memory().find(|rdm| rdm.overlaps(*block)).map(|rdm| (*block, rdm))
        });
        if let Some(block) = ram.device_model.last()
            && only_low
            && block.end() > FIXED_REGIONS
        {
            return Err(Obstacle::DeviceModelOnFixed(*block));
        }

        let (top, low_end) = place_top(guest, demand)?;
        let border = Address::FOUR_GIB.checked_sub(hole).unwrap_or(Address::FOUR_GIB);
        let border = if only_low { border.max(end) } else { border };
        let low_start = border.align_up(guest.page_size).unwrap_or(low_end).min(low_end);
        let low_window = Range::new(low_start, low_end).ok_or(Obstacle::NoMeaning)?;
        let low = FreeSpace::new(Some(low_window), guest.reserved_device_memory());

        let high_start = if only_low { Address::FOUR_GIB } else { end };
        let high_start = high_start.align_up(guest.page_size).unwrap_or(limit);
        let barred = guest.reserved_device_memory().chain(guest.hypertransport_hole());
        let high = FreeSpace::new(Range::new(high_start, limit), barred);
        let mut room = Self { hole, ram, low_window, low, high, top, device_model_on_reserved };
        for (wanted, block) in demand.pinned().filter(|(wanted, _)| wanted.zone != Zone::Io) {
            let space = match wanted.zone {
                Zone::Either | Zone::High if block.start() >= Address::FOUR_GIB => &mut room.high,
                _ => &mut room.low,
            };
            if !space.contains(block) {
                return Err(Obstacle::Pinned(wanted.bdf));
            }
            space.remove(block);
        }
        Ok(room)
    }

    /// Whether all of `demand` fits when the `wanted` largest 64-bit blocks go up wherever they can: then which
    /// 64-bit blocks that is.
    pub fn fit(&self, demand: &Demand, wanted: u64) -> Option<SizeClasses> {
        let split = |high: &FreeSpace| demand.either.split(wanted, &demand.high, high);
        // A high reservation of odd size goes where the most can still go up beside it.
        let high = match demand.odd_high() {
            None => &self.high,
            Some(size) => &self.high.carved(size, |left| split(left).map(|(up, _)| up.total()))?,
        };
        let (up, left) = split(high)?;
        let low = demand.low.with(&left);
        let fits = match demand.odd_low() {
            None => low.fit(&self.low),
            Some(size) => low.fit(&self.low) && self.low.carve(size, |rest| low.fit(rest)).is_some(),
        };
        fits.then_some(up)
    }
}

/// Places what lies above the low window, downwards from the fixed regions, and says where the window then ends.
fn place_top(guest: &Guest, demand: &Demand) -> Result<(Vec<(usize, Address)>, Address), Obstacle> {
    let mut end = FIXED_REGIONS;
    let mut placed = Vec::new();
    for (index, wanted) in demand.wanted.iter().enumerate().filter(|(_, wanted)| wanted.zone == Zone::Top) {
        let no_place = Obstacle::NoTop(wanted.bdf);
        let below = |end: Address| end.checked_sub(wanted.block).map(|start| start.align_down(wanted.block));
        let mut start = below(end).ok_or(no_place)?;
        while let Some(block) = Range::sized(start, wanted.block)
            && let Some(rdm) = guest.reserved_device_memory().find(|rdm| rdm.overlaps(block))
        {
            start = below(rdm.start()).ok_or(no_place)?;
        }
        placed.push((index, start));
        end = start;
    }
    Ok((placed, end))
}
