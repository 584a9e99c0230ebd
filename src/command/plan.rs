// SPDX-License-Identifier: LGPL-2.1-or-later
//! `plan`: the layout this program chooses.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::bar_choices::BarChoices;
use super::guest::LoadedGuest;
use super::look::{LookArguments, colour};
use super::predict;
use super::reserve::ReserveArguments;
use super::safety::Safety;
use super::{Answer, Failure, GuestArguments, batch, layout_file, write_json};
use crate::address::Size;
use crate::guest::Guest;
use crate::hvmloader::{self, Release};
use crate::layout::{Layout, check};
use crate::planner::{self, Options};
use crate::report::{self, Look, map::Map};
use crate::xenstore::schema::loader_keys;

/// Plan a guest's layout: the hole, the windows, every BAR's place.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  xen-pci-layout plan --format json /etc/xen/guest.cfg")]
pub struct Plan {
    #[command(flatten)]
    guest: GuestArguments,
    /// How to write the layout
    #[arg(long, value_enum, default_value_t)]
    format: PlanFormat,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    look: LookArguments,
    /// Say of the hole, every window, BAR and reservation why it is as it is (in JSON under the key explanation)
    #[arg(long)]
    explain: bool,
    /// Draw what the stock hvmloader of a release (the running one where none is named) does beside the plan
    #[arg(long, value_name = "X.Y.Z", num_args = 0..=1, require_equals = true, conflicts_with = "batch")]
    compare: Option<Option<Release>>,
    /// Read one guest description a line and write one compact JSON answer a line
    #[arg(long)]
    batch: bool,
}

/// What the caller may decide about the layout.
#[derive(Debug, Args)]
pub struct Choices {
    /// Let the plan choose the hole even where the guest's configuration demands one
    #[arg(long)]
    resize_hole: bool,
    /// Put every 64-bit BAR above 4 GiB that is larger than SIZE (such as 256M), whatever room there is below
    #[arg(long, value_name = "SIZE", value_parser = super::size_argument)]
    high_above: Option<Size>,
    /// Put every 64-bit BAR above 4 GiB
    #[arg(long, conflicts_with = "high_above")]
    all_high: bool,
    /// State that the device model maps the page that contains a passed-through BAR (stock QEMU maps the next one
    /// where a BAR does not start a page): such BARs then keep their offset into the page
    #[arg(long)]
    maps_containing_page: bool,
    #[command(flatten)]
    safety: Safety,
    /// An earlier layout of this guest (layout/1): move nothing of it that can stay
    #[arg(long, value_name = "LAYOUT")]
    keep: Option<PathBuf>,
    #[command(flatten)]
    reserve: ReserveArguments,
    #[command(flatten)]
    bars: BarChoices,
}

impl Choices {
    /// The planner's options for them.
    pub fn options(&self) -> Result<Options, Failure> {
        let keep = self.keep.as_deref().map(layout_file::read).transpose()?.map(Box::new);
        let high_above = if self.all_high { Some(Size::ZERO) } else { self.high_above };
        Ok(Options {
            resize_hole: self.resize_hole,
            high_above,
            maps_containing_page: self.maps_containing_page,
            accept_unaligned: self.safety.accepts_unaligned(),
            keep,
            ..Options::default()
        })
    }

    /// The layout of a guest whose devices are safe with it, with what had to be assumed about it, and what was accepted
    /// of its devices, among the warnings.
    pub fn layout_of(&self, mut loaded: LoadedGuest, options: &Options) -> Result<Layout, Failure> {
        self.bars.apply(&mut loaded.guest)?;
        self.reserve.add_to(&mut loaded.guest, loaded.host.as_ref())?;
        let accepted =
            self.safety.check(&loaded.guest, loaded.host.as_ref(), options.maps_containing_page)?;
        let mut layout = checked_plan(&loaded.guest, options)?;
        // A plan ends RAM where its hole begins, for libxl and QEMU alike.
        let about_guest =
            loaded.warnings.into_iter().filter(|warning| warning.code != "ram-border-disagrees");
        layout.warnings.splice(0..0, about_guest.chain(accepted));
        layout.origins = loaded.origins;
        Ok(layout)
    }
}

