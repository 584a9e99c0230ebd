// SPDX-License-Identifier: LGPL-2.1-or-later
//! How many variable MTRRs hvmloader spends on a layout's windows.

use crate::address::{Address, Range};

/// How many variable MTRRs a guest's processor has (hvmloader prints `var MTRRs [used/8]`).
pub const VARIABLE_MTRRS: u32 = 8;

/// The variable MTRRs that hvmloader (cacheattr.c) would use without a limit: one for each naturally aligned power of
/// two into which the low window, and then the high one, falls.
pub fn variable_mtrrs(windows: impl IntoIterator<Item = Range>) -> u32 {
    windows.into_iter().fold(0, |count, range| count.saturating_add(aligned_blocks(range)))
}

/// Into how many naturally aligned powers of two of at least 4 KiB a range falls.
fn aligned_blocks(range: Range) -> u32 {
    let frame = |address: Address| address.get() >> 12;
    let (mut base, end) = (frame(range.start()), frame(range.end()));
    let mut count = 0_u32;
    while base < end {
        let left = end.saturating_sub(base);
        // The block that starts at base: as large as base's alignment allows, and no larger than what is left.
        let exponent = base.trailing_zeros().min(left.checked_ilog2().unwrap_or_default());
        base = base.saturating_add(1_u64.checked_shl(exponent).unwrap_or(left));
        count = count.saturating_add(1);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range::new(Address::new(start), Address::new(end)).unwrap()
    }

    #[test]
    fn the_counts_are_those_of_recorded_guests() {
        // Xen 4.17.7 logged [2/8] for the default hole, [3/8] for one that had doubled, and [3/8] for the default
        // hole with 4G to 8G above.
        assert_eq!(variable_mtrrs([range(0xf000_0000, 0xfc00_0000)]), 2);
        assert_eq!(variable_mtrrs([range(0xe000_0000, 0xfc00_0000)]), 3);
        assert_eq!(variable_mtrrs([range(0xf000_0000, 0xfc00_0000), range(1 << 32, 2 << 32)]), 3);
    }

    #[test]
    fn every_bit_of_an_odd_start_takes_one() {
        assert_eq!(variable_mtrrs([range(0xefe0_0000, 0xf000_0000)]), 1);
        assert_eq!(variable_mtrrs([range(0x5555_0000, 0x5800_0000)]), 6);
    }

    #[test]
    fn a_high_window_aligned_to_its_size_takes_one() {
        assert_eq!(variable_mtrrs([range(0x1_8000_0000, 0x2_8000_0000)]), 2, "2G and then 2G");
        assert_eq!(variable_mtrrs([range(0x2_0000_0000, 0x4_0000_0000)]), 1);
    }
}
