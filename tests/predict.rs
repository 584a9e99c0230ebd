// SPDX-License-Identifier: LGPL-2.1-or-later
//! `predict` as people and scripts call it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it fails")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::program::{json_of as json, run};
use serde_json::Value;

/// 6 GiB, a 1 GiB 64-bit BAR and two 32-bit ones: the default hole of 192 MiB does not hold them.
const GPU: &str = r#"{"id": "gpu", "phys_bits": 39, "low_mem_pgend": 983040, "high_mem_pgend": 1638400,
    "xenstore": {"hvmloader/allow-memory-relocate": "0"}, "devices": [
    {"bdf": "00:02.0", "vendor": 22611, "device": 1, "class": 65408, "bars": [{"reg": 20, "kind": "mem32", "size": 16777216}]},
    {"bdf": "00:04.0", "vendor": 4318, "device": 1, "class": 770, "bars": [{"reg": 16, "kind": "mem64", "size": 1073741824},
     {"reg": 24, "kind": "mem32", "size": 134217728}, {"reg": 28, "kind": "mem32", "size": 67108864}]}]}"#;

fn predict(arguments: &[&str], input: &str) -> Output {
    run(&[&["predict"], arguments].concat(), input)
}

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(name)
}

fn has_warning(report: &Value, code: &str) -> bool {
    report["warnings"].as_array().unwrap().iter().any(|warning| warning["code"] == code)
}

#[test]
fn a_bar_without_a_place_is_a_no_and_the_suggestion_holds() {
    let output = predict(&["--xen", "4.17.7", "--suggest", "--format", "json", "-"], GPU);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    assert_eq!(
        (&report["schema"], &report["release"], &report["id"]),
        (&"predict/1".into(), &"4.17.7".into(), &"gpu".into())
    );
    assert!(has_warning(&report, "no-space"));
    let mib = report["suggestion"]["mmio_hole"].as_u64().unwrap();
    let hole = format!(r#"{{"platform/mmio_hole_size": "{}", "#, mib << 20);
    // RAM as libxl lays it out for that hole.
    let low = (4096 - mib) << 8;
    let with_hole = GPU
        .replace(r#"{"hvmloader/allow"#, &format!(r#"{hole}"hvmloader/allow"#))
        .replace("983040", &low.to_string())
        .replace("1638400", &(1_638_400 + 983_040 - low).to_string());
    assert_eq!(predict(&["--xen", "4.17.7", "-"], &with_hole).status.code(), Some(0));
}

#[test]
fn a_guest_without_ram_above_1m_stops_the_loader_at_its_empty_memory_map() {
    // As Debian's hvmloaders of 4.17 and 4.20 say it.
    for frames in [0, 1, 256] {
        let guest = format!(r#"{{"phys_bits": 39, "low_mem_pgend": {frames}, "devices": []}}"#);
        let output = predict(&["--xen", "4.17", "--format", "json", "-"], &guest);
        assert_eq!(output.status.code(), Some(1));
        let report = json(&output);
        assert_eq!(report["result"], "crash");
        assert!(has_warning(&report, "crash"));
        assert_eq!(
            report["log"],
            serde_json::json!([
                "Get guest memory maps[0] failed. (0)",
                "*** HVMLoader bug at e820.c:39",
                "*** HVMLoader crashed."
            ])
        );
    }
    let guest = r#"{"phys_bits": 39, "low_mem_pgend": 257, "devices": []}"#;
    assert_eq!(predict(&["--xen", "4.17", "-"], guest).status.code(), Some(0));
}

#[test]
fn the_power_management_function_s_pin_is_written_into_its_line() {
    // As Debian's hvmloaders of 4.17 and 4.20 leave it where no pin makes them route an interrupt afterwards.
    let guest = r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": [
        {"bdf": "00:01.3", "vendor": 32902, "device": 28947, "class": 1664, "int_line": 9}]}"#;
    let report = json(&predict(&["--xen", "4.17", "--format", "json", "-"], guest));
    assert_eq!(report["int_line"], serde_json::json!({"00:01.3": 1}));
}

#[test]
fn a_recorded_loader_s_lines_come_out_byte_for_byte() {
    let directory = recording("testdev4g-64m-256m");
    let file = directory.join("xl.cfg");
    let output = predict(&["--xen", "4.17.7", "--format", "hvmloader", file.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(directory.join("hvmloader.log")).unwrap();
    let recorded: String = log
        .lines()
        .filter(|line| line.contains("pci dev") && line.contains(" bar "))
        .map(|line| format!("{}\n", line.split_once("] ").unwrap().1))
        .collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), recorded);
}

#[test]
fn the_keys_that_the_loader_reads_are_those_that_libxl_writes() {
    let file = recording("hole2g-3g").join("xl.cfg");
    let output = predict(&["--xen", "4.17.7", "--format", "xenstore", file.to_str().unwrap()], "");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "hvmloader/allow-memory-relocate = \"0\"\nhvmloader/bios = \"seabios\"\n\
         platform/mmio_hole_size = \"2147483648\"\n"
    );
}

#[test]
fn a_bar_on_the_vga_s_rom_is_warned_of_from_the_xl_cfg() {
    let file = recording("bar-on-rom").join("xl.cfg");
    let report = json(&predict(&["--xen", "4.17.7", "--format", "json", file.to_str().unwrap()], ""));
    assert!(has_warning(&report, "bar-on-device-model-memory"), "{}", report["warnings"]);
}

#[test]
fn a_dropped_rdm_string_is_warned_of() {
    let file = recording("base-512m").join("xl.cfg");
    let text = std::fs::read_to_string(file).unwrap() + "rdm=\"strategy=host,policy=relaxed\"\n";
    let report = json(&predict(&["--format", "json", "-"], &text));
    let warnings = report["warnings"].as_array().unwrap();
    let dropped = |warning: &&Value| warning["message"].as_str().is_some_and(|text| text.contains("rdm"));
    assert!(warnings.iter().any(|warning| dropped(&warning)), "{warnings:?}");
}

#[test]
fn a_batch_answers_every_line_in_order() {
    let line = GPU.replace('\n', " ");
    let output = predict(&["--batch", "--xen", "4.22", "-"], &format!("{line}\n{{\"id\": 7}}\n{line}\n"));
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ids: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [Value::from("gpu"), Value::from(7), Value::from("gpu")]);
    assert_eq!(predict(&["--batch", "-"], &format!("{line}\n")).status.code(), Some(1));
}

#[test]
fn an_unknown_release_is_refused_with_the_known_ones() {
    let output = predict(&["--xen", "4.99", "-"], GPU);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("4.22.0"), "{message}");
}

#[test]
fn the_release_that_was_taken_is_said() {
    let report = json(&predict(&["--format", "json", "-"], GPU));
    let from = report["release_from"].as_str().unwrap();
    assert!(["newest", "running"].contains(&from), "{from}");
}
