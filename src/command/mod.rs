// SPDX-License-Identifier: LGPL-2.1-or-later
//! The commands: one file each, and what they share.
//!
//! A command gets its arguments and a place to write its answer to, and says yes or no ([`Answer`]) or why it could
//! not tell ([`Failure`]). Only `main.rs` turns that into an exit code.

#[cfg(feature = "xenstore")]
mod apply;
mod attach;
mod audit;
mod bar_choices;
mod batch;
mod detach;
#[cfg(feature = "xenstore")]
mod dm_args;
mod guest;
mod host;
mod hotplug_target;
mod layout_file;
mod look;
mod plan;
mod predict;
mod present;
mod progress;
mod record;
mod replay;
mod reserve;
mod safety;
#[cfg(feature = "xenstore")]
mod show;
#[cfg(feature = "xenstore")]
mod verify;

pub use guest::GuestArguments;
pub use host::HostArguments;

use std::io::{self, Write};

use clap::{Parser, Subcommand, ValueEnum};

use crate::layout::{Code, Refusal};

/// Plans a Xen HVM guest's PCI MMIO layout before the guest exists.
#[derive(Debug, Parser)]
#[command(name = "xen-pci-layout", version, about, max_term_width = 100)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // By far the most options.
    Plan(Box<plan::Plan>),
    Predict(predict::Predict),
    Replay(replay::Replay),
    Record(record::Record),
    #[cfg(feature = "xenstore")]
    Apply(apply::Apply),
    #[cfg(feature = "xenstore")]
    Show(show::Show),
    #[cfg(feature = "xenstore")]
    DmArgs(dm_args::DmArgs),
    #[cfg(feature = "xenstore")]
    Verify(verify::Verify),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Audit(audit::Audit),
}

impl CommandLine {
    /// Runs the command; its answer goes to `out`.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        match &self.command {
            Command::Plan(command) => command.run(out),
            Command::Predict(command) => command.run(out),
            Command::Replay(command) => command.run(out),
            Command::Record(command) => command.run(out),
            #[cfg(feature = "xenstore")]
            Command::Apply(command) => command.run(out),
            #[cfg(feature = "xenstore")]
            Command::Show(command) => command.run(out),
            #[cfg(feature = "xenstore")]
            Command::DmArgs(command) => command.run(out),
            #[cfg(feature = "xenstore")]
            Command::Verify(command) => command.run(out),
            Command::Attach(command) => command.run(out),
            Command::Detach(command) => command.run(out),
            Command::Audit(command) => command.run(out),
        }
    }

    /// Whether the caller wants JSON, so that a failure is to be JSON too.
    pub fn wants_json(&self) -> bool {
        match &self.command {
            Command::Plan(command) => command.wants_json(),
            Command::Predict(command) => command.wants_json(),
            Command::Replay(command) => command.wants_json(),
            Command::Record(_) => false,
            #[cfg(feature = "xenstore")]
            Command::Apply(command) => command.wants_json(),
            #[cfg(feature = "xenstore")]
            Command::Show(command) => command.wants_json(),
            #[cfg(feature = "xenstore")]
            Command::DmArgs(command) => command.wants_json(),
            #[cfg(feature = "xenstore")]
            Command::Verify(command) => command.wants_json(),
            Command::Attach(command) => command.wants_json(),
            Command::Detach(command) => command.wants_json(),
            Command::Audit(command) => command.wants_json(),
        }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; may change.
    #[default]
    Text,
    /// For programs; versioned.
    Json,
}

/// What a command found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, or yes: exit code 0.
    Yes,
    /// The answer is no, and has been written: exit code 1.
    No,
}

/// Why a command has no answer to write.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The answer is no, with a reason: exit code 1.
    #[error("{}\nwhat would help: {}", .0.message, .0.remedy)]
    Refused(#[from] Box<Refusal>),
    /// Bad arguments or input: exit code 2.
    #[error("{0}")]
    Input(String),
    /// Bad input, which the answer that has been written names: exit code 2.
    #[error("{0}")]
    Answered(String),
    /// The surroundings failed (xenstore, QMP, sysfs, permission): exit code 3.
    #[error("{0}")]
    Environment(String),
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

#[cfg(feature = "xenstore")]
impl From<crate::xenstore::StoreError> for Failure {
    fn from(error: crate::xenstore::StoreError) -> Self {
        Self::Environment(error.to_string())
    }
}

impl Failure {
    /// The exit code that the manual page promises.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Input(_) | Self::Answered(_) => 2,
            Self::Environment(_) | Self::Output(_) => 3,
        }
    }

    /// The failure as the JSON object that stands for an answer.
    pub fn to_json(&self) -> serde_json::Value {
        let other = |code, message: &dyn ToString| Refusal {
            code,
            message: message.to_string(),
            blocking: Vec::new(),
            remedy: String::new(),
        };
        match self {
            Self::Refused(refusal) => serde_json::json!({ "error": refusal }),
            Self::Input(message) | Self::Answered(message) => {
                serde_json::json!({ "error": other(Code::InvalidInput, message) })
            }
            Self::Environment(message) => serde_json::json!({ "error": other(Code::Environment, message) }),
            Self::Output(error) => serde_json::json!({ "error": other(Code::Environment, error) }),
        }
    }
}

/// Writes a value as JSON for people's eyes too, with a newline.
fn write_json(out: &mut dyn Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A size as people write it on a command line: `256M`, `16G`, `4096`, `0x1000`.
fn size_argument(text: &str) -> Result<crate::address::Size, String> {
    crate::address::Size::parse(text)
        .ok_or_else(|| format!("\"{text}\" is no size: a number of bytes, or one with K, M, G or T after it"))
}
