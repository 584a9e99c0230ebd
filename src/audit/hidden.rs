// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a guest will miss, or what the source does not show: small resizable BARs, ROMs, sizes, capabilities.

use super::finding::{BarPlace, Code, Finding, Remedy, Severity, list};
use crate::address::Size;
use crate::pci::BarKind;
use crate::source::host::{Capabilities, Host, HostDevice};

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let one = |device: &HostDevice| {
        resizable(device)
            .into_iter()
            .chain([rom(device), size_unknown(device), unreadable(host, device)].into_iter().flatten())
            .collect::<Vec<_>>()
    };
    host.devices().filter(|device| device.bridge.is_none()).flat_map(one).collect()
}

fn note(
    code: Code,
    device: &HostDevice,
    bars: Vec<BarPlace>,
    consequence: String,
    remedy: Remedy,
) -> Finding {
    Finding {
        code,
        severity: Severity::Note,
        devices: vec![device.sbdf],
        bars,
        page: None,
        consequence,
        remedy,
    }
}

/// BARs that could be larger. The kernel takes the size as the exponent of its number of MiB (resource_resize).
fn resizable(device: &HostDevice) -> Vec<Finding> {
    let smaller = device.resizable.iter().filter_map(|resizable| {
        let bar = device.bar(resizable.index)?;
        let largest = resizable.supported.last().filter(|largest| **largest > bar.size)?;
        let exponent = largest.get().checked_ilog2()?.checked_sub(20)?;
        let (sbdf, index) = (device.sbdf, resizable.index);
        let place = BarPlace::new(sbdf, bar);
        let consequence = format!(
            "{place} of {sbdf} could be up to {largest}: a guest's driver reaches the device's memory \
             through a small window, which costs speed."
        );
        let mut remedy = Remedy::advice(format!(
            "switch on \"Resizable BAR\" in the host's firmware, or before the device is bound for passthrough: \
             echo {exponent} > /sys/bus/pci/devices/{sbdf}/resource{index}_resize"
        ));
        remedy.cost = Some(format!("{largest} of address space above 4G on the host and in the guest"));
        Some(note(Code::ResizableSmall, device, vec![place], consequence, remedy))
    });
    smaller.collect()
}

fn rom(device: &HostDevice) -> Option<Finding> {
    let sized = device.device.bars.iter().find(|bar| bar.kind == BarKind::Rom);
    let has_none = sized.is_some_and(|bar| bar.host_address.is_none())
        || device.unsized_bars.iter().any(|bar| bar.kind == BarKind::Rom && bar.address.is_none());
    let why = if device.shadow_rom {
        "is the copy that the firmware left in memory, not the device's own"
    } else if has_none {
        "has no address on the host"
    } else {
        return None;
    };
    let bars = sized.map(|bar| BarPlace::new(device.sbdf, bar)).into_iter().collect();
    let consequence = format!(
        "The ROM of {} {why}: a guest's firmware may find no option ROM, which matters for graphics cards \
         and booting from the device.",
        device.sbdf
    );
    let remedy = Remedy::argument(
        "pci=rom",
        "let the kernel give ROMs addresses, or make another card the host's boot display",
    );
    Some(note(Code::RomUnreadable, device, bars, consequence, remedy))
}

fn size_unknown(device: &HostDevice) -> Option<Finding> {
    let known = device.unsized_bars.iter().filter(|bar| bar.address.is_some());
    let bars: Vec<BarPlace> = known
        .map(|bar| BarPlace { sbdf: device.sbdf, reg: bar.reg, address: bar.address, size: None })
        .collect();
    if bars.is_empty() {
        return None;
    }
    let consequence = format!(
        "The size of {} of {} is not known here: what it shares a page with is not known either.",
        list(&bars),
        device.sbdf
    );
    let remedy = Remedy::advice("read the host's own sysfs, or let lspci run on the host itself");
    Some(note(Code::SizeUnknown, device, bars, consequence, remedy))
}

fn unreadable(host: &Host, device: &HostDevice) -> Option<Finding> {
    let has_bars = device.memory_bars().any(|(_, range)| range.size() > Size::ZERO);
    if device.capabilities != Capabilities::Unreadable || !has_bars {
        return None;
    }
    let consequence = format!(
        "The capabilities of {} could not be read: nothing is known of its MSI-X tables and resizable BARs.",
        device.sbdf
    );
    let advice = if host.is_live() { "run this as root" } else { "make the copy, or run lspci, as root" };
    Some(note(Code::CapabilitiesUnreadable, device, Vec::new(), consequence, Remedy::advice(advice)))
}
