// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a guest can take that nobody reserved anything for: any one device of tests/hosts/real-devices.json (BARs as
//! owners of these devices published them), where passthrough is enabled and the default hole has the low space left.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    missing_docs
)]

mod common;

use std::fs;

use common::program::{json_of, run_in as run};
use serde_json::{Value, json};

const M: u64 = 1 << 20;

fn devices() -> Vec<Value> {
    let path = format!("{}/tests/hosts/real-devices.json", env!("CARGO_MANIFEST_DIR"));
    let devices: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let at = |mut device: Value| {
        device["bdf"] = json!("00:1e.0");
        device
    };
    devices.into_iter().map(at).collect()
}

/// What a device must have below 4 GiB, in bytes.
fn low(device: &Value) -> u64 {
    let bars = device["bars"].as_array().unwrap().iter();
    bars.filter(|bar| bar["kind"] == "mem32" || bar["kind"] == "rom")
        .map(|bar| bar["size"].as_u64().unwrap())
        .sum()
}

#[test]
fn a_guest_with_passthrough_can_take_any_one_real_device() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let devices = devices();
    assert_eq!(devices.len(), 24);
    let (mut yes, mut above) = (0, 0);
    for guest in [
        "memory=512",
        "memory=4096",
        "memory=4096\nvga='stdvga'\nvideoram=16",
        "memory=16384\nusb=1\nusbdevice='tablet'\nvif=['model=e1000','model=rtl8139']\nhdtype='ahci'\ndisk=['/dev/null,raw,hda,rw']",
        "memory=65536\nsoundhw='hda'",
        "memory=1048576",
    ] {
        fs::write(
            directory.join("guest.cfg"),
            format!("type='hvm'\nname='g'\npassthrough='enabled'\n{guest}\n"),
        )
        .unwrap();
        for cpu in ["Intel:6:46", "AMD:0x19:46"] {
            let planned = run(directory, &["plan", "guest.cfg", "--cpu", cpu, "--format", "json"]);
            assert!(planned.status.success(), "{planned:?}");
            let layout = json_of(&planned);
            assert_eq!(layout["mmio_hole_size"], 256 * M, "nothing was asked for: {guest}");
            fs::write(directory.join("layout.json"), &planned.stdout).unwrap();
            for device in &devices {
                fs::write(directory.join("device.json"), device.to_string()).unwrap();
                let output =
                    run(directory, &["attach", "--layout", "layout.json", "device.json", "--format", "json"]);
                let answer = json_of(&output);
                assert_eq!(output.status.code(), Some(0), "{guest}, {cpu}: {device}: {answer}");
                let at = |key: &str, bar: &Value| {
                    let found =
                        answer[key].as_array().unwrap().iter().find(|other| other["reg"] == bar["reg"]);
                    found.unwrap()["address"].as_u64()
                };
                for bar in device["bars"].as_array().unwrap() {
                    let high = bar["kind"] == "mem64";
                    assert_eq!(at("bars", bar).unwrap() >> 32 > 0, high, "{device}: {answer}");
                    assert!(at("forecast", bar).is_some(), "Linux finds a place too: {device}: {answer}");
                    above += usize::from(high);
                }
                yes += 1;
            }
        }
    }
    assert_eq!(yes, 6 * 2 * 24);
    assert!(above > 0);
    assert!(
        devices.iter().all(|device| low(device) < 128 * M),
        "none needs more than the default hole has left"
    );
}
