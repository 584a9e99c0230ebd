// SPDX-License-Identifier: LGPL-2.1-or-later
//! Free address space, and how many aligned blocks it still holds.

use crate::address::{Address, Range, Size};

/// Disjoint free ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeSpace {
    ranges: Vec<Range>,
}

impl FreeSpace {
    /// All of `whole` but what `barred` takes.
    pub fn new(whole: Option<Range>, barred: impl IntoIterator<Item = Range>) -> Self {
        let Some(whole) = whole else { return Self::default() };
        let mut barred: Vec<Range> = barred.into_iter().filter(|range| range.overlaps(whole)).collect();
        barred.sort_unstable();
        let mut ranges = Vec::new();
        let mut at = whole.start();
        for range in barred {
            ranges.extend(Range::new(at, range.start()).filter(|free| !free.is_empty()));
            at = at.max(range.end());
        }
        ranges.extend(Range::new(at, whole.end()).filter(|free| !free.is_empty()));
        Self { ranges }
    }

    /// Takes a range out.
    pub fn remove(&mut self, taken: Range) {
        if self.ranges.iter().any(|range| range.overlaps(taken)) {
            self.ranges = self.ranges.iter().flat_map(|range| range.without(taken)).collect();
        }
    }

    /// Whether all of a range is free.
    pub fn contains(&self, range: Range) -> bool {
        self.ranges.iter().any(|free| free.contains(range))
    }

    /// The part inside `window`.
    pub fn within(&self, window: Range) -> Self {
        Self { ranges: self.ranges.iter().filter_map(|range| range.intersection(window)).collect() }
    }

    /// The free ranges, ascending.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// How many bytes are free.
    pub fn bytes(&self) -> Size {
        self.ranges.iter().fold(Size::ZERO, |sum, range| sum.saturating_add(range.size()))
    }

    /// How many bytes are free in naturally aligned blocks of `block` bytes (a power of two).
    ///
    /// This is all that decides whether aligned powers of two fit, largest first (docs/planner.md).
    pub fn aligned_capacity(&self, block: Size) -> Size {
        self.ranges.iter().fold(Size::ZERO, |sum, range| sum.saturating_add(aligned_part(*range, block)))
    }

    /// The largest aligned power of two that is free; zero if nothing is.
    pub fn largest_block(&self) -> Size {
        let largest = |range: &Range| {
            let mut block = range.size().previous_power_of_two();
            while !block.is_zero() && aligned_part(*range, block).is_zero() {
                block = Size::new(block.get() >> 1);
            }
            block
        };
        self.ranges.iter().map(largest).max().unwrap_or_default()
    }

    /// Takes up to `count` adjacent aligned blocks of `block` bytes from the lowest place that holds one: the first
    /// block's address and how many there are. `None` where no block is left.
    pub fn take_run(&mut self, block: Size, count: u64) -> Option<(Address, u64)> {
        let index = self.ranges.iter().position(|range| !aligned_part(*range, block).is_zero())?;
        let range = self.ranges.get(index).copied()?;
        let start = range.start().align_up(block)?;
        let blocks = aligned_part(range, block).get().checked_div(block.get())?;
        let taken = blocks.min(count);
        let run = Range::sized(start, block.checked_mul(taken)?)?;
        self.ranges.splice(index..=index, range.without(run));
        Some((start, taken))
    }

    /// Takes the highest block of `block` bytes.
    pub fn take_highest(&mut self, block: Size) -> Option<Address> {
        let highest = |range: &Range| {
            let start = range.end().checked_sub(block)?.align_down(block);
            (start >= range.start()).then_some(start)
        };
        let start = self.ranges.iter().rev().find_map(highest)?;
        self.remove(Range::sized(start, block)?);
        Some(start)
    }

    /// Takes each of `shapes` out at places that leave something which `good` accepts: the places, in the order of
    /// the shapes. The lowest places that do are taken, the first shape's first.
    ///
    /// `good` is asked after each shape, with the shapes that are still to come: where it says no, whatever takes more
    /// out must be no good either.
    pub fn carve(
        &self,
        shapes: &[Shape],
        mut good: impl FnMut(&Self, &[Shape]) -> bool,
    ) -> Option<Vec<Range>> {
        // A shape that finds no place alone finds none beside others, whatever the order.
        for (index, shape) in shapes.iter().enumerate() {
            let others: Vec<Shape> = shapes
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, other)| *other)
                .collect();
            let mut places = self.ranges.iter().flat_map(|range| candidates(*range, *shape));
            if !others.is_empty() && !places.any(|place| good(&self.without(place), &others)) {
                return None;
            }
        }
        let orders = orders(shapes.len());
        let most = MOST_TRIES.checked_div(u32::try_from(orders.len()).ok()?)?;
        orders.into_iter().find_map(|order| {
            let mut tries = most;
            let ordered: Vec<Shape> = order.iter().filter_map(|index| shapes.get(*index)).copied().collect();
            let mut places = Vec::with_capacity(shapes.len());
            self.carve_in(&ordered, &mut places, &mut tries, &mut good)?;
            let mut placed: Vec<(usize, Range)> = order.into_iter().zip(places).collect();
            placed.sort_unstable_by_key(|(index, _)| *index);
            Some(placed.into_iter().map(|(_, place)| place).collect())
        })
    }

    fn without(&self, taken: Range) -> Self {
        let mut left = self.clone();
        left.remove(taken);
        left
    }

    fn carve_in(
        &self,
        shapes: &[Shape],
        places: &mut Vec<Range>,
        tries: &mut u32,
        good: &mut impl FnMut(&Self, &[Shape]) -> bool,
    ) -> Option<()> {
        *tries = tries.checked_sub(1)?;
        if !good(self, shapes) {
            return None;
        }
        let Some((shape, rest)) = shapes.split_first() else { return Some(()) };
        self.ranges.iter().flat_map(|range| candidates(*range, *shape)).find_map(|place| {
            places.push(place);
            let found = self.without(place).carve_in(rest, places, tries, good);
            if found.is_none() {
                places.pop();
            }
            found
        })
    }
}

