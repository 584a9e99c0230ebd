// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a layout is as it is, for a person.

use std::io::{self, Write};

use crate::layout::{Explanation, Layout};

/// Writes an explanation, one line for each thing that has a reason.
///
/// # Errors
///
/// What `out` says.
pub fn explanation(out: &mut dyn Write, layout: &Layout, why: &Explanation) -> io::Result<()> {
    writeln!(out, "\nwhy:\n  hole        {}", why.hole)?;
    for window in &why.windows {
        writeln!(out, "  {:<11} {}", format!("{} window", window.kind), window.reason)?;
    }
    for reserved in &why.reserved {
        writeln!(
            out,
            "  {:<11} {}: {}",
            format!("{} space", reserved.window),
            reserved.start,
            reserved.reason
        )?;
    }
    for bar in &why.bars {
        let placed = layout.bars.iter().find(|placed| (placed.bdf, placed.reg) == (bar.bdf, bar.reg));
        let place = placed.map(|placed| format!("{} at {}", placed.size, placed.address)).unwrap_or_default();
        writeln!(out, "  {} 0x{:02x} {place}: {}", bar.bdf, bar.reg, bar.reason)?;
    }
    for bars in &why.vf_bars {
        let placed = layout.vf_bars.iter().find(|placed| (placed.bdf, placed.reg) == (bars.bdf, bars.reg));
        let place = placed.map(|placed| format!("at {}", placed.address)).unwrap_or_default();
        writeln!(out, "  {} VF BAR 0x{:02x} {place}: {}", bars.bdf, bars.reg, bars.reason)?;
    }
    for costs in &why.resizable {
        writeln!(
            out,
            "  {} 0x{:02x} can be resized, and is planned with {}:",
            costs.bdf, costs.reg, costs.planned
        )?;
        for cost in &costs.sizes {
            let size = cost.size.to_string();
            match cost.mmio_hole_size {
                None => writeln!(out, "    {size:>6}  no layout")?,
                Some(hole) => writeln!(out, "    {size:>6}  hole {hole}, high window {}", cost.high_window)?,
            }
        }
    }
    Ok(())
}
