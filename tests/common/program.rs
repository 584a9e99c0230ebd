// SPDX-License-Identifier: LGPL-2.1-or-later
//! The program, run as its users run it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it fails")]
#![allow(dead_code, reason = "each test takes what it needs")]

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

/// The program, in the checkout's top directory.
pub fn program() -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("xen-pci-layout");
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// What it says in that directory, where it reads no standard input.
pub fn run_in(directory: &Path, arguments: &[&str]) -> Output {
    program().current_dir(directory).args(arguments).output().unwrap()
}

/// What it says to that standard input, whether it reads all of it or not.
pub fn run(arguments: &[&str], input: &str) -> Output {
    program().args(arguments).write_stdin(input).output().unwrap()
}

/// The exit code, standard output and standard error.
pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Its answer in JSON.
pub fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}
