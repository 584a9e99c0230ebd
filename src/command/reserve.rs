// SPDX-License-Identifier: LGPL-2.1-or-later
//! The reservation options: space for devices that may be attached later.

use std::str::FromStr;

use clap::Args;

use super::Failure;
use crate::address::Size;
use crate::guest::{Guest, Reserve};
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

/// Any so many of some devices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AnyOf {
    at_once: usize,
    devices: Vec<Sbdf>,
}

impl FromStr for AnyOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, devices) =
            text.split_once(':').ok_or("K:SBDF[,SBDF...] expected, such as 2:3b:00.0,5e:00.0")?;
        let devices: Vec<Sbdf> = devices
            .split(',')
            .map(|device| device.parse().map_err(|error: crate::pci::ParseBdfError| error.to_string()))
            .collect::<Result<_, _>>()?;
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let at_once = count.parse().ok().filter(|count| digits && (1..=devices.len()).contains(count));
        let at_once =
            at_once.ok_or_else(|| format!("\"{count}\" is no number from 1 to {}", devices.len()))?;
        Ok(Self { at_once, devices })
    }
}

/// What is to be kept, the devices read from the host.
#[derive(Clone, Debug)]
pub struct Reservations {
    plain: Reserve,
    groups: Vec<Group>,
}

impl ReserveArguments {
    /// Whether devices of the host must be looked up.
    pub fn need_host(&self) -> bool {
        !self.reserve_for.is_empty() || !self.reserve_any.is_empty()
    }

    /// Looks the devices up: on `host`, or on the running one.
    pub fn resolve(&self, host: Option<&Host>) -> Result<Reservations, Failure> {
        let running;
        let host = match host {
            Some(host) => Some(host),
            None if self.need_host() => {
                running = Host::live()?;
                Some(&running)
            }
            None => None,
        };
        let all = AnyOf { at_once: self.reserve_for.len(), devices: self.reserve_for.clone() };
        let mut groups = Vec::new();
        for AnyOf { at_once, devices } in self.reserve_any.iter().chain([&all]) {
            let mut found = Vec::new();
            for sbdf in devices {
                let Some(host) = host else { continue };
                found.push(host.device(*sbdf)?.for_guest(sbdf.bdf)?);
            }
            groups.push(Group { at_once: *at_once, devices: found });
        }
        let split = Reserve::split(self.reserve.unwrap_or_default());
        let plain = Reserve {
            low: split.low.saturating_add(self.reserve_low.unwrap_or_default()),
            high: split.high.saturating_add(self.reserve_high.unwrap_or_default()),
        };
        Ok(Reservations { plain, groups })
    }
}

impl Reservations {
    /// Adds them to what the guest wants.
    pub fn add_to(&self, guest: &mut Guest) -> Result<(), Failure> {
        let too_much = || Failure::Input("the reservations are more than 64 bits can say".to_owned());
        let devices = any_order(&self.groups, guest.page_size).ok_or_else(too_much)?;
        let sum = |a: Size, b: Size, c: Size| a.checked_add(b)?.checked_add(c);
        guest.reserve = Reserve {
            low: sum(guest.reserve.low, self.plain.low, devices.low).ok_or_else(too_much)?,
            high: sum(guest.reserve.high, self.plain.high, devices.high).ok_or_else(too_much)?,
        };
        crate::source::description::validate(guest).map_err(|error| Failure::Input(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_k_of_some_devices_is_a_number_and_a_list() {
        let any: AnyOf = "2:3b:00.0,0000:5e:00.0,5f:00.0".parse().unwrap();
        assert_eq!((any.at_once, any.devices.len()), (2, 3));
        assert_eq!("1:0001:3b:00.0".parse::<AnyOf>().unwrap().devices[0].segment, 1);
        for text in ["", "3b:00.0", "0:3b:00.0", "2:3b:00.0", "+1:3b:00.0", "1:", "1:3b:00.0,"] {
            assert!(text.parse::<AnyOf>().is_err(), "{text}");
        }
    }
}
