// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which Xen releases are known, and in what their loaders differ.
//!
//! There is one algorithm; an [`Algorithm`] is the data in which it differs. A release is known where its
//! tools/firmware/hvmloader/{pci,e820,util}.c differ from its neighbours' in that data alone.

use std::fmt;
use std::str::FromStr;

/// The data in which one release's PCI setup differs from another's.
#[derive(Debug, PartialEq, Eq)]
pub struct Algorithm {
    /// A 64-bit BAR of more than this many bytes always goes above 4 GiB, is not counted and does not grow the hole.
    /// `None`: every memory BAR counts.
    pub always_high_above: Option<u64>,
    /// Whether `hvmloader/pci/xen-platform-pci-bar-uc` is read.
    pub reads_platform_bar_key: bool,
    /// Whether a number may start with `0X` as well as `0x`.
    pub upper_hex_prefix: bool,
    /// Whether the log has the hole's size in hexadecimal.
    pub logs_hole_in_hex: bool,
    /// Lines of pci.c that the log of a crash names: the assertion about the ISA bridge, the one about class 0680.
    pub assertion_lines: (u32, u32),
}

const BASELINE: Algorithm = Algorithm {
    always_high_above: None,
    reads_platform_bar_key: false,
    upper_hex_prefix: false,
    logs_hole_in_hex: false,
    assertion_lines: (163, 199),
};
const BASELINE_ONE_LINE_LATER: Algorithm = Algorithm { assertion_lines: (164, 200), ..BASELINE };
const HEX_LOG: Algorithm = Algorithm { logs_hole_in_hex: true, ..BASELINE };
const LARGE_BARS_HIGH: Algorithm =
    Algorithm { always_high_above: Some(1 << 30), assertion_lines: (170, 206), ..HEX_LOG };
const PLATFORM_BAR_KEY: Algorithm =
    Algorithm { reads_platform_bar_key: true, upper_hex_prefix: true, ..LARGE_BARS_HIGH };

/// The known releases of Xen 4, oldest first: minor version, first and last patch release, what their loader does.
static KNOWN: [(u32, u32, u32, &Algorithm); 14] = [
    (12, 4, 4, &BASELINE),
    (13, 2, 5, &BASELINE),
    (14, 0, 0, &BASELINE_ONE_LINE_LATER),
    (14, 1, 6, &BASELINE),
    (15, 0, 7, &BASELINE),
    (16, 0, 7, &BASELINE),
    (17, 0, 3, &HEX_LOG),
    (17, 4, 7, &LARGE_BARS_HIGH),
    (18, 0, 0, &HEX_LOG),
    (18, 1, 6, &LARGE_BARS_HIGH),
    (19, 0, 6, &LARGE_BARS_HIGH),
    (20, 0, 4, &LARGE_BARS_HIGH),
    (21, 0, 2, &PLATFORM_BAR_KEY),
    NEWEST,
];
const NEWEST: (u32, u32, u32, &Algorithm) = (22, 0, 0, &PLATFORM_BAR_KEY);

/// A Xen release whose loader is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    minor: u32,
    patch: u32,
    algorithm: &'static Algorithm,
}

/// A version whose loader is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Xen \"{text}\" is not known here; known are {}", known_versions())]
pub struct UnknownRelease {
    text: String,
}

impl Release {
    /// The newest known release.
    pub const NEWEST: Self = Self { minor: NEWEST.0, patch: NEWEST.2, algorithm: NEWEST.3 };

