// SPDX-License-Identifier: LGPL-2.1-or-later
//! `apply`: plan, then store. What libxl runs before it lays out a guest's RAM.

use std::io::{self, Write};

use clap::Args;

use super::plan::Choices;
use super::predict::Loader;
use super::{Answer, Failure, Format, GuestArguments, layout_file, write_json};
use crate::address::Size;
use crate::guest::{DEFAULT_HOLE, SMALLEST_HOLE};
use crate::hvmloader;
use crate::layout::{Blocking, Code, Refusal};
use crate::pci::Bdf;
use crate::planner::Options;
use crate::report;
use crate::xenstore::{Domid, Store, StoreError, Written};

/// Plan a guest's layout and store it in xenstore for its loader, libxl and its device model, in place of
/// what is there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  xen-pci-layout apply --domid 7 /etc/xen/guest.cfg\n  \
              xl create -p guest.cfg && xen-pci-layout apply --built --domid \"$(xl domid guest)\" guest.cfg")]
pub struct Apply {
    /// The domain's number
    #[arg(long, value_name = "N")]
    domid: Domid,
    /// The guest's RAM is laid out already: keep that hole, or exit 1 with nothing stored and name the
    /// mmio_hole= to use
    #[arg(long, conflicts_with = "resize_hole")]
    built: bool,
    /// Store nothing: plan, and say where the stock loader would put things otherwise
    #[arg(long, conflicts_with_all = ["built", "format"])]
    shadow: bool,
    /// GUEST is a layout (layout/1) that the guest has already, before a restore, a migration or a soft reset: store it
    /// as it is, plan nothing
    #[arg(long, conflicts_with_all = ["built", "shadow"])]
    stored: bool,
    #[command(flatten)]
    guest: GuestArguments,
    #[command(flatten)]
    choices: Choices,
    /// How to write the answer; JSON is the layout, as plan writes it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Refuses a layout with bridges: what lies behind one is planned, and nobody in today's Xen HVM guest would find it.
fn no_bridges(
    mut bridges: impl Iterator<Item = Bdf>,
    bars: impl Iterator<Item = Blocking>,
) -> Result<(), Box<Refusal>> {
    let Some(bridge) = bridges.next() else { return Ok(()) };
    let blocking = bars.filter(|bar| bar.bdf.bus() != 0);
    Err(Box::new(Refusal {
        code: Code::Unsafe,
        message: format!(
            "{} is a PCI-to-PCI bridge: in a Xen HVM guest of today nobody numbers the buses behind one (hvmloader scans \
             bus 0 alone and takes a bridge's bus numbers and windows for BARs, SeaBIOS leaves PCI alone under Xen), so \
             what lies behind it would never appear; nothing is stored",
            bridge
        ),
        blocking: blocking.collect(),
        remedy: "put the devices on bus 0, without a bridge; plan shows the layout with the bridge on paper"
            .to_owned(),
    }))
}

/// The hole of a domain that is built already; 256 MiB, libxl's own, where it does not say.
fn built_hole(store: &Store, domid: Domid) -> Result<Size, StoreError> {
    Ok(store.libxl_hole(domid)?.unwrap_or(DEFAULT_HOLE))
}

impl Apply {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Plans, stores and says so.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        if self.shadow {
            return self.compare(out);
        }
        let (store, layout) = if self.stored {
            let layout = layout_file::read(&self.guest.guest)?;
            let bars = layout.bars.iter();
            let bars = bars.map(|bar| Blocking { bdf: bar.bdf, reg: bar.reg, size: bar.size });
            no_bridges(layout.bridges.iter().map(|bridge| bridge.bdf), bars)?;
            (Store::open()?, layout)
        } else {
            let loaded = self.guest.load()?;
            let devices = loaded.guest.devices.iter();
            let bars = devices.clone().flat_map(|device| {
                device.bars.iter().map(|bar| Blocking { bdf: device.bdf, reg: bar.reg, size: bar.size })
            });
            no_bridges(devices.filter(|device| device.is_bridge()).map(|device| device.bdf), bars)?;
            let store = Store::open()?;
            let mut options = self.choices.options()?;
            if self.built {
                options = Options { built_hole: Some(built_hole(&store, self.domid)?), ..options };
            }
            (store, self.choices.layout_of(loaded, &options)?)
        };
        let Written { generation, built } = store.write_layout(self.domid, &layout)?;
        if built && !self.built && !self.stored {
            self.warn_of_built(built_hole(&store, self.domid)?, layout.mmio_hole_size)?;
        }
        match self.format {
            Format::Json => write_json(out, &layout)?,
            Format::Text => {
                let mib = layout.mmio_hole_size.get().checked_div(Size::MIB.get()).unwrap_or_default();
                let bars = layout.bars.len();
                let domid = self.domid;
                writeln!(
                    out,
                    "domain {domid}: stored mmio_hole={mib} MiB and {bars} BARs, generation {generation}"
                )?;
                for warning in &layout.warnings {
                    writeln!(out, "warning: {} [{}]", warning.message, warning.code)?;
                }
            }
        }
        Ok(Answer::Yes)
    }

    /// RAM is not laid out again for what is stored now.
    fn warn_of_built(&self, built: Size, planned: Size) -> io::Result<()> {
        let domid = self.domid;
        let consequence = if built == planned {
            "which the layout keeps by chance".to_owned()
        } else {
            format!(
                "and the layout needs {planned}: its loader will not use it, or use it and find RAM in a window"
            )
        };
        let mut err = io::stderr();
        writeln!(
            err,
            "warning: domain {domid} is built already, with a hole of {built}, {consequence}; --built plans for the hole \
             that is there [already-built]"
        )
    }

    /// Plans, predicts what the stock loader would do instead, and says how they differ; a refusal is the plan's answer.
    fn compare(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let loaded = self.guest.load()?;
        let guest = loaded.guest.clone();
        let layout = self.choices.layout_of(loaded, &self.choices.options()?)?;
        let loader = Loader::choose(None);
        let stock =
            hvmloader::predict(&guest, loader.release).map_err(|error| Failure::Input(error.to_string()))?;
        let hole = guest.demanded_hole().unwrap_or(SMALLEST_HOLE);
        report::shadow::differences(out, &loader.to_string(), &layout, hole, &stock)?;
        for warning in hvmloader::hazards(&guest, &stock).iter().map(|hazard| &hazard.warning) {
            writeln!(out, "warning: stock: {} [{}]", warning.message, warning.code)?;
        }
        Ok(Answer::Yes)
    }
}
