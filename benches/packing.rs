// SPDX-License-Identifier: LGPL-2.1-or-later
//! The recorded corpus's guests under every stock loader, under vm-allocator's policies and under a plan: how many are left
//! with a BAR that is unplaced or unsafe, and how much of the first 4 GiB is no RAM.
//!
//! `cargo bench --bench packing` prints the tables of docs/compared.md. A guest is taken if it is one that a machine can have
//! ([`description::validate`]); each recorded guest counts once, whatever loaders it was recorded with.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use lzma_rust2::XzReader;
use vm_allocator::{AddressAllocator, AllocPolicy};
use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::guest::{DEFAULT_HOLE, FIXED_REGIONS, Guest, HOLE_GRANULARITY, LARGEST_HOLE};
use xen_pci_layout::hvmloader::{Release, hazards, predict};
use xen_pci_layout::layout::check;
use xen_pci_layout::pci::BarKind;
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::source::description;

/// What becomes of a guest, the worst that is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It does not start: its loader stops, or who plans finds no layout.
    NoLayout,
    /// A BAR has no address.
    Unplaced,
    /// A BAR is where it must not be.
    Unsafe,
    /// All is well, with a hole of that many bytes below 4 GiB.
    Well(u64),
}

/// What one way to lay guests out makes of each of them.
struct Row {
    name: String,
    outcomes: Vec<Outcome>,
}

impl Row {
    fn new(name: &str, guests: &[Guest], judge: impl Fn(&Guest) -> Outcome) -> Self {
        Self { name: name.to_owned(), outcomes: guests.iter().map(judge).collect() }
    }

    fn well(&self, at: usize) -> Option<u64> {
        match self.outcomes[at] {
            Outcome::Well(hole) => Some(hole),
            _ => None,
        }
    }
}

fn main() {
    let guests = guests();
    let free = Options { resize_hole: true, ..Options::default() };
    let plans = [
        Row::new("a plan", &guests, |guest| ours(guest, &Options::default())),
        Row::new("a plan with `--resize-hole`", &guests, |guest| ours(guest, &free)),
    ];
    let mut releases = Release::one_of_each_algorithm();
    releases.reverse();
    let stock: Vec<Row> = releases
        .into_iter()
        .map(|release| Row::new(&format!("Xen {release}"), &guests, |guest| stock(guest, release)))
        .collect();
    let policies = [("first match", AllocPolicy::FirstMatch), ("last match", AllocPolicy::LastMatch)];
    let peers: Vec<Row> = policies
        .into_iter()
        .flat_map(|(name, policy)| {
            [(name.to_owned(), policy, false), (format!("{name}, largest first"), policy, true)]
        })
        .map(|(name, policy, sorted)| {
            Row::new(&format!("vm-allocator, {name}"), &guests, |guest| allocator(guest, policy, sorted))
        })
        .collect();

    let rows: Vec<&Row> = plans.iter().chain(&stock).chain(&peers).collect();
    let everywhere: Vec<usize> =
        (0..guests.len()).filter(|at| rows.iter().all(|row| row.well(*at).is_some())).collect();
    println!(
        "{} guests; the last column is over the {} that do well in every row.\n",
        guests.len(),
        everywhere.len()
    );
    println!(
        "| | no layout | a BAR unplaced | a BAR unsafe | all well | hole, mean | median | mean, same guests |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        let count = |outcome| row.outcomes.iter().filter(|other| **other == outcome).count();
        let mut holes: Vec<u64> = (0..guests.len()).filter_map(|at| row.well(at)).collect();
        holes.sort_unstable();
        let same: Vec<u64> = everywhere.iter().filter_map(|at| row.well(*at)).collect();
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            count(Outcome::NoLayout),
            count(Outcome::Unplaced),
            count(Outcome::Unsafe),
            holes.len(),
            mib(mean(&holes)),
            mib(holes.get(holes.len() / 2).copied().unwrap_or_default() as f64),
            mib(mean(&same)),
        );
    }
    println!("\n| without a plan | guests | of them well under some stock loader |\n|---|---|---|");
    for row in &plans {
        let refused: Vec<usize> = (0..guests.len()).filter(|at| row.well(*at).is_none()).collect();
        let missed = refused.iter().filter(|at| stock.iter().any(|stock| stock.well(**at).is_some())).count();
        println!("| {} | {} | {missed} |", row.name, refused.len());
    }
    println!("\n| a plan is refused for | guests |\n|---|---|");
    refusals(&guests).iter().for_each(|(reason, count)| println!("| {reason} | {count} |"));
}

fn mean(holes: &[u64]) -> f64 {
    holes.iter().sum::<u64>() as f64 / holes.len().max(1) as f64
}

fn mib(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / f64::from(1 << 20))
}

/// Why plans are refused.
fn refusals(guests: &[Guest]) -> BTreeMap<String, u64> {
    let free = Options { resize_hole: true, ..Options::default() };
    let mut reasons = BTreeMap::new();
    for guest in guests {
        let Err(refusal) = plan(guest, &Options::default()) else { continue };
        let reason = match plan(guest, &free) {
            Ok(_) => "the demanded hole: another would do".to_owned(),
            Err(_) if refusal.blocking.is_empty() => format!("RAM itself ({:?})", refusal.code),
            Err(_) if refusal.blocking.len() == 1 => format!("one BAR alone ({:?})", refusal.code),
            Err(_) => format!("several BARs together ({:?})", refusal.code),
        };
        *reasons.entry(reason).or_default() += 1;
    }
    reasons
}

