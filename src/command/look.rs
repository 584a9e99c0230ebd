// SPDX-License-Identifier: LGPL-2.1-or-later
//! How answers for people look: device names from pci.ids, colours on a terminal alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anstream::{AutoStream, ColorChoice};
use clap::Args;

use super::Failure;

/// Where device names come from.
#[derive(Clone, Debug, Default, Args)]
pub struct LookArguments {
    /// Take device names from FILE, not from the pci.ids that pciutils installs
    #[arg(long, value_name = "FILE")]
    pci_ids: Option<PathBuf>,
}

/// Where distributions install pci.ids: hwdata, pciutils.
const INSTALLED: [&str; 2] = ["/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids"];

/// The names of PCI devices: the text of pci.ids, of which an answer needs a few lines among forty thousand.
#[derive(Default)]
pub struct Names {
    text: String,
    /// Where each vendor's line starts.
    vendors: BTreeMap<u16, usize>,
}

impl LookArguments {
    /// Reads the names. Without a pci.ids devices are called by their numbers.
    pub fn names(&self) -> Result<Names, Failure> {
        match &self.pci_ids {
            Some(file) => {
                let read = Names::read(file);
                let names = read.map_err(|error| Failure::Input(format!("{}: {error}", file.display())))?;
                if names.vendors.is_empty() {
                    return Err(Failure::Input(format!("{}: no line names a vendor", file.display())));
                }
                Ok(names)
            }
            None => {
                Ok(INSTALLED.iter().find_map(|file| Names::read(Path::new(file)).ok()).unwrap_or_default())
            }
        }
    }
}

/// A line's identifier and name, its tabs taken off: `10de  NVIDIA Corporation`.
fn entry(line: &str) -> Option<(u16, &str)> {
    let (digits, name) = line.split_at_checked(4)?;
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some((u16::from_str_radix(digits, 16).ok()?, name.strip_prefix("  ")?.trim_end()))
}

impl Names {
    fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        let mut vendors = BTreeMap::new();
        let mut start = 0_usize;
        for line in text.split_inclusive('\n') {
            if let Some((vendor, _)) = entry(line) {
                vendors.insert(vendor, start);
            }
            start = start.saturating_add(line.len());
        }
        Ok(Self { text, vendors })
    }

    /// A device's name as lspci prints it; its vendor's where the device is not known.
    pub fn of(&self, vendor: u16, device: u16) -> Option<String> {
        let mut lines = self.text.get(*self.vendors.get(&vendor)?..)?.lines();
        let (_, vendor) = entry(lines.next()?)?;
        // Up to the next vendor; a device's line has one tab, a subsystem's two.
        let devices = lines.take_while(|line| line.starts_with(['\t', '#']) || line.is_empty());
        let mut known = devices.filter_map(|line| entry(line.strip_prefix('\t')?));
        Some(match known.find(|(number, _)| *number == device) {
            Some((_, device)) => format!("{vendor} {device}"),
            None => format!("{vendor} Device {device:04x}"),
        })
    }
}

/// Whether standard output shows colours: it is a terminal that does, and nobody minds (NO_COLOR).
pub fn colour() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}