    /// How this release's loader works.
    pub fn algorithm(self) -> &'static Algorithm {
        self.algorithm
    }

    /// Every known release, oldest first.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        KNOWN.iter().flat_map(|&(minor, first, last, algorithm)| {
            (first..=last).map(move |patch| Self { minor, patch, algorithm })
        })
    }

    /// The newest release of each algorithm, the newest first.
    pub fn one_of_each_algorithm() -> Vec<Self> {
        let mut newest: Vec<Self> = Vec::new();
        for release in Self::all().rev() {
            if newest.iter().all(|other| other.algorithm != release.algorithm) {
                newest.push(release);
            }
        }
        newest
    }

    /// The release of that minor version, or its newest known one where `patch` is not given.
    pub fn find(major: u32, minor: u32, patch: Option<u32>) -> Option<Self> {
        Self::all().rfind(|release| {
            major == 4 && release.minor == minor && patch.is_none_or(|patch| patch == release.patch)
        })
    }

    /// The known release that is nearest to a version, which may itself be unknown: of the same minor version the
    /// newest that is not newer, else the oldest; of an unknown one the newest known before it, else the oldest.
    pub fn nearest(major: u32, minor: u32, patch: u32) -> Self {
        let wanted = (major, minor, patch);
        let same_minor = Self::all().find(|release| (4, release.minor) == (major, minor));
        let before = Self::all().rfind(|release| (4, release.minor, release.patch) <= wanted);
        match (before, same_minor) {
            (Some(before), Some(_)) if before.minor == minor => before,
            (_, Some(oldest_of_minor)) => oldest_of_minor,
            (Some(before), None) => before,
            (None, None) => Self::all().next().unwrap_or(Self::NEWEST),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("4.{}.{}", self.minor, self.patch))
    }
}

/// "4.12.4, 4.13.2 to 4.13.5, ...": neighbours of one minor version are joined.
fn known_versions() -> String {
    let mut spans: Vec<(u32, u32, u32)> = Vec::new();
    for &(minor, first, last, _) in &KNOWN {
        match spans.last_mut() {
            Some((of, _, end)) if *of == minor => *end = last,
            _ => spans.push((minor, first, last)),
        }
    }
    let shown = spans.iter().map(|&(minor, first, last)| {
        if first == last {
            format!("4.{minor}.{first}")
        } else {
            format!("4.{minor}.{first} to 4.{minor}.{last}")
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

impl FromStr for Release {
    type Err = UnknownRelease;

    /// `4.17.3`, or `4.17` for its newest patch release.
    fn from_str(text: &str) -> Result<Self, UnknownRelease> {
        let parse = || {
            let mut parts = text.split('.').map(|part| {
                let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| part.parse::<u32>().ok())?
            });
            let (major, minor) = (parts.next()??, parts.next()??);
            let patch = match parts.next() {
                None => None,
                Some(patch) => Some(patch?),
            };
            if parts.next().is_some() { None } else { Self::find(major, minor, patch) }
        };
        parse().ok_or_else(|| UnknownRelease { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Result<String, UnknownRelease> {
        text.parse::<Release>().map(|release| release.to_string())
    }

    #[test]
    fn a_minor_version_means_its_newest_patch_release() {
        assert_eq!(named("4.14").as_deref(), Ok("4.14.6"));
        assert_eq!(named("4.17").as_deref(), Ok("4.17.7"));
        assert_eq!(named("4.17.3").as_deref(), Ok("4.17.3"));
        assert_eq!(Release::all().next_back(), Some(Release::NEWEST));
    }

    #[test]
    fn an_unknown_version_is_refused_with_the_known_ones() {
        for text in ["4.23", "4.17.99", "4.11", "5.0", "", "4", "4.17.3.1", "4.+17", "4.17.", "x"] {
            let error = text.parse::<Release>().unwrap_err().to_string();
            assert!(error.contains(&format!("\"{text}\"")) && error.contains("4.13.2 to 4.13.5"), "{error}");
        }
    }

    #[test]
    fn the_algorithm_changes_between_patch_releases() {
        let algorithm = |text: &str| text.parse::<Release>().unwrap().algorithm();
        assert_eq!(algorithm("4.17.3").always_high_above, None);
        assert_eq!(algorithm("4.17.4").always_high_above, Some(1 << 30));
        assert_eq!(algorithm("4.18.0"), algorithm("4.17.0"));
        assert!(algorithm("4.21").reads_platform_bar_key && !algorithm("4.20").reads_platform_bar_key);
    }

    #[test]
    fn an_unknown_version_has_a_nearest_known_one() {
        let nearest = |major, minor, patch| Release::nearest(major, minor, patch).to_string();
        assert_eq!(nearest(4, 17, 3), "4.17.3");
        assert_eq!(nearest(4, 20, 99), "4.20.4");
        assert_eq!(nearest(4, 23, 0), "4.22.0");
        assert_eq!(nearest(4, 12, 1), "4.12.4");
        assert_eq!(nearest(4, 6, 0), "4.12.4");
        assert_eq!(nearest(5, 0, 0), "4.22.0");
    }
}
