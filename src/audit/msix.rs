// SPDX-License-Identifier: LGPL-2.1-or-later
//! MSI-X tables and pending bits that share a page with other registers.
//!
//! The specification (PCI 3.0, section 6.8.2) keeps other registers off the 4 KiB pages that hold either, just so
//! that software can guard them. What lies behind a structure on its page is taken for unused; what lies before the
//! first structure on a page cannot be.

use std::collections::BTreeSet;

use super::finding::{BarPlace, Code, Finding, Remedy, Severity, list};
use super::pages::Placed;
use super::remedy;
use crate::address::{Range, Size};
use crate::source::host::{Host, HostDevice};

/// One of the two structures, where the host has it.
struct Structure {
    name: &'static str,
    bar: BarPlace,
    range: Range,
}

pub(super) fn findings(host: &Host, placed: &[Placed<'_>], page: Size) -> Vec<Finding> {
    host.devices().filter_map(|device| finding(host, placed, device, page)).collect()
}

fn structures(device: &HostDevice) -> Vec<Structure> {
    let Some(msix) = device.msix else { return Vec::new() };
    let place = |name, index, offset: u32, size| {
        let bar = device.bar(index)?;
        let start = bar.host_address?.checked_add(Size::new(u64::from(offset)))?;
        Some(Structure { name, bar: BarPlace::new(device.sbdf, bar), range: Range::sized(start, size)? })
    };
    let table = place("MSI-X table", msix.table_bar, msix.table_offset, msix.table_size());
    let pba = place("MSI-X pending bits", msix.pba_bar, msix.pba_offset, msix.pba_size());
    [table, pba].into_iter().flatten().collect()
}

fn finding(host: &Host, placed: &[Placed<'_>], device: &HostDevice, page: Size) -> Option<Finding> {
    let structures = structures(device);
    let mut neighbours: Vec<String> = Vec::new();
    let mut guarded: Vec<&str> = Vec::new();
    let mut bars: Vec<BarPlace> = Vec::new();
    let mut other_bars = false;
    for structure in &structures {
        let start = structure.range.start().align_down(Size::FRAME);
        let pages = Range::new(start, structure.range.end().align_up(Size::FRAME)?)?;
        let first = structures
            .iter()
            .filter(|other| other.bar == structure.bar && pages.overlaps(other.range))
            .all(|other| structure.range.start() <= other.range.start());
        let before = structure.bar.address.map(|address| address.max(start)).filter(|_| first);
        let mut shared = Vec::new();
        if let Some(before) = before.filter(|before| *before < structure.range.start()) {
            let length = structure.range.start().distance_from(before);
            shared.push(format!("the {} bytes before in {}", length.get(), structure.bar));
        }
        for other in placed.iter().filter(|other| pages.overlaps(other.range)) {
            let is_structures = structures.iter().any(|structure| structure.bar == other.bar);
            if !is_structures {
                let own = other.bar.sbdf == device.sbdf;
                let owner = if own { String::new() } else { format!(" of {}", other.bar.sbdf) };
                shared.push(format!("{}{owner}", other.bar));
                bars.push(other.bar);
                other_bars = true;
            }
        }
        if !shared.is_empty() {
            guarded.push(structure.name);
            bars.push(structure.bar);
            neighbours.extend(shared);
        }
    }
    if neighbours.is_empty() {
        return None;
    }
    let mut named = BTreeSet::new();
    neighbours.retain(|neighbour| named.insert(neighbour.clone()));
    bars.sort_unstable();
    bars.dedup();
    let within = "within a BAR nothing can be moved: let the driver use MSI or INTx instead of MSI-X where \
                  it can, or ask the maker for firmware that keeps the table on pages of its own";
    let remedy = if other_bars {
        let mut remedy = remedy::alignment(host, &[device.sbdf], page);
        remedy.advice = format!("{}; {within}", remedy.advice);
        remedy
    } else {
        Remedy::advice(within)
    };
    Some(Finding {
        code: Code::MsixPage,
        severity: Severity::Functional,
        devices: vec![device.sbdf],
        bars,
        page: None,
        consequence: format!(
            "{} of {} {} on one 4K page with {}: Xen write-protects that page and QEMU emulates it, so a \
             guest's accesses to those registers are slow or lost.",
            list(&guarded),
            device.sbdf,
            if guarded.len() == 1 { "lies" } else { "lie" },
            list(&neighbours),
        ),
        remedy,
    })
}
