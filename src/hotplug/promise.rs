// SPDX-License-Identifier: LGPL-2.1-or-later
//! The space that was kept for hot-plug: used by what is attached, given back by what is detached.

use super::space::pages;
use crate::address::{Address, Range, Size};
use crate::layout::{Layout, Reservation};
use crate::planner::free_space::FreeSpace;

/// Makes `reserved` what the layout's BARs leave of the promised space.
///
/// A reservation that nothing touches stays whole; of the others aligned powers of two are left, which is what fits
/// into them. The promise is remembered, so that the last detach gives it back as it was.
pub fn settle(layout: &mut Layout) {
    let promised = if layout.promised.is_empty() { &layout.reserved } else { &layout.promised };
    let promised = promised.clone();
    let bars: Vec<Range> = layout
        .bars
        .iter()
        .filter(|bar| bar.kind.is_memory())
        .filter_map(|bar| pages(bar.range()?, layout.page_size))
        .collect();
    let left = promised.iter().flat_map(|whole| left_of(whole, &bars));
    layout.reserved = left.collect();
    layout.promised = if layout.reserved == promised { Vec::new() } else { promised };
}

fn left_of(whole: &Reservation, taken: &[Range]) -> Vec<Reservation> {
    let Some(range) = whole.range().filter(|range| taken.iter().any(|bar| bar.overlaps(*range))) else {
        return vec![*whole];
    };
    let free = FreeSpace::new(Some(range), taken.iter().copied());
    let blocks = free.ranges().iter().flat_map(|range| aligned_blocks(*range));
    blocks.map(|(start, size)| Reservation { window: whole.window, start, size }).collect()
}

/// The range cut into the fewest aligned powers of two.
fn aligned_blocks(range: Range) -> impl Iterator<Item = (Address, Size)> {
    let mut start = range.start();
    std::iter::from_fn(move || {
        let left = range.end().distance_from(start);
        if left.is_zero() {
            return None;
        }
        let alignment = match start.get() {
            0 => left,
            bits => Size::new(1_u64.checked_shl(bits.trailing_zeros())?),
        };
        let block = (start, alignment.min(left).previous_power_of_two());
        start = start.checked_add(block.1)?;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_its_largest_alignments() {
        let range = Range::new(Address::new(0x3000), Address::new(0x9000)).unwrap();
        let blocks: Vec<_> = aligned_blocks(range).map(|(start, size)| (start.get(), size.get())).collect();
        assert_eq!(blocks, [(0x3000, 0x1000), (0x4000, 0x4000), (0x8000, 0x1000)]);
    }
}
