// SPDX-License-Identifier: LGPL-2.1-or-later
//! How many blocks there are of each power of two, and whether they fit.
//!
//! Blocks that are powers of two and naturally aligned nest: two of them are disjoint or one holds the other. So each
//! block of `s` bytes takes exactly `s / t` of the aligned blocks of `t <= s` bytes, wherever it is put, and a set of
//! blocks fits a free space exactly where, for each size `t`, the blocks of at least `t` bytes together have no more
//! bytes than the free space has in whole aligned blocks of `t`. docs/planner.md has the argument.

use super::free_space::FreeSpace;
use crate::address::Size;

/// Counts by power of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeClasses {
    /// Entry `e` counts the blocks of 2^e bytes.
    counts: [u32; 64],
    /// The sizes that occur, as bits: a guest has a handful of them, and everything below asks for those alone.
    occurring: u64,
}

impl Default for SizeClasses {
    fn default() -> Self {
        Self { counts: [0; 64], occurring: 0 }
    }
}

/// The powers of two that are set in `sizes`, largest first.
fn powers(mut sizes: u64) -> impl Iterator<Item = Size> {
    std::iter::from_fn(move || {
        let largest = Size::new(sizes).previous_power_of_two();
        sizes ^= largest.get();
        (!largest.is_zero()).then_some(largest)
    })
}

impl SizeClasses {
    /// One block more; a size that is no power of two counts as the next one.
    pub fn add(&mut self, size: Size, count: u64) {
        let size = size.next_power_of_two().unwrap_or(Size::new(1 << 63));
        self.set(size, self.of(size).saturating_add(count));
    }

    /// How many blocks of `size`, a power of two, there are.
    fn of(&self, size: Size) -> u64 {
        self.counts.get(size.get().trailing_zeros() as usize).copied().unwrap_or(0).into()
    }

    fn set(&mut self, size: Size, count: u64) {
        let exponent = size.get().trailing_zeros();
        if let Some(entry) = self.counts.get_mut(exponent as usize) {
            *entry = u32::try_from(count).unwrap_or(u32::MAX);
            let bit = 1 << exponent;
            self.occurring = if count > 0 { self.occurring | bit } else { self.occurring & !bit };
        }
    }

    /// Each size that occurs with its count, largest first.
    pub fn descending(&self) -> impl Iterator<Item = (Size, u64)> {
        powers(self.occurring).map(|size| (size, self.of(size)))
    }

    /// How many blocks there are in all.
    pub fn count(&self) -> u64 {
        self.descending().fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// How many bytes there are in all.
    pub fn total(&self) -> Size {
        self.descending().fold(Size::ZERO, |sum, (size, count)| {
            sum.saturating_add(size.checked_mul(count).unwrap_or(Size::new(u64::MAX)))
        })
    }

    /// Whether all fit.
    pub fn fit(&self, free: &FreeSpace) -> bool {
        let mut used = Size::ZERO;
        self.descending().all(|(size, count)| {
            let bytes = size.checked_mul(count).unwrap_or(Size::new(u64::MAX));
            used = used.saturating_add(bytes);
            used <= free.aligned_capacity(size)
        })
    }

    /// Both together.
    pub fn with(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        other.descending().for_each(|(size, count)| sum.add(size, count));
        sum
    }

    /// What is left when `other`, a part of this, is taken away.
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        other.descending().for_each(|(size, count)| rest.set(size, rest.of(size).saturating_sub(count)));
        rest
    }

    /// Takes one block of `size` away, if there is one.
    pub fn take_one(&mut self, size: Size) -> bool {
        match self.of(size).checked_sub(1) {
            Some(left) => {
                self.set(size, left);
                true
            }
            None => false,
        }
    }

    /// What is left over when of the `wanted` largest blocks each goes into `high` if there is an aligned block left for
    /// it, largest first, beside the blocks that `must` be there.
    ///
    /// `None` where even those do not fit. Filling with the largest first leaves over a set that is no harder to
    /// place than any other choice's: whatever stands in a block's place can change places with it.
    pub fn left_over(&self, wanted: u64, must: &Self, high: &FreeSpace) -> Option<Self> {
        let mut left = Self::default();
        let mut to_come = wanted;
        // Bytes in high that blocks of at least the present size take.
        let mut used = Size::ZERO;
        for size in powers(self.occurring | must.occurring) {
            let (count, musts) = (self.of(size), must.of(size));
            used = used.saturating_add(size.checked_mul(musts)?);
            // What may be added at this size without taking the place of a smaller block that must be there.
            let mut room = high.aligned_capacity(size).get().checked_sub(used.get())?;
            let mut musts_below = Size::ZERO;
            for (below, more) in must.descending().filter(|(below, _)| *below < size) {
                musts_below = musts_below.saturating_add(below.checked_mul(more)?);
                let capacity = high.aligned_capacity(below).get();
                room = room.min(capacity.checked_sub(used.saturating_add(musts_below).get())?);
            }
            let moved = count.min(to_come).min(room.checked_div(size.get())?);
            to_come = to_come.saturating_sub(count);
            used = used.saturating_add(size.checked_mul(moved)?);
            left.add(size, count.saturating_sub(moved));
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Address, Range};

    fn space(ranges: &[(u64, u64)]) -> FreeSpace {
        let whole = Range::new(Address::ZERO, Address::new(1 << 20));
        let mut space = FreeSpace::new(whole, []);
        let mut from = 0;
        for &(start, end) in ranges {
            space.remove(Range::new(Address::new(from), Address::new(start)).unwrap());
            from = end;
        }
        space.remove(Range::new(Address::new(from), Address::new(1 << 20)).unwrap());
        space
    }

    fn classes(sizes: &[u64]) -> SizeClasses {
        let mut classes = SizeClasses::default();
        sizes.iter().for_each(|&size| classes.add(Size::new(size), 1));
        classes
    }

    #[test]
    fn enough_bytes_are_not_enough_where_they_are_not_aligned() {
        assert!(classes(&[4, 2, 1]).fit(&space(&[(1, 8)])));
        assert!(!classes(&[4, 2, 2]).fit(&space(&[(1, 8)])));
        assert!(!classes(&[4]).fit(&space(&[(2, 6)])));
    }

    #[test]
    fn the_largest_go_up_first_and_what_finds_no_room_is_left() {
        let all = classes(&[8, 4, 4, 2]);
        let none = SizeClasses::default();
        assert_eq!(all.left_over(9, &none, &space(&[(8, 20)])), Some(classes(&[4, 2])));
        assert_eq!(all.left_over(1, &none, &space(&[(0, 64)])), Some(classes(&[4, 4, 2])));
        assert_eq!(all.without(&classes(&[4, 4, 2])), classes(&[8]));
    }

    #[test]
    fn what_must_be_high_takes_its_room_first() {
        assert_eq!(classes(&[8]).left_over(1, &classes(&[16]), &space(&[(0, 8)])), None);
        assert_eq!(classes(&[8]).left_over(1, &classes(&[4]), &space(&[(0, 8)])), Some(classes(&[8])));
    }
}
