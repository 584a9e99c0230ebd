// SPDX-License-Identifier: GPL-2.0-only
//! Guests made afresh, through the genuine loader and through a program that predicts it.
//!
//! The program is asked as anybody would ask it: `PROGRAM replay --print FILE`, where FILE has a corpus line a guest
//! without its outcome; it prints `{"id", "output"}` a line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::check::{Difference, differences};
use crate::generate::Generator;
use crate::guest::Guest;
use crate::machine::{Emulator, RunError};
use crate::outcome::outcome;
use crate::shrink::shrink;

/// Fields that a prediction may leave out.
const LEFT_OUT: [&str; 3] = ["log", "int_line", "memory_map"];
/// Guests asked about at once: large enough for a process to cost nothing, small enough to show progress.
const BATCH: u64 = 1000;

/// Why a comparison has no result.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The loader could not be run for a guest.
    #[error("the genuine loader, guest {id}: {source}\n{guest}")]
    Loader {
        /// The guest's name.
        id: String,
        /// What happened.
        source: RunError,
        /// The guest, as JSON.
        guest: String,
    },
    /// The program could not be run, or did not answer.
    #[error("{program}: {why}", program = program.display())]
    Program {
        /// Its path.
        program: PathBuf,
        /// What happened.
        why: String,
    },
    /// A file for the program could not be written.
    #[error("a temporary file for the program: {0}")]
    File(#[from] std::io::Error),
}

/// A guest on which the two differ.
pub struct Finding {
    /// The generated guest's name.
    pub id: String,
    /// The guest as a corpus line, shrunk, with what the genuine loader does.
    pub line: Value,
    /// In what they differ.
    pub differences: Vec<Difference>,
}

/// Both sides.
pub struct Comparison<'a> {
    /// The genuine loader.
    pub emulator: &'a mut Emulator,
    /// Its release, as the corpus names it.
    pub xen: &'a str,
    /// The program that predicts.
    pub program: &'a Path,
}

impl Comparison<'_> {
    /// Compares `count` guests of this generator: how many differ, and the first `shown` of those, shrunk.
    ///
    /// # Errors
    /// When either side gives no outcome for a guest.
    pub fn run(
        &mut self,
        generator: Generator,
        count: u64,
        shown: usize,
    ) -> Result<(usize, Vec<Finding>), CompareError> {
        let (mut total, mut findings) = (0, Vec::new());
        for start in (0..count).step_by(usize::try_from(BATCH).unwrap_or(1)) {
            let guests: Vec<(String, Guest)> =
                (start..count.min(start + BATCH)).map(|number| generator.guest(number)).collect();
            let compared = self.compare(&guests)?;
            for ((id, guest), (_, found)) in guests.into_iter().zip(compared) {
                total += usize::from(!found.is_empty());
                if !found.is_empty() && findings.len() < shown {
                    findings.push(self.finding(id, guest, &found)?);
                }
            }
        }
        Ok((total, findings))
    }

    /// A guest that differs, made small. It must go on differing in a field in which it did, so that one difference
    /// is not lost for another.
    fn finding(&mut self, id: String, guest: Guest, found: &[Difference]) -> Result<Finding, CompareError> {
        let same = |difference: &Difference| found.iter().any(|known| known.root() == difference.root());
        let small = shrink(guest, |guests| {
            // A loader that gives no outcome for a smaller guest shows nothing about the difference.
            let able: Vec<bool> = guests.iter().map(|guest| self.emulator.run(guest).is_ok()).collect();
            let askable = guests.iter().zip(&able).filter(|(_, able)| **able);
            let named: Vec<(String, Guest)> = askable.map(|(guest, _)| (id.clone(), guest.clone())).collect();
            let mut answers = self.compare(&named)?.into_iter().map(|(_, found)| found.iter().any(same));
            let shows = able.into_iter().map(|able| able && answers.next().unwrap_or(false));
            Ok::<_, CompareError>(shows.collect())
        })?;
        let compared = self.compare(&[(id.clone(), small.clone())])?.into_iter().next();
        let (output, differences) = compared.unwrap_or_default();
        let line = json!({"id": id, "xen": self.xen, "source": "binary", "input": small, "output": output});
        Ok(Finding { id, line, differences })
    }

    /// For each guest what the genuine loader does, and in what the program differs from it.
    fn compare(&mut self, guests: &[(String, Guest)]) -> Result<Vec<(Value, Vec<Difference>)>, CompareError> {
        if guests.is_empty() {
            return Ok(Vec::new());
        }
        let predicted = self.predict(guests)?;
        let mut compared = Vec::new();
        for ((id, guest), predicted) in guests.iter().zip(predicted) {
            let run = self.emulator.run(guest).map_err(|source| CompareError::Loader {
                id: id.clone(),
                source,
                guest: json!(guest).to_string(),
            })?;
            let genuine = outcome(guest, &run);
            let found = differences(&genuine, &predicted, &LEFT_OUT);
            compared.push((genuine, found));
        }
        Ok(compared)
    }

    /// The program's outcomes, in order.
    fn predict(&self, guests: &[(String, Guest)]) -> Result<Vec<Value>, CompareError> {
        let failed = |why: String| CompareError::Program { program: self.program.to_owned(), why };
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile()?;
        for (id, guest) in guests {
            writeln!(file, "{}", json!({"id": id, "xen": self.xen, "input": guest}))?;
        }
        file.flush()?;
        let answer = Command::new(self.program)
            .args(["replay", "--print"])
            .arg(file.path())
            .output()
            .map_err(|error| failed(format!("cannot be run: {error}")))?;
        let ended = || {
            format!(
                "replay --print ended with {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.stderr).trim()
            )
        };
        let mut predicted = Vec::new();
        for line in answer.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let mut value: Value = serde_json::from_slice(line)
                .map_err(|error| failed(format!("printed what is no JSON ({error}); {}", ended())))?;
            let asked = guests.get(predicted.len()).map(|(id, _)| id.as_str());
            let answered = value.get("id").and_then(Value::as_str);
            if answered != asked {
                return Err(failed(format!("answered {answered:?} where {asked:?} was asked")));
            }
            let output = value.get_mut("output").map(Value::take);
            predicted.push(output.ok_or_else(|| failed(format!("no output in {value}")))?);
        }
        if predicted.len() != guests.len() {
            return Err(failed(format!(
                "{} answers to {} guests; {}",
                predicted.len(),
                guests.len(),
                ended()
            )));
        }
        Ok(predicted)
    }
}
