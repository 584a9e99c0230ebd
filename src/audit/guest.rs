// SPDX-License-Identifier: LGPL-2.1-or-later
//! The audit that stands before a plan: may these devices go to this guest?

use super::finding::{BarPlace, Code, Finding, Remedy, Severity};
use super::{remedy, security_findings};
use crate::address::Size;
use crate::guest::Guest;
use crate::pci::{Device, Sbdf};
use crate::source::host::Host;

/// Why the devices that are passed through to a guest are not safe with it.
///
/// What a description says of its devices (`host_address`) is enough to see BARs that do not start a page of the
/// guest's `page_size`; what they share pages with only the host tells.
pub fn guest_findings(guest: &Guest, host: Option<&Host>) -> Vec<Finding> {
    device_findings(&guest.devices, &[], guest.page_size, host)
}

/// The same of devices that join those which the guest has from the host already, `beside` them.
pub fn device_findings(
    devices: &[Device],
    beside: &[Sbdf],
    page_size: Size,
    host: Option<&Host>,
) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        devices.iter().filter_map(|device| unaligned(device, page_size, host)).collect();
    if let Some(host) = host {
        let joining: Vec<Sbdf> = devices.iter().filter_map(|device| device.host).collect();
        let together: Vec<Sbdf> = joining.iter().chain(beside).copied().collect();
        let about_them = |finding: &Finding| match finding.code {
            // Said above already, and what is wrong with those that are there is not asked.
            Code::UnalignedBar => false,
            Code::VfBarsSmall => true,
            _ => finding.devices.iter().any(|sbdf| joining.contains(sbdf)),
        };
        found.extend(security_findings(host, &together, page_size).into_iter().filter(about_them));
    }
    super::sort(&mut found);
    found
}

fn unaligned(device: &Device, page: Size, host: Option<&Host>) -> Option<Finding> {
    let place = device.host.unwrap_or(Sbdf { segment: 0, bdf: device.bdf });
    let astray = device.bars.iter().filter(|bar| {
        bar.kind.is_memory() && bar.host_address.is_some_and(|address| !address.is_aligned(page))
    });
    let bars: Vec<BarPlace> = astray.map(|bar| BarPlace::new(place, bar)).collect();
    if bars.is_empty() {
        return None;
    }
    let order = page.get().checked_ilog2().unwrap_or_default();
    let known = host.zip(device.host).filter(|(host, sbdf)| host.device(*sbdf).is_ok());
    let mended = match (known, device.host) {
        (Some((host, sbdf)), _) => remedy::alignment(host, &[sbdf], page),
        (None, Some(sbdf)) => Remedy::argument(
            &format!("pci=resource_alignment={order}@{sbdf}"),
            "boot the host with this argument on the kernel's line (dom0's, not Xen's), then plan again",
        ),
        (None, None) => Remedy::advice(format!(
            "boot the host with pci=resource_alignment={order}@ and the device's address on the host, on the \
             kernel's line (dom0's, not Xen's), then plan again"
        )),
    };
    Some(Finding {
        code: Code::UnalignedBar,
        severity: Severity::Security,
        devices: vec![place],
        consequence: super::pages::unaligned_consequence(
            device.host.map_or(format!("{}", device.bdf), |sbdf| sbdf.to_string()),
            &bars,
            page,
        ),
        bars,
        page: None,
        remedy: mended,
    })
}