/// How a layout is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PlanFormat {
    /// For people; may change
    #[default]
    Text,
    /// layout/1
    Json,
    /// The lines that the loader will log
    Hvmloader,
    /// The keys that the loader reads
    Xenstore,
    /// A figure
    Svg,
    /// The guest as it was read, in one line: a description, for --batch
    Description,
}

impl Plan {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == PlanFormat::Json
    }

    /// Plans and writes the layout.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let options = Options { explain: self.explain, ..self.choices.options()? };
        if self.batch {
            let host = if self.guest.host().is_named() { Some(self.guest.host().load()?) } else { None };
            return batch::run(&self.guest, out, |guest| {
                let accepted = self.choices.safety.check(guest, None, options.maps_containing_page)?;
                let mut guest = guest.clone();
                self.choices.bars.apply(&mut guest)?;
                self.choices.reserve.add_to(&mut guest, host.as_ref())?;
                let mut layout = checked_plan(&guest, &options)?;
                layout.warnings.extend(accepted);
                Ok((layout, Answer::Yes))
            });
        }
        let loaded = self.guest.load()?;
        if self.format == PlanFormat::Description {
            serde_json::to_writer(&mut *out, &loaded.guest).map_err(std::io::Error::from)?;
            writeln!(out)?;
            return Ok(Answer::Yes);
        }
        if let Some(release) = self.compare {
            return self.compare(out, loaded, release);
        }
        let layout = self.choices.layout_of(loaded, &options)?;
        match self.format {
            PlanFormat::Json => write_json(out, &layout)?,
            PlanFormat::Text => {
                let names = self.look.names()?;
                let look = Look { names: &|vendor, device| names.of(vendor, device), colour: colour() };
                report::text::layout(out, &layout, &look)?;
                if let Some(why) = &layout.explanation {
                    report::reasons::explanation(out, &layout, why)?;
                }
            }
            PlanFormat::Svg => {
                let names = self.look.names()?;
                let map = Map::of_layout(&layout, &|vendor, device| names.of(vendor, device));
                report::svg::figure(out, &[&map])?;
            }
            // Written above, before anything is planned.
            PlanFormat::Description => {}
            PlanFormat::Hvmloader => report::loader_lines::pci_dev(out, &layout)?,
            PlanFormat::Xenstore => {
                let keys = loader_keys(&layout).map_err(|error| Failure::Input(error.to_string()))?;
                report::loader_lines::keys(out, &keys)?;
            }
        }
        Ok(Answer::Yes)
    }

    /// Writes what a stock loader does and the plan side by side.
    fn compare(
        &self,
        out: &mut dyn Write,
        loaded: LoadedGuest,
        release: Option<Release>,
    ) -> Result<Answer, Failure> {
        if !matches!(self.format, PlanFormat::Text | PlanFormat::Svg) {
            let message =
                "--compare draws: --format text or svg; for programs, predict and plan answer in JSON each";
            return Err(Failure::Input(message.to_owned()));
        }
        let names = self.look.names()?;
        let names = |vendor, device| names.of(vendor, device);
        let loader = predict::Loader::choose(release);
        let prediction = hvmloader::predict(&loaded.guest, loader.release)
            .map_err(|error| Failure::Input(error.to_string()))?;
        let stock = Map::of_prediction(&loaded.guest, &loader.to_string(), &prediction, &names);
        let layout = self.choices.layout_of(loaded, &self.choices.options()?)?;
        let planned = Map::of_layout(&layout, &names);
        match self.format {
            PlanFormat::Svg => report::svg::figure(out, &[&stock, &planned])?,
            _ => report::text::compare(out, &stock, &planned, colour())?,
        }
        Ok(Answer::Yes)
    }
}

/// A plan that has been compared with the rules it must keep. A layout that breaks one is never handed out.
pub fn checked_plan(guest: &Guest, options: &Options) -> Result<Layout, Failure> {
    let layout = planner::plan(guest, options)?;
    let broken = check(guest, &layout);
    if broken.is_empty() {
        return Ok(layout);
    }
    let rules: Vec<String> = broken.iter().map(ToString::to_string).collect();
    Err(Failure::Environment(format!(
        "this is a bug in xen-pci-layout, please report it with the guest: the layout breaks its own rules: {}",
        rules.join("; ")
    )))
}
