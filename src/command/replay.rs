// SPDX-License-Identifier: LGPL-2.1-or-later
//! `replay`: recorded layouts, predicted again and compared.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::progress::Progress;
use super::{Answer, Failure, Format, GuestArguments, write_json};
use crate::hvmloader::{self, Prediction, Release};
use crate::layout::{Code, Refusal};
use crate::recording::corpus::{Case, CaseError};
use crate::recording::directory::{Recording, loader_run};
use crate::recording::{self, Difference, differences};
use crate::source::hvmloader_log::Run;

/// The version of the JSON form.
const SCHEMA: &str = "replay/1";
/// The first bytes of an .xz file.
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// Predict recorded layouts again and compare them with what the loader really did, BAR by BAR.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  xen-pci-layout replay tests/corpus/cases-4.17.jsonl.xz\n  \
              xen-pci-layout replay --print cases.jsonl > predicted.jsonl\n  \
              xen-pci-layout replay tests/recordings/*/")]
pub struct Replay {
    /// Lines of a corpus (plain or .xz), a recording's directory, or a loader's log alone; `-` for standard input
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
    notes: Vec<Note>,
}

/// What is to be said of a recording besides.
#[derive(Serialize)]
struct Note {
    file: String,
    message: String,
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
        let mut report = Report {
            schema: SCHEMA,
            replayed: 0,
            differing: Vec::new(),
            failed: Vec::new(),
            notes: Vec::new(),
        };
        for path in &self.files {
            if path.is_dir() {
                self.recording(out, &mut report, path)?;
                continue;
            }
            let file = path.display().to_string();
            let unreadable = |error: std::io::Error| Failure::Input(format!("{file}: {error}"));
            let mut input = open(path).map_err(unreadable)?;
            if is_json(&mut input).map_err(unreadable)? {
                self.corpus(out, &mut report, &file, input)?;
            } else {
                let mut text = String::new();
                input.read_to_string(&mut text).map_err(unreadable)?;
                self.log(out, &mut report, path, &text)?;
            }
        }
        if !self.print {
            match self.format {
                Format::Json => write_json(out, &report)?,
                Format::Text => text(out, &report)?,
            }
        }
        answer(&report)
    }

    /// Replays the lines of a corpus; one that cannot be does not stop the rest.
    fn corpus(
        &self,
        out: &mut dyn Write,
        report: &mut Report,
        file: &str,
        input: Box<dyn BufRead>,
    ) -> Result<(), Failure> {
        let mut progress = Progress::of("recordings");
        for (number, line) in (1_u64..).zip(input.split(b'\n')) {
            progress.add(1);
            let line = line.map_err(|error| Failure::Input(format!("{file}: {error}")))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            report.replayed = report.replayed.saturating_add(1);
            match self.case(out, &line) {
                Ok(None) => {}
                Ok(Some((id, differences))) => {
                    report.differing.push(Differing { file: file.to_owned(), id, differences });
                }
                Err(CaseFailure::Case(error)) => {
                    let message = error.to_string();
                    if self.print {
                        print_error(out, &String::from_utf8_lossy(&line), &message)?;
                    }
                    report.failed.push(Failed { file: file.to_owned(), line: number, message });
                }
                Err(CaseFailure::Output(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Replays a real guest's recording, starting from its configuration.
    fn recording(&self, out: &mut dyn Write, report: &mut Report, path: &Path) -> Result<(), Failure> {
        let input = |error: &dyn std::fmt::Display| Failure::Input(error.to_string());
        let recording = Recording::read(path).map_err(|error| input(&error))?;
        let bits = recording.run.phys_bits().filter(|bits| (32..=52).contains(bits));
        let loaded =
            GuestArguments::on(recording.configuration.clone(), recording.host.clone(), bits).load()?;
        let mut guest = loaded.guest;
        for (name, value) in &recording.loader_keys {
            guest.xenstore.insert(format!("hvmloader/{name}"), value.clone());
        }
        let mut notes: Vec<_> = recording.note.iter().map(|note| note.trim().to_owned()).collect();
        let release = recording.release().unwrap_or_else(|| {
            notes.push(format!("the log does not name a Xen release: {} is assumed", Release::NEWEST));
            Release::NEWEST
        });
        let predicted = hvmloader::predict(&guest, release).map_err(|error| input(&error))?;
        let mut found = recording::log_differences(&recording.run, &predicted);
        if let Some(log) = &recording.guest_log {
            found.extend(recording::guest_differences(&guest, log, &predicted));
        }
        self.done(out, report, path, &predicted, found, notes)
    }

    /// Replays a log that is all there is of a guest, starting from its own list of BARs.
    fn log(&self, out: &mut dyn Write, report: &mut Report, path: &Path, text: &str) -> Result<(), Failure> {
        let run = loader_run(path, text).map_err(|error| Failure::Input(error.to_string()))?;
        let guest = recording::guest_of(&run);
        let mut notes =
            vec!["there is no configuration: replayed from the log's own list of BARs".to_owned()];
        let named = run.xen_version().map(|(major, minor, patch, text)| {
            let release = Release::nearest(major, minor, patch);
            if release.to_string() != text {
                notes.push(format!("Xen {text}'s loader is taken for {release}'s"));
            }
            release
        });
        let candidates = named.map_or_else(Release::one_of_each_algorithm, |release| vec![release]);
        let mut closest: Option<(Release, Prediction, Vec<Difference>)> = None;
        for release in candidates {
            let predicted =
                hvmloader::predict(&guest, release).map_err(|error| Failure::Input(error.to_string()))?;
            let lines = Run { domid: None, lines: predicted.log.clone().unwrap_or_default() };
            let found = recording::bar_differences(&run, &lines);
            if closest.as_ref().is_none_or(|(_, _, fewest)| found.len() < fewest.len()) {
                closest = Some((release, predicted, found));
            }
        }
        let Some((release, predicted, found)) = closest else { return Ok(()) };
        if named.is_none() {
            notes.push(format!("the log does not name a Xen release: {release} is closest"));
        }
        self.done(out, report, path, &predicted, found, notes)
    }

    /// Prints or notes what came of one recording.
    fn done(
        &self,
        out: &mut dyn Write,
        report: &mut Report,
        path: &Path,
        predicted: &Prediction,
        differences: Vec<Difference>,
        notes: Vec<String>,
    ) -> Result<(), Failure> {
        report.replayed = report.replayed.saturating_add(1);
        let file = path.display().to_string();
        let name = path.file_name().map_or_else(|| file.clone(), |name| name.to_string_lossy().into_owned());
        let id = serde_json::Value::String(name);
        if self.print {
            return Ok(print(out, &id, predicted)?);
        }
        report.notes.extend(notes.into_iter().map(|message| Note { file: file.clone(), message }));
        if !differences.is_empty() {
            report.differing.push(Differing { file, id, differences });
        }
        Ok(())
    }

    /// Prints one case's prediction, or says in what it differs from what was recorded.
    fn case(
        &self,
        out: &mut dyn Write,
        line: &[u8],
    ) -> Result<Option<(serde_json::Value, Vec<Difference>)>, CaseFailure> {
        let case = Case::parse(std::str::from_utf8(line).map_err(CaseError::from)?)?;
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

fn print(out: &mut dyn Write, id: &serde_json::Value, output: &Prediction) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Printed<'a> {
        id: &'a serde_json::Value,
        output: &'a Prediction,
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

/// Whether the first thing in it is a JSON object.
fn is_json(input: &mut impl BufRead) -> std::io::Result<bool> {
    let start = input.fill_buf()?;
    Ok(start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{'))
}

fn text(out: &mut dyn Write, report: &Report) -> std::io::Result<()> {
    for Note { file, message } in &report.notes {
        writeln!(out, "{file}: {message}")?;
    }
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
        return Err(Failure::Answered(format!(
            "{count} cannot be replayed, the first: {file}: line {line}: {message}"
        )));
    }
    Ok(if report.differing.is_empty() { Answer::Yes } else { Answer::No })
}
