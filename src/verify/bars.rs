// SPDX-License-Identifier: LGPL-2.1-or-later
//! BAR by BAR: where the layout has it, where the loader put it, where it is now.

use std::collections::BTreeMap;

use super::{Evidence, Verdict};
use crate::address::{Address, Range, Size};
use crate::hotplug::register_name;
use crate::layout::{Layout, LayoutDevice, WindowKind};
use crate::pci::{BarKind, Bdf, PresentBar, PresentFunction};
use crate::source::hvmloader_log::{LayoutUse, LoggedBar, Run};

/// PCI's class of network controllers, the high byte of base class and subclass; of mass storage.
const NETWORK: u16 = 0x02;
const STORAGE: u16 = 0x01;

/// The BARs that a log names: the first line about each counts, for the guest comes after its loader.
fn logged(run: Option<&Run>) -> BTreeMap<(Bdf, u8), LoggedBar> {
    let mut bars = BTreeMap::new();
    for bar in run.iter().flat_map(|run| run.bars()) {
        bars.entry((bar.bdf, bar.reg)).or_insert(bar);
    }
    bars
}

pub(super) fn verify(evidence: &Evidence, verdict: &mut Verdict) {
    let logged = logged(evidence.loader.as_ref());
    for bar in logged.values().filter(|bar| bar.logged.is_none()) {
        let message = format!("the loader had no space for {} ({})", name(bar.bdf, bar.reg), bar.size);
        verdict.disagree_about("unplaced", bar.bdf, Some(bar.reg), message);
    }
    let functions = evidence.device_model.as_ref().map(|model| model.functions.as_slice());
    match &evidence.layout {
        Some(layout) => {
            if let Some(run) = &evidence.loader {
                loader(layout, run, verdict);
            }
            planned(layout, evidence.loader.as_ref(), &logged, functions, verdict);
            if let Some(functions) = functions {
                self::functions(layout, functions, verdict);
            }
        }
        None => moved(&logged, functions.unwrap_or_default(), verdict),
    }
}

/// "00:04.0 BAR2".
pub(super) fn name(bdf: Bdf, reg: u8) -> String {
    format!("{bdf} {}", register_name(reg))
}

/// Whether the loader used the layout, and took over its windows.
fn loader(layout: &Layout, run: &Run, verdict: &mut Verdict) {
    match run.layout_use() {
        None if run.is_whole() => verdict.disagree(
            "layout-not-read",
            "the loader says nothing of a layout: it is one that knows of none (firmware_override= names another)",
        ),
        None => {}
        Some(LayoutUse::NotUsed(reason)) => {
            verdict.disagree("layout-not-used", format!("the loader did not use the layout: {reason}"));
        }
        Some(LayoutUse::Used { low, high }) => {
            for (kind, found) in [(WindowKind::Low, low), (WindowKind::High, high)] {
                let shown = |window: Option<Range>| window.map_or("none".to_owned(), |window| window.to_string());
                let planned = layout.window(kind).filter(|window| !window.is_empty());
                if planned != found {
                    let (found, planned) = (shown(found), shown(planned));
                    let message = format!("the loader's {kind} window is {found}, the layout's {planned}");
                    verdict.disagree("loader-window", message);
                }
            }
        }
    }
}

fn find(functions: &[PresentFunction], bdf: Bdf, reg: u8) -> Option<&PresentBar> {
    functions.iter().find(|function| function.bdf == bdf)?.bars.iter().find(|bar| bar.reg == reg)
}

fn planned(
    layout: &Layout,
    run: Option<&Run>,
    logged: &BTreeMap<(Bdf, u8), LoggedBar>,
    functions: Option<&[PresentFunction]>,
    verdict: &mut Verdict,
) {
    for bar in &layout.bars {
        let (bdf, reg, planned) = (bar.bdf, bar.reg, bar.address);
        let name = name(bdf, reg);
        let at_boot = bdf.bus() == 0 && !layout.hot_plugged.contains(&bdf);
        let by_loader = logged.get(&(bdf, reg)).filter(|_| at_boot);
        let now = functions.and_then(|functions| find(functions, bdf, reg));
        if let Some(now) = now
            && now.size != bar.size
        {
            let message = format!("{name} has {} in QEMU and {} in the layout", now.size, bar.size);
            verdict.disagree_about("other-size", bdf, Some(reg), message);
        }
        let now = now.map(|now| now.address);
        let placed = by_loader.and_then(LoggedBar::address);
        match (placed, now.flatten()) {
            (Some(placed), Some(now)) if placed != planned && now == planned => {
                let message = format!(
                    "{name} was placed at {placed} by the loader and moved by the guest to {now}, which is on record"
                );
                verdict.note_about("recorded-move", bdf, Some(reg), message);
            }
            (Some(placed), now) if placed != planned => {
                let since = match now {
                    Some(now) if now != placed => format!(", and is at {now} now"),
                    _ => String::new(),
                };
                let message =
                    format!("{name} was placed at {placed} by the loader{since}; the layout has {planned}");
                verdict.disagree_about("loader-bar", bdf, Some(reg), message);
            }
            (placed, Some(now)) if now != planned => {
                let who = if placed.is_some() { "was moved by the guest to" } else { "is at" };
                let message = format!("{name} {who} {now}; the layout has {planned}");
                verdict.disagree_about("moved", bdf, Some(reg), message);
            }
            _ => {}
        }
        if at_boot && by_loader.is_none() && run.is_some_and(Run::is_whole) {
            let message =
                format!("{name}: the loader did not see this BAR, which the layout has at {planned}");
            verdict.disagree_about("loader-bar", bdf, Some(reg), message);
        }
        if now == Some(None) && bar.kind != BarKind::Rom {
            let message = format!("{name} does not decode now: where the guest would have it is not known");
            verdict.note_about("no-decode", bdf, Some(reg), message);
        }
    }
    let known = |bdf, reg| layout.bars.iter().any(|bar| (bar.bdf, bar.reg) == (bdf, reg));
    for bar in logged.values().filter(|bar| !known(bar.bdf, bar.reg)) {
        if let Some(place) = bar.address() {
            let message = format!(
                "{} ({}) was placed at {place} by the loader and is not in the layout",
                name(bar.bdf, bar.reg),
                bar.size
            );
            verdict.disagree_about("loader-bar", bar.bdf, Some(bar.reg), message);
        }
    }
}

