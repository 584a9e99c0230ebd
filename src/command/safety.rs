// SPDX-License-Identifier: LGPL-2.1-or-later
//! What stands before a plan: devices that would give a guest what is not its own are refused.

use clap::Args;

use super::Failure;
use crate::address::Size;
use crate::audit::{self, Finding};
use crate::guest::Guest;
use crate::layout::{Blocking, Code, Refusal, Warning};
use crate::pci::{Device, Sbdf};
use crate::source::host::Host;

/// Which security findings the caller takes upon himself.
#[derive(Clone, Debug, Default, Args)]
pub struct Safety {
    /// Take devices in spite of the audit's security finding of that name, such as shared-page; may be repeated
    #[arg(long, value_name = "NAME", value_enum, hide_possible_values = true)]
    accept: Vec<audit::Code>,
}

impl Safety {
    /// Whether BARs that do not start a page are accepted.
    pub fn accepts_unaligned(&self) -> bool {
        self.accept.contains(&audit::Code::UnalignedBar)
    }

    /// Refuses the guest's devices for what the audit finds; what was accepted comes back as warnings.
    ///
    /// A BAR that does not start a page is no danger where the device model maps the page that contains it.
    pub fn check(
        &self,
        guest: &Guest,
        host: Option<&Host>,
        maps_containing_page: bool,
    ) -> Result<Vec<Warning>, Failure> {
        let mut found = audit::guest_findings(guest, host);
        found.retain(|finding| !(maps_containing_page && finding.code == audit::Code::UnalignedBar));
        Ok(self.accept(&guest.devices, found)?)
    }

    /// The same of a device that joins those which the guest has from the host already, `beside` it.
    pub fn check_device(
        &self,
        device: &Device,
        beside: &[Sbdf],
        page_size: Size,
        maps_containing_page: bool,
        host: Option<&Host>,
    ) -> Result<Vec<Warning>, Box<Refusal>> {
        let devices = std::slice::from_ref(device);
        let mut found = audit::device_findings(devices, beside, page_size, host);
        found.retain(|finding| !(maps_containing_page && finding.code == audit::Code::UnalignedBar));
        self.accept(devices, found)
    }

    fn accept(&self, devices: &[Device], found: Vec<Finding>) -> Result<Vec<Warning>, Box<Refusal>> {
        let (accepted, refused): (Vec<Finding>, Vec<Finding>) =
            found.into_iter().partition(|finding| self.accept.contains(&finding.code));
        match refused.first() {
            Some(finding) => Err(Box::new(refusal(devices, finding))),
            None => Ok(accepted.iter().map(|finding| warning(devices, finding)).collect()),
        }
    }
}

fn refusal(devices: &[Device], finding: &Finding) -> Refusal {
    let taken = devices.iter().flat_map(|device| device.bars.iter().map(move |bar| (device, bar)));
    let blocking = taken.filter(|(device, bar)| {
        let place = device.host.map_or(device.bdf, |host| host.bdf);
        finding
            .bars
            .iter()
            .any(|found| found.sbdf.bdf == place && found.reg == bar.reg && found.address == bar.host_address)
    });
    let remedy = &finding.remedy;
    let mut advice = remedy.advice.clone();
    if let Some(argument) = &remedy.kernel_argument {
        advice = format!("{argument}: {advice}");
    }
    if let Some(cost) = &remedy.cost {
        advice = format!("{advice}. Its cost: {cost}");
    }
    Refusal {
        code: Code::Unsafe,
        message: format!("{} [{}]", finding.consequence, finding.code),
        blocking: blocking
            .map(|(device, bar)| Blocking { bdf: device.bdf, reg: bar.reg, size: bar.size })
            .collect(),
        remedy: format!("{advice}. To take it all the same: --accept {}", finding.code),
    }
}

fn warning(devices: &[Device], finding: &Finding) -> Warning {
    let about = devices.iter().find(|device| device.host.is_some_and(|host| finding.devices.contains(&host)));
    let message = format!("accepted as {}: {}", finding.code, finding.consequence);
    match about {
        Some(device) => Warning::about("accepted", device.bdf, message),
        None => Warning::new("accepted", message),
    }
}
