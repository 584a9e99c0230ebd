// SPDX-License-Identifier: LGPL-2.1-or-later
//! How answers for people look: device names from pci.ids, colours on a terminal alone.

use std::io;
use std::path::PathBuf;

use anstream::{AutoStream, ColorChoice};
use clap::Args;
use pciid_parser::Database;

use super::Failure;

/// Where device names come from.
#[derive(Clone, Debug, Default, Args)]
pub struct LookArguments {
    /// Take device names from FILE, not from the pci.ids that pciutils installs
    #[arg(long, value_name = "FILE")]
    pci_ids: Option<PathBuf>,
}

/// The names of PCI devices.
pub struct Names {
    database: Option<Database>,
}

impl LookArguments {
    /// Reads the names. Without a pci.ids devices are called by their numbers.
    pub fn names(&self) -> Result<Names, Failure> {
        let database = match &self.pci_ids {
            Some(file) => Some(
                Database::read_from_file(file)
                    .map_err(|error| Failure::Input(format!("{}: {error}", file.display())))?,
            ),
            None => Database::read().ok(),
        };
        Ok(Names { database })
    }
}

impl Names {
    /// A device's name as lspci prints it; its vendor's where the device is not known.
    pub fn of(&self, vendor: u16, device: u16) -> Option<String> {
        let vendor = self.database.as_ref()?.vendors.get(&vendor)?;
        Some(match vendor.devices.get(&device) {
            Some(device) => format!("{} {}", vendor.name, device.name),
            None => format!("{} Device {device:04x}", vendor.name),
        })
    }
}

/// Whether standard output shows colours: it is a terminal that does, and nobody minds (NO_COLOR).
pub fn colour() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}
