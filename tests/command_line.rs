// SPDX-License-Identifier: LGPL-2.1-or-later
//! The program as its users run it: the README's transcript, exit codes, what goes where.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::program::run;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// 512 MiB of RAM and one BAR.
fn guest(kind: &str, size: u64, more: &str) -> String {
    format!(
        "{{\"phys_bits\":39,\"low_mem_pgend\":131072,\"devices\":[{{\"bdf\":\"00:05.0\",\"vendor\":1,\"device\":2,\
         \"class\":512,\"bars\":[{{\"reg\":16,\"kind\":\"{kind}\",\"size\":{size}}}]}}]{more}}}"
    )
}

#[test]
fn the_readme_shows_what_the_program_prints() {
    let readme = include_str!("../README.md");
    let mut lines = readme.lines().skip_while(|line| !line.starts_with("    $ xen-pci-layout "));
    let command = lines.next().unwrap().trim_start_matches("    $ xen-pci-layout ");
    let mut shown: Vec<&str> = lines.take_while(|line| line.is_empty() || line.starts_with("    ")).collect();
    while shown.last().is_some_and(|line| line.is_empty()) {
        shown.pop();
    }
    // What the transcript shows does not follow from which pci.ids this machine has.
    let arguments: Vec<&str> = command.split(' ').chain(["--pci-ids", "tests/pci.ids"]).collect();
    let output = run(&arguments, "");
    let printed: Vec<String> =
        text(&output.stdout).lines().map(|line| format!("    {line}").trim_end().to_owned()).collect();
    assert_eq!(shown, printed, "{}", text(&output.stderr));
    let cargo_run = format!("    cargo run --release -- {command}");
    assert!(readme.lines().any(|line| line == cargo_run), "the README's first command is the transcript's");
}

#[test]
fn a_layout_is_exit_code_0_and_nothing_on_standard_error() {
    let output = run(&["plan", "--format", "json", "-"], &guest("mem64", 1 << 30, ""));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    let layout: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(layout["schema"], "layout/1");
    assert_eq!(layout["bars"][0]["address"], 1_u64 << 32);
}

#[test]
fn a_refusal_is_exit_code_1_with_the_reason_as_json_where_json_was_asked_for() {
    let output = run(&["plan", "--format", "json", "-"], &guest("mem32", 1 << 31, ""));
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["error"]["code"], "does-not-fit");
    assert_eq!(answer["error"]["blocking"][0]["bdf"], "00:05.0");
    assert!(text(&output.stderr).contains("what would help"));
    let output = run(&["plan", "-"], &guest("mem32", 1 << 31, ""));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
}

#[test]
fn bad_input_is_exit_code_2_and_one_line_that_names_the_place() {
    for (input, named) in [
        (guest("mem32", 3000, ""), "00:05.0"),
        (guest("mem32", 4096, ",\"ram\":1"), "ram"),
        ("{\"phys_bits\":39,".to_owned(), "line 1"),
        ("memory = = 3\n".to_owned(), "1"),
        (" \n".to_owned(), "is empty"),
    ] {
        let output = run(&["plan", "-"], &input);
        assert_eq!(output.status.code(), Some(2), "{input}");
        let error = text(&output.stderr);
        assert!(error.contains(named) && error.lines().count() == 1, "{error}");
        assert_eq!(text(&output.stdout), "");
    }
    assert_eq!(run(&["plan"], "").status.code(), Some(2));
    assert_eq!(run(&["plan", "/nonexistent"], "").status.code(), Some(2));
}

#[test]
fn a_border_that_libxl_and_qemu_see_differently_is_warned_of_where_no_plan_mends_it() {
    let guest = "name = \"a\"\ntype = \"hvm\"\nmemory = 4096\n";
    let host =
        ["--rdm", "0xe0000000:1M", "--phys-bits", "39", "--cpu", "Intel:6:39", "--format", "json", "-"];
    let codes = |command: &str| -> Vec<String> {
        let answer = common::program::json_of(&run(&[&[command], &host[..]].concat(), guest));
        let warnings = answer["warnings"].as_array().unwrap().iter();
        warnings.map(|warning| warning["code"].as_str().unwrap().to_owned()).collect()
    };
    assert!(codes("predict").contains(&"ram-border-disagrees".to_owned()));
    assert_eq!(codes("plan"), Vec::<String>::new());
}