/// Which functions there are.
fn functions(layout: &Layout, functions: &[PresentFunction], verdict: &mut Verdict) {
    for function in functions {
        let (bdf, id) = (function.bdf, (function.vendor, function.device));
        match layout.device(bdf) {
            Some(known) if (known.vendor, known.device) != id => {
                let message = format!(
                    "{bdf} is {:04x}:{:04x} in QEMU and {:04x}:{:04x} in the layout",
                    id.0, id.1, known.vendor, known.device
                );
                verdict.disagree_about("other-device", bdf, None, message);
            }
            Some(_) => {}
            None if layout.bars.iter().any(|bar| bar.bdf == bdf) || function.bars.is_empty() => {}
            None => {
                let message = format!("{bdf} ({:04x}:{:04x}) is in QEMU and not in the layout", id.0, id.1);
                verdict.disagree_about("unrecorded", bdf, None, message);
            }
        }
    }
    for device in &layout.devices {
        let bdf = device.bdf;
        if functions.iter().any(|function| function.bdf == bdf) {
            continue;
        }
        if may_be_unplugged(device) {
            let message =
                format!("{bdf} is in the layout and not in QEMU: a guest with Xen's own drivers unplugs it");
            verdict.note_about("unplugged", bdf, None, message);
        } else {
            let message = format!("{bdf} is in the layout and not in QEMU");
            verdict.disagree_about("absent", bdf, None, message);
        }
    }
}

/// Whether a guest with Xen's drivers has QEMU unplug such a device: emulated NICs and disks (Xen's
/// docs/misc/hvm-emulated-unplug.pandoc).
fn may_be_unplugged(device: &LayoutDevice) -> bool {
    device.host.is_none() && [NETWORK, STORAGE].contains(&(device.class >> 8))
}

/// Without a layout: what is no longer where the loader put it.
fn moved(logged: &BTreeMap<(Bdf, u8), LoggedBar>, functions: &[PresentFunction], verdict: &mut Verdict) {
    for ((bdf, reg), bar) in logged {
        let now = find(functions, *bdf, *reg).and_then(|now| now.address);
        if let (Some(placed), Some(now)) = (bar.address(), now)
            && placed != now
        {
            let name = name(*bdf, *reg);
            let message = format!("{name} was logged at {placed} by the loader and is at {now}");
            verdict.disagree_about("moved", *bdf, Some(*reg), message);
        }
    }
}

/// A memory BAR with an address.
pub(super) struct Placed<'a> {
    pub(super) function: &'a PresentFunction,
    pub(super) reg: u8,
    pub(super) kind: BarKind,
    pub(super) range: Range,
}

impl Placed<'_> {
    pub(super) fn name(&self) -> String {
        format!("{} ({}) at {}", name(self.function.bdf, self.reg), self.range.size(), self.range)
    }
}

/// Every BAR of the device model that decodes.
pub(super) fn decoding(functions: &[PresentFunction]) -> Vec<Placed<'_>> {
    let bar = |function, bar: &PresentBar| {
        let range = Range::sized(bar.address?, bar.size)?;
        Some(Placed { function, reg: bar.reg, kind: bar.kind, range })
    };
    functions
        .iter()
        .flat_map(|function| function.bars.iter().filter_map(move |now| bar(function, now)))
        .collect()
}

/// The pages that a range touches.
pub(super) fn whole_pages(range: Range, page: Size) -> Range {
    let end = range.end().align_up(page).unwrap_or(Address::new(u64::MAX));
    Range::new(range.start().align_down(page), end).unwrap_or(range)
}
