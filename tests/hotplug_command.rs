// SPDX-License-Identifier: LGPL-2.1-or-later
//! `attach`, `detach` and the reservations as their callers see them: files, exit codes, JSON.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::program::{json_of, run_in as run, said};
use serde_json::{Value, json};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn guest() -> Value {
    json!({"phys_bits": 46, "low_mem_pgend": 0xf0000, "high_mem_pgend": 0x140000, "devices": [
        {"bdf": "00:02.0", "vendor": 0x5853, "device": 1, "class": 0xff80, "bars": [
            {"reg": 16, "kind": "io", "size": 256},
            {"reg": 20, "kind": "mem32", "size": 16 * M, "prefetch": true}]},
        {"bdf": "00:03.0", "vendor": 0x1013, "device": 0xb8, "class": 0x300, "bars": [
            {"reg": 16, "kind": "mem32", "size": 32 * M, "prefetch": true},
            {"reg": 20, "kind": "mem32", "size": 4096}]}]})
}

fn card(slot: u8, high: u64) -> Value {
    json!({"bdf": format!("00:{slot:02x}.0"), "vendor": 0x10de, "device": 0x2f04, "class": 0x300, "bars": [
        {"reg": 16, "kind": "mem32", "size": 16 * M},
        {"reg": 20, "kind": "mem64", "size": high, "prefetch": true},
        {"reg": 28, "kind": "mem64", "size": 32 * M, "prefetch": true}]})
}

/// A directory with a guest's layout in `layout.json`.
fn planned(options: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("guest.json"), guest().to_string()).unwrap();
    let arguments: Vec<&str> =
        ["plan", "guest.json", "--format", "json"].iter().chain(options).copied().collect();
    let output = run(directory.path(), &arguments);
    assert!(output.status.success(), "{output:?}");
    fs::write(directory.path().join("layout.json"), &output.stdout).unwrap();
    directory
}

fn layout(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("layout.json")).unwrap()).unwrap()
}

#[test]
fn a_width_that_is_advised_is_enough_and_the_least_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let guest = r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": []}"#;
    fs::write(directory.join("guest.json"), guest).unwrap();
    let device = r#"{"bdf": "00:05.0", "vendor": 1, "device": 2, "class": 768, "bars": [
        {"reg": 16, "kind": "mem64", "size": 1099511627776, "prefetch": true}]}"#;
    fs::write(directory.join("device.json"), device).unwrap();
    let plan = |options: &[&str]| {
        let output = run(directory, &[&["plan", "guest.json", "--format", "json"], options].concat());
        fs::write(directory.join("layout.json"), &output.stdout).unwrap();
        output.status.code()
    };
    assert_eq!(plan(&[]), Some(0));
    let answer =
        json_of(&run(directory, &["attach", "--layout", "layout.json", "device.json", "--format", "json"]));
    let remedy = answer["error"]["remedy"].as_str().unwrap();
    assert!(
        remedy.ends_with(
            "plan it with --reserve-high 1T in all and give the guest 41 physical address bits (cpuid=)"
        ),
        "{remedy}"
    );
    assert_eq!(plan(&["--reserve-high", "1T", "--phys-bits", "40"]), Some(1));
    assert_eq!(plan(&["--reserve-high", "1T", "--phys-bits", "41"]), Some(0));
    assert_eq!(run(directory, &["attach", "--layout", "layout.json", "device.json"]).status.code(), Some(0));
}

#[test]
fn xls_name_of_all_functions_is_told_from_a_file() {
    let directory = planned(&[]);
    for name in ["3b:00.*", "0000:3b:00.*@5"] {
        let (code, _, error) = said(&run(directory.path(), &["attach", "--layout", "layout.json", name]));
        assert_eq!(code, 2);
        assert!(error.contains("each is asked about by itself"), "{error}");
    }
}

