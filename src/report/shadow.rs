// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a layout would change: how the plan differs from what the stock loader will do, a line each.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::address::Size;
use crate::hvmloader::{Outcome, Prediction};
use crate::layout::{Layout, WindowKind};

/// Writes the differences, or that there are none: the hole (`hole` is the one that the guest gets without a plan), the
/// high window, every BAR that lies elsewhere, has no place, or is not seen.
///
/// # Errors
///
/// What `out` says.
pub fn differences(
    out: &mut dyn Write,
    loader: &str,
    layout: &Layout,
    hole: Size,
    stock: &Prediction,
) -> io::Result<()> {
    let mut lines = Vec::new();
    if stock.result == Outcome::Crash {
        lines.push("stock: the loader stops at an assertion, and the guest does not start".to_owned());
    }
    if layout.mmio_hole_size != hole {
        lines.push(format!("the hole below 4 GiB: {hole}, planned {}", layout.mmio_hole_size));
    }
    let shown =
        |window: Option<crate::address::Range>| window.map_or_else(|| "none".to_owned(), |w| w.to_string());
    let (stock_high, planned_high) = (stock.high_window(), layout.window(WindowKind::High));
    if stock_high != planned_high {
        lines.push(format!("the window above 4 GiB: {}, planned {}", shown(stock_high), shown(planned_high)));
    }
    let placed: BTreeMap<_, _> = stock.bars.iter().map(|bar| ((bar.bdf, bar.reg), bar.address)).collect();
    for bar in &layout.bars {
        let (bdf, reg, size, planned) = (bar.bdf, bar.reg, bar.size, bar.address);
        let stock = match placed.get(&(bdf, reg)) {
            Some(Some(address)) if *address == planned => continue,
            Some(Some(address)) => address.to_string(),
            Some(None) => "no place".to_owned(),
            None => "not seen".to_owned(),
        };
        lines.push(format!("{bdf} BAR at {reg:#04x} of {size}: {stock}, planned {planned}"));
    }
    if lines.is_empty() {
        return writeln!(out, "{loader}: the stock loader will do what is planned");
    }
    writeln!(out, "{loader}: the stock loader and the plan differ in {}", lines.len())?;
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}
