// SPDX-License-Identifier: LGPL-2.1-or-later
//! The map in the terminal: 80 columns are enough, colours only where they are seen, names from pci.ids, stock and plan
//! side by side.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use common::program::program;
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::report::{Look, text};
use xen_pci_layout::source::description;

const EXAMPLES: [(&str, &str); 3] =
    [("consumer-gpu", "host"), ("hyperscale", "host"), ("endpoint-test", "host-aligned")];

/// What the program prints about an example, and its exit code.
fn run(arguments: &[&str], (example, host): (&str, &str)) -> (String, Option<i32>) {
    let output = program()
        .args(arguments)
        .args(["--pci-ids", "tests/pci.ids", "--host", &format!("examples/{example}/{host}")])
        .arg(format!("examples/{example}/guest.cfg"))
        .output()
        .unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

#[test]
fn eighty_columns_are_enough_and_nothing_is_coloured_in_a_pipe() {
    for example in EXAMPLES {
        for arguments in [&["plan"][..], &["predict", "--xen", "4.17"], &["plan", "--compare=4.17"]] {
            let (text, code) = run(arguments, example);
            assert_eq!(code, Some(0), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
            // Warnings and origins are sentences, which a terminal wraps.
            let map = text
                .split("\n\n")
                .filter(|part| !part.starts_with("warning") && !part.contains(": examples/"));
            let wide = map.flat_map(str::lines).find(|line| line.chars().count() > 80);
            assert_eq!(wide, None);
        }
    }
}

#[test]
fn the_strips_are_to_scale() {
    let (text, _) = run(&["plan"], EXAMPLES[0]);
    let strip = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line[16..].to_owned()
    };
    // 3840M of RAM, 192M of low window and 64M of firmware, 64M a sign.
    assert_eq!(strip("0 to 4G"), format!("{}---#", "=".repeat(60)));
    // The card's 64M and 32M are half of the low window's 192M.
    assert!(strip("low ").starts_with(&format!("{}C", "F".repeat(32))), "{text}");
}

#[test]
fn devices_have_the_names_that_pci_ids_gives_them() {
    let (text, _) = run(&["plan"], EXAMPLES[1]);
    assert!(
        text.contains("K 00:0b.0 Mellanox Technologies MT2910 Family [ConnectX-7], host 0000:98:00.0"),
        "{text}"
    );
    let (text, code) = run(&["plan", "--pci-ids", "/nonexistent"], EXAMPLES[1]);
    assert_eq!((text.as_str(), code), ("", Some(2)), "the option is given twice");
}

#[test]
fn stock_and_plan_stand_side_by_side() {
    let (text, _) = run(&["plan", "--compare=4.17"], EXAMPLES[0]);
    let row = text.lines().find(|line| line.starts_with("  F 00:05.0 BAR1")).unwrap();
    assert_eq!(row.split_whitespace().skip(3).collect::<Vec<_>>(), ["16G", "0x800000000", "0x4000000000"]);
    let (svg, _) = run(&["plan", "--compare=4.17", "--format", "svg"], EXAMPLES[0]);
    assert!(svg.contains("width=\"1920\"") && svg.contains("stock hvmloader of Xen 4.17.7"), "{svg}");
    assert_eq!(run(&["plan", "--compare", "--format", "json"], EXAMPLES[0]).1, Some(2));
}

#[test]
fn colours_go_to_whoever_sees_them() {
    let guest = description::parse(
        r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": [{"bdf": "00:05.0", "vendor": 4318, "device": 1,
            "class": 768, "bars": [{"reg": 16, "kind": "mem32", "size": 134217728}]}]}"#,
    )
    .unwrap();
    let layout = plan(&guest, &Options::default()).unwrap();
    let shown = |colour| {
        let mut out = Vec::new();
        text::layout(&mut out, &layout, &Look { names: &|_, _| None, colour }).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert!(shown(true).contains("\u{1b}["));
    assert!(!shown(false).contains('\u{1b}'));
}
