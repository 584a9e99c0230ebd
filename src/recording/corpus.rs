// SPDX-License-Identifier: LGPL-2.1-or-later
//! One line of the corpus: a guest, a release, and what that release's loader did with the guest.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::guest::Guest;
use crate::hvmloader::{PredictError, Prediction, Release, UnknownRelease, predict};

/// A line of the corpus.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// Its name.
    pub id: serde_json::Value,
    /// The release whose loader ran.
    xen: String,
    /// The guest.
    input: Guest,
    /// What that loader did; read only where it is asked for.
    #[serde(default)]
    output: Option<Box<RawValue>>,
}

/// A line that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// It is no line of a corpus.
    #[error("{place}: {problem}")]
    Shape {
        /// The path to the value inside the line.
        place: String,
        /// What serde says, with the column.
        problem: serde_json::Error,
    },
    /// It is no text.
    #[error("line: {0}")]
    Text(#[from] std::str::Utf8Error),
    /// It is to be compared and has nothing to compare with.
    #[error("output: there is none to compare with; replay --print predicts without one")]
    NoOutput,
    /// Its release is not known.
    #[error(transparent)]
    Release(#[from] UnknownRelease),
    /// Its guest cannot be described to a loader.
    #[error(transparent)]
    Guest(#[from] PredictError),
}

impl Case {
    /// Reads one line. The guest is taken as it is: recorded loaders have been given guests that no machine has.
    ///
    /// # Errors
    ///
    /// What is wrong, and where.
    pub fn parse(line: &str) -> Result<Self, CaseError> {
        read(line, "line")
    }

    /// The guest alone.
    pub fn into_guest(self) -> Guest {
        self.input
    }

    /// What the model says this release's loader does with this guest.
    ///
    /// # Errors
    ///
    /// An unknown release, or a guest that cannot be described to a loader.
    pub fn predict(&self) -> Result<Prediction, CaseError> {
        let release: Release = self.xen.parse()?;
        Ok(predict(&self.input, release)?)
    }

    /// What the loader did.
    ///
    /// # Errors
    ///
    /// None is recorded, or it is malformed.
    pub fn recorded(&self) -> Result<Prediction, CaseError> {
        read(self.output.as_ref().ok_or(CaseError::NoOutput)?.get(), "output")
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, CaseError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = match error.path().to_string() {
            path if path == "." => what.to_owned(),
            path => path,
        };
        CaseError::Shape { place, problem: error.into_inner() }
    })?;
    json.end().map_err(|problem| CaseError::Shape { place: format!("after the {what}"), problem })?;
    Ok(value)
}