#[test]
fn what_a_terminal_would_obey_is_not_passed_on() {
    let name = ",\"name\":\"a\\u001b[31m\"";
    let output = run(&["plan", "-"], &guest("mem32", 4096, name));
    assert!(text(&output.stdout).starts_with("a\u{fffd}[31m: "), "{}", text(&output.stdout));
    let output = run(&["plan", "-"], "name = \"a\"\ntype = \"\u{1b}[31m\"\n");
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains("\u{fffd}[31m") && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn a_batch_answers_every_line_in_order() {
    let lines = [
        guest("mem32", 4096, ",\"id\":1"),
        guest("mem32", 1 << 31, ",\"id\":2"),
        guest("mem32", 3000, ",\"id\":\"c\""),
    ];
    let batch = |lines: &[String]| {
        let output = run(&["plan", "--batch", "-"], &lines.join("\n"));
        let answers: Vec<serde_json::Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (output.status.code(), answers)
    };
    let (code, answers) = batch(&lines);
    assert_eq!(code, Some(2));
    assert_eq!(
        answers.iter().map(|answer| answer["id"].to_string()).collect::<Vec<_>>(),
        ["1", "2", "\"c\""]
    );
    assert_eq!(answers[1]["error"]["code"], "does-not-fit");
    assert_eq!(answers[2]["error"]["code"], "invalid-input");
    assert_eq!(batch(&lines[..2]).0, Some(1));
    assert_eq!(batch(&lines[..1]).0, Some(0));
}

#[test]
fn a_line_that_is_no_text_is_answered_and_does_not_stop_the_rest() {
    let line = guest("mem32", 4096, ",\"id\":\"a\"");
    let no_text: Vec<u8> = line.bytes().map(|byte| if byte == b'm' { 0xff } else { byte }).collect();
    let recorded = format!(r#"{{"id": "a", "xen": "4.20", "input": {line}}}"#);
    for (arguments, line) in [
        (["plan", "--batch", "-"], &line),
        (["predict", "--batch", "-"], &line),
        (["replay", "--print", "-"], &recorded),
    ] {
        let lines: [&[u8]; 3] = [line.as_bytes(), &no_text, line.as_bytes()];
        let output =
            common::program::program().args(arguments).write_stdin(lines.join(&b'\n')).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let answers: Vec<serde_json::Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.iter().map(|answer| answer["id"].as_str()).collect::<Vec<_>>(), [Some("a"); 3]);
        let codes: Vec<_> = answers.iter().map(|answer| answer["error"]["code"].as_str()).collect();
        assert_eq!(codes, [None, Some("invalid-input"), None], "{arguments:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let guests = format!("{}\n", guest("mem32", 4096, "")).repeat(20_000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_xen-pci-layout"))
        .args(["plan", "--batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let _ = child.stdin.take().unwrap().write_all(guests.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn shadow_says_what_a_plan_would_change_and_needs_no_store() {
    let shadow = |guest: &str| {
        let output = run(&["apply", "--shadow", "--domid", "7", "-"], guest);
        (output.status.code(), text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    let (code, out, err) = shadow(&guest("mem32", 4096, ""));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("the stock loader will do what is planned\n"), "{out}");
    // Stock makes room for it below 4 GiB, as it can while RAM may still be moved.
    let (code, out, err) = shadow(&guest("mem64", 512 << 20, ""));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("the stock loader and the plan differ in 2\n"), "{out}");
    assert!(out.contains("the window above 4 GiB: none, planned 0x100000000-0x"), "{out}");
    assert!(out.contains("00:05.0 BAR at 0x10 of 512M: 0xc0000000, planned 0x100000000\n"), "{out}");
    let (code, out, err) = shadow(&guest("mem32", 1 << 30, ""));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("the hole below 4 GiB: 256M, planned 2G\n"), "{out}");
    let hole = r#","xenstore":{"platform/mmio_hole_size":"268435456"}"#;
    let (code, out, err) = shadow(&guest("mem32", 1 << 30, hole));
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("what would help: "), "{err}");
}
