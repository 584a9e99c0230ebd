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
        let mut space = Self { ranges: whole.into_iter().filter(|range| !range.is_empty()).collect() };
        for range in barred {
            space.remove(range);
        }
        space
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

    /// Takes `size` bytes, no power of two, from the lowest multiple of the largest power of two below `size` that
    /// holds them and that `good` accepts, given what would be left.
    ///
    /// Looked at are the places that leave the largest blocks whole: where an aligned block of the free space starts,
    /// the last place before one, and the last place of all.
    pub fn carve(&self, size: Size, mut good: impl FnMut(&Self) -> bool) -> Option<(Range, Self)> {
        self.each_carved(size).find(|(_, left)| good(left))
    }

    /// What is left when `size` bytes are taken out as [`Self::carve`] does, where `worth` is greatest; the lowest
    /// such place. Places without worth are out of the question.
    pub fn carved<T: Ord>(&self, size: Size, worth: impl Fn(&Self) -> Option<T>) -> Option<Self> {
        let worthy = self.each_carved(size).filter_map(|(_, left)| worth(&left).map(|worth| (worth, left)));
        let best = worthy.reduce(|best, other| if other.0 > best.0 { other } else { best });
        best.map(|(_, left)| left)
    }

    fn each_carved(&self, size: Size) -> impl Iterator<Item = (Range, Self)> {
        let alignment = size.previous_power_of_two();
        self.ranges.iter().flat_map(move |range| places(*range, size, alignment)).map(|block| {
            let mut left = self.clone();
            left.remove(block);
            (block, left)
        })
    }
}

/// Where in `range` a block that is no power of two may best be put, lowest first.
fn places(range: Range, size: Size, alignment: Size) -> Vec<Range> {
    let mut starts = Vec::new();
    let mut at = range.start();
    while at < range.end() {
        starts.extend(at.align_up(alignment));
        starts.extend(at.checked_sub(alignment).map(|before| before.align_down(alignment)));
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
    fn a_carved_block_need_not_be_a_power_of_two() {
        let space = FreeSpace::new(Some(range(0x1000, 0x9000)), []);
        let (block, left) = space.carve(Size::new(0x3000), |_| true).unwrap();
        assert_eq!(block, range(0x2000, 0x5000));
        assert_eq!(left.ranges(), [range(0x1000, 0x2000), range(0x5000, 0x9000)]);
        let last = space.carve(Size::new(0x3000), |left| {
            left.ranges().first().is_some_and(|first| first.size().get() >= 0x5000)
        });
        assert_eq!(last.unwrap().0, range(0x6000, 0x9000));
    }
}
