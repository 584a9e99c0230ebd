// SPDX-License-Identifier: LGPL-2.1-or-later
//! Layouts of real guests, replayed from their configuration by the program itself (tests/recordings/README.md).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::program::{json_of as report, program};
use serde_json::Value;

/// How many recordings of guests there are.
const GUESTS: usize = 19;
/// How many logs without a configuration.
const LOGS: usize = 4;

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

/// The recordings' directories: what has a configuration.
fn guests() -> Vec<PathBuf> {
    let entries = fs::read_dir(recordings()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("xl.cfg").exists()).collect()
}

fn replay(files: &[PathBuf]) -> Output {
    program().args(["replay", "--format", "json"]).args(files).output().unwrap()
}

fn notes(report: &Value) -> Vec<String> {
    let note =
        |note: &Value| format!("{}: {}", note["file"].as_str().unwrap(), note["message"].as_str().unwrap());
    report["notes"].as_array().unwrap().iter().map(note).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in ["xl.cfg", "hvmloader.log", "guest.log"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn every_recorded_guest_replays_exactly_from_its_configuration() {
    let files = guests();
    assert_eq!(files.len(), GUESTS);
    let output = replay(&files);
    let report = report(&output);
    assert_eq!(report["differing"], Value::Array(Vec::new()));
    assert_eq!((report["replayed"].as_u64(), output.status.code()), (Some(19), Some(0)));
}

#[test]
fn a_tree_that_is_reconstructed_is_said_to_be() {
    let report = report(&replay(&[recordings().join("pt-boot-2dev")]));
    let notes = notes(&report);
    assert!(notes.iter().any(|note| note.contains("reconstructed")), "{notes:?}");
}

#[test]
fn published_logs_replay_from_their_own_bars_and_say_so() {
    let entries = fs::read_dir(recordings().join("logs")).unwrap();
    let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), LOGS);
    let output = replay(&files);
    let report = report(&output);
    assert_eq!(report["differing"], Value::Array(Vec::new()));
    assert_eq!(output.status.code(), Some(0));
    let notes = notes(&report);
    for file in files {
        let file = file.display().to_string();
        let said = |note: &&String| note.starts_with(&file) && note.contains("own list of BARs");
        assert_eq!(notes.iter().filter(said).count(), 1, "{file}");
    }
}

#[test]
fn a_layout_that_differs_is_told_bar_by_bar() {
    let directory = tempfile::tempdir().unwrap();
    let copied = directory.path().join("changed");
    copy(&recordings().join("testdev1g"), &copied);
    let log = fs::read_to_string(copied.join("hvmloader.log")).unwrap();
    let changed = log.replace("bar 18 size 040000000: 08000000c", "bar 18 size 040000000: 10000000c");
    assert_ne!(log, changed);
    fs::write(copied.join("hvmloader.log"), changed).unwrap();
    let output = replay(&[copied]);
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    let found = &report["differing"][0]["differences"][0];
    assert_eq!(found["what"], "00:04.0 BAR 18");
    assert_eq!(
        (&found["recorded"], &found["predicted"]),
        (&"1G as 0x10000000c".into(), &"1G as 0x8000000c".into())
    );
}

#[test]
fn another_configuration_does_not_replay() {
    let directory = tempfile::tempdir().unwrap();
    let copied = directory.path().join("changed");
    copy(&recordings().join("testdev1g"), &copied);
    let configuration = fs::read_to_string(copied.join("xl.cfg")).unwrap();
    fs::write(copied.join("xl.cfg"), configuration.replace("membar=1G", "membar=512M")).unwrap();
    assert_eq!(replay(&[copied]).status.code(), Some(1));
}

#[test]
fn a_directory_without_a_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let output = replay(&[directory.path().to_owned()]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("xl.cfg or domain.json"), "{message}");
}
