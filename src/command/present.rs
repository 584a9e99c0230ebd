// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where a guest's BARs really are, and what is said about it.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::hotplug::{Difference, Observation, Present, observe};
use crate::layout::Layout;
use crate::pci::PresentFunction;
use crate::source::present;
use crate::source::qmp::DeviceModel;
#[cfg(feature = "xenstore")]
use crate::xenstore::{Domid, Store};

/// Whether the device model is asked, and which.
#[derive(Debug, Args)]
#[group(skip)]
pub struct PresentArguments {
    /// Ask the QEMU behind this QMP socket where the guest's BARs are now; with --domid that is libxl's
    #[arg(long, value_name = "SOCKET")]
    qmp: Option<PathBuf>,
    /// Do not ask the device model: take the BARs to be where they are stored
    #[arg(long, conflicts_with = "qmp")]
    stored: bool,
}

/// What the device model says, or that nobody was asked.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    functions: Option<Vec<PresentFunction>>,
    /// Why nobody was asked, where somebody should have been.
    note: Option<String>,
}

impl PresentArguments {
    /// Asks, where a socket is named.
    pub fn ask(&self) -> Result<Seen, Failure> {
        let functions = self.qmp.as_deref().map(|socket| functions(&DeviceModel::at(socket))).transpose()?;
        Ok(Seen { functions, note: None })
    }

    /// Asks the device model of a domain, unless another socket is named.
    #[cfg(feature = "xenstore")]
    pub fn ask_domain(&self, domid: Domid) -> Result<Seen, Failure> {
        if self.stored || self.qmp.is_some() {
            return self.ask();
        }
        match device_model(&Store::open()?, domid)? {
            Whereabouts::Socket(model) => Ok(Seen { functions: Some(functions(&model)?), note: None }),
            Whereabouts::None => {
                let note = format!("domain {domid} has no device model yet; the stored addresses count");
                Ok(Seen { functions: None, note: Some(note) })
            }
            Whereabouts::StubDomain(stub) => Err(Failure::Environment(format!(
                "{}; --stored takes the BARs to be where they are stored",
                out_of_reach(domid, &stub)
            ))),
        }
    }
}

/// Where a domain's device model is.
#[cfg(feature = "xenstore")]
pub enum Whereabouts {
    /// Behind libxl's socket.
    Socket(DeviceModel),
    /// Nowhere yet.
    None,
    /// In the stub domain of that number, out of reach.
    StubDomain(String),
}

/// Where the domain's device model can be asked. For a Linux stub domain libxl keeps a proxy, at the place where it finds a
/// QEMU in dom0 too (libxl_dm.c, spawn_qmp_proxy).
#[cfg(feature = "xenstore")]
pub fn device_model(store: &Store, domid: Domid) -> Result<Whereabouts, Failure> {
    // libxl names its lock by the domain's UUID, which /local/domain/N/vm ends with.
    let vm = store.read_domain_key(domid, "vm")?;
    let model = vm.as_deref().and_then(|vm| vm.strip_prefix("/vm/")).map(|uuid| DeviceModel::of(domid, uuid));
    if let Some(model) = model.filter(|model| model.socket().exists()) {
        return Ok(Whereabouts::Socket(model));
    }
    Ok(store
        .read_domain_key(domid, "image/device-model-domid")?
        .map_or(Whereabouts::None, Whereabouts::StubDomain))
}

/// Why a device model in a stub domain is not asked.
#[cfg(feature = "xenstore")]
pub fn out_of_reach(domid: Domid, stub: &str) -> String {
    format!(
        "the device model of domain {domid} runs in the stub domain {stub}, to which libxl has no socket: it cannot be asked \
         where the guest's BARs are"
    )
}

fn functions(model: &DeviceModel) -> Result<Vec<PresentFunction>, Failure> {
    let buses = model.query_pci().map_err(|error| Failure::Environment(error.to_string()))?;
    present::functions(&buses)
        .map_err(|problem| Failure::Environment(format!("{}: {problem}", model.socket().display())))
}

impl Seen {
    /// The layout as the guest has it now.
    pub fn apply(&self, stored: &Layout) -> Observation {
        match &self.functions {
            Some(functions) => observe(stored, functions),
            None => {
                Observation { layout: stored.clone(), present: Present::default(), differences: Vec::new() }
            }
        }
    }

    /// Says how the guest differs from what is stored.
    pub fn write(&self, out: &mut dyn Write, differences: &[Difference]) -> io::Result<()> {
        if let Some(note) = &self.note {
            writeln!(out, "note: {note}")?;
        }
        for difference in differences {
            writeln!(out, "note: {difference}")?;
        }
        Ok(())
    }

    /// Where the addresses come from, for JSON: `qmp` or `stored`.
    pub fn source(&self) -> &'static str {
        if self.functions.is_some() { "qmp" } else { "stored" }
    }
}