/// How often `good` is asked about several shapes at most, all orders together. One shape alone has far fewer places.
const MOST_TRIES: u32 = 4096;

/// Up to how many shapes all orders of them are tried.
const MOST_ORDERED: usize = 4;

/// The orders in which that many shapes are placed, first their own. A place next to another shape's is only looked at
/// once that one has its place.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count > MOST_ORDERED {
        return vec![(0..count).collect(), (0..count).rev().collect()];
    }
    (0..count).fold(vec![Vec::new()], |orders, _| {
        let longer = |order: &Vec<usize>| {
            let left = (0..count).filter(|index| !order.contains(index));
            left.map(|index| [order.as_slice(), &[index]].concat()).collect::<Vec<_>>()
        };
        orders.iter().flat_map(longer).collect()
    })
}

/// A stretch of address space that need be no power of two, or no multiple of its own size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many bytes.
    pub size: Size,
    /// What its start is a multiple of: a power of two.
    pub alignment: Size,
}

/// The places in `range` for a shape that leave the largest blocks whole, lowest first.
///
/// A free range falls into aligned blocks that are as large as they can be. What a shape takes from each size of block
/// is least where it starts or ends flush with one of them: docs/planner.md has the argument. So these places are
/// enough: each block's start, and the last place before each block's start and before the end.
fn candidates(range: Range, shape: Shape) -> Vec<Range> {
    let (size, alignment) = (shape.size, shape.alignment);
    let mut starts = Vec::new();
    let mut at = range.start();
    while at < range.end() {
        starts.extend(at.align_up(alignment));
        starts.extend(at.checked_sub(alignment).map(|before| before.align_down(alignment)));
        starts.extend(at.checked_sub(size).map(|before| before.align_down(alignment)));
        let left = range.end().distance_from(at).previous_power_of_two();
        let block = 1_u64.checked_shl(at.get().trailing_zeros()).map_or(left, |own| left.min(Size::new(own)));
        at = at.saturating_add(block);
    }
    starts.extend(range.end().checked_sub(size).map(|last| last.align_down(alignment)));
    starts.sort_unstable();
    starts.dedup();
    let blocks = starts.into_iter().filter_map(|start| Range::sized(start, size));
    blocks.filter(|block| range.contains(*block)).collect()
}

/// How many bytes of `range` lie in aligned blocks that are whole.
fn aligned_part(range: Range, block: Size) -> Size {
    match range.start().align_up(block) {
        Some(start) => range.end().align_down(block).distance_from(start),
        None => Size::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range::new(Address::new(start), Address::new(end)).unwrap()
    }

    #[test]
    fn only_whole_aligned_blocks_count() {
        let space = FreeSpace::new(Some(range(0x1000, 0x9000)), [range(0x4800, 0x4900)]);
        assert_eq!(space.aligned_capacity(Size::new(0x1000)).get(), 0x7000);
        assert_eq!(space.aligned_capacity(Size::new(0x4000)).get(), 0);
        assert_eq!(space.largest_block().get(), 0x2000);
    }

    #[test]
    fn a_run_starts_at_the_lowest_place_and_leaves_the_gap_before_it() {
        let mut space = FreeSpace::new(Some(range(0x1000, 0x9000)), []);
        assert_eq!(space.take_run(Size::new(0x2000), 2), Some((Address::new(0x2000), 2)));
        assert_eq!(space.ranges(), [range(0x1000, 0x2000), range(0x6000, 0x9000)]);
        assert_eq!(space.take_run(Size::new(0x1000), 9), Some((Address::new(0x1000), 1)));
        assert_eq!(space.take_run(Size::new(0x4000), 1), None);
    }

    #[test]
    fn a_carved_shape_need_not_be_a_power_of_two() {
        let space = FreeSpace::new(Some(range(0x1000, 0x9000)), []);
        let shape = Shape { size: Size::new(0x3000), alignment: Size::new(0x2000) };
        assert_eq!(space.carve(&[shape], |_, _| true).unwrap(), [range(0x2000, 0x5000)]);
        let last = space.carve(&[shape], |left, _| {
            left.ranges().first().is_some_and(|first| first.size().get() >= 0x5000)
        });
        assert_eq!(last.unwrap(), [range(0x6000, 0x9000)]);
    }

    #[test]
    fn shapes_stand_beside_each_other_in_either_order() {
        let space = FreeSpace::new(Some(range(0x1000, 0x8000)), []);
        let (three, four) = (Size::new(0x3000), Size::new(0x4000));
        let shapes = [three, four].map(|size| Shape { size, alignment: Size::FRAME });
        assert!(space.carve(&shapes, |left, rest| !rest.is_empty() || left.ranges().is_empty()).is_some());
    }

    #[test]
    fn the_highest_block_is_the_last_that_is_whole() {
        let mut space = FreeSpace::new(Some(range(0x1000, 0x9800)), []);
        assert_eq!(space.take_highest(Size::new(0x2000)), Some(Address::new(0x6000)));
        assert_eq!(space.take_highest(Size::new(0x1000)), Some(Address::new(0x8000)));
        assert_eq!(space.take_highest(Size::new(0x8000)), None);
    }
}
