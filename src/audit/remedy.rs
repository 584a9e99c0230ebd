// SPDX-License-Identifier: LGPL-2.1-or-later
//! The kernel argument that gives BARs pages of their own, for this host, and what it costs.
//!
//! Linux's `pci=resource_alignment=ORDER@SBDF` (pci.c, pci_specified_resource_alignment and
//! pci_request_resource_alignment) makes every memory BAR of the function that is smaller than 2^ORDER that large,
//! for Linux and all it tells, and places it anew. It cannot raise the start alone, it does nothing for a virtual
//! function, and a bridge whose window is full has to be named too, or the BARs find no place.

use std::collections::BTreeSet;

use super::finding::{Remedy, bar_name, list};
use crate::address::Size;
use crate::pci::Sbdf;
use crate::source::host::{Host, HostDevice};

/// Bridges forward memory in units of 1 MiB.
const BRIDGE_ORDER: u32 = 20;

/// How the BARs of those functions get pages of their own.
pub(super) fn alignment(host: &Host, functions: &[Sbdf], page: Size) -> Remedy {
    let devices: Vec<&HostDevice> = functions.iter().filter_map(|sbdf| host.device(*sbdf).ok()).collect();
    if devices.iter().any(|device| device.is_virtual()) {
        return Remedy::advice(
            "a virtual function's place follows from its physical function's VF BARs, and no kernel argument \
             moves it: pass through the whole physical function, or use a device whose VF BARs fill pages",
        );
    }
    let small: Vec<&HostDevice> =
        devices.into_iter().filter(|device| small_bars(device, page).next().is_some()).collect();
    let Some(order) = page.get().checked_ilog2().filter(|_| !small.is_empty()) else {
        return Remedy::argument("pci=realloc", "let the kernel place the BARs anew");
    };
    let full = full_bridges(host, &small, page);
    let mut words: Vec<String> = small.iter().map(|device| format!("{order}@{}", device.sbdf)).collect();
    words.extend(full.iter().map(|bridge| format!("{BRIDGE_ORDER}@{bridge}")));
    let mut advice = "boot the host with this argument on the kernel's line (dom0's, not Xen's)".to_owned();
    if words.len() > 1 {
        advice.push_str(", in quotes for GRUB because of the semicolons");
    }
    if !full.is_empty() {
        advice.push_str(&format!("; {} is named because its window has no room for that", list(&full)));
    }
    advice.push_str(", then audit again");
    if slots(&small).len() > 1 {
        advice.push_str(
            "; or move one of the cards to a slot behind another bridge: what bridges forward never shares a page",
        );
    }
    Remedy {
        advice,
        kernel_argument: Some(format!("pci=resource_alignment={}", words.join(";"))),
        cost: Some(cost(&small, page)),
    }
}

/// One argument for all of them: of two that name `pci=resource_alignment` the kernel hears the last alone.
pub(super) fn combined<'a>(remedies: impl Iterator<Item = &'a Remedy>) -> Option<String> {
    const ALIGNMENT: &str = "resource_alignment=";
    let (mut aligned, mut others) = (BTreeSet::new(), BTreeSet::new());
    for argument in remedies.filter_map(|remedy| remedy.kernel_argument.as_deref()?.strip_prefix("pci=")) {
        match argument.strip_prefix(ALIGNMENT) {
            Some(words) => aligned.extend(words.split(';')),
            None => _ = others.insert(argument.to_owned()),
        }
    }
    if !aligned.is_empty() {
        let mut words: Vec<&str> = aligned.into_iter().collect();
        words.sort_by_key(|word| word.split_once('@').map(|(order, function)| (function, order)));
        others.insert(format!("{ALIGNMENT}{}", words.join(";")));
    }
    let others: Vec<String> = others.into_iter().collect();
    (!others.is_empty()).then(|| format!("pci={}", others.join(",")))
}

/// Memory BARs below the page's size: what the argument acts on.
fn small_bars(device: &HostDevice, page: Size) -> impl Iterator<Item = (u8, Size)> {
    let small = move |bar: &&crate::pci::Bar| bar.kind.is_memory() && bar.size < page;
    device.device.bars.iter().filter(small).map(|bar| (bar.reg, bar.size))
}

fn slots(devices: &[&HostDevice]) -> BTreeSet<(u32, u8, u8)> {
    devices
        .iter()
        .map(|device| (device.sbdf.segment, device.sbdf.bdf.bus(), device.sbdf.bdf.slot()))
        .collect()
}

fn cost(small: &[&HostDevice], page: Size) -> String {
    let grown = |device: &&HostDevice| {
        let bars = small_bars(device, page).map(|(reg, size)| format!("{} from {size}", bar_name(reg)));
        format!("{}: {}", device.sbdf, list(bars))
    };
    let grown: Vec<String> = small.iter().map(grown).collect();
    format!(
        "these BARs show as {page} to the host's drivers and to the guest ({}): a driver that looks for \
         registers from a BAR's end, or checks its size, fails; raising the start alone would keep the \
         sizes, but Linux has no argument for that",
        grown.join("; ")
    )
}

/// The bridges right above those functions whose memory window is too small once their BARs have grown.
fn full_bridges(host: &Host, small: &[&HostDevice], page: Size) -> BTreeSet<Sbdf> {
    let grows = |device: &HostDevice| small.iter().any(|other| other.sbdf == device.sbdf);
    let too_small = |bridge: &&HostDevice| {
        let Some((start, last)) = bridge.bridge.and_then(|registers| registers.memory) else { return false };
        let needed = host
            .devices()
            .filter(|device| host.bridge_of(device).is_some_and(|above| above.sbdf == bridge.sbdf));
        let needed = needed.fold(Size::ZERO, |sum, device| {
            let least = if grows(device) { page } else { Size::ZERO };
            let bars = device.device.bars.iter().filter(|bar| bar.kind.is_memory() && !bar.prefetch);
            let own = bars.fold(Size::ZERO, |sum, bar| sum.saturating_add(bar.size.max(least)));
            let behind = device.bridge.and_then(|registers| registers.memory);
            let behind = behind.map_or(Size::ZERO, |(start, last)| last.distance_from(start));
            sum.saturating_add(own).saturating_add(behind)
        });
        needed > last.distance_from(start).saturating_add(Size::new(1))
    };
    small
        .iter()
        .filter_map(|device| host.bridge_of(device))
        .filter(too_small)
        .map(|bridge| bridge.sbdf)
        .collect()
}
