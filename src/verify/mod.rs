// SPDX-License-Identifier: LGPL-2.1-or-later
//! A running guest against its layout and against the rules: what disagrees, by name.
//!
//! Five witnesses: the stored layout, libxl's hole, the device model (where BARs are, which memory it has populated), the
//! loader's log, and the rules. Pure: whoever asks the witnesses is the command. Without a stored layout the others are
//! compared with each other and with the rules, which is how a stock loader's mistakes show.
//!
//! The device model is believed before the log: a guest can write lines of its own into Xen's log, though only after its
//! loader has run, so the first that is said counts.

mod bars;
mod memory;
mod rules;

use serde::Serialize;

use crate::address::{Address, Size};
use crate::layout::Layout;
use crate::pci::{Bdf, PresentFunction};
use crate::source::hvmloader_log::Run;
use crate::source::ram_blocks::RamBlock;

/// What the witnesses say.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The stored layout, if there is one.
    pub layout: Option<Layout>,
    /// The hole that libxl laid RAM out for, if it says so: not of a guest that was restored.
    pub libxl_hole: Option<Size>,
    /// The device model, if there is one to ask.
    pub device_model: Option<DeviceModelState>,
    /// The loader's first run, if the log still has it.
    pub loader: Option<Run>,
}

/// What a device model says of itself.
#[derive(Clone, Debug, Default)]
pub struct DeviceModelState {
    /// Its functions and where their BARs are.
    pub functions: Vec<PresentFunction>,
    /// Where it was told to end RAM below 4 GiB (`max-ram-below-4g`), if it was told.
    pub border: Option<Address>,
    /// The memory that it has.
    pub blocks: Vec<RamBlock>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, for programs.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
    /// The function that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bdf: Option<Bdf>,
    /// The BAR's register that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reg: Option<u8>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What does not agree.
    pub disagreements: Vec<Finding>,
    /// What could not be compared, or differs for a reason that harms nobody.
    pub notes: Vec<Finding>,
}

impl Verdict {
    fn disagree(&mut self, code: &'static str, message: impl Into<String>) {
        self.disagreements.push(Finding { code, message: message.into(), bdf: None, reg: None });
    }

    fn disagree_about(&mut self, code: &'static str, bdf: Bdf, reg: Option<u8>, message: impl Into<String>) {
        self.disagreements.push(Finding { code, message: message.into(), bdf: Some(bdf), reg });
    }

    fn note(&mut self, code: &'static str, message: impl Into<String>) {
        self.notes.push(Finding { code, message: message.into(), bdf: None, reg: None });
    }

    fn note_about(&mut self, code: &'static str, bdf: Bdf, reg: Option<u8>, message: impl Into<String>) {
        self.notes.push(Finding { code, message: message.into(), bdf: Some(bdf), reg });
    }
}

/// Compares what the witnesses say. The stored keys are compared by whoever has the store.
pub fn verify(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    if evidence.layout.is_none() {
        verdict.note("no-layout", "no layout is stored: the guest is held against the rules alone");
    }
    match &evidence.loader {
        None => verdict.note(
            "no-loader-log",
            "Xen's log has no line of this guest's loader (it has not run yet, the guest was restored, or the ring has moved \
             on): what it did is not compared",
        ),
        Some(run) if !run.is_whole() => verdict.note(
            "loader-log-cut",
            "the beginning of the loader's log is gone (boot Xen with conring_size=1M): only what is left is compared",
        ),
        Some(_) => {}
    }
    if evidence.libxl_hole.is_none() {
        verdict.note(
            "no-libxl-hole",
            "libxl does not say for which hole it laid RAM out (the guest was restored, or soft-reset): QEMU's is held against \
             the layout's",
        );
    }
    if evidence.device_model.is_none() {
        verdict.note("no-device-model", "the guest has no device model that could be asked");
    }
    memory::verify(evidence, &mut verdict);
    bars::verify(evidence, &mut verdict);
    rules::verify(evidence, &mut verdict);
    verdict
}
