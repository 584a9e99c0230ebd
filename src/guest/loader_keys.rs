// SPDX-License-Identifier: LGPL-2.1-or-later
//! The xenstore keys that decide about memory, and how hvmloader reads a number.

use super::Guest;
use crate::address::Size;

/// Says whether the loader may move RAM out of the hole.
pub const ALLOW_MEMORY_RELOCATE: &str = "hvmloader/allow-memory-relocate";
/// The hole's size, in bytes; libxl writes it where the administrator gave `mmio_hole=`.
pub const MMIO_HOLE_SIZE: &str = "platform/mmio_hole_size";
/// Says whether the Xen platform device's memory BAR is uncached (Xen 4.21 and later).
pub const PLATFORM_BAR_UC: &str = "hvmloader/pci/xen-platform-pci-bar-uc";

/// Reads a number as hvmloader's own strtoll with base 0 does: white space, a sign, `0x`, a leading `0` for octal; it
/// stops at what is no digit, and wraps where 64 bits are not enough. `upper_hex`: whether `0X` counts (4.21 on).
pub fn strtoll(text: &str, upper_hex: bool) -> i64 {
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X").filter(|_| upper_hex));
    let (base, digits) = match (hex, text.strip_prefix('0')) {
        (Some(digits), _) => (16, digits),
        (None, Some(digits)) => (8, digits),
        (None, None) => (10, text),
    };
    let magnitude = digits
        .chars()
        .map_while(|c| c.to_digit(base))
        .fold(0_i64, |value, digit| value.wrapping_mul(i64::from(base)).wrapping_add(i64::from(digit)));
    if negative { magnitude.wrapping_neg() } else { magnitude }
}

/// The hole that a value of [`MMIO_HOLE_SIZE`] demands, as hvmloader takes it: what is below 256 MiB or above 4 GiB it
/// ignores, and so is it here.
pub fn demanded_hole(value: &str) -> Option<Size> {
    let value = u64::try_from(strtoll(value, true)).ok()?;
    ((256 << 20)..=(4 << 30)).contains(&value).then_some(Size::new(value))
}

impl Guest {
    /// The hole that [`MMIO_HOLE_SIZE`] demands.
    pub fn demanded_hole(&self) -> Option<Size> {
        demanded_hole(self.xenstore.get(MMIO_HOLE_SIZE)?)
    }

    /// Whether the Xen platform device's memory BARs are to lie above the low window, where they stay write-back
    /// (xl's `xen_platform_pci_bar_uc=0`; hvmloader's pci.c reads the key from 4.21 on).
    pub fn platform_bar_above_window(&self) -> bool {
        self.xenstore.get(PLATFORM_BAR_UC).is_some_and(|value| strtoll(value, true) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_loader_reads_them() {
        for (text, value) in [
            ("1073741824", 1 << 30),
            ("0x40000000", 1 << 30),
            ("0X40000000", 1 << 30),
            ("010000000000", 1 << 30),
            (" \t1", 1),
            ("+7", 7),
            ("-1", -1),
            ("1G", 1),
            ("no", 0),
            ("", 0),
            ("0", 0),
            ("08", 0),
            ("18446744073709551617", 1),
        ] {
            assert_eq!(strtoll(text, true), value, "{text:?}");
        }
        assert_eq!(strtoll("0X40000000", false), 0, "older loaders read 0 and stop at the X");
    }
}
