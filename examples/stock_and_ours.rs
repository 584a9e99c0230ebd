// SPDX-License-Identifier: LGPL-2.1-or-later
//! The corpus's guests under each stock loader and under a plan: how many are left with a BAR that is unplaced or unsafe,
//! and how much of the first 4 GiB is no RAM. Prints the table of docs/compared.md:
//!
//! `cargo run --release --example stock_and_ours`

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use lzma_rust2::XzReader;
use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::guest::Guest;
use xen_pci_layout::hvmloader::{Release, hazards, predict};
use xen_pci_layout::layout::check;
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::recording::corpus::Case;
use xen_pci_layout::source::description;

/// What one way to lay guests out makes of them.
struct Row {
    name: String,
    /// For each guest what is wrong, and the hole below 4 GiB; `None` where the guest does not start or is refused.
    guests: Vec<(Trouble, Option<Size>)>,
}

/// What is wrong with a guest's layout, the worst first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It does not start: its loader stops, or the plan is a refusal.
    NoLayout,
    /// A BAR has no address.
    Unplaced,
    /// A BAR is where it must not be.
    Unsafe,
    /// Nothing.
    Nothing,
}

fn main() -> Result<(), Box<dyn Error>> {
    let guests = guests()?;
    let mut rows = vec![ours("a plan", &guests, &Options::default())];
    rows.push(ours(
        "a plan that may resize the hole",
        &guests,
        &Options { resize_hole: true, ..Options::default() },
    ));
    let mut releases = Release::one_of_each_algorithm();
    releases.reverse();
    for release in releases {
        rows.push(stock(release, &guests)?);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} guests\n", guests.len())?;
    writeln!(
        out,
        "| | no layout | a BAR unplaced | a BAR unsafe | all well | mean hole, where all rows do well |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    let well =
        |row: &Row, at: usize| row.guests.get(at).is_some_and(|(trouble, _)| *trouble == Trouble::Nothing);
    let common: Vec<usize> = (0..guests.len()).filter(|at| rows.iter().all(|row| well(row, *at))).collect();
    for row in &rows {
        let count = |trouble| row.guests.iter().filter(|(found, _)| *found == trouble).count();
        let holes = common.iter().filter_map(|at| row.guests.get(*at)?.1);
        let sum = holes.fold(Size::ZERO, Size::saturating_add);
        let mean = u64::try_from(common.len()).ok().and_then(|count| (sum.get() >> 20).checked_div(count));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} MiB |",
            row.name,
            count(Trouble::NoLayout),
            count(Trouble::Unplaced),
            count(Trouble::Unsafe),
            count(Trouble::Nothing),
            mean.unwrap_or_default(),
        )?;
    }
    writeln!(out, "\n{} guests do well in every row.", common.len())?;
    let (plans, stocks) = rows.split_at(2);
    for row in plans {
        let refused =
            |at: &usize| row.guests.get(*at).is_some_and(|(trouble, _)| *trouble == Trouble::NoLayout);
        let missed =
            (0..guests.len()).filter(refused).filter(|at| stocks.iter().any(|row| well(row, *at))).count();
        writeln!(out, "{missed} guests do well under some stock loader, and {} finds no layout.", row.name)?;
    }
    writeln!(out)?;
    writeln!(out, "| a plan is refused for | guests |\n|---|---|")?;
    refusals(&guests).iter().try_for_each(|(reason, count)| writeln!(out, "| {reason} | {count} |"))?;
    Ok(())
}

/// Why plans are refused.
fn refusals(guests: &[Guest]) -> BTreeMap<String, u64> {
    let free = Options { resize_hole: true, ..Options::default() };
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for guest in guests {
        let Err(refusal) = plan(guest, &Options::default()) else { continue };
        let reason = match plan(guest, &free) {
            Ok(_) => "the demanded hole: another would do".to_owned(),
            Err(_) if refusal.blocking.is_empty() => format!("RAM itself ({:?})", refusal.code),
            Err(_) if refusal.blocking.len() == 1 => format!("one BAR alone ({:?})", refusal.code),
            Err(_) => format!("several BARs together ({:?})", refusal.code),
        };
        let count = reasons.entry(reason).or_default();
        *count = count.saturating_add(1);
    }
    reasons
}

/// The corpus's guests, each once, that a machine can have.
fn guests() -> Result<Vec<Guest>, Box<dyn Error>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut seen = BTreeSet::new();
    let mut guests = Vec::new();
    for file in files
        .iter()
        .map(std::fs::DirEntry::path)
        .filter(|path| path.extension().is_some_and(|end| end == "xz"))
    {
        for line in BufReader::new(XzReader::new(File::open(file)?, true)).lines() {
            let guest = Case::parse(&line?)?.into_guest();
            if description::validate(&guest).is_ok() && seen.insert(serde_json::to_string(&guest)?) {
                guests.push(guest);
            }
        }
    }
    Ok(guests)
}

/// What a stock loader makes of the guests.
fn stock(release: Release, guests: &[Guest]) -> Result<Row, Box<dyn Error>> {
    let mut found = Vec::new();
    for guest in guests {
        let prediction = predict(guest, release)?;
        let codes: Vec<String> = hazards(guest, &prediction)
            .into_iter()
            .filter(|hazard| hazard.unsafe_to_start)
            .map(|hazard| hazard.warning.code)
            .collect();
        let has = |names: &[&str]| codes.iter().any(|code| names.contains(&code.as_str()));
        let trouble = if has(&["crash"]) {
            Trouble::NoLayout
        } else if has(&["no-space", "never-scanned", "never-seen"]) {
            Trouble::Unplaced
        } else if codes.is_empty() {
            Trouble::Nothing
        } else {
            Trouble::Unsafe
        };
        found.push((trouble, Some(Address::FOUR_GIB.distance_from(prediction.pci_mem_start))));
    }
    Ok(Row { name: format!("Xen {release}"), guests: found })
}

/// What a plan makes of them, compared with the rules.
fn ours(name: &str, guests: &[Guest], options: &Options) -> Row {
    let judged = |guest: &Guest| match plan(guest, options) {
        Err(_) => (Trouble::NoLayout, None),
        Ok(layout) if check(guest, &layout).is_empty() => (Trouble::Nothing, Some(layout.mmio_hole_size)),
        Ok(layout) => (Trouble::Unsafe, Some(layout.mmio_hole_size)),
    };
    Row { name: name.to_owned(), guests: guests.iter().map(judged).collect() }
}
