// SPDX-License-Identifier: LGPL-2.1-or-later
//! Packing: how much low memory BARs take, and how many guests are left incomplete, over the recorded corpus's guests:
//! every stock loader, vm-allocator's policies, and this planner.
//!
//! `cargo bench --bench packing` prints the table. A guest is taken if it is one that a machine can have
//! ([`description::validate`]); each recorded guest counts once, whatever loaders it was recorded with.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use lzma_rust2::XzReader;
use vm_allocator::{AddressAllocator, AllocPolicy};
use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::guest::{DEFAULT_HOLE, FIXED_REGIONS, Guest, HOLE_GRANULARITY, LARGEST_HOLE};
use xen_pci_layout::hvmloader::{Release, hazards, predict};
use xen_pci_layout::pci::BarKind;
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::source::description;

/// What became of all guests.
#[derive(Default)]
struct Sum {
    /// Every BAR placed, and the guest safe to start.
    good: u64,
    /// A BAR without a place, or a crash, or no layout.
    incomplete: u64,
    /// Complete, and not to be started: a BAR on RAM, on reserved memory, out of reach.
    unsafe_to_start: u64,
    /// The hole of each guest that is good.
    holes: Vec<u64>,
}

fn main() {
    let guests = guests();
    let none: usize = guests.iter().filter(|guest| plan(guest, &Options::default()).is_err()).count();
    println!(
        "{} guests; for {none} of them there is no layout under the hole that they ask for.\n",
        guests.len()
    );
    println!(
        "| who | complete and safe | incomplete | unsafe | low memory taken, mean | median |\n|---|---|---|---|---|---|"
    );
    let mut releases = Release::one_of_each_algorithm();
    releases.reverse();
    for release in releases {
        row(&format!("stock hvmloader {release}"), &guests, |guest, sum| stock(guest, release, sum));
    }
    for (name, policy) in [("first match", AllocPolicy::FirstMatch), ("last match", AllocPolicy::LastMatch)] {
        row(&format!("vm-allocator, {name}"), &guests, |guest, sum| allocator(guest, policy, false, sum));
        row(&format!("vm-allocator, {name}, largest first"), &guests, |guest, sum| {
            allocator(guest, policy, true, sum)
        });
    }
    row("this planner", &guests, |guest, sum| ours(guest, &Options::default(), sum));
    let free = Options { resize_hole: true, ..Options::default() };
    row("this planner, `--resize-hole`", &guests, |guest, sum| ours(guest, &free, sum));
}

fn row(name: &str, guests: &[Guest], judge: impl Fn(&Guest, &mut Sum)) {
    let mut sum = Sum::default();
    guests.iter().for_each(|guest| judge(guest, &mut sum));
    sum.holes.sort_unstable();
    let mib = |bytes: f64| format!("{:.0} MiB", bytes / f64::from(1 << 20));
    let mean = sum.holes.iter().sum::<u64>() as f64 / sum.holes.len().max(1) as f64;
    let median = sum.holes.get(sum.holes.len() / 2).copied().unwrap_or_default() as f64;
    let (good, incomplete, unsafe_to_start) = (sum.good, sum.incomplete, sum.unsafe_to_start);
    println!("| {name} | {good} | {incomplete} | {unsafe_to_start} | {} | {} |", mib(mean), mib(median));
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

fn stock(guest: &Guest, release: Release, sum: &mut Sum) {
    let Ok(prediction) = predict(guest, release) else { return sum.incomplete += 1 };
    if !prediction.is_complete() {
        sum.incomplete += 1;
    } else if hazards(guest, &prediction).iter().any(|hazard| hazard.unsafe_to_start) {
        sum.unsafe_to_start += 1;
    } else {
        sum.good += 1;
        sum.holes.push(Address::FOUR_GIB.distance_from(prediction.pci_mem_start).get());
    }
}

fn ours(guest: &Guest, options: &Options, sum: &mut Sum) {
    match plan(guest, options) {
        Ok(layout) => {
            sum.good += 1;
            sum.holes.push(layout.mmio_hole_size.get());
        }
        Err(_) => sum.incomplete += 1,
    }
}

/// What somebody would build with vm-allocator: the smallest of the holes that hvmloader tries (doubled until all fits)
/// in which every BAR gets a place; a 64-bit BAR that finds none goes above RAM. Reserved device memory is taken out
/// first, and the hole that a guest demands is the only one tried.
fn allocator(guest: &Guest, policy: AllocPolicy, sorted: bool, sum: &mut Sum) {
    let doubled = [DEFAULT_HOLE, Size::new(512 << 20), Size::GIB, Size::new(2 << 30), LARGEST_HOLE];
    let demanded = guest.demanded_hole();
    let holes = demanded.into_iter().chain(doubled.into_iter().filter(|_| demanded.is_none()));
    let hole = holes
        .filter(|hole| Address::new(hole.get()).is_aligned(HOLE_GRANULARITY))
        .find(|hole| fits(guest, *hole, policy, sorted).is_some());
    match hole {
        Some(hole) => {
            sum.good += 1;
            sum.holes.push(hole.get());
        }
        None => sum.incomplete += 1,
    }
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
