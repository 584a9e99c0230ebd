// SPDX-License-Identifier: LGPL-2.1-or-later
//! Every versioned JSON against its shipped schema; show, verify and dm-args are in tests/xenstored, which has a store.
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
#[path = "common/schema.rs"]
mod schema;

use std::io::{BufRead, BufReader};
use std::path::Path;

use common::program::{self, said};
use serde_json::{Value, json};

const EXAMPLES: [[&str; 2]; 4] = [
    ["examples/consumer-gpu/host", "examples/consumer-gpu/guest.cfg"],
    ["examples/hyperscale/host", "examples/hyperscale/guest.cfg"],
    ["examples/endpoint-test/host-aligned", "examples/endpoint-test/guest.cfg"],
    // Refused: its BARs share a page of the host.
    ["examples/endpoint-test/host", "examples/endpoint-test/guest.cfg"],
];

/// Standard output and exit code.
fn run(arguments: &[&str], input: &str) -> (String, Option<i32>) {
    let (code, out, _) = said(&program::run(arguments, input));
    (out, Some(code))
}

fn json(arguments: &[&str], input: &str) -> Value {
    let (text, _) = run(arguments, input);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// A guest with something of everything that a layout may have.
fn rich() -> Value {
    json!({"id": {"any": "thing"}, "name": "rich", "phys_bits": 46, "low_mem_pgend": 0xf_0000, "high_mem_pgend": 0x14_0000,
        "reserve": {"low": 64 << 20, "high": 1_u64 << 30}, "device_model_memory": [16 << 20, 65_536],
        "cpu": {"vendor": "AMD", "family": 25, "phys_bits": 46},
        "memory_map": [{"addr": 0xe000_0000_u64, "size": 1 << 20, "type": 2}],
        "devices": [
            {"bdf": "00:03.0", "vendor": 0x1b36, "device": 1, "class": 0x0604, "header": 1},
            {"bdf": "01:00.0", "vendor": 0x8086, "device": 0x1572, "class": 0x0200, "bridge": "00:03.0",
             "bars": [{"reg": 16, "kind": "mem64", "size": 8 << 20, "prefetch": true}, {"reg": 24, "kind": "io", "size": 32}]},
            {"bdf": "00:04.0", "vendor": 0x10de, "device": 0x2331, "class": 0x0302, "model": "H100",
             "bars": [{"reg": 16, "kind": "mem64", "size": 1_u64 << 37, "prefetch": true}, {"reg": 48, "kind": "rom", "size": 65_536}]}]})
}

#[test]
fn layouts() {
    for [host, guest] in EXAMPLES {
        let answer = json(&["plan", "--format", "json", "--host", host, guest], "");
        let name = if answer["error"].is_null() { "layout-1" } else { "error" };
        schema::check(name, &answer);
    }
    schema::check(
        "layout-1",
        &json(&["plan", "--explain", "--resize-hole", "--format", "json", "-"], &rich().to_string()),
    );
    let schemas = [schema::strict("layout-1"), schema::strict("error")];
    let guests: String = (0..300).map(|number| format!("{}\n", fleet::guest(number))).collect();
    for line in run(&["plan", "--batch", "-"], &format!("{guests}{{\"id\": 7}}\n")).0.lines() {
        let answer: Value = serde_json::from_str(line).unwrap();
        let which = usize::from(!answer["error"].is_null());
        schema::check_with(&schemas[which], ["layout-1", "error"][which], &answer);
    }
}

#[test]
fn predictions() {
    for [host, guest] in EXAMPLES {
        schema::check("predict-1", &json(&["predict", "--format", "json", "--host", host, guest], ""));
    }
    // A hole helps the first; none helps the second.
    for size in [1_u64 << 28, 1 << 31] {
        let guest = json!({"phys_bits": 39, "low_mem_pgend": 131_072, "devices": [{"bdf": "00:05.0", "vendor": 1, "device": 2,
            "class": 512, "bars": [{"reg": 16, "kind": "mem32", "size": size}]}]});
        let answer = json(&["predict", "--suggest", "--format", "json", "-"], &guest.to_string());
        assert_eq!(answer["suggestion"]["mmio_hole"].is_null(), size == 1 << 31, "{answer}");
        schema::check("predict-1", &answer);
    }
    let schema = schema::strict("predict-1");
    let guests: String = (0..300).map(|number| format!("{}\n", fleet::guest(number))).collect();
    for release in ["4.17.3", "4.22"] {
        for line in run(&["predict", "--batch", "--xen", release, "-"], &guests).0.lines() {
            schema::check_with(&schema, "predict-1", &serde_json::from_str(line).unwrap());
        }
    }
}

#[test]
fn replays() {
    let report = json(
        &[
            "replay",
            "--format",
            "json",
            "tests/recordings/bar-on-rom",
            "tests/recordings/bar-on-rom/hvmloader.log",
        ],
        "",
    );
    schema::check("replay-1", &report);
    // The directed cases have everything that can differ: crashes, RAM that is moved, BARs that are never seen.
    let (printed, code) = run(&["replay", "--print", "tests/corpus/cases-directed.jsonl.xz"], "");
    assert_eq!(code, Some(0));
    let (schema, mut differing) = (schema::strict("replay-print"), String::new());
    for line in printed.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        schema::check_with(&schema, "replay-print", &line);
        line["output"]["low_mem_pgend"] = json!(0);
        differing = line.to_string();
    }
    schema::check("replay-print", &json(&["replay", "--print", "-"], "{\"id\": 1}\n"));
    // A case whose recorded state is another, and one that is none.
    let input = rich();
    let case = json!({"id": "x", "xen": "4.17", "input": input, "output": serde_json::from_str::<Value>(&differing).unwrap()["output"]});
    let report = json(&["replay", "--format", "json", "-"], &format!("{case}\n{{\"id\": 2}}\n"));
    assert_eq!(report["failed"].as_array().unwrap().len(), 1);
    schema::check("replay-1", &report);
}

