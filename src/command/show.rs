// SPDX-License-Identifier: LGPL-2.1-or-later
//! `show`: the layout stored for a domain.

use std::io::Write;

use clap::Args;

use super::look::{LookArguments, colour};
use super::{Answer, Failure, Format, write_json};
use crate::layout::{Code, Refusal};
use crate::report::{self, Look};
use crate::xenstore::{Domid, Store};

/// Show the layout that is stored for a domain.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  xen-pci-layout show --domid 7 --format json")]
pub struct Show {
    /// The domain's number
    #[arg(long, value_name = "N")]
    domid: Domid,
    /// How to write the layout
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    look: LookArguments,
}

impl Show {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Reads and writes the layout.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let Some(layout) = Store::open()?.read_layout(self.domid)? else {
            return Err(nothing_stored(self.domid));
        };
        match self.format {
            Format::Json => write_json(out, &layout)?,
            Format::Text => {
                let names = self.look.names()?;
                let look = Look { names: &|vendor, device| names.of(vendor, device), colour: colour() };
                report::text::layout(out, &layout, &look)?;
            }
        }
        Ok(Answer::Yes)
    }
}

/// The answer where the domain exists and has no layout.
pub fn nothing_stored(domid: Domid) -> Failure {
    Failure::Refused(Box::new(Refusal {
        code: Code::NotStored,
        message: format!("no layout is stored for domain {domid}"),
        blocking: Vec::new(),
        remedy: format!("xen-pci-layout apply --domid {domid} GUEST stores one"),
    }))
}
