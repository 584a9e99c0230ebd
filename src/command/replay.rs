// SPDX-License-Identifier: LGPL-2.1-or-later
//! `replay`: recorded layouts, predicted again and compared.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Answer, Failure, Format, write_json};
use crate::layout::{Code, Refusal};
use crate::recording::corpus::{Case, CaseError};
use crate::recording::{Difference, differences};

/// The version of the JSON form.
const SCHEMA: &str = "replay/1";
/// The first bytes of an .xz file.
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// Predict recorded layouts again and compare them with what the loader really did, BAR by BAR.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  xen-pci-layout replay tests/corpus/cases-4.17.jsonl.xz\n  \
              xen-pci-layout replay --print cases.jsonl > predicted.jsonl")]
pub struct Replay {
    /// Lines of a corpus (plain or .xz; `-` for standard input)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print what is predicted, one JSON object a line; what was recorded is not read
    #[arg(long)]
    print: bool,
    /// How to write the differences
    #[arg(long, value_enum, default_value_t, conflicts_with = "print")]
    format: Format,
}

/// replay/1.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    replayed: u64,
    differing: Vec<Differing>,
    failed: Vec<Failed>,
}

/// A recording that is not predicted exactly.
#[derive(Serialize)]
struct Differing {
    file: String,
    id: serde_json::Value,
    differences: Vec<Difference>,
}

/// A recording that cannot be replayed.
#[derive(Serialize)]
struct Failed {
    file: String,
    line: u64,
    message: String,
}

impl Replay {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Replays every file.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let mut report = Report { schema: SCHEMA, replayed: 0, differing: Vec::new(), failed: Vec::new() };
        for file in &self.files {
            self.corpus(out, &mut report, file)?;
        }
        if self.print {
            return answer(&report);
        }
        match self.format {
            Format::Json => write_json(out, &report)?,
            Format::Text => text(out, &report)?,
        }
        answer(&report)
    }

    /// Replays the lines of a corpus; one that cannot be does not stop the rest.
    fn corpus(&self, out: &mut dyn Write, report: &mut Report, path: &Path) -> Result<(), Failure> {
        let file = path.display().to_string();
        let unreadable = |error: std::io::Error| Failure::Input(format!("{file}: {error}"));
        for (number, line) in (1_u64..).zip(open(path).map_err(unreadable)?.lines()) {
            let line = line.map_err(unreadable)?;
            if line.trim().is_empty() {
                continue;
            }
            report.replayed = report.replayed.saturating_add(1);
            match self.case(out, &line) {
                Ok(None) => {}
                Ok(Some((id, found))) => {
                    report.differing.push(Differing { file: file.clone(), id, differences: found });
                }
                Err(CaseFailure::Case(error)) => {
                    let message = error.to_string();
                    if self.print {
                        print_error(out, &line, &message)?;
                    }
                    report.failed.push(Failed { file: file.clone(), line: number, message });
                }
                Err(CaseFailure::Output(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Prints one case's prediction, or says in what it differs from what was recorded.
    fn case(
        &self,
        out: &mut dyn Write,
        line: &str,
    ) -> Result<Option<(serde_json::Value, Vec<Difference>)>, CaseFailure> {
        let case = Case::parse(line)?;
        let predicted = case.predict()?;
        if self.print {
            print(out, &case.id, &predicted).map_err(CaseFailure::Output)?;
            return Ok(None);
        }
        let found = differences(&case.recorded()?, &predicted);
        Ok((!found.is_empty()).then_some((case.id, found)))
    }
}

enum CaseFailure {
    Case(CaseError),
    Output(std::io::Error),
}

impl From<CaseError> for CaseFailure {
    fn from(error: CaseError) -> Self {
        Self::Case(error)
    }
}

fn print(
    out: &mut dyn Write,
    id: &serde_json::Value,
    output: &crate::hvmloader::Prediction,
) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Printed<'a> {
        id: &'a serde_json::Value,
        output: &'a crate::hvmloader::Prediction,
    }
    serde_json::to_writer(&mut *out, &Printed { id, output })?;
    writeln!(out)
}

/// A line's place is kept where it cannot be predicted.
fn print_error(out: &mut dyn Write, line: &str, message: &str) -> std::io::Result<()> {
    let refusal = Refusal {
        code: Code::InvalidInput,
        message: message.to_owned(),
        blocking: Vec::new(),
        remedy: String::new(),
    };
    let id = crate::source::description::id(line);
    serde_json::to_writer(&mut *out, &serde_json::json!({ "id": id, "error": refusal }))?;
    writeln!(out)
}

/// A file's lines, unpacked if need be.
fn open(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let mut file = BufReader::new(std::fs::File::open(path)?);
    if file.fill_buf()?.starts_with(XZ_MAGIC) {
        let packed: Box<dyn Read> = Box::new(file);
        return Ok(Box::new(BufReader::new(lzma_rust2::XzReader::new(packed, true))));
    }
    Ok(Box::new(file))
}

fn text(out: &mut dyn Write, report: &Report) -> std::io::Result<()> {
    for Differing { file, id, differences } in &report.differing {
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        writeln!(out, "{file}: {id}:")?;
        differences.iter().try_for_each(|difference| writeln!(out, "  {difference}"))?;
    }
    for Failed { file, line, message } in &report.failed {
        writeln!(out, "{file}: line {line}: {message}")?;
    }
    writeln!(out, "{} replayed, {} differ", report.replayed, report.differing.len())
}

fn answer(report: &Report) -> Result<Answer, Failure> {
    if let Some(Failed { file, line, message }) = report.failed.first() {
        let count = report.failed.len();
        return Err(Failure::Input(format!(
            "{count} cannot be replayed, the first: {file}: line {line}: {message}"
        )));
    }
    Ok(if report.differing.is_empty() { Answer::Yes } else { Answer::No })
}
