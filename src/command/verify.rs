// SPDX-License-Identifier: LGPL-2.1-or-later
//! `verify`: a running guest, and whether everybody agrees about its layout.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::present::{Whereabouts, device_model, out_of_reach};
use super::{Answer, Failure, Format, write_json};
use crate::address::Address;
use crate::source::hvmloader_log::{self, Run};
use crate::source::qmp::DeviceModel;
use crate::source::{present, ram_blocks, tool};
use crate::verify::{DeviceModelState, Evidence, Finding, Verdict, verify};
use crate::xenstore::{Difference, Domid, Store};

/// The version of the JSON form.
const SCHEMA: &str = "verify/1";

/// Compare, for a running guest, its stored layout and keys, libxl's hole, its loader's log, and its device model's BARs and
/// memory, with each other and with the rules.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  xen-pci-layout verify --domid 7\n\n\
              Exit code: 0 all agree, 1 they do not, 3 somebody could not be asked.")]
pub struct Verify {
    /// The domain's number
    #[arg(long, value_name = "N")]
    domid: Domid,
    /// Read Xen's log from this file, not from xl dmesg
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Ask the QEMU behind this QMP socket, not behind libxl's
    #[arg(long, value_name = "SOCKET")]
    qmp: Option<PathBuf>,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// verify/1.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    domid: u32,
    agrees: bool,
    /// Which witnesses there were.
    compared: Compared,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

#[derive(Serialize)]
struct Compared {
    layout: bool,
    loader_log: bool,
    device_model: bool,
    /// The device model's BARs that decode.
    bars: usize,
}

impl Verify {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Asks everybody, compares, and says what disagrees.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let store = Store::open()?;
        let layout = store.read_layout(self.domid)?;
        let keys =
            if layout.is_some() { store.differences(self.domid)?.unwrap_or_default() } else { Vec::new() };
        let evidence = Evidence {
            layout,
            libxl_hole: store.libxl_hole(self.domid)?,
            device_model: self.device_model(&store)?,
            loader: self.loader()?,
        };
        if evidence.device_model.is_none() && evidence.loader.is_none() && evidence.layout.is_none() {
            return Err(Failure::Environment(format!(
                "domain {} has no layout, no device model, and no line of a loader in Xen's log: there is nothing to verify",
                self.domid
            )));
        }
        let mut verdict = verify(&evidence);
        verdict.disagreements.splice(0..0, keys.iter().map(stored_key));
        let decoding = |state: &DeviceModelState| {
            let bars = state.functions.iter().flat_map(|function| &function.bars);
            bars.filter(|bar| bar.address.is_some()).count()
        };
        let report = Report {
            schema: SCHEMA,
            domid: self.domid.get(),
            agrees: verdict.disagreements.is_empty(),
            compared: Compared {
                layout: evidence.layout.is_some(),
                loader_log: evidence.loader.is_some(),
                device_model: evidence.device_model.is_some(),
                bars: evidence.device_model.as_ref().map_or(0, decoding),
            },
            verdict: &verdict,
        };
        match self.format {
            Format::Json => write_json(out, &report)?,
            Format::Text => text(out, &report)?,
        }
        Ok(if report.agrees { Answer::Yes } else { Answer::No })
    }

    fn device_model(&self, store: &Store) -> Result<Option<DeviceModelState>, Failure> {
        let model = match &self.qmp {
            Some(socket) => DeviceModel::at(socket),
            None => match device_model(store, self.domid)? {
                Whereabouts::Socket(model) => model,
                Whereabouts::None => return Ok(None),
                Whereabouts::StubDomain(stub) => {
                    return Err(Failure::Environment(out_of_reach(self.domid, &stub)));
                }
            },
        };
        let failed = |problem: &dyn std::fmt::Display| {
            Failure::Environment(format!("{}: {problem}", model.socket().display()))
        };
        let seen = model.inspect().map_err(|error| Failure::Environment(error.to_string()))?;
        Ok(Some(DeviceModelState {
            functions: present::functions(&seen.buses).map_err(|problem| failed(&problem))?,
            border: seen.max_ram_below_4g.map(Address::new),
            blocks: ram_blocks::parse(&seen.ram_blocks).map_err(|problem| failed(&problem))?,
        }))
    }

    /// The guest's first run of a loader: a later one is what the guest has written itself, for a reboot makes another
    /// domain.
    fn loader(&self) -> Result<Option<Run>, Failure> {
        let text = match &self.log {
            Some(file) => read(file)?,
            None => tool::run("xl", &["dmesg"]).map_err(|error| {
                Failure::Environment(format!("{error} (--log FILE reads Xen's log from a file)"))
            })?,
        };
        let runs = hvmloader_log::runs(&text);
        Ok(runs.into_iter().find(|run| run.domid == Some(self.domid.get())))
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let bytes = fs::read(file).map_err(|error| Failure::Input(format!("{}: {error}", file.display())))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn stored_key(difference: &Difference) -> Finding {
    let shown = |value: &Option<String>| match value {
        Some(value) => format!("{value:?}"),
        None => "nothing".to_owned(),
    };
    let (found, expected) = (shown(&difference.found), shown(&difference.expected));
    let message = format!("{} holds {found}, by the stored layout it is {expected}", difference.path);
    Finding { code: "stored-key", message, bdf: None, reg: None }
}

fn text(out: &mut dyn Write, report: &Report<'_>) -> io::Result<()> {
    let Report { domid, compared, verdict, .. } = report;
    match verdict.disagreements.len() {
        0 => writeln!(out, "domain {domid}: all agree about {} BARs", compared.bars)?,
        1 => writeln!(out, "domain {domid}: 1 disagreement")?,
        count => writeln!(out, "domain {domid}: {count} disagreements")?,
    }
    for Finding { code, message, .. } in &verdict.disagreements {
        writeln!(out, "  {message} [{code}]")?;
    }
    for Finding { code, message, .. } in &verdict.notes {
        writeln!(out, "note: {message} [{code}]")?;
    }
    Ok(())
}
