// SPDX-License-Identifier: LGPL-2.1-or-later
//! Addresses, sizes and ranges, in bytes, with arithmetic that cannot wrap.
//!
//! A truncated or wrapped address is how a guest's memory ends up on a device's registers (XSA-476 was a 64-bit
//! BAR in an `unsigned int`). Every operation here either cannot overflow or returns an `Option`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A physical address, or an I/O port: a number of bytes from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(u64);

impl Address {
    /// Address zero.
    pub const ZERO: Self = Self(0);
    /// The first address that needs more than 32 bits.
    pub const FOUR_GIB: Self = Self(1 << 32);

    /// The address `bytes` from zero.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The address as a plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The start of 4 KiB frame number `frame`, if that is below 2^64.
    pub const fn from_frame(frame: u64) -> Option<Self> {
        match frame.checked_mul(Size::FRAME.0) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The address `size` further up, if that is below 2^64.
    pub const fn checked_add(self, size: Size) -> Option<Self> {
        match self.0.checked_add(size.0) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The address `size` further up, or the highest there is.
    pub const fn saturating_add(self, size: Size) -> Self {
        Self(self.0.saturating_add(size.0))
    }

    /// The address `size` further down, if there is one.
    pub const fn checked_sub(self, size: Size) -> Option<Self> {
        match self.0.checked_sub(size.0) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// How far `self` is above `lower`; zero if it is not above.
    pub const fn distance_from(self, lower: Self) -> Size {
        Size(self.0.saturating_sub(lower.0))
    }

    /// The next address at or above `self` that is a multiple of `alignment`; `None` past the highest address or
    /// for an alignment of zero.
    pub const fn align_up(self, alignment: Size) -> Option<Self> {
        match self.past_multiple_of(alignment) {
            Some(Size::ZERO) => Some(self),
            Some(past) => self.checked_add(alignment.saturating_sub(past)),
            None => None,
        }
    }

    /// The highest multiple of `alignment` at or below `self`; zero for an alignment of zero.
    pub const fn align_down(self, alignment: Size) -> Self {
        match self.past_multiple_of(alignment) {
            Some(past) => Self(self.0.saturating_sub(past.0)),
            None => Self(0),
        }
    }

    /// Whether `self` is a multiple of `alignment`; false for an alignment of zero.
    pub const fn is_aligned(self, alignment: Size) -> bool {
        matches!(self.past_multiple_of(alignment), Some(Size::ZERO))
    }

    /// How far `self` is above a multiple of `alignment`; `None` for an alignment of zero.
    const fn past_multiple_of(self, alignment: Size) -> Option<Size> {
        // Nearly all alignments are powers of two, and a planner asks often enough for a division to show.
        let past = if alignment.is_power_of_two() {
            Some(self.0 & alignment.0.saturating_sub(1))
        } else {
            self.0.checked_rem(alignment.0)
        };
        match past {
            Some(bytes) => Some(Size(bytes)),
            None => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}

impl Size {
    /// No bytes.
    pub const ZERO: Self = Self(0);
    /// 1 KiB.
    pub const KIB: Self = Self(1 << 10);
    /// 1 MiB.
    pub const MIB: Self = Self(1 << 20);
    /// 1 GiB.
    pub const GIB: Self = Self(1 << 30);
    /// Xen's own page: what a page number of struct hvm_info_table counts, whatever the host's page size.
    pub const FRAME: Self = Self(1 << 12);

    /// A size of `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Reads a size as people write it: `256M`, `16G`, `4096`, `0x1000`; a `B` or `iB` after the unit is allowed.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| match digits.strip_prefix("0x") {
            Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                u64::from_str_radix(hex, 16).ok()
            }
            _ if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        };
        if let Some(bytes) = number(text) {
            return Some(Self(bytes));
        }
        let text = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let shift = match unit {
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            "t" | "T" => 40,
            _ => return None,
        };
        Self(1 << shift).checked_mul(number(digits)?)
    }

    /// `count` MiB, if that is below 2^64 bytes.
    pub const fn mib(count: u64) -> Option<Self> {
        match count.checked_mul(Self::MIB.0) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The size as a plain number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether there is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether the size is a power of two, as every BAR's is.
    pub const fn is_power_of_two(self) -> bool {
        self.0.is_power_of_two()
    }

    /// Both together, if that is below 2^64.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// Both together, or the largest size there is.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `other` less, or nothing.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `count` times the size, if that is below 2^64.
    pub const fn checked_mul(self, count: u64) -> Option<Self> {
        match self.0.checked_mul(count) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The next multiple of `unit` at or above the size; `None` past 2^64 or for a unit of zero.
    pub const fn round_up(self, unit: Self) -> Option<Self> {
        match self.0.checked_next_multiple_of(unit.0) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The largest multiple of `unit` that is not above the size; zero for a unit of zero.
    pub const fn round_down(self, unit: Self) -> Self {
        match self.0.checked_rem(unit.0) {
            Some(rest) => Self(self.0.saturating_sub(rest)),
            None => Self(0),
        }
    }

    /// The smallest power of two that is not below the size, if there is one below 2^64.
    pub const fn next_power_of_two(self) -> Option<Self> {
        match self.0.checked_next_power_of_two() {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The largest power of two that is not above the size; zero for zero.
    pub const fn previous_power_of_two(self) -> Self {
        match self.0.checked_ilog2() {
            Some(exponent) => Self(1 << exponent),
            None => Self(0),
        }
    }
}

/// Sizes are shown as `lspci` shows them: the largest binary unit that divides them (`256M`, `16G`, `128`).
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0;
        let mut units = ["", "K", "M", "G", "T", "P", "E"].into_iter();
        let mut unit = units.next().unwrap_or_default();
        while value != 0 && value.is_multiple_of(1024) {
            let Some(larger) = units.next() else { break };
            unit = larger;
            value >>= 10;
        }
        f.pad(&format!("{value}{unit}"))
    }
}

impl Size {
    /// The size for a sentence about how much there is: at most four digits, what is below that dropped.
    pub fn rough(self) -> String {
        let mut shift = 0_u32;
        while self.0.checked_shr(shift).is_some_and(|value| value > 9_999) {
            shift = shift.saturating_add(10);
        }
        let kept = self.0.checked_shr(shift).and_then(|value| value.checked_shl(shift));
        Self(kept.unwrap_or(self.0)).to_string()
    }
}

/// The bytes from `start` up to, not including, `end`. Never runs backwards; may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Range {
    start: Address,
    end: Address,
}

impl Range {
    /// The range between two addresses, if `end` is not below `start`.
    pub fn new(start: Address, end: Address) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// The range of `size` bytes from `start`, if it ends below 2^64.
    pub fn sized(start: Address, size: Size) -> Option<Self> {
        Some(Self { start, end: start.checked_add(size)? })
    }

    /// The first address inside.
    pub const fn start(self) -> Address {
        self.start
    }

    /// The first address past the range.
    pub const fn end(self) -> Address {
        self.end
    }

    /// How many bytes it has.
    pub const fn size(self) -> Size {
        self.end.distance_from(self.start)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether all of `other` lies inside; an empty range lies inside where its start does.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether the two share a byte.
    pub fn overlaps(self, other: Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }

    /// What both have in common, if that is not empty.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let common = Self::new(self.start.max(other.start), self.end.min(other.end))?;
        (!common.is_empty()).then_some(common)
    }

    /// What is left on either side when `other` is taken out; an empty side is left out.
    pub fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let cut = if self.overlaps(other) { other } else { Self { start: self.end, end: self.end } };
        let below = Self::new(self.start, cut.start);
        let above = Self::new(cut.end, self.end);
        [below, above].into_iter().flatten().filter(|part| !part.is_empty())
    }
}

/// Ranges are shown with their last address, as `/proc/iomem` and Xen's log do.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "nothing at {}", self.start);
        }
        write!(f, "{}-0x{:x}", self.start, self.end.get().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_lspci_prints_them() {
        let shown = |bytes| Size::new(bytes).to_string();
        assert_eq!(shown(0), "0");
        assert_eq!(shown(128), "128");
        assert_eq!(shown(64 << 10), "64K");
        assert_eq!(shown(256 << 20), "256M");
        assert_eq!(shown(3 << 29), "1536M");
        assert_eq!(shown(128 << 30), "128G");
        assert_eq!(shown(1 << 63), "8E");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("256M", 256 << 20), ("16G", 16 << 30), ("4096", 4096), ("0x1000", 4096), ("64KiB", 64 << 10)]
        {
            assert_eq!(Size::parse(text), Some(Size::new(bytes)), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "99999999999999999999", "16777216T", "4 G", "é", "0xg"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }

    #[test]
    fn rough_sizes_drop_what_is_small() {
        assert_eq!(Size::new((256 << 40) - 4096).rough(), "255T");
        assert_eq!(Size::new(3776 << 20).rough(), "3776M");
    }

    #[test]
    fn alignment_of_zero_aligns_nothing() {
        assert_eq!(Address::new(5).align_up(Size::ZERO), None);
        assert!(!Address::ZERO.is_aligned(Size::ZERO));
    }

    #[test]
    fn alignment_past_the_highest_address_is_refused_not_wrapped() {
        assert_eq!(Address::new(u64::MAX).align_up(Size::MIB), None);
        assert_eq!(Address::new(u64::MAX).checked_add(Size::new(1)), None);
    }

    #[test]
    fn taking_a_range_out_leaves_both_sides() {
        let range = |start, end| Range::new(Address::new(start), Address::new(end)).unwrap();
        let left = |outer: Range, inner| outer.without(inner).collect::<Vec<_>>();
        assert_eq!(left(range(0, 100), range(20, 30)), [range(0, 20), range(30, 100)]);
        assert_eq!(left(range(0, 100), range(0, 30)), [range(30, 100)]);
        assert_eq!(left(range(10, 100), range(5, 200)), []);
        assert_eq!(left(range(10, 100), range(100, 200)), [range(10, 100)]);
        assert_eq!(left(range(10, 100), range(50, 50)), [range(10, 100)], "an empty range takes nothing");
    }
}
