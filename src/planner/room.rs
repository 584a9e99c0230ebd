// SPDX-License-Identifier: LGPL-2.1-or-later
//! The room that one size of the hole gives: where RAM ends, and what is free below and above 4 GiB.

use super::demand::{Demand, Zone};
use super::free_space::{FreeSpace, Shape};
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
    let low = FreeSpace::new(Some(low_window), guest.barred_memory());
    let barred = guest.barred_memory().chain(guest.hypertransport_hole());
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
            guest.barred_memory().find(|rdm| rdm.overlaps(*block)).map(|rdm| (*block, rdm))
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
        let low = FreeSpace::new(Some(low_window), guest.barred_memory());

        let high_start = if only_low { Address::FOUR_GIB } else { end };
        let high_start = high_start.align_up(guest.page_size).unwrap_or(limit);
        let barred = guest.barred_memory().chain(guest.hypertransport_hole());
        let high = FreeSpace::new(Range::new(high_start, limit), barred);
        let mut room = Self { hole, ram, low_window, low, high, top, device_model_on_reserved };
        for (bdf, zone, block) in demand.pinned().filter(|(_, zone, _)| *zone != Zone::Io) {
            let space = match zone {
                Zone::Either | Zone::High if block.start() >= Address::FOUR_GIB => &mut room.high,
                _ => &mut room.low,
            };
            if !space.contains(block) {
                return Err(Obstacle::Pinned(bdf));
            }
            space.remove(block);
        }
        Ok(room)
    }

    /// Whether all of `demand` fits when the `wanted` largest 64-bit blocks go up wherever they can: then what goes up.
    /// Of the stretches that may go either way as few go up as will do.
    pub fn fit(&self, demand: &Demand, wanted: u64) -> Option<Up> {
        if demand.bytes() > self.low.bytes().saturating_add(self.high.bytes()) {
            return None;
        }
        let either: Vec<usize> = demand.stretches_in(Zone::Either).collect();
        if either.is_empty() {
            let numbers = |zone| demand.stretches_in(zone).collect();
            return self.fit_divided(demand, wanted, numbers(Zone::Low), numbers(Zone::High));
        }
        divisions(either.len()).find_map(|goes_up| {
            let numbers = |zone, high: bool| {
                let more =
                    either.iter().zip(&goes_up).filter(|(_, up)| **up == high).map(|(number, _)| *number);
                let mut numbers: Vec<usize> = demand.stretches_in(zone).chain(more).collect();
                numbers.sort_unstable();
                numbers
            };
            self.fit_divided(demand, wanted, numbers(Zone::Low, false), numbers(Zone::High, true))
        })
    }

    /// The same where it is decided which stretches go where.
    fn fit_divided(
        &self,
        demand: &Demand,
        wanted: u64,
        stretches_low: Vec<usize>,
        stretches_up: Vec<usize>,
    ) -> Option<Up> {
        let (low_shapes, high_shapes) = (demand.shapes(&stretches_low), demand.shapes(&stretches_up));
        // Before place after place is tried for the high stretches: whether what can only go low would fit alone.
        if !high_shapes.is_empty() && !may_fit(&demand.low, &low_shapes, &self.low) {
            return None;
        }
        // Many places of the high stretches leave the same for the low window.
        let mut refused: Vec<SizeClasses> = Vec::new();
        let mut stays = SizeClasses::default();
        self.high.carve(&high_shapes, |free, to_come| {
            if !to_come.is_empty() {
                return may_fit(&demand.high, to_come, free);
            }
            let Some(left) = demand.either.left_over(wanted, &demand.high, free) else { return false };
            if refused.contains(&left) {
                return false;
            }
            let low = demand.low.with(&left);
            let fits = self.low.carve(&low_shapes, |rest, to_come| may_fit(&low, to_come, rest)).is_some();
            if fits {
                stays = left;
            } else {
                refused.push(left);
            }
            fits
        })?;
        Some(Up { blocks: demand.either.without(&stays), stretches_low, stretches_up })
    }
}

/// What goes above 4 GiB, and what does not.
#[derive(Clone, Debug)]
pub struct Up {
    /// The 64-bit blocks that go up.
    pub blocks: SizeClasses,
    /// The stretches that stay, by number.
    pub stretches_low: Vec<usize>,
    /// The stretches that go up, by number.
    pub stretches_up: Vec<usize>,
}

/// From how many stretches on not every division of them is tried.
const MOST_DIVIDED: usize = 6;

/// Ways to send some of `count` things up, the fewest first; for many of them only the first so many.
fn divisions(count: usize) -> impl Iterator<Item = Vec<bool>> {
    let all = (count <= MOST_DIVIDED).then(|| {
        let sets = move |up| (0..1_u64 << count).filter(move |set| set.count_ones() as usize == up);
        (0..=count).flat_map(sets).map(move |set| (0..count).map(|bit| (set >> bit) & 1 == 1).collect())
    });
    let first =
        (count > MOST_DIVIDED).then(|| (0..=count).map(move |up| (0..count).map(|at| at < up).collect()));
    all.into_iter().flatten().chain(first.into_iter().flatten())
}

/// A bound that is quick to test: whether the blocks fit, and there are enough aligned blocks of each size for them and
/// for what the shapes have of them wherever they are put. Exact where there is no shape.
pub fn may_fit(blocks: &SizeClasses, shapes: &[Shape], free: &FreeSpace) -> bool {
    let enough = |shape: &Shape| {
        let unit = shape.alignment;
        let blocks = blocks.descending().filter(|(size, _)| *size >= unit);
        let taken = blocks.fold(Size::ZERO, |sum, (size, count)| {
            sum.saturating_add(size.checked_mul(count).unwrap_or(Size::new(u64::MAX)))
        });
        let taken = shapes
            .iter()
            .filter(|other| other.alignment >= unit)
            .fold(taken, |sum, other| sum.saturating_add(other.size.round_down(unit)));
        taken <= free.aligned_capacity(unit)
    };
    blocks.fit(free) && shapes.iter().all(enough)
}

/// Places what lies above the low window, downwards from the fixed regions, and says where the window then ends.
fn place_top(guest: &Guest, demand: &Demand) -> Result<(Vec<(usize, Address)>, Address), Obstacle> {
    if !guest.platform_bar_above_window() {
        return Ok((Vec::new(), FIXED_REGIONS));
    }
    let below = Range::new(Address::ZERO, FIXED_REGIONS);
    let mut free = FreeSpace::new(below, guest.barred_memory());
    let mut placed = Vec::new();
    for (index, wanted) in demand.largest_first(Zone::Top) {
        placed.push((index, free.take_highest(wanted.block).ok_or(Obstacle::NoTop(wanted.bdf))?));
    }
    let end = placed.iter().map(|(_, start)| *start).min().unwrap_or(FIXED_REGIONS);
    Ok((placed, end))
}
