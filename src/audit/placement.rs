// SPDX-License-Identifier: LGPL-2.1-or-later
//! BARs without an address, outside their bridge's window, or where nobody reaches them.

use super::finding::{BarPlace, Code, Finding, Remedy, Severity, list};
use crate::address::{Address, Range, Size};
use crate::pci::{Bar, BarKind};
use crate::source::host::{Host, HostDevice};

/// Bridges of subtractive decode forward what nobody else claims, whatever their windows say.
const SUBTRACTIVE: u8 = 1;

pub(super) fn findings(host: &Host, guest_bits: Option<u8>) -> Vec<Finding> {
    let one = |device| {
        [unassigned(device), outside_window(host, device)]
            .into_iter()
            .flatten()
            .chain(too_wide(host, device, guest_bits))
    };
    host.devices().flat_map(one).collect()
}

fn unassigned(device: &HostDevice) -> Option<Finding> {
    let without = |bar: &&Bar| bar.host_address.is_none() && bar.kind != BarKind::Rom;
    let mut bars: Vec<BarPlace> =
        device.device.bars.iter().filter(without).map(|bar| BarPlace::new(device.sbdf, bar)).collect();
    let given_up = device.unsized_bars.iter().filter(|bar| bar.address.is_none() && bar.kind != BarKind::Rom);
    bars.extend(given_up.map(|bar| BarPlace { sbdf: device.sbdf, reg: bar.reg, address: None, size: None }));
    if bars.is_empty() || device.bridge.is_some() {
        return None;
    }
    let ports_only = bars.iter().all(|place| {
        let kinds = device.device.bars.iter().map(|bar| (bar.reg, bar.kind));
        let kinds = kinds.chain(device.unsized_bars.iter().map(|bar| (bar.reg, bar.kind)));
        kinds.into_iter().any(|kind| kind == (place.reg, BarKind::Io))
    });
    let large = bars.iter().any(|bar| bar.size.is_some_and(|size| size >= Size::new(256 << 20)));
    let advice = if large {
        "switch on \"Above 4G Decoding\" in the host's firmware; where it has no such setting, let the \
         kernel place the BARs anew"
    } else {
        "let the kernel place the BARs anew, or free space by moving the card to another slot"
    };
    Some(Finding {
        code: Code::UnassignedBar,
        severity: if ports_only { Severity::Note } else { Severity::Functional },
        devices: vec![device.sbdf],
        consequence: format!(
            "{} of {} {} no address on the host: whoever has the device does not reach what is behind.",
            list(&bars),
            device.sbdf,
            if bars.len() == 1 { "has" } else { "have" },
        ),
        bars,
        page: None,
        remedy: Remedy::argument("pci=realloc", advice),
    })
}

fn outside_window(host: &Host, device: &HostDevice) -> Option<Finding> {
    let bridge = host.bridge_of(device)?;
    let registers = bridge.bridge?;
    if bridge.interface == Some(SUBTRACTIVE) {
        return None;
    }
    let within = |window: Option<(Address, Address)>, range: Range| {
        window.is_some_and(|(first, last)| {
            first <= range.start() && range.end() <= last.saturating_add(Size::new(1))
        })
    };
    let outside = |bar: &&Bar| {
        let Some(range) = bar.host_address.and_then(|address| Range::sized(address, bar.size)) else {
            return false;
        };
        match bar.kind {
            BarKind::Io => !within(registers.io, range),
            BarKind::Rom if device.shadow_rom => false,
            _ => !within(registers.memory, range) && !within(registers.prefetchable, range),
        }
    };
    let bars: Vec<BarPlace> =
        device.device.bars.iter().filter(outside).map(|bar| BarPlace::new(device.sbdf, bar)).collect();
    if bars.is_empty() {
        return None;
    }
    let shown = |(first, last): (Address, Address)| format!("{first}-{last}");
    let windows: Vec<String> =
        [registers.memory, registers.prefetchable, registers.io].into_iter().flatten().map(shown).collect();
    let windows = if windows.is_empty() { "nothing".to_owned() } else { list(windows) };
    Some(Finding {
        code: Code::OutsideWindow,
        severity: Severity::Functional,
        devices: vec![device.sbdf],
        consequence: format!(
            "{} of {} {} not where the bridge {} forwards ({windows}): accesses never reach the device.",
            list(&bars),
            device.sbdf,
            if bars.len() == 1 { "is" } else { "are" },
            bridge.sbdf,
        ),
        bars,
        page: None,
        remedy: Remedy::argument(
            "pci=realloc",
            "let the kernel place bridges and BARs anew, or update the firmware",
        ),
    })
}

fn too_wide(host: &Host, device: &HostDevice, guest_bits: Option<u8>) -> Vec<Finding> {
    let limit = |bits: u8| 1_u64.checked_shl(bits.into()).map(Address::new);
    let mut found = Vec::new();
    let mut add = |bars: Vec<BarPlace>, consequence: String, advice: &str| {
        found.push(Finding {
            code: Code::BeyondWidth,
            severity: Severity::Functional,
            devices: vec![device.sbdf],
            bars,
            page: None,
            consequence,
            remedy: Remedy::advice(advice),
        });
    };
    let places = |beyond: &dyn Fn(&Bar, Range) -> bool| -> Vec<BarPlace> {
        let beyond = device.memory_bars().filter(|(bar, range)| beyond(bar, *range));
        beyond.map(|(bar, _)| BarPlace::new(device.sbdf, bar)).collect()
    };
    let reach = [("processor", host.cpu().map(|cpu| cpu.phys_bits)), ("IOMMU", host.iommu_bits())];
    for (who, bits) in reach.into_iter().filter_map(|(who, bits)| Some((who, bits?))) {
        let Some(end) = limit(bits) else { continue };
        let bars = places(&|_, range| range.end() > end);
        if !bars.is_empty() {
            let consequence = format!(
                "{} of {} end past the {bits} address bits of the host's {who}: it does not reach the device there.",
                list(&bars),
                device.sbdf
            );
            add(
                bars,
                consequence,
                "lower the MMIO base (\"MMIO High Base\", \"MMIOH\") in the host's firmware",
            );
        }
    }
    // A guest has RAM below 4 GiB: a BAR of half its address space or more has no aligned place.
    if let Some((bits, half)) = guest_bits.and_then(|bits| Some((bits, limit(bits.checked_sub(1)?)?))) {
        let bars = places(&|bar, _| bar.size.get() > half.get());
        if !bars.is_empty() {
            let consequence = format!(
                "{} of {} cannot be placed in a guest of {bits} address bits.",
                list(&bars),
                device.sbdf
            );
            add(
                bars,
                consequence,
                "give the guest a wider physical address (cpuid=), or resize the BAR if it is resizable",
            );
        }
    }
    found
}