/// The corpus's guests, each once.
fn guests() -> Vec<Guest> {
    #[derive(serde::Deserialize)]
    struct Line {
        input: Box<serde_json::value::RawValue>,
    }
    let mut files: Vec<_> =
        fs::read_dir("tests/corpus").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "xz"));
    files.sort();
    let mut seen = HashSet::new();
    let mut guests = Vec::new();
    for file in files {
        let reader = BufReader::new(XzReader::new(File::open(file).unwrap(), true));
        for line in reader.lines().map(Result::unwrap) {
            let line: Line = serde_json::from_str(&line).unwrap();
            if seen.insert(line.input.get().to_owned()) {
                guests.extend(description::parse(line.input.get()));
            }
        }
    }
    guests
}

/// What a stock loader makes of a guest.
fn stock(guest: &Guest, release: Release) -> Outcome {
    let prediction = predict(guest, release).unwrap();
    let unsafe_to_start = hazards(guest, &prediction).into_iter().filter(|hazard| hazard.unsafe_to_start);
    let codes: Vec<String> = unsafe_to_start.map(|hazard| hazard.warning.code).collect();
    let has = |names: &[&str]| codes.iter().any(|code| names.contains(&code.as_str()));
    if has(&["crash"]) {
        Outcome::NoLayout
    } else if has(&["no-space", "never-scanned", "never-seen"]) {
        Outcome::Unplaced
    } else if codes.is_empty() {
        Outcome::Well(Address::FOUR_GIB.distance_from(prediction.pci_mem_start).get())
    } else {
        Outcome::Unsafe
    }
}

/// What a plan makes of it, compared with the rules.
fn ours(guest: &Guest, options: &Options) -> Outcome {
    match plan(guest, options) {
        Err(_) => Outcome::NoLayout,
        Ok(layout) if check(guest, &layout).is_empty() => Outcome::Well(layout.mmio_hole_size.get()),
        Ok(_) => Outcome::Unsafe,
    }
}

/// What somebody would build with vm-allocator: the smallest of the holes that hvmloader tries (doubled until all fits)
/// in which every BAR gets a place; a 64-bit BAR that finds none goes above RAM. Reserved device memory is taken out
/// first, and the hole that a guest demands is the only one tried.
fn allocator(guest: &Guest, policy: AllocPolicy, sorted: bool) -> Outcome {
    let doubled = [DEFAULT_HOLE, Size::new(512 << 20), Size::GIB, Size::new(2 << 30), LARGEST_HOLE];
    let demanded = guest.demanded_hole();
    let holes = demanded.into_iter().chain(doubled.into_iter().filter(|_| demanded.is_none()));
    let hole = holes
        .filter(|hole| Address::new(hole.get()).is_aligned(HOLE_GRANULARITY))
        .find(|hole| fits(guest, *hole, policy, sorted).is_some());
    hole.map_or(Outcome::NoLayout, |hole| Outcome::Well(hole.get()))
}

fn fits(guest: &Guest, hole: Size, policy: AllocPolicy, sorted: bool) -> Option<()> {
    let ram = guest.ram_layout(hole)?;
    let start = Address::FOUR_GIB.checked_sub(hole)?;
    let start = if ram.high_end == Address::FOUR_GIB { start.max(ram.populated_end()) } else { start };
    if start >= FIXED_REGIONS {
        return None;
    }
    let above = if ram.high_end == Address::FOUR_GIB { ram.high_end } else { ram.populated_end() };
    let space = |start: Address, end: Address| {
        AddressAllocator::new(start.get(), end.distance_from(start).get()).ok()
    };
    let mut low = space(start, FIXED_REGIONS)?;
    let mut high = space(above, guest.address_limit());
    let mut ports = space(Address::new(0xc000), Address::new(0x1_0000))?;
    for barred in guest.reserved_device_memory().chain(guest.hypertransport_hole()) {
        if ram.low_end > barred.start()
            || (Address::FOUR_GIB < ram.high_end
                && barred.start() < ram.high_end
                && barred.end() > Address::FOUR_GIB)
        {
            return None;
        }
        for allocator in [Some(&mut low), high.as_mut()].into_iter().flatten() {
            let inside = (
                allocator.base().max(barred.start().get()),
                allocator.end().saturating_add(1).min(barred.end().get()),
            );
            if inside.0 < inside.1 {
                allocator.allocate(inside.1 - inside.0, 1, AllocPolicy::ExactMatch(inside.0)).ok()?;
            }
        }
    }
    let mut bars: Vec<_> = guest
        .devices
        .iter()
        .flat_map(|device| {
            device.bars.iter().map(|bar| (bar.size.get(), bar.kind, device.bridge.is_none() || bar.prefetch))
        })
        .collect();
    if sorted {
        bars.sort_by_key(|bar| std::cmp::Reverse(bar.0));
    }
    for (size, kind, may_go_high) in bars {
        let block = size.max(guest.page_size.get());
        let placed = match kind {
            BarKind::Io => ports.allocate(size, size, policy).is_ok(),
            BarKind::Mem64 if may_go_high => {
                low.allocate(block, block, policy).is_ok()
                    || high.as_mut().is_some_and(|high| high.allocate(block, block, policy).is_ok())
            }
            _ => low.allocate(block, block, policy).is_ok(),
        };
        if !placed {
            return None;
        }
    }
    Some(())
}
