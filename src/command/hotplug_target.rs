// SPDX-License-Identifier: LGPL-2.1-or-later
//! What `attach` and `detach` share: which layout is meant, and which device.

use std::path::PathBuf;
use std::str::FromStr;
#[cfg(feature = "xenstore")]
use std::sync::{Arc, Mutex};

use clap::Args;

use super::guest::read;
use super::layout_file::{self, LockedLayout};
use super::present::{PresentArguments, Seen};
use super::{Failure, HostArguments};
use crate::hotplug::{Present, free_slot, there_are};
use crate::layout::{Code, Layout, LayoutDevice, Refusal};
use crate::pci::{Bdf, Device, Sbdf};
use crate::source::description;
use crate::source::host::Host;
#[cfg(feature = "xenstore")]
use crate::xenstore::{Domid, Store, UpdateError};

/// Which layout.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct LayoutArguments {
    /// The domain whose stored layout is meant
    #[cfg(feature = "xenstore")]
    #[arg(long, value_name = "N")]
    domid: Option<Domid>,
    /// A layout's file, as plan --format json writes it
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
}

/// What a change to a layout comes to: the layout afterwards and what is to be said, or a refusal.
pub type Changed<T> = Result<(Layout, T), Box<Refusal>>;

impl LayoutArguments {
    /// Asks the device model, where there is one to ask, where the guest's BARs are now.
    pub fn ask(&self, present: &PresentArguments) -> Result<Seen, Failure> {
        #[cfg(feature = "xenstore")]
        if let Some(domid) = self.domid {
            return present.ask_domain(domid);
        }
        present.ask()
    }

    /// Asks `change` what it makes of the layout and, if that is wanted and differs, stores it. What was decided on
    /// is what is stored: no other change slips in between.
    ///
    /// The inner result is the answer, the outer one says whether there is one.
    pub fn change<T: Send + 'static>(
        &self,
        commit: bool,
        mut change: impl FnMut(&Layout) -> Changed<T> + Send + 'static,
    ) -> Result<Result<T, Box<Refusal>>, Failure> {
        #[cfg(feature = "xenstore")]
        if let Some(domid) = self.domid {
            return change_stored(domid, commit, change);
        }
        let Some(path) = &self.layout else {
            return Err(Failure::Input("name the layout: --layout FILE".to_owned()));
        };
        if !commit {
            let layout = layout_file::read(path)?;
            return Ok(change(&layout).map(|(_, said)| said));
        }
        let file = LockedLayout::open(path)?;
        match change(file.layout()) {
            Err(refusal) => Ok(Err(refusal)),
            Ok((layout, said)) => {
                if layout != *file.layout() {
                    file.replace(&layout)?;
                }
                Ok(Ok(said))
            }
        }
    }
}

/// Why nothing is stored: it was refused, or there is nothing to change.
#[cfg(feature = "xenstore")]
#[derive(Debug)]
enum Declined<T> {
    Refused(Box<Refusal>),
    Same(T),
}

#[cfg(feature = "xenstore")]
fn change_stored<T: Send + 'static>(
    domid: Domid,
    commit: bool,
    mut change: impl FnMut(&Layout) -> Changed<T> + Send + 'static,
) -> Result<Result<T, Box<Refusal>>, Failure> {
    let store = Store::open()?;
    let nothing = || super::show::nothing_stored(domid);
    if !commit {
        let layout = store.read_layout(domid)?.ok_or_else(nothing)?;
        return Ok(change(&layout).map(|(_, said)| said));
    }
    let said = Arc::new(Mutex::new(None));
    let last = Arc::clone(&said);
    let outcome = store.update(domid, move |layout| match change(layout) {
        Err(refusal) => Err(Declined::Refused(refusal)),
        Ok((new, said)) if new == *layout => Err(Declined::Same(said)),
        Ok((new, said)) => {
            if let Ok(mut last) = last.lock() {
                *last = Some(said);
            }
            Ok(new)
        }
    });
    match outcome {
        Err(UpdateError::Store(error)) => Err(error.into()),
        Err(UpdateError::Declined(Declined::Refused(refusal))) => Ok(Err(refusal)),
        Err(UpdateError::Declined(Declined::Same(said))) => Ok(Ok(said)),
        Ok(None) => Err(nothing()),
        Ok(Some(_)) => {
            let said = said.lock().ok().and_then(|mut said| said.take());
            said.map(Ok).ok_or_else(|| {
                Failure::Environment(format!("domain {domid}: stored, but its answer is lost"))
            })
        }
    }
}

/// The DEVICE argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// One of the host's, and the slot that the guest is to see it in.
    Host(Sbdf, Option<u8>),
    /// A file with one element of `devices`.
    File(PathBuf),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, slot) = match text.split_once('@') {
            Some((address, slot)) => (address, Some(slot)),
            None => (text, None),
        };
        let Ok(address) = address.parse() else { return Ok(Self::File(PathBuf::from(text))) };
        let slot = slot.map(|slot| {
            let valid = (1..=2).contains(&slot.len()) && slot.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = u8::from_str_radix(slot, 16).ok().filter(|slot| valid && *slot < 32);
            number.ok_or_else(|| format!("\"@{slot}\" is no slot: 1 to 1f, in hexadecimal as in xl"))
        });
        // To xl slot 0 is none.
        Ok(Self::Host(address, slot.transpose()?.filter(|slot| *slot != 0)))
    }
}

