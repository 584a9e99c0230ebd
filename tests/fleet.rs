// SPDX-License-Identifier: LGPL-2.1-or-later
//! `--batch` over a fleet: the smaller version of docs/fleet.md.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    missing_docs
)]

mod common;
#[path = "../examples/fleet.rs"]
mod fleet;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::program::run;
use serde_json::Value;

const FLEET: u64 = 500;

/// The answers to all lines.
fn answers(arguments: &[&str], lines: String) -> Vec<Value> {
    let output = run(arguments, &lines);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "nothing is said of the progress in a pipe");
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn lines(count: u64) -> String {
    (0..count).map(|number| format!("{}\n", fleet::guest(number))).collect()
}

/// Each guest's layout under a release: all that a guest sees of it.
fn layouts(release: &str) -> BTreeMap<String, Value> {
    let mut ids = Vec::new();
    let mut layouts = BTreeMap::new();
    for mut answer in answers(&["predict", "--batch", "--xen", release, "-"], lines(FLEET)) {
        let id = answer["id"].as_str().unwrap().to_owned();
        let object = answer.as_object_mut().unwrap();
        for key in ["release", "release_from", "log", "warnings"] {
            object.remove(key);
        }
        ids.push(id.clone());
        layouts.insert(id, answer);
    }
    assert!(ids.is_sorted() && ids.len() as u64 == FLEET, "one answer a guest, in the order of the guests");
    layouts
}

#[test]
fn the_guests_whose_layout_an_upgrade_changes_are_those_that_the_releases_treat_differently() {
    let (before, newest, after) = (layouts("4.17.3"), layouts("4.17"), layouts("4.22"));
    let changed = |other: &BTreeMap<String, Value>| -> Vec<String> {
        after.iter().filter(|(id, layout)| other[*id] != **layout).map(|(id, _)| id.clone()).collect()
    };
    let has = |id: &str, wanted: &dyn Fn(&Value) -> bool| {
        let guest = fleet::guest(id.trim_start_matches("guest-").parse().unwrap());
        guest["devices"].as_array().unwrap().iter().any(wanted) || wanted(&guest)
    };
    let key = |value: &Value| !value["xenstore"]["hvmloader/pci/xen-platform-pci-bar-uc"].is_null();
    // 4.17.7 and 4.22 differ in a key alone.
    let by_key = changed(&newest);
    assert!(!by_key.is_empty() && by_key.iter().all(|id| has(id, &key)), "{by_key:?}");
    // 4.17.3 has no rule about BARs of more than a GiB either.
    let large = |value: &Value| {
        let bars = value["bars"].as_array();
        bars.is_some_and(|bars| bars.iter().any(|bar| bar["size"].as_u64().unwrap() > 1 << 30))
    };
    let by_size = changed(&before);
    assert!(by_size.iter().all(|id| has(id, &key) || has(id, &large)), "{by_size:?}");
    assert!(by_size.iter().any(|id| has(id, &large) && !has(id, &key)));
}

#[test]
fn all_of_a_fleet_is_planned() {
    let answers = answers(&["plan", "--batch", "-"], lines(FLEET));
    let ids: Vec<&str> = answers.iter().map(|answer| answer["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted() && ids.len() as u64 == FLEET);
    for answer in &answers {
        assert!(answer["schema"] == "layout/1" || answer["error"]["code"] == "does-not-fit", "{answer}");
    }
}

/// The most memory that the program ever had, in KiB, by the time that it has answered `count` lines and waits for more.
fn peak_after(count: u64) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xen-pci-layout"))
        .args(["predict", "--batch", "--xen", "4.22", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let line = format!("{}\n", fleet::guest(0));
        (0..count).for_each(|_| input.write_all(line.as_bytes()).unwrap());
        input
    });
    // The last chunk and what the buffers hold are still to come.
    let expected = usize::try_from(count).unwrap() - 500;
    let answered = BufReader::new(child.stdout.as_mut().unwrap()).lines().take(expected).count();
    assert_eq!(answered, expected);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.trim().trim_end_matches(" kB").parse().unwrap();
    drop(child.stdout.take());
    drop(writer.join());
    child.wait().unwrap();
    peak
}

#[test]
fn memory_does_not_grow_with_the_input() {
    let (few, many) = (peak_after(1_000), peak_after(5_000));
    assert!(many < few + 8 * 1024, "{few} KiB after 1,000 guests, {many} KiB after 5,000");
}
