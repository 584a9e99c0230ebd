// SPDX-License-Identifier: LGPL-2.1-or-later
//! Attach and detach on a domain's stored layout: eight at once take no space twice and lose no device.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Instant;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Kind};
use crate::helper::{apply, finish, guest, program, run, show};

crate::on_both_daemons!(
    what_is_attached_and_detached_again_leaves_no_trace,
    eight_at_once_take_no_space_twice_and_lose_no_device,
    eight_that_come_and_go_keep_every_promise,
    what_has_no_room_is_refused_and_nothing_is_written,
    a_device_model_in_a_stub_domain_cannot_be_asked,
);

const MIB: u64 = 1 << 20;

/// A device that a guest has not got, in a file.
fn device(daemon: &Daemon, slot: u8, low: u64, high: u64) -> PathBuf {
    let path = daemon.directory.join(format!("device-{slot}.json"));
    let device = json!({"bdf": format!("00:{slot:02x}.0"), "vendor": 0x10de, "device": 0x20b0, "class": 0x0302,
        "host": format!("0000:{slot:02x}:00.0"), "bars": [
            {"reg": 16, "kind": "mem32", "size": low},
            {"reg": 20, "kind": "mem64", "size": high, "prefetch": true}]});
    std::fs::write(&path, device.to_string()).unwrap();
    path
}

fn start(daemon: &Daemon, command: &str, device: &Path) -> Child {
    let mut program = program(&daemon.socket());
    program.args([command, "--domid", "7", "--commit", "--format", "json"]).arg(device).spawn().unwrap()
}

fn stored(daemon: &Daemon) -> Value {
    serde_json::from_str(&show(&daemon.socket(), 7).succeeded()).unwrap()
}

fn what_is_attached_and_detached_again_leaves_no_trace(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[4096])).succeeded();
    let before = daemon.client().dump("/local/domain/7/hvmloader/pci/layout");
    let device = device(&daemon, 8, MIB, MIB);
    finish(start(&daemon, "attach", &device), Instant::now()).succeeded();
    assert_eq!(stored(&daemon)["bars"].as_array().unwrap().len(), 3);
    finish(start(&daemon, "detach", &device), Instant::now()).succeeded();
    assert_eq!(daemon.client().dump("/local/domain/7/hvmloader/pci/layout"), before);
}

fn eight_at_once_take_no_space_twice_and_lose_no_device(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[4096])).succeeded();
    let before = stored(&daemon);
    let devices: Vec<PathBuf> = (8..16).map(|slot| device(&daemon, slot, 16 * MIB, 1024 * MIB)).collect();
    let running: Vec<Child> = devices.iter().map(|device| start(&daemon, "attach", device)).collect();
    let answers: Vec<Value> = running
        .into_iter()
        .map(|child| serde_json::from_str(&finish(child, Instant::now()).succeeded()).unwrap())
        .collect();
    let layout = stored(&daemon);
    let bars = layout["bars"].as_array().unwrap();
    for answer in &answers {
        for bar in answer["bars"].as_array().unwrap() {
            assert!(bars.contains(bar), "{bar} was promised and is not stored");
        }
    }
    assert_eq!(bars.len(), 17);
    assert_apart(&layout);
    assert_eq!(daemon.client().read("/libxl/7/pci-layout/generation").unwrap(), "9");

    let again = finish(start(&daemon, "attach", &devices[0]), Instant::now()).succeeded();
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap()["bars"], answers[0]["bars"]);
    assert_eq!(daemon.client().read("/libxl/7/pci-layout/generation").unwrap(), "9", "nothing to write");

    let running: Vec<Child> = devices.iter().map(|device| start(&daemon, "detach", device)).collect();
    for child in running {
        finish(child, Instant::now()).succeeded();
    }
    assert_eq!(stored(&daemon), before);
}

/// That no two BARs overlap.
fn assert_apart(layout: &Value) {
    let bars = layout["bars"].as_array().unwrap().iter();
    let mut ranges: Vec<(u64, u64)> =
        bars.map(|bar| (bar["address"].as_u64().unwrap(), bar["size"].as_u64().unwrap())).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{ranges:x?}");
}

/// Each of eight attaches its device, of a size of its own, detaches it and so on; whoever looks meanwhile finds a layout
/// in which nothing overlaps, and at the end every device is where its last answer said.
fn eight_that_come_and_go_keep_every_promise(kind: Kind) {
    const ROUNDS: usize = 4;
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[4096])).succeeded();
    let before = stored(&daemon);
    let devices: Vec<PathBuf> =
        (8..16).map(|slot| device(&daemon, slot, MIB << (slot % 4), MIB << (10 + slot % 3))).collect();
    let answer = |command: &str, device: &Path| -> Value {
        let outcome = finish(start(&daemon, command, device), Instant::now()).succeeded();
        serde_json::from_str(&outcome).unwrap()
    };
    let come_and_go = |device: &Path| {
        for _ in 0..ROUNDS {
            let there = answer("attach", device);
            assert_eq!(answer("detach", device)["bars"], there["bars"], "it stayed where it was");
        }
        answer("attach", device)
    };
    let last: Vec<Value> = std::thread::scope(|scope| {
        let running: Vec<_> = devices.iter().map(|device| scope.spawn(|| come_and_go(device))).collect();
        while running.iter().any(|thread| !thread.is_finished()) {
            assert_apart(&stored(&daemon));
        }
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let layout = stored(&daemon);
    assert_apart(&layout);
    for bar in last.iter().flat_map(|answer| answer["bars"].as_array().unwrap()) {
        assert!(layout["bars"].as_array().unwrap().contains(bar), "{bar} was promised and is not stored");
    }
    let changes = (1 + 8 * (2 * ROUNDS + 1)).to_string();
    assert_eq!(daemon.client().read("/libxl/7/pci-layout/generation").unwrap(), changes, "none is lost");
    for device in &devices {
        answer("detach", device);
    }
    assert_eq!(stored(&daemon), before);
}

fn what_has_no_room_is_refused_and_nothing_is_written(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[4096])).succeeded();
    let before = stored(&daemon);
    let outcome = finish(start(&daemon, "attach", &device(&daemon, 8, 512 * MIB, MIB)), Instant::now());
    assert_eq!(outcome.code, Some(1), "{}", outcome.err);
    let answer: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((&answer["fits"], &answer["error"]["code"]), (&json!(false), &json!("does-not-fit")));
    assert_eq!(stored(&daemon), before);
    assert_eq!(daemon.client().read("/libxl/7/pci-layout/generation").unwrap(), "1");
}

fn a_device_model_in_a_stub_domain_cannot_be_asked(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[4096])).succeeded();
    daemon.client().write("/local/domain/7/image/device-model-domid", "8").unwrap();
    let device = device(&daemon, 8, MIB, MIB);
    let asked = run(program(&daemon.socket()).args(["attach", "--domid", "7"]).arg(&device));
    asked.failed(3, &["stub domain 8", "--stored"]);
    run(program(&daemon.socket()).args(["attach", "--domid", "7", "--stored"]).arg(&device)).succeeded();
}