/// Whether it is xl's name of all functions of a device, `3b:00.*`.
fn names_all_functions(text: &str) -> bool {
    let address = text.split_once('@').map_or(text, |(address, _)| address);
    address.strip_suffix('*').is_some_and(|slot| format!("{slot}0").parse::<Sbdf>().is_ok())
}

/// The device, read; where the guest is to see it may depend on what is there.
#[derive(Clone, Debug)]
pub enum Asked {
    /// One of the host's.
    Host(Device, Option<u8>),
    /// As a file has it, the guest's address with it.
    File(Device),
}

impl DeviceName {
    /// Reads the device, from the host or from the file; and the host, where it is the device's or is named.
    pub fn load(&self, host: &HostArguments) -> Result<(Asked, Option<Host>), Failure> {
        match self {
            Self::Host(sbdf, slot) => {
                let host = host.load()?;
                let device = host.device(*sbdf)?.for_guest(sbdf.bdf)?;
                Ok((Asked::Host(Device { host: Some(*sbdf), ..device }, *slot), Some(host)))
            }
            Self::File(path) => {
                if path.to_str().is_some_and(names_all_functions) {
                    return Err(Failure::Input(format!(
                        "{}: \".*\" names all functions of a device, and each is asked about by itself: name one, such as .0",
                        path.display()
                    )));
                }
                if !path.exists() && path.as_os_str() != "-" {
                    return Err(Failure::Input(format!(
                        "{}: neither a host device's address ([SSSS:]BB:SS.F[@VSLOT]) nor a file",
                        path.display()
                    )));
                }
                let device = description::parse_device(&read(path)?)
                    .map_err(|error| Failure::Input(format!("{}: {error}", path.display())))?;
                let host = if host.is_named() { Some(host.load()?) } else { None };
                Ok((Asked::File(device), host))
            }
        }
    }
}

impl Asked {
    /// The device at the address where the guest is to see it.
    pub fn place_in(&self, layout: &Layout, present: &Present) -> Result<Device, Box<Refusal>> {
        match self {
            Self::File(device) => Ok(device.clone()),
            Self::Host(device, slot) => {
                let there = there(layout, device.host).map(|there| there.bdf);
                let asked = slot.and_then(|slot| Bdf::new(0, slot, 0));
                let bdf = asked.or(there).or_else(|| free_slot(layout, present)).ok_or_else(|| {
                    Box::new(Refusal {
                        code: Code::SlotTaken,
                        message: "every slot of the guest's bus is taken".to_owned(),
                        blocking: Vec::new(),
                        remedy: "detach a device first".to_owned(),
                    })
                })?;
                Ok(Device { bdf, ..device.clone() })
            }
        }
    }
}

fn there(layout: &Layout, host: Option<Sbdf>) -> Option<&LayoutDevice> {
    layout.devices.iter().find(|device| host.is_some() && device.host == host)
}

/// Which function of the guest's is to go.
#[derive(Clone, Debug)]
pub enum Leaving {
    /// The one that is this one of the host's.
    Host(Sbdf, Option<u8>),
    /// The one that a file names.
    File(Device),
}

impl DeviceName {
    /// What to look for in the guest; the host is not asked, for the device may be gone from it.
    pub fn leaving(&self) -> Result<Leaving, Failure> {
        match self {
            Self::Host(sbdf, slot) => Ok(Leaving::Host(*sbdf, *slot)),
            Self::File(_) => match self.load(&HostArguments::default())?.0 {
                Asked::File(device) | Asked::Host(device, _) => Ok(Leaving::File(device)),
            },
        }
    }
}

impl Leaving {
    /// Its address on the guest's bus.
    pub fn find_in(&self, layout: &Layout) -> Result<Bdf, Box<Refusal>> {
        let not_attached = |message: String| {
            Box::new(Refusal {
                code: Code::NotAttached,
                message,
                blocking: Vec::new(),
                remedy: there_are(layout),
            })
        };
        match self {
            Self::Host(host, slot) => {
                let device = there(layout, Some(*host))
                    .ok_or_else(|| not_attached(format!("the guest has no device {host} of the host's")))?;
                if slot.is_some_and(|slot| slot != device.bdf.slot()) {
                    return Err(not_attached(format!("the guest has the host's {host} at {}", device.bdf)));
                }
                Ok(device.bdf)
            }
            Self::File(device) => {
                let bdf = device.bdf;
                if let Some(other) = layout.device(bdf)
                    && (other.vendor, other.device) != (device.vendor, device.device)
                {
                    let message = format!(
                        "the guest has {:04x}:{:04x} at {bdf}, not {:04x}:{:04x}",
                        other.vendor, other.device, device.vendor, device.device
                    );
                    return Err(not_attached(message));
                }
                Ok(bdf)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_an_address_of_the_hosts_or_a_file() {
        let host = |text: &str| match text.parse() {
            Ok(DeviceName::Host(sbdf, slot)) => (sbdf.to_string(), slot),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(host("3b:00.0"), ("0000:3b:00.0".to_owned(), None));
        assert_eq!(host("0001:3b:00.0@1f"), ("0001:3b:00.0".to_owned(), Some(0x1f)));
        assert_eq!(host("3b:00.0@0"), ("0000:3b:00.0".to_owned(), None), "xl takes slot 0 for none");
        for text in ["3b:00.0@20", "3b:00.0@", "3b:00.0@+1", "3b:00.0@001"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
        assert_eq!("gpu.json".parse(), Ok(DeviceName::File(PathBuf::from("gpu.json"))));
    }
}