#[test]
fn a_detach_gives_back_what_the_attach_took_to_the_byte() {
    let directory = planned(&["--reserve-high", "16G"]);
    let directory = directory.path();
    fs::write(directory.join("card.json"), card(5, 8 * G).to_string()).unwrap();
    let file = directory.join("layout.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::read(&file).unwrap();

    let asked = run(directory, &["attach", "--layout", "layout.json", "card.json", "--format", "json"]);
    assert_eq!(
        (asked.status.code(), fs::read(&file).unwrap() == before),
        (Some(0), true),
        "asking changes nothing"
    );
    let answer = json_of(&asked);
    assert_eq!((&answer["schema"], &answer["fits"]), (&json!("attach/1"), &json!(true)));
    assert_eq!(answer["bars"].as_array().unwrap().len(), 3);
    assert!(answer["bars"].as_array().unwrap().iter().all(|bar| bar["bdf"] == "00:05.0"));

    let attach = ["attach", "--layout", "layout.json", "card.json", "--commit", "--format", "json"];
    let first = json_of(&run(directory, &attach));
    assert_eq!(first["bars"], answer["bars"]);
    let after = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let kept: u64 =
        layout(directory)["reserved"].as_array().unwrap().iter().map(|r| r["size"].as_u64().unwrap()).sum();
    assert_eq!(kept, 8 * G - 32 * M, "what was reserved shrinks");
    let again = json_of(&run(directory, &attach));
    assert_eq!(
        (&again["bars"], fs::read(&file).unwrap()),
        (&first["bars"], after),
        "the same twice is the same"
    );

    let detach = run(directory, &["detach", "--layout", "layout.json", "card.json", "--commit"]);
    assert_eq!((detach.status.code(), fs::read(&file).unwrap() == before), (Some(0), true), "{detach:?}");
    let detach = run(directory, &["detach", "--layout", "layout.json", "card.json", "--format", "json"]);
    assert_eq!((detach.status.code(), &json_of(&detach)["error"]["code"]), (Some(1), &json!("not-attached")));
    assert_eq!(fs::read_dir(directory).unwrap().count(), 3, "nothing is left behind");
}

#[test]
fn a_no_says_which_bar_what_is_free_and_what_would_help() {
    let directory = planned(&["--reserve-high", "16G"]);
    let directory = directory.path();
    fs::write(directory.join("card.json"), card(5, 32 * G).to_string()).unwrap();
    let before = fs::read(directory.join("layout.json")).unwrap();
    let no =
        run(directory, &["attach", "--layout", "layout.json", "card.json", "--commit", "--format", "json"]);
    let answer = json_of(&no);
    assert_eq!((no.status.code(), &answer["fits"]), (Some(1), &json!(false)));
    assert_eq!(answer["error"]["blocking"], json!([{"bdf": "00:05.0", "reg": 20, "size": 32 * G}]));
    assert_eq!(answer["error"]["code"], "does-not-fit");
    assert!(answer["error"]["message"].as_str().unwrap().contains("largest aligned block 16G"), "{answer}");
    assert_eq!(fs::read(directory.join("layout.json")).unwrap(), before);

    fs::write(directory.join("taken.json"), card(3, G).to_string()).unwrap();
    let no = run(directory, &["attach", "--layout", "layout.json", "taken.json", "--format", "json"]);
    assert_eq!((no.status.code(), &json_of(&no)["error"]["code"]), (Some(1), &json!("slot-taken")));
    for bad in [
        &["attach", "--layout", "layout.json", "nosuch"][..],
        &["attach", "card.json"],
        &["attach", "--layout", "guest.json", "card.json"],
    ] {
        assert_eq!(run(directory, bad).status.code(), Some(2), "{bad:?}");
    }
    let gone = run(directory, &["attach", "--layout", "layout.json", "card.json", "--qmp", "nosuch"]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
}

#[test]
fn eight_attaches_at_once_never_take_the_same_space() {
    let directory = planned(&["--reserve-high", "16G"]);
    let directory = directory.path();
    for slot in 5..13 {
        fs::write(directory.join(format!("{slot}.json")), card(slot, 2 * G).to_string()).unwrap();
    }
    let start = |slot: u8| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xen-pci-layout"));
        command.current_dir(directory).args([
            "attach",
            "--layout",
            "layout.json",
            "--commit",
            &format!("{slot}.json"),
        ]);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let running: Vec<_> = (5..13).map(start).collect();
    let yes = running.into_iter().map(|mut child| child.wait().unwrap().success()).filter(|yes| *yes).count();
    let layout = layout(directory);
    let mut large: Vec<u64> = layout["bars"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|bar| bar["size"] == json!(2 * G))
        .map(|bar| bar["address"].as_u64().unwrap())
        .collect();
    large.sort_unstable();
    assert_eq!(large.len(), yes, "every yes is recorded");
    assert!(large.windows(2).all(|pair| pair[1] - pair[0] >= 2 * G), "{large:x?}");
    assert_eq!(layout["hot_plugged"].as_array().unwrap().len(), yes);
    assert!(yes >= 7, "{yes} of 8 fit beside the small BARs");
}

#[test]
fn reservations_for_devices_of_a_host_take_them_in_any_order() {
    let lspci = format!("{}/tests/hosts/workstation.lspci", env!("CARGO_MANIFEST_DIR"));
    let (gpu, nvme) = ("01:00.0", "02:00.0");
    let directory = planned(&["--reserve-for", &format!("{gpu},{nvme}"), "--lspci", &lspci]);
    let directory = directory.path();
    for order in [[gpu, nvme], [nvme, gpu]] {
        for device in order {
            let attach =
                run(directory, &["attach", "--layout", "layout.json", device, "--lspci", &lspci, "--commit"]);
            assert_eq!(attach.status.code(), Some(0), "{attach:?}");
        }
        let twice =
            run(directory, &["attach", "--layout", "layout.json", &format!("{gpu}@9"), "--lspci", &lspci]);
        assert_eq!(twice.status.code(), Some(1), "one device, one slot: {twice:?}");
        for device in order {
            let detach = run(directory, &["detach", "--layout", "layout.json", device, "--commit"]);
            assert_eq!(detach.status.code(), Some(0), "{detach:?}");
        }
    }
    let slot = run(
        directory,
        &["attach", "--layout", "layout.json", "01:00.0@1f", "--lspci", &lspci, "--format", "json"],
    );
    assert_eq!(json_of(&slot)["bdf"], "00:1f.0");
}

#[test]
fn a_configurations_keys_reserve_what_the_options_do() {
    let lspci = format!("{}/tests/hosts/workstation.lspci", env!("CARGO_MANIFEST_DIR"));
    let (gpu, nvme) = ("0000:01:00.0", "0000:02:00.0");
    let directory = planned(&[]);
    let directory = directory.path();
    let reserved = |file: &str, options: &[&str]| -> Value {
        let mut arguments = vec!["plan", file, "--format", "json", "--lspci", &lspci];
        arguments.extend(["--phys-bits", "46", "--cpu", "Intel:6:46"]);
        arguments.extend(options);
        let mut output = json_of(&run(directory, &arguments));
        output["reserved"].take()
    };
    let any = format!("1:{gpu},{nvme}");
    let options = ["--reserve-for", nvme, "--reserve-any", &any, "--reserve", "4G", "--reserve-low", "16M"];
    let plain = reserved("guest.json", &options);
    assert_eq!(plain.as_array().unwrap().len(), 2, "{plain}");

    let mut description = guest();
    description["reserve"] = json!({"low": G + 16 * M, "high": 3 * G});
    description["reserve_for"] = json!([nvme]);
    description["reserve_any"] = json!([any]);
    fs::write(directory.join("keys.json"), description.to_string()).unwrap();
    assert_eq!(reserved("keys.json", &[]), plain);
    let line = run(directory, &["plan", "--batch", "keys.json", "--lspci", &lspci]);
    assert_eq!(json_of(&line)["reserved"], plain, "a line of a batch too");

    let xl = "type='hvm'\nmemory=4096\npassthrough='enabled'\n";
    let keys = format!(
        "{xl}pci_reserve='4G'\npci_reserve_low='16M'\npci_reserve_for=['{nvme}']\npci_reserve_any='{any}'\n"
    );
    fs::write(directory.join("none.cfg"), xl).unwrap();
    fs::write(directory.join("keys.cfg"), keys).unwrap();
    assert_eq!(reserved("keys.cfg", &[]), reserved("none.cfg", &options));
    assert_ne!(reserved("none.cfg", &options), reserved("none.cfg", &[]));

    for wrong in ["pci_reserve_any='3:01:00.0'", "pci_reserve_for='nosuch'", "pci_reserve_for='0f:00.0'"] {
        fs::write(directory.join("wrong.cfg"), format!("{xl}{wrong}\n")).unwrap();
        let output = run(directory, &["plan", "wrong.cfg", "--lspci", &lspci]);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {output:?}");
    }
}

#[test]
fn one_number_is_split_and_the_whole_of_it_kept() {
    for (size, low, high) in [("4G", G, 3 * G), ("8G", G, 7 * G), ("16G", G, 15 * G)] {
        let directory = planned(&["--reserve", size]);
        let layout = layout(directory.path());
        let kept = |window: &str| -> u64 {
            let reserved = layout["reserved"].as_array().unwrap().iter();
            reserved.filter(|r| r["window"] == window).map(|r| r["size"].as_u64().unwrap()).sum()
        };
        assert_eq!((kept("low"), kept("high")), (low, high), "{size}");
    }
}
