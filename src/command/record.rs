// SPDX-License-Identifier: LGPL-2.1-or-later
//! `record`: a recording of a running guest, to be replayed or sent with a report.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{Answer, Failure};
use crate::recording::record::{RecordError, record};
use crate::xenstore::Domid;

/// Record a running guest: its configuration, its loader's log, its QEMU's view and the host's devices that it has.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  xen-pci-layout record --domid 7 guest-recording && xen-pci-layout replay guest-recording"
)]
pub struct Record {
    /// The domain's number
    #[arg(long, value_name = "N")]
    domid: Domid,
    /// The directory to make
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Record {
    /// Records and says so.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        record(self.domid, &self.directory).map_err(|error| match error {
            RecordError::Exists(_) => Failure::Input(error.to_string()),
            error => Failure::Environment(error.to_string()),
        })?;
        writeln!(out, "domain {}: recorded in {}", self.domid, self.directory.display())?;
        Ok(Answer::Yes)
    }
}
