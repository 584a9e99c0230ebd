// SPDX-License-Identifier: LGPL-2.1-or-later
//! A prediction as a person reads it: where RAM, windows and BARs will be, and what has no place.

use std::io::{self, Write};

use super::map::Map;
use super::text::{self, warning_text};
use crate::hvmloader::{Prediction, Suggestion};
use crate::layout::Warning;

/// Writes what a loader will do with a guest.
///
/// # Errors
///
/// What `out` says.
pub fn prediction(
    out: &mut dyn Write,
    map: &Map,
    prediction: &Prediction,
    origins: &[String],
    warnings: &[Warning],
    colour: bool,
) -> io::Result<()> {
    text::map(out, map, colour)?;
    if prediction.pages_relocated > 0 && map.nothing.is_none() {
        let pages = prediction.pages_relocated;
        writeln!(out, "\n  0x{pages:x} pages of RAM are moved from the hole to above 4G")?;
    }
    text::about(out, origins, warnings)
}

/// Writes which hole to ask for, or why none helps and what would.
pub fn suggestion(out: &mut dyn Write, suggestion: &Suggestion, fine_as_it_is: bool) -> io::Result<()> {
    if let Some(mib) = suggestion.mmio_hole {
        let needed = if fine_as_it_is { "; the guest is fine without it" } else { "" };
        return writeln!(
            out,
            "\nsuggestion: mmio_hole={mib} is the smallest under which everything is placed safely{needed}"
        );
    }
    writeln!(out, "\nsuggestion: there is no mmio_hole= under which everything is placed safely")?;
    if let Some(mib) = suggestion.closest {
        writeln!(out, "  closest is mmio_hole={mib}, where still")?;
    }
    for problem in &suggestion.problems {
        writeln!(out, "    {}", warning_text(problem))?;
    }
    if suggestion.remedies.is_empty() {
        return writeln!(out, "  no other release, width or single device less was found that helps");
    }
    writeln!(out, "  what would help:")?;
    suggestion.remedies.iter().try_for_each(|remedy| writeln!(out, "    {remedy}"))
}