#[test]
fn attaching_and_detaching() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, value: &Value| {
        let path = directory.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let layout = json(&["plan", "--resize-hole", "--format", "json", "-"], &rich().to_string());
    let layout = file("layout.json", &layout);
    let device = |size: u64| {
        json!({"bdf": "00:06.0", "vendor": 0x10de, "device": 0x2331, "class": 0x0302,
            "bars": [{"reg": 16, "kind": "mem64", "size": size, "prefetch": true}]})
    };
    let (fits, large) = (file("fits.json", &device(1 << 20)), file("large.json", &device(1 << 45)));
    schema::check(
        "attach-1",
        &json(&["attach", "--layout", &layout, &fits, "--commit", "--format", "json"], ""),
    );
    schema::check("attach-1", &json(&["attach", "--layout", &layout, &fits, "--format", "json"], ""));
    schema::check("attach-1", &json(&["attach", "--layout", &layout, &large, "--format", "json"], ""));
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(&layout).unwrap()).unwrap();
    schema::check("layout-1", &committed);
    schema::check("detach-1", &json(&["detach", "--layout", &layout, &fits, "--format", "json"], ""));
    schema::check(
        "detach-1",
        &json(&["detach", "--layout", &layout, &large, "--commit", "--format", "json"], ""),
    );
    schema::check("detach-1", &json(&["detach", "--layout", &layout, &fits, "--format", "json"], ""));
}

#[test]
fn audits() {
    for [host, _] in EXAMPLES {
        schema::check("audit-1", &json(&["audit", "--format", "json", "--host", host], ""));
    }
    for host in ["endpoint-test", "pci-testdev", "workstation"] {
        let host = format!("tests/hosts/{host}.lspci");
        schema::check("audit-1", &json(&["audit", "--format", "json", "--lspci", &host], ""));
    }
}

#[test]
fn guest_descriptions() {
    for [host, guest] in EXAMPLES {
        schema::check(
            "guest-description",
            &json(&["plan", "--format", "description", "--host", host, guest], ""),
        );
    }
    schema::check("guest-description", &rich());
    let schema = schema::strict("guest-description");
    (0..300).for_each(|number| schema::check_with(&schema, "guest-description", &fleet::guest(number)));
    let corpus = std::fs::File::open(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/cases-directed.jsonl.xz"),
    );
    let lines = BufReader::new(lzma_rust2::XzReader::new(corpus.unwrap(), true)).lines();
    for line in lines {
        let case: Value = serde_json::from_str(&line.unwrap()).unwrap();
        schema::check_with(&schema, "guest-description", &case["input"]);
    }
    // And a misspelt key is one.
    assert!(!schema.is_valid(&json!({"phys_bits": 39, "low_mem_pgend": 1, "devices": [], "ram": 1})));
}
