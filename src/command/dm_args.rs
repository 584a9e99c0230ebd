// SPDX-License-Identifier: LGPL-2.1-or-later
//! `dm-args`: QEMU's arguments that follow from a stored layout.

use std::io::Write;

use clap::Args;

use super::show::nothing_stored;
use super::{Answer, Failure, Format, write_json};
use crate::report::device_model::{Arguments, arguments};
use crate::xenstore::{Domid, Store};

/// Print the arguments of QEMU that follow from the layout stored for a domain, one a line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mapfile -t args < <(xen-pci-layout dm-args --domid 7) && \
              exec qemu-system-i386 \"$@\" \"${args[@]}\"\n  xen-pci-layout dm-args --domid 7 --format json")]
pub struct DmArgs {
    /// The domain's number
    #[arg(long, value_name = "N")]
    domid: Domid,
    /// Also the passed-through devices, in their slots: for a QEMU that is started without libxl, which adds them itself
    /// once QEMU runs and would then be refused
    #[arg(long)]
    devices: bool,
    /// How to write them; JSON always has the devices, apart from the rest
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl DmArgs {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Reads the layout and writes what follows from it.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let Some(layout) = Store::open()?.read_layout(self.domid)? else {
            return Err(nothing_stored(self.domid));
        };
        let found = arguments(self.domid, &layout);
        match self.format {
            Format::Json => write_json(out, &found)?,
            Format::Text => self.text(out, &found)?,
        }
        Ok(Answer::Yes)
    }

    fn text(&self, out: &mut dyn Write, found: &Arguments) -> std::io::Result<()> {
        let devices = found.devices.iter().filter(|_| self.devices).flat_map(|device| &device.arguments);
        found.arguments.iter().chain(devices).try_for_each(|argument| writeln!(out, "{argument}"))
    }
}
