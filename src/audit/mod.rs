// SPDX-License-Identifier: LGPL-2.1-or-later
//! What about a host's own BAR layout makes passing a device through unsafe or broken, and what mends it.
//!
//! [`audit`] looks at a whole [`Host`], since a device's safety depends on its neighbours, and reports on the
//! functions asked for. [`security_findings`] is what stands before a plan: those findings under which a guest would
//! reach what is not its own. XSA-461 (CVE-2024-31146) is the reason: Xen maps pages, BARs can be smaller, and what
//! shares a page is given away together.

mod compare;
mod finding;
mod guest;
mod hidden;
mod msix;
mod pages;
mod placement;
mod remedy;
mod sriov;

pub use compare::{SavedAuditError, changes, read_saved};
pub(crate) use finding::list;
pub use finding::{BarPlace, Code, Finding, Page, Remedy, Severity};
pub use guest::{device_findings, guest_findings};

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::address::{Address, Size};
use crate::guest::PAGE_SIZES;
use crate::pci::{BarKind, Sbdf};
use crate::source::host::{Host, HostError};

/// The version of the JSON form, the value of its `schema` key.
pub const SCHEMA: &str = "audit/1";

/// What the host's own description leaves open.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The host's page size: what is given away at once. Xen's is 4 KiB.
    pub page_size: Size,
    /// The guest's physical address width; the host's where nothing else is known.
    pub guest_phys_bits: Option<u8>,
}

impl Default for Options {
    fn default() -> Self {
        Self { page_size: Size::FRAME, guest_phys_bits: None }
    }
}

/// An audit's result. In JSON it is `audit/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was read.
    pub host: String,
    /// The page size that was looked at, bytes.
    pub page_size: Size,
    /// The functions asked for.
    pub devices: Vec<AuditedDevice>,
    /// Functions that go to the same guest or to none; those of no common page with another are in no group.
    pub groups: Vec<Vec<Sbdf>>,
    /// What was found about them, the worst first.
    pub findings: Vec<Finding>,
    /// The kernel arguments of all those findings in one, for the host's kernel (dom0's, not Xen's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_argument: Option<String>,
}

/// A function that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedDevice {
    /// Where the host has it.
    pub sbdf: Sbdf,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Base class and subclass.
    pub class: u16,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its physical function, if it is a virtual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physfn: Option<Sbdf>,
    /// Whether no finding about it is one of security.
    pub safe: bool,
    /// The page sizes, of guest and host, at which it can be passed through as the host has it now.
    pub page_sizes: Vec<Size>,
    /// Its BARs.
    pub bars: Vec<AuditedBar>,
}

/// A BAR as the host has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedBar {
    /// The register's offset.
    pub reg: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Its size, bytes.
    pub size: Size,
    /// Whether it is prefetchable.
    pub prefetch: bool,
    /// Its address; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
}

impl Report {
    /// Whether nothing that was found is a matter of security.
    pub fn is_safe(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Security)
    }
}

/// Audits those functions; where none is named, all that could be passed through (bridges could not).
///
/// # Errors
///
/// That the host has no such function.
pub fn audit(host: &Host, asked: &[Sbdf], options: &Options) -> Result<Report, HostError> {
    for sbdf in asked {
        host.device(*sbdf)?;
    }
    let asked: BTreeSet<Sbdf> = if asked.is_empty() {
        host.devices().filter(|device| device.bridge.is_none()).map(|device| device.sbdf).collect()
    } else {
        asked.iter().copied().collect()
    };
    let placed = pages::placed(host);
    let all = findings(host, &placed, options);
    let groups =
        pages::groups(&all).into_iter().filter(|group| group.iter().any(|sbdf| asked.contains(sbdf)));
    let groups = groups.collect();
    let findings: Vec<Finding> =
        all.into_iter().filter(|finding| finding.devices.iter().any(|sbdf| asked.contains(sbdf))).collect();

    let devices = host.devices().filter(|device| asked.contains(&device.sbdf)).map(|device| {
        let unsafe_finding = |finding: &Finding| {
            finding.severity == Severity::Security && finding.devices.contains(&device.sbdf)
        };
        AuditedDevice {
            sbdf: device.sbdf,
            vendor: device.device.vendor,
            device: device.device.device,
            class: device.device.class,
            model: device.device.model.clone(),
            physfn: device.physfn,
            safe: !findings.iter().any(unsafe_finding),
            page_sizes: pages::page_sizes(&placed, device, &PAGE_SIZES),
            bars: device
                .device
                .bars
                .iter()
                .map(|bar| AuditedBar {
                    reg: bar.reg,
                    kind: bar.kind,
                    size: bar.size,
                    prefetch: bar.prefetch,
                    address: bar.host_address,
                })
                .collect(),
        }
    });
    let devices = devices.collect();
    Ok(Report {
        schema: SCHEMA.to_owned(),
        host: host.origin().to_owned(),
        page_size: options.page_size,
        devices,
        groups,
        kernel_argument: remedy::combined(findings.iter().map(|finding| &finding.remedy)),
        findings,
    })
}

/// Everything about the host, the worst first.
fn findings(host: &Host, placed: &[pages::Placed<'_>], options: &Options) -> Vec<Finding> {
    let page = options.page_size;
    let guest_bits = options.guest_phys_bits.or_else(|| host.cpu().map(|cpu| cpu.phys_bits));
    let mut all = pages::shared(host, placed, page);
    all.extend(pages::unaligned(host, placed, page));
    all.extend(msix::findings(host, placed, page));
    all.extend(placement::findings(host, guest_bits));
    all.extend(sriov::findings(host, page));
    all.extend(hidden::findings(host));
    sort(&mut all);
    all
}

/// The worst first, then by kind and device.
fn sort(findings: &mut [Finding]) {
    findings.sort_by(|a, b| {
        let key = |finding: &Finding| (finding.code, finding.devices.first().copied());
        b.severity.cmp(&a.severity).then_with(|| key(a).cmp(&key(b)))
    });
}

/// Under which of its findings those functions would, together in one guest, give it what is not its own.
///
/// Functions that share pages among themselves alone are no danger to others: that is left out, but their BARs still
/// do not start pages. `page_size` is the host's. Functions that the host has not are no finding.
pub fn security_findings(host: &Host, taken: &[Sbdf], page_size: Size) -> Vec<Finding> {
    let placed = pages::placed(host);
    let options = Options { page_size, ..Options::default() };
    let ours = |sbdf: &Sbdf| taken.contains(sbdf);
    let ours_of = |physical: &Sbdf| {
        let of_it = |sbdf: &Sbdf| host.device(*sbdf).is_ok_and(|device| device.physfn == Some(*physical));
        taken.iter().any(of_it)
    };
    let matters = |finding: &Finding| match finding.code {
        _ if finding.severity < Severity::Security => false,
        // What is wrong with virtual functions is no matter of the physical one that has them.
        Code::VfBarsSmall => finding.devices.iter().any(ours_of),
        Code::SharedPage | Code::OverlappingBars => {
            finding.devices.iter().any(ours) && !finding.devices.iter().all(ours)
        }
        _ => finding.devices.iter().any(ours),
    };
    findings(host, &placed, &options).into_iter().filter(matters).collect()
}
