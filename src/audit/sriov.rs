// SPDX-License-Identifier: LGPL-2.1-or-later
//! What SR-IOV adds: virtual functions too small for a page, without their physical one, or without an address.

use super::finding::{BarPlace, Code, Finding, Remedy, Severity, list};
use crate::address::{Address, Size};
use crate::pci::{BarKind, SrIov, VfBar};
use crate::source::host::{Host, HostDevice};

pub(super) fn findings(host: &Host, page: Size) -> Vec<Finding> {
    let one = |device: &HostDevice| {
        let physical = device.sriov.as_ref().filter(|sriov| sriov.total_vfs > 0);
        let physical = physical.map(|sriov| {
            let all = [
                too_small(device, sriov, page),
                no_address(device, sriov),
                past_four_gib(device, sriov, page),
                enabled(device, sriov),
            ];
            all.into_iter().flatten()
        });
        let own =
            device.is_virtual().then(|| [memory_enable(device), orphan(host, device)].into_iter().flatten());
        physical.into_iter().flatten().chain(own.into_iter().flatten()).collect::<Vec<_>>()
    };
    host.devices().flat_map(one).collect()
}

fn finding(
    code: Code,
    severity: Severity,
    device: &HostDevice,
    consequence: String,
    remedy: Remedy,
) -> Finding {
    Finding { code, severity, devices: vec![device.sbdf], bars: Vec::new(), page: None, consequence, remedy }
}

/// VF BARs of less than a page, or a device that cannot space them by that page (PCI Express, section 9.3.3.12).
fn too_small(device: &HostDevice, sriov: &SrIov, page: Size) -> Option<Finding> {
    let small: Vec<String> = sriov
        .bars
        .iter()
        .filter_map(|bar| bar.size.filter(|size| *size < page).map(|size| (bar.index, size)))
        .map(|(index, size)| format!("VF BAR {index} ({size})"))
        .collect();
    // Bit 0 stands for 4 KiB, and has to be there.
    let bit = page.get().checked_ilog2().and_then(|exponent| exponent.checked_sub(12));
    let unsupported = sriov.supported_page_sizes.zip(bit).is_some_and(|(supported, bit)| {
        supported != 0 && supported.checked_shr(bit).is_some_and(|bits| bits & 1 == 0)
    });
    let why = match (small.is_empty(), unsupported) {
        (true, false) => return None,
        (false, _) => {
            format!("{} of {}'s virtual functions are smaller than a {page} page", list(&small), device.sbdf)
        }
        (true, true) => format!("{} cannot space its virtual functions by {page} pages", device.sbdf),
    };
    Some(finding(
        Code::VfBarsSmall,
        Severity::Security,
        device,
        format!("{why}: several of them would share one, and whoever gets one could drive the others."),
        Remedy::advice(
            "leave SR-IOV off and pass through the physical function: the VF BARs' size is the device's own, and no \
             kernel argument raises it",
        ),
    ))
}

fn no_address(device: &HostDevice, sriov: &SrIov) -> Option<Finding> {
    let without: Vec<_> = sriov.bars.iter().filter(|bar| bar.address.is_none()).collect();
    if without.is_empty() {
        return None;
    }
    let names = without.iter().map(|bar| match bar.size {
        Some(size) => format!("VF BAR {} ({size} for each of {})", bar.index, sriov.total_vfs),
        None => format!("VF BAR {}", bar.index),
    });
    Some(finding(
        Code::VfBarsUnassigned,
        Severity::Functional,
        device,
        format!(
            "{} of {} have no address: its virtual functions cannot be enabled.",
            list(names),
            device.sbdf
        ),
        Remedy::argument(
            "pci=realloc",
            "switch on SR-IOV support (and \"Above 4G Decoding\") in the host's firmware; where it has no \
             such setting, let the kernel place the BARs anew",
        ),
    ))
}

/// VF BARs of 32 address bits that run past 4 GiB, where nobody reaches the last functions'.
fn past_four_gib(device: &HostDevice, sriov: &SrIov, page: Size) -> Option<Finding> {
    let past = |bar: &&VfBar| {
        let end = bar.address.zip(bar.size).and_then(|(address, size)| {
            address.checked_add(size.max(page).checked_mul(sriov.total_vfs.into())?)
        });
        bar.kind != BarKind::Mem64 && end.is_some_and(|end| end > Address::FOUR_GIB)
    };
    let bars: Vec<String> = sriov
        .bars
        .iter()
        .filter(past)
        .map(|bar| {
            let (size, address) = (bar.size.unwrap_or_default(), bar.address.unwrap_or_default());
            format!("VF BAR {} ({size} for each of {} from {address} on)", bar.index, sriov.total_vfs)
        })
        .collect();
    if bars.is_empty() {
        return None;
    }
    Some(finding(
        Code::BeyondWidth,
        Severity::Functional,
        device,
        format!(
            "{} of {} have 32 address bits and end above 4G: the last functions are out of reach.",
            list(bars),
            device.sbdf
        ),
        Remedy::argument(
            "pci=realloc",
            "let the kernel place the BARs anew, or enable fewer virtual functions",
        ),
    ))
}

fn enabled(device: &HostDevice, sriov: &SrIov) -> Option<Finding> {
    (sriov.num_vfs > 0).then(|| {
        finding(
            Code::PfWithVfs,
            Severity::Functional,
            device,
            format!(
                "{} has {} virtual functions enabled: if it is given away or reset, they vanish under whoever has them.",
                device.sbdf, sriov.num_vfs
            ),
            Remedy::advice(format!(
                "pass through the virtual functions and leave this one to the host, or end them first: \
                 echo 0 > /sys/bus/pci/devices/{}/sriov_numvfs",
                device.sbdf
            )),
        )
    })
}

fn memory_enable(device: &HostDevice) -> Option<Finding> {
    let bars: Vec<BarPlace> = device.device.bars.iter().map(|bar| BarPlace::new(device.sbdf, bar)).collect();
    let mut found = finding(
        Code::VfMemoryEnable,
        Severity::Note,
        device,
        format!(
            "{} is a virtual function: its BAR registers and its memory enable bit are hard-wired to 0 on \
             the host, and QEMU emulates both, so the guest's firmware has to place its BARs and switch them \
             on.",
            device.sbdf
        ),
        Remedy::advice("nothing to do: the loader sets the bit as it does for any other device"),
    );
    found.bars = bars;
    Some(found)
}

fn orphan(host: &Host, device: &HostDevice) -> Option<Finding> {
    let there = device.physfn.is_some_and(|physical| host.device(physical).is_ok());
    (!there).then(|| {
        let whose = device.physfn.map_or("of a physical function that this host does not show".to_owned(), |physical| {
            format!("of {physical}, which this host does not show")
        });
        finding(
            Code::VfWithoutPf,
            Severity::Functional,
            device,
            format!(
                "{} is a virtual function {whose}: whoever has that one decides whether this one works.",
                device.sbdf
            ),
            Remedy::advice(
                "bind the physical function to its own driver on the host before the virtual one is given away; in a \
                 copied tree, copy the physical function too",
            ),
        )
    })
}
