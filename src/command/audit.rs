// SPDX-License-Identifier: LGPL-2.1-or-later
//! `audit`: is this host's BAR layout safe to pass through?

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::host::HostArguments;
use super::look::LookArguments;
use super::{Answer, Failure, Format, write_json};
use crate::address::Size;
use crate::audit::{self, Options};
use crate::guest::PAGE_SIZES;
use crate::pci::Sbdf;
use crate::report;

/// Say what about a host's own BAR layout makes passing a device through unsafe or broken, and what mends it.
///
/// The exit code is 1 if something unsafe was found about the devices asked for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  xen-pci-layout audit 0000:3b:00.0\n  \
    xen-pci-layout audit --lspci lspci.txt --format json > before.json")]
pub struct Audit {
    #[command(flatten)]
    host: HostArguments,
    /// The devices to look at; all that could be passed through where none is named
    #[arg(value_name = "SBDF")]
    devices: Vec<Sbdf>,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Also say what has changed since an audit that was saved with --format json
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// The host's page size: 4K, 16K or 64K
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = page_size_argument)]
    page_size: Size,
    /// The guest's physical address width, where it is not the host's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(32..=52))]
    phys_bits: Option<u8>,
    #[command(flatten)]
    look: LookArguments,
}

fn page_size_argument(text: &str) -> Result<Size, String> {
    let size = super::size_argument(text)?;
    if PAGE_SIZES.contains(&size) { Ok(size) } else { Err("a page has 4K, 16K or 64K".to_owned()) }
}

impl Audit {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Audits and writes what was found.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let saved = self.since.as_deref().map(|file| {
            let text = super::guest::read(file)?;
            audit::read_saved(&text).map_err(|error| Failure::Input(format!("{}: {error}", file.display())))
        });
        let saved = saved.transpose()?;
        let host = self.host.load()?;
        let options = Options { page_size: self.page_size, guest_phys_bits: self.phys_bits };
        let mut report = audit::audit(&host, &self.devices, &options)?;
        if let Some(saved) = saved {
            audit::changes(&mut report, &saved, self.devices.is_empty());
        }
        match self.format {
            Format::Json => write_json(out, &report)?,
            Format::Text => {
                let names = self.look.names()?;
                for device in report.devices.iter_mut().filter(|device| device.model.is_none()) {
                    device.model = names.of(device.vendor, device.device);
                }
                report::audit::report(out, &report)?;
            }
        }
        Ok(if report.is_safe() { Answer::Yes } else { Answer::No })
    }
}
