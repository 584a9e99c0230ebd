// SPDX-License-Identifier: LGPL-2.1-or-later
//! A prediction as a person reads it: where RAM, windows and BARs will be, and what has no place.

use std::io::{self, Write};

use crate::address::{Address, Range};
use crate::guest::{Guest, IO_WINDOW};
use crate::hvmloader::{Outcome, PredictedBar, Prediction, Suggestion};
use crate::layout::Warning;
use crate::pci::BarKind;

/// Writes what a loader will do with a guest; `loader` says which loader that is.
pub fn prediction(
    out: &mut dyn Write,
    guest: &Guest,
    loader: &str,
    prediction: &Prediction,
    warnings: &[Warning],
) -> io::Result<()> {
    let name = guest.name.as_deref().unwrap_or("guest");
    writeln!(out, "{name}: stock hvmloader of {loader}")?;
    if prediction.result == Outcome::Crash {
        writeln!(out, "\n  crashes before the guest starts")?;
    } else {
        writeln!(out)?;
        for (range, what) in lines(guest, prediction) {
            writeln!(out, "  {:<33} {:>7}  {what}", place(range), range.size().to_string())?;
        }
        for bar in prediction.bars.iter().filter(|bar| bar.address.is_none()) {
            writeln!(out, "  {:<33} {:>7}    {}", "no place", bar.size.to_string(), bar_text(guest, bar))?;
        }
        for bar in &prediction.ignored_bars {
            let text = format!("{} BAR 0x{:02x}", bar.bdf, bar.reg);
            writeln!(out, "  {:<33} {:>7}    {text}", "not seen", bar.size.to_string())?;
        }
        if prediction.pages_relocated > 0 {
            let pages = prediction.pages_relocated;
            writeln!(out, "\n  0x{pages:x} pages of RAM are moved from the hole to above 4G")?;
        }
    }
    warnings.iter().try_for_each(|warning| writeln!(out, "\nwarning: {}", warning_text(warning)))
}

fn warning_text(warning: &Warning) -> String {
    let about = warning.bdf.map(|bdf| format!("{bdf}: ")).unwrap_or_default();
    format!("{about}{} [{}]", warning.message, warning.code)
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

/// Whether a BAR's range is one of ports: no BAR in memory lies that low.
fn is_port(range: Range) -> bool {
    IO_WINDOW.0 <= range.start() && range.end() <= IO_WINDOW.1
}

fn place(range: Range) -> String {
    let last = range.end().get().saturating_sub(1);
    if is_port(range) {
        return format!("port {}", range.start());
    }
    format!("{:#014x} - {last:#014x}", range.start().get())
}

/// RAM, windows and BARs in address order, a window before what is in it; ports come last.
fn lines(guest: &Guest, prediction: &Prediction) -> Vec<(Range, String)> {
    let mut lines: Vec<(Range, u8, String)> = Vec::new();
    let mut add = |range: Option<Range>, order, what: String| {
        lines.extend(range.map(|range| (range, order, what)));
    };
    for range in prediction.ram() {
        add(Some(range), 0, "RAM".to_owned());
    }
    let low = Range::new(prediction.pci_mem_start, crate::guest::FIXED_REGIONS);
    add(low, 0, "low window".to_owned());
    add(prediction.high_window().filter(|window| !window.is_empty()), 0, "high window".to_owned());
    for memory in guest.reserved_device_memory() {
        add(Some(memory), 1, "  reserved device memory".to_owned());
    }
    for bar in &prediction.bars {
        add(bar.range(), 1, format!("  {}", bar_text(guest, bar)));
    }
    lines.sort_by_key(|(range, order, _)| (is_port(*range), range.start(), *order));
    lines.into_iter().map(|(range, _, what)| (range, what)).collect()
}

fn bar_text(guest: &Guest, bar: &PredictedBar) -> String {
    let device = guest.devices.iter().find(|device| device.bdf == bar.bdf);
    let declared = device.and_then(|device| device.bars.iter().find(|other| other.reg == bar.reg));
    let kind = match declared.map(|bar| (bar.kind, bar.prefetch)) {
        Some((BarKind::Mem64, true)) => " 64-bit prefetchable",
        Some((BarKind::Mem64, false)) => " 64-bit",
        Some((BarKind::Mem32 | BarKind::Mem1m, true)) => " 32-bit prefetchable",
        Some((BarKind::Mem32 | BarKind::Mem1m, false)) => " 32-bit",
        Some((BarKind::Rom, _)) => " ROM",
        Some((BarKind::Io, _)) => " I/O",
        None => ", which is no BAR",
    };
    let device = device.map(|device| match &device.model {
        Some(model) => format!("  {model}"),
        None => format!("  {:04x}:{:04x}", device.vendor, device.device),
    });
    let real = bar.register.filter(|_| bar.address.is_some() && declared.is_some());
    let real = real.map(|register| format!(", really at {}", Address::new(register & !0xf)));
    format!(
        "{} BAR 0x{:02x}{kind}{}{}",
        bar.bdf,
        bar.reg,
        device.unwrap_or_default(),
        real.unwrap_or_default()
    )
}
