// SPDX-License-Identifier: LGPL-2.1-or-later
//! `predict`: what the stock hvmloader of a release will do.

use std::io::Write;
use std::path::Path;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::look::{LookArguments, colour};
use super::plan::checked_plan;
use super::{Answer, Failure, GuestArguments, batch, write_json};
use crate::guest::Guest;
use crate::hvmloader::{self, Hazard, Prediction, Release, Suggestion};
use crate::layout::Warning;
use crate::planner::Options;
use crate::report::{self, map::Map};
use crate::source::running_xen;

/// The version of the JSON form.
const SCHEMA: &str = "predict/1";

/// Say what a stock hvmloader will do with a guest: every BAR's address, what gets none, what is dangerous.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  xen-pci-layout predict --xen 4.17 /etc/xen/guest.cfg\n  \
              xen-pci-layout predict --suggest /etc/xen/guest.cfg")]
pub struct Predict {
    #[command(flatten)]
    guest: GuestArguments,
    /// Whose loader: a Xen release, X.Y for its newest patch release; else the running Xen's, else the newest known
    #[arg(long, value_name = "X.Y.Z")]
    xen: Option<Release>,
    /// Add the smallest mmio_hole= under which everything is placed safely, or why there is none and what would help
    #[arg(long)]
    suggest: bool,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t)]
    format: PredictFormat,
    #[command(flatten)]
    look: LookArguments,
    /// Read one guest description a line and write one compact JSON answer a line
    #[arg(long)]
    batch: bool,
}

/// How a prediction is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PredictFormat {
    /// For people; may change
    #[default]
    Text,
    /// predict/1
    Json,
    /// The loader's own line about each BAR, as xl dmesg shows it
    Hvmloader,
    /// The keys that libxl gives the loader to read
    Xenstore,
    /// A figure
    Svg,
}

/// Which loader, and why that one.
pub struct Loader {
    /// Which.
    pub release: Release,
    from: From,
    /// What the owner should know about the choice.
    warning: Option<Warning>,
}

/// Why a release was taken.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum From {
    /// It was asked for.
    Asked,
    /// This machine runs it.
    Running,
    /// Nothing else is known.
    Newest,
}

/// predict/1.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    release: String,
    release_from: From,
    #[serde(flatten)]
    prediction: Prediction,
    warnings: Vec<Warning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suggestion: Option<Suggestion>,
    #[serde(skip)]
    safe: bool,
}

impl Predict {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == PredictFormat::Json
    }

    /// Predicts and writes what will happen.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let loader = Loader::choose(self.xen);
        if self.batch {
            return batch::run(&self.guest, out, |guest| {
                let report = self.report(guest, &loader)?;
                let answer = answer(&report.prediction);
                // The borrowed guest goes with the line.
                let json = serde_json::to_value(report).map_err(std::io::Error::from)?;
                Ok((json, answer))
            });
        }
        let loaded = self.guest.load()?;
        let mut report = self.report(&loaded.guest, &loader)?;
        report.warnings.splice(0..0, loaded.warnings);
        match self.format {
            PredictFormat::Json => write_json(out, &report)?,
            PredictFormat::Hvmloader => {
                report.prediction.bar_lines().try_for_each(|line| writeln!(out, "{line}"))?;
            }
            PredictFormat::Xenstore => {
                let mut keys = loaded.guest.xenstore.iter();
                keys.try_for_each(|(key, value)| writeln!(out, "{key} = \"{value}\""))?;
            }
            PredictFormat::Svg | PredictFormat::Text => {
                let names = self.look.names()?;
                let map = Map::of_prediction(
                    &loaded.guest,
                    &loader.to_string(),
                    &report.prediction,
                    &|vendor, device| names.of(vendor, device),
                );
                if self.format == PredictFormat::Svg {
                    report::svg::figure(out, &[&map])?;
                    return Ok(answer(&report.prediction));
                }
                let (origins, warnings) = (&loaded.origins, &report.warnings);
                report::prediction::prediction(out, &map, &report.prediction, origins, warnings, colour())?;
                if let Some(suggestion) = &report.suggestion {
                    report::prediction::suggestion(out, suggestion, report.safe)?;
                }
            }
        }
        Ok(answer(&report.prediction))
    }

    fn report<'a>(&self, guest: &'a Guest, loader: &Loader) -> Result<Report<'a>, Failure> {
        let prediction =
            hvmloader::predict(guest, loader.release).map_err(|error| Failure::Input(error.to_string()))?;
        let hazards = hvmloader::hazards(guest, &prediction);
        let safe = !hazards.iter().any(|hazard| hazard.unsafe_to_start);
        let hazards = hazards.into_iter().map(|Hazard { warning, .. }| warning);
        Ok(Report {
            schema: SCHEMA,
            id: guest.id.as_ref(),
            name: guest.name.as_deref(),
            release: loader.release.to_string(),
            release_from: loader.from,
            warnings: loader.warning.iter().cloned().chain(hazards).collect(),
            suggestion: self.suggest.then(|| suggestion(guest, loader.release)),
            prediction,
            safe,
        })
    }
}

/// The smallest hole that works; where none does, a loader that reads a layout may still.
fn suggestion(guest: &Guest, release: Release) -> Suggestion {
    let mut suggestion = hvmloader::suggest(guest, release);
    if suggestion.mmio_hole.is_none() {
        let options = Options { resize_hole: true, ..Options::default() };
        if let Ok(layout) = checked_plan(guest, &options) {
            let mib = layout.mmio_hole_size.get() >> 20;
            suggestion.remedies.push(format!(
                "a loader that reads layouts: xen-pci-layout apply --resize-hole places everything with mmio_hole={mib}"
            ));
        }
    }
    suggestion
}

/// No where a BAR is left unplaced or a crash is predicted.
fn answer(prediction: &Prediction) -> Answer {
    if prediction.is_complete() { Answer::Yes } else { Answer::No }
}

impl Loader {
    /// The asked-for loader, the running Xen's, or the newest.
    pub fn choose(asked: Option<Release>) -> Self {
        if let Some(release) = asked {
            return Self { release, from: From::Asked, warning: None };
        }
        let Some(version) = running_xen::version(Path::new(running_xen::SYSFS)) else {
            return Self { release: Release::NEWEST, from: From::Newest, warning: None };
        };
        let release = Release::nearest(version.major, version.minor, version.patch);
        let known = Release::find(version.major, version.minor, Some(version.patch)).is_some();
        let warning = (!known).then(|| {
            let message =
                format!("Xen {} runs here, whose loader is not known: {release}'s is assumed", version.text);
            Warning::new("release-assumed", message)
        });
        Self { release, from: From::Running, warning }
    }
}

impl std::fmt::Display for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self.from {
            From::Asked => "as asked",
            From::Running => "which runs here",
            From::Newest => "the newest known; --xen chooses another",
        };
        write!(f, "Xen {} ({why})", self.release)
    }
}
