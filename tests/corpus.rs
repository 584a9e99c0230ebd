// SPDX-License-Identifier: LGPL-2.1-or-later
//! The model of stock loaders against the corpus: what genuine loaders did with 12,320 guests (tests/corpus/FORMAT.md).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test stops where it fails"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;

use lzma_rust2::XzReader;
use xen_pci_layout::recording::corpus::Case;
use xen_pci_layout::recording::differences;

fn replay(file: &str, cases: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(file);
    let packed = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut count = 0;
    let mut differing = Vec::new();
    for line in BufReader::new(XzReader::new(packed, true)).lines() {
        let case = Case::parse(&line.unwrap()).unwrap();
        count += 1;
        let found = differences(&case.recorded().unwrap(), &case.predict().unwrap());
        if !found.is_empty() {
            let found: Vec<_> = found.iter().map(|difference| format!("  {difference}\n")).collect();
            differing.push(format!("{}:\n{}", case.id, found.concat()));
        }
    }
    assert_eq!(count, cases, "cases in {file}");
    let shown: Vec<_> = differing.iter().take(5).cloned().collect();
    assert!(
        differing.is_empty(),
        "{} of {count} cases differ, the first:\n{}",
        differing.len(),
        shown.concat()
    );
}

#[test]
fn loader_of_4_14_is_predicted_exactly() {
    replay("cases-4.14.jsonl.xz", 1500);
}

#[test]
fn loader_of_4_17_3_is_predicted_exactly() {
    replay("cases-4.17.3.jsonl.xz", 1500);
}

#[test]
fn loader_of_4_17_is_predicted_exactly() {
    replay("cases-4.17.jsonl.xz", 3000);
}

#[test]
fn loader_of_4_20_is_predicted_exactly() {
    replay("cases-4.20.jsonl.xz", 3000);
}

#[test]
fn loader_of_4_22_is_predicted_exactly() {
    replay("cases-4.22.jsonl.xz", 3000);
}

#[test]
fn single_behaviours_are_predicted_exactly() {
    replay("cases-directed.jsonl.xz", 320);
}
