// SPDX-License-Identifier: LGPL-2.1-or-later
//! `detach`: what would be free again without this device.

use std::io::Write;

use clap::Args;

use super::hotplug_target::{DeviceName, LayoutArguments};
use super::{Answer, Failure, Format, write_json};
use crate::hotplug;
use crate::report;

/// Show what a device's detachment gives back, or do it in the record.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  xl pci-detach 7 3b:00.0 && xen-pci-layout detach --domid 7 3b:00.0 --commit"
)]
pub struct Detach {
    #[command(flatten)]
    layout: LayoutArguments,
    /// The host's device, SSSS:BB:SS.F@VSLOT in hexadecimal (SSSS: and @VSLOT may be left out), or the JSON file that
    /// it was attached from
    #[arg(value_name = "DEVICE")]
    device: DeviceName,
    /// Record it: the space is free from then on
    #[arg(long)]
    commit: bool,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Detach {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Asks, records if that is wanted, and answers.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let leaving = self.device.leaving()?;
        let answer = self.layout.change(self.commit, move |layout| {
            let bdf = leaving.find_in(layout)?;
            let detachment = hotplug::detach(layout, bdf)?;
            Ok((detachment.layout.clone(), (bdf, detachment)))
        })?;
        match (&answer, self.format) {
            (Ok((bdf, found)), Format::Json) => {
                write_json(out, &report::hotplug::detached_json(*bdf, found, self.commit))?;
            }
            (Ok((bdf, found)), Format::Text) => {
                report::hotplug::detached(out, *bdf, found, self.commit)?;
            }
            (Err(refusal), Format::Json) => write_json(out, &report::hotplug::not_detached_json(refusal))?,
            (Err(refusal), Format::Text) => report::hotplug::refused(out, refusal)?,
        }
        Ok(if answer.is_ok() { Answer::Yes } else { Answer::No })
    }
}
