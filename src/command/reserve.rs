// SPDX-License-Identifier: LGPL-2.1-or-later
//! The reservation options: space for devices that may be attached later.

use clap::Args;

use super::Failure;
use crate::address::Size;
use crate::guest::{AnyOf, Guest, Reserve};
use crate::hotplug::{Group, any_order};
use crate::pci::Sbdf;
use crate::source::host::Host;

/// Space kept for hot-plug, on top of what the guest's configuration asks for.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Hot-plug space")]
pub struct ReserveArguments {
    /// Keep SIZE for devices to come: a quarter below 4 GiB (1 GiB at most), the rest above
    #[arg(long, value_name = "SIZE", value_parser = super::size_argument)]
    reserve: Option<Size>,
    /// Keep SIZE below 4 GiB
    #[arg(long, value_name = "SIZE", value_parser = super::size_argument)]
    reserve_low: Option<Size>,
    /// Keep SIZE above 4 GiB
    #[arg(long, value_name = "SIZE", value_parser = super::size_argument)]
    reserve_high: Option<Size>,
    /// Keep what these devices of the host need, attached and detached in any order
    #[arg(long, value_name = "SBDF", value_delimiter = ',')]
    reserve_for: Vec<Sbdf>,
    /// Keep what any K of these devices of the host need, attached and detached in any order; may be repeated
    #[arg(long, value_name = "K:SBDF[,SBDF...]")]
    reserve_any: Vec<AnyOf>,
}

impl ReserveArguments {
    /// Adds what is to be kept to what the guest wants, the devices that either names looked up on `host`, or on the
    /// running one.
    pub fn add_to(&self, guest: &mut Guest, host: Option<&Host>) -> Result<(), Failure> {
        let too_much = || Failure::Input("the reservations are more than 64 bits can say".to_owned());
        let named = |devices: &[Sbdf]| (!devices.is_empty()).then(|| AnyOf::all(devices));
        let all: Vec<Sbdf> = self.reserve_for.iter().chain(&guest.reserve_for).copied().collect();
        let any = self.reserve_any.iter().chain(&guest.reserve_any).cloned();
        let groups = look_up(any.chain(named(&all)).collect(), host)?;
        let devices = any_order(&groups, guest.page_size).ok_or_else(too_much)?;
        let split = Reserve::split(self.reserve.unwrap_or_default());
        let sum = |sizes: [Size; 4]| sizes.into_iter().try_fold(Size::ZERO, Size::checked_add);
        let (low, high) = (self.reserve_low.unwrap_or_default(), self.reserve_high.unwrap_or_default());
        guest.reserve = Reserve {
            low: sum([guest.reserve.low, split.low, low, devices.low]).ok_or_else(too_much)?,
            high: sum([guest.reserve.high, split.high, high, devices.high]).ok_or_else(too_much)?,
        };
        guest.reserve_for.clear();
        guest.reserve_any.clear();
        crate::source::description::validate(guest).map_err(|error| Failure::Input(error.to_string()))
    }
}

/// The devices behind the names.
fn look_up(named: Vec<AnyOf>, host: Option<&Host>) -> Result<Vec<Group>, Failure> {
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let running;
    let host = match host {
        Some(host) => host,
        None => {
            running = Host::live()?;
            &running
        }
    };
    let found = |sbdf: &Sbdf| Ok(host.device(*sbdf)?.for_guest(sbdf.bdf)?);
    let group = |AnyOf { at_once, devices }: AnyOf| {
        Ok(Group { at_once, devices: devices.iter().map(found).collect::<Result<_, Failure>>()? })
    };
    named.into_iter().map(group).collect()
}
