// SPDX-License-Identifier: LGPL-2.1-or-later
//! How many blocks there are of each power of two, and whether they fit.
//!
//! Blocks that are powers of two and naturally aligned nest: two of them are disjoint or one holds the other. So each
//! block of `s` bytes takes exactly `s / t` of the aligned blocks of `t <= s` bytes, wherever it is put, and a set of
//! blocks fits a free space exactly where, for each size `t`, the blocks of at least `t` bytes together have no more
//! bytes than the free space has in whole aligned blocks of `t`. docs/planner.md has the argument.

use super::free_space::FreeSpace;
use crate::address::Size;

/// Counts by power of two: entry `e` counts the blocks of 2^e bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeClasses([u64; 64]);

impl Default for SizeClasses {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl SizeClasses {
    /// One block more; a size that is no power of two counts as the next one.
    pub fn add(&mut self, size: Size, count: u64) {
        let exponent = size.next_power_of_two().map_or(63, |size| size.get().trailing_zeros());
        if let Some(entry) = self.0.get_mut(exponent as usize) {
            *entry = entry.saturating_add(count);
        }
    }

    /// Each size that occurs with its count, largest first.
    pub fn descending(&self) -> impl Iterator<Item = (Size, u64)> {
        let sizes = self.0.iter().enumerate().rev().filter(|(_, count)| **count > 0);
        sizes.map(|(exponent, count)| (Size::new(1 << exponent), *count))
    }

    /// How many blocks there are in all.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
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
        for (mine, theirs) in sum.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
        sum
    }

    /// What is left when `other`, a part of this, is taken away.
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for (mine, theirs) in rest.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_sub(theirs);
        }
        rest
    }

    /// Takes one block of `size` away, if there is one.
    pub fn take_one(&mut self, size: Size) -> bool {
        match self.0.get_mut(size.get().trailing_zeros() as usize) {
            Some(count) if *count > 0 => {
                *count = count.saturating_sub(1);
                true
            }
            _ => false,
        }
    }

    /// Splits into what goes into `high` and what is left over: of the `wanted` largest blocks each goes into `high`
    /// if there is an aligned block left for it, largest first, beside the blocks that `must` be there.
    ///
    /// `None` where even those do not fit. Filling with the largest first leaves over a set that is no harder to
    /// place than any other choice's: whatever stands in a block's place can change places with it.
    pub fn split(&self, wanted: u64, must: &Self, high: &FreeSpace) -> Option<(Self, Self)> {
        let (mut up, mut left) = (Self::default(), Self::default());
        let mut to_come = wanted;
        // Bytes in high that blocks of at least the present size take.
        let mut used = Size::ZERO;
        for (exponent, (count, musts)) in self.0.iter().zip(must.0).enumerate().rev() {
            if *count == 0 && musts == 0 {
                continue;
            }
            let size = Size::new(1 << exponent);
            used = used.saturating_add(size.checked_mul(musts)?);
            // What may be added at this size without taking the place of a smaller block that must be there.
            let mut room = high.aligned_capacity(size).get().checked_sub(used.get())?;
            let mut musts_below = Size::ZERO;
            for (below, more) in must.descending().filter(|(below, _)| *below < size) {
                musts_below = musts_below.saturating_add(below.checked_mul(more)?);
                let capacity = high.aligned_capacity(below).get();
                room = room.min(capacity.checked_sub(used.saturating_add(musts_below).get())?);
            }
            let moved = (*count).min(to_come).min(room.checked_div(size.get())?);
            to_come = to_come.saturating_sub(*count);
            used = used.saturating_add(size.checked_mul(moved)?);
            up.add(size, moved);
            left.add(size, count.saturating_sub(moved));
        }
        Some((up, left))
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
        let (up, left) =
            classes(&[8, 4, 4, 2]).split(9, &SizeClasses::default(), &space(&[(8, 20)])).unwrap();
        assert_eq!((up, left), (classes(&[8, 4]), classes(&[4, 2])));
        let (up, left) =
            classes(&[8, 4, 4, 2]).split(1, &SizeClasses::default(), &space(&[(0, 64)])).unwrap();
        assert_eq!((up, left), (classes(&[8]), classes(&[4, 4, 2])));
    }

    #[test]
    fn what_must_be_high_takes_its_room_first() {
        assert_eq!(classes(&[8]).split(1, &classes(&[16]), &space(&[(0, 8)])), None);
        let (up, left) = classes(&[8]).split(1, &classes(&[4]), &space(&[(0, 8)])).unwrap();
        assert_eq!((up, left), (classes(&[]), classes(&[8])));
    }
}
