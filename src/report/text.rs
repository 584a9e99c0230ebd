// SPDX-License-Identifier: LGPL-2.1-or-later
//! A layout as a person reads it: the address space from top to bottom, one line for each thing in it.

use std::io::{self, Write};

use crate::address::{Address, Range, Size};
use crate::layout::{Layout, LayoutDevice, PlacedBar, WindowKind};
use crate::pci::{BarKind, Bdf};

/// Writes the layout: RAM, hole, windows with each BAR and reservation, what the device model keeps, warnings.
pub fn layout(out: &mut dyn Write, layout: &Layout) -> io::Result<()> {
    let name = layout.name.as_deref().unwrap_or("guest");
    let bits = layout.phys_bits;
    writeln!(
        out,
        "{name}: mmio_hole={} MiB, {bits}-bit addresses, {} of 8 MTRRs",
        mib(layout),
        layout.mtrrs
    )?;
    writeln!(out)?;
    for line in memory_lines(layout) {
        writeln!(out, "  {:<33} {:>7}  {}{}", line.place(), line.size(), "  ".repeat(line.depth), line.what)?;
    }
    let ports: Vec<&PlacedBar> = layout.bars.iter().filter(|bar| bar.kind == BarKind::Io).collect();
    if !ports.is_empty() {
        writeln!(out)?;
        for bar in sorted(ports) {
            let place = format!("port {}", bar.address);
            writeln!(out, "  {place:<33} {:>7}  {}", bar.size.to_string(), bar_text(layout, bar))?;
        }
    }
    if !layout.origins.is_empty() {
        writeln!(out)?;
    }
    for origin in &layout.origins {
        writeln!(out, "  {origin}")?;
    }
    for warning in &layout.warnings {
        let about = warning.bdf.map(|bdf| format!("{bdf}: ")).unwrap_or_default();
        writeln!(out, "\nwarning: {about}{} [{}]", warning.message, warning.code)?;
    }
    Ok(())
}

fn mib(layout: &Layout) -> u64 {
    layout.mmio_hole_size.get().checked_div(Size::MIB.get()).unwrap_or_default()
}

fn sorted(mut bars: Vec<&PlacedBar>) -> Vec<&PlacedBar> {
    bars.sort_by_key(|bar| bar.address);
    bars
}

/// One line: a stretch of addresses and what is there.
struct Line {
    range: Range,
    depth: usize,
    what: String,
}

impl Line {
    fn place(&self) -> String {
        let last = self.range.end().get().saturating_sub(1);
        format!("{:#014x} - {:#014x}", self.range.start().get(), last)
    }

    fn size(&self) -> String {
        self.range.size().to_string()
    }
}

/// Every line of the memory map in address order, what lies inside a window after the window.
fn memory_lines(layout: &Layout) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |range: Option<Range>, depth, what: String| {
        lines.extend(range.filter(|range| !range.is_empty()).map(|range| Line { range, depth, what }));
    };
    for range in layout.ram() {
        add(Some(range), 0, "RAM".to_owned());
    }
    for memory in &layout.reserved_memory {
        let inside = layout.windows.iter().any(|window| {
            window.kind != WindowKind::Io
                && window.range().zip(memory.range()).is_some_and(|(window, memory)| window.overlaps(memory))
        });
        add(memory.range(), usize::from(inside), memory.what.to_string());
    }
    for window in layout.windows.iter().filter(|window| window.kind != WindowKind::Io) {
        add(window.range(), 0, format!("{} window", window.kind));
    }
    for bar in layout.bars.iter().filter(|bar| bar.kind.is_memory()) {
        add(bar.range(), 1, bar_text(layout, bar));
    }
    for reservation in &layout.reserved {
        add(reservation.range(), 1, "kept for hot-plug".to_owned());
    }
    let fixed = Range::new(crate::guest::FIXED_REGIONS, Address::FOUR_GIB);
    add(fixed, 0, "fixed: firmware, APICs, ACPI".to_owned());
    lines.sort_by_key(|line| (line.range.start(), line.depth));
    lines
}

fn bar_text(layout: &Layout, bar: &PlacedBar) -> String {
    let kind = match (bar.kind, bar.prefetch) {
        (BarKind::Mem64, true) => "64-bit prefetchable",
        (BarKind::Mem64, false) => "64-bit",
        (BarKind::Mem32 | BarKind::Mem1m, true) => "32-bit prefetchable",
        (BarKind::Mem32 | BarKind::Mem1m, false) => "32-bit",
        (BarKind::Rom, _) => "ROM",
        (BarKind::Io, _) => "I/O",
    };
    let register = register(bar.reg);
    let what = if bar.kind == BarKind::Rom { kind.to_owned() } else { format!("{register} {kind}") };
    let host = bar.host.map(|host| format!(" [host {host}]")).unwrap_or_default();
    format!("{} {what}{}{host}", bar.bdf, device_name(layout, bar.bdf))
}

fn register(reg: u8) -> String {
    match reg.checked_sub(0x10) {
        Some(offset) if offset < 0x18 => format!("BAR{}", offset >> 2),
        _ => "ROM".to_owned(),
    }
}

fn device_name(layout: &Layout, bdf: Bdf) -> String {
    let name = |device: &LayoutDevice| match &device.model {
        Some(model) => format!("  {model}"),
        None => format!("  {:04x}:{:04x}", device.vendor, device.device),
    };
    layout.device(bdf).map(name).unwrap_or_default()
}
