// SPDX-License-Identifier: LGPL-2.1-or-later
//! Nothing escapes the lints that keep panics, wrapped arithmetic and cut numbers out of what input can reach.
//!
//! Clippy enforces them (tests/stages/20-clippy); these tests see to it that they stay denied, that every package has
//! them, that no code outside tests is exempted, and that what clippy has no lint for is not there either.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// What must be denied.
const DENIED: [&str; 11] = [
    "arithmetic_side_effects",
    "cast_possible_truncation",
    "cast_possible_wrap",
    "cast_sign_loss",
    "expect_used",
    "indexing_slicing",
    "panic",
    "print_stderr",
    "print_stdout",
    "undocumented_unsafe_blocks",
    "unwrap_used",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every source file of the library, the program and xen-sys, but for bindgen's.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join("src"), root().join("xen-sys/src")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.extend(Some(path).filter(|path| !path.ends_with("bindings")));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), read(&path)));
            }
        }
    }
    assert!(found.len() > 100, "there are more source files than {}", found.len());
    found
}

/// A file's code without its unit tests, which stand last.
fn without_tests(text: &str) -> &str {
    text.split_once("\n#[cfg(test)]\nmod ").map_or(text, |(code, _)| code)
}

/// Its lines without comments, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(without_tests(text).lines().map(str::trim));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

#[test]
fn the_lints_are_denied_in_every_package() {
    let manifest = read(&root().join("Cargo.toml"));
    let (_, lints) = manifest.split_once("[workspace.lints.clippy]").unwrap();
    let lints = lints.split("\n[").next().unwrap();
    for lint in DENIED {
        assert!(lints.lines().any(|line| line == format!("{lint} = \"deny\"")), "{lint} is not denied");
    }
    for package in ["Cargo.toml", "xen-sys/Cargo.toml"] {
        let text = read(&root().join(package));
        assert!(
            text.contains("[lints]\nworkspace = true\n"),
            "{package} does not take the workspace's lints"
        );
    }
    assert!(manifest.contains("members = [\"xen-sys\"]"), "a new package needs a line here");
}

#[test]
fn no_code_is_exempted() {
    for (path, text) in sources() {
        for (number, line) in code(&text) {
            let exempts = line.contains("allow(") || line.contains("expect(") && line.starts_with("#");
            let Some(names) = line.split_once("allow(").filter(|_| exempts).map(|(_, names)| names) else {
                continue;
            };
            // Bindgen's constants and structures: data and compile-time checks, no code that runs.
            let bindings = path.ends_with("xen-sys/src/lib.rs") && names.contains("clippy::");
            let denied =
                DENIED.iter().find(|lint| names.contains(**lint) || names.contains("clippy::restriction"));
            assert!(bindings || denied.is_none(), "{}:{number}: {line}", path.display());
        }
    }
}

/// No lint that tests could live with is for these: assertions, and functions of the standard library that panic, be it
/// on an index, an overflow, a text that is not UTF-8 or a thread that cannot be had; and a piece of a string cut out by
/// its bytes, which `indexing_slicing` does not see.
#[test]
fn nothing_asserts_or_panics_by_another_name() {
    const PANICS: [&str; 36] = [
        "unreachable!(",
        "todo!(",
        "unimplemented!(",
        "assert!(",
        "assert_eq!(",
        "assert_ne!(",
        "panic_any(",
        "env::args()",
        "env::vars()",
        "thread::spawn(",
        "from_digit(",
        ".copy_from_slice(",
        ".clone_from_slice(",
        ".copy_within(",
        ".split_at(",
        ".split_at_mut(",
        ".split_off(",
        ".swap(",
        ".swap_remove(",
        ".rotate_left(",
        ".rotate_right(",
        ".replace_range(",
        ".chunks(",
        ".chunks_exact(",
        ".rchunks(",
        ".step_by(",
        ".borrow()",
        ".borrow_mut(",
        ".rem_euclid(",
        ".pow(",
        ".abs(",
        ".ilog2(",
        ".ilog10(",
        ".sum(",
        ".sum::<",
        ".product(",
    ];
    for (path, text) in sources() {
        for (number, line) in code(&text) {
            // A sum of floating-point numbers does not overflow.
            let harmless = |name: &str| match name {
                "assert!(" => line.starts_with("const _: () = assert!("),
                ".sum(" => line.contains(": f64 = "),
                _ => false,
            };
            let found = PANICS.iter().find(|name| line.contains(**name) && !harmless(name));
            assert_eq!(found, None, "{}:{number}: {line}", path.display());
            assert!(!cuts(line), "{}:{number}: {line}", path.display());
        }
    }
}

/// Whether a line has `name[..]`, `name[1..]` or the like; a pattern such as `[first, ..]` has no name before it.
fn cuts(line: &str) -> bool {
    let code: String = line.split('"').step_by(2).collect();
    code.match_indices('[').map(|(at, _)| code.split_at(at)).any(|(before, after)| {
        let named = before.ends_with(|last: char| last.is_alphanumeric() || "_)]?".contains(last));
        named && after.split_once(']').map_or(after, |(inside, _)| inside).contains("..")
    })
}

#[test]
fn a_cut_is_told_from_a_pattern() {
    assert!(cuts("let half = text[..2].len();") && cuts("f(x)[at..]") && cuts("a[0][1..=2]"));
    assert!(
        !cuts("[first, .., last] => [\"a[..]\"]") && !cuts("let [all @ .., last] = x") && !cuts("0..all[1]")
    );
}

#[test]
fn unsafe_code_is_xen_syss_alone() {
    assert!(read(&root().join("src/lib.rs")).contains("\n#![forbid(unsafe_code)]\n"));
    assert!(read(&root().join("src/main.rs")).contains("\n#![forbid(unsafe_code)]\n"));
}

#[test]
fn a_release_checks_its_arithmetic() {
    let manifest = read(&root().join("Cargo.toml"));
    let (_, profile) = manifest.split_once("[profile.release]").unwrap();
    assert!(profile.lines().any(|line| line == "overflow-checks = true"));
}
