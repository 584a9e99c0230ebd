// SPDX-License-Identifier: LGPL-2.1-or-later
//! `audit` as it is called, and how `plan` refuses what it finds.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot make its input has failed"
)]

mod common;

use std::path::PathBuf;

use common::program::{self, said};

fn lspci(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hosts").join(name).display().to_string()
}

/// Exit code, standard output, standard error.
fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    said(&program::run(arguments, input))
}

#[test]
fn exit_codes_tell_safe_unsafe_and_wrong_input() {
    let (testdev, workstation) = (lspci("pci-testdev.lspci"), lspci("workstation.lspci"));
    let code = |arguments: &[&str]| run(arguments, "").0;
    assert_eq!(code(&["audit", "--lspci", &testdev]), 1);
    assert_eq!(
        code(&["audit", "--lspci", &testdev, "00:02.0", "0000:00:01.1"]),
        0,
        "only those asked for count"
    );
    assert_eq!(code(&["audit", "--lspci", &workstation]), 0, "broken is not unsafe");
    assert_eq!(code(&["audit", "--lspci", &workstation, "07:00.0"]), 2);
    assert_eq!(code(&["audit", "--host", "/nonexistent"]), 2);
    assert_eq!(code(&["audit", "--lspci", "/nonexistent"]), 2);
    assert_eq!(code(&["audit", "--host", "/nonexistent", "--lspci", &testdev]), 2);
    let (code, _, error) = run(&["audit", "--lspci", &testdev, "--since", &testdev], "");
    assert_eq!(code, 2);
    assert!(error.contains("pci-testdev.lspci: is no saved audit"), "{error}");
}

#[test]
fn text_names_the_argument_and_json_is_what_since_takes() {
    let tree = common::sysfs::pci_testdev();
    let host = tree.path().display().to_string();
    let (_, text, _) = run(&["audit", "--host", &host, "00:05.0"], "");
    assert!(text.contains("\n      pci=resource_alignment=12@0000:00:05.0;12@0000:00:05.1;"), "{text}");
    assert!(text.contains(
        "To the same guest or to none: 0000:00:05.0, 0000:00:05.1, 0000:00:05.2 and 0000:00:05.3."
    ));
    let (code, json, _) = run(&["audit", "--host", &host, "--format", "json"], "");
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["schema"], "audit/1");
    assert_eq!(report["findings"][0]["code"], "shared-page");
    assert_eq!(report["findings"][0]["severity"], "security");
    let (code, again, _) = run(&["audit", "--host", &host, "--format", "json", "--since", "-"], &json);
    assert_eq!((code, again), (1, json), "nothing has changed");
}

#[test]
fn plan_refuses_what_is_unsafe_unless_it_is_accepted_by_name() {
    let guest = r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": [{"bdf": "00:05.0", "host": "0000:3b:00.0",
        "vendor": 1, "device": 1, "class": 0,
        "bars": [{"reg": 16, "kind": "mem32", "size": 256, "host_address": 4276949504}]}]}"#;
    let (code, json, error) = run(&["plan", "--format", "json", "-"], guest);
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, answer["error"]["code"].as_str()), (1, Some("unsafe")));
    assert_eq!(answer["error"]["blocking"], serde_json::json!([{"bdf": "00:05.0", "reg": 16, "size": 256}]));
    assert!(error.contains("pci=resource_alignment=12@0000:3b:00.0"), "{error}");
    let (code, json, _) = run(&["plan", "--format", "json", "--accept", "unaligned-bar", "-"], guest);
    let layout: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, layout["warnings"][0]["code"].as_str()), (0, Some("accepted")), "{json}");
    assert_eq!(run(&["plan", "--accept", "shared-page", "-"], guest).0, 1, "another name is no consent");
    assert_eq!(run(&["plan", "--accept", "everything", "-"], guest).0, 2);
    assert_eq!(run(&["plan", "--maps-containing-page", "-"], guest).0, 0, "then it is mapped rightly");
}

#[test]
fn a_configuration_is_refused_for_what_its_devices_share_pages_with() {
    let tree = common::sysfs::pci_testdev();
    let host = tree.path().display().to_string();
    let guest =
        |pci: &str| format!("name = \"g\"\ntype = \"hvm\"\nmemory = 512\nmaxmem = 512\npci = [ {pci} ]\n");
    let plan = |accept: &[&str], pci: &str| {
        let arguments =
            [&["plan", "--host", &host, "--phys-bits", "39", "--format", "json"], accept, &["-"]].concat();
        run(&arguments, &guest(pci))
    };
    let (code, json, error) = plan(&[], "\"00:05.0\"");
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, answer["error"]["code"].as_str()), (1, Some("unsafe")), "{error}");
    assert!(error.contains("XSA-461") && error.contains("--accept shared-page"), "{error}");
    assert!(error.contains("12@0000:00:05.0;12@0000:00:05.1;12@0000:00:05.2;12@0000:00:05.3"), "{error}");
    let (code, json, _) = plan(&["--accept", "shared-page"], "\"00:05.0\"");
    assert_eq!(code, 0);
    let layout: serde_json::Value = serde_json::from_str(&json).unwrap();
    let warnings = layout["warnings"].as_array().unwrap();
    assert!(
        warnings.iter().any(|warning| warning["code"] == "accepted" && warning["bdf"].is_string()),
        "{warnings:?}"
    );
    // All that share the page, and the device model is known to map the page that contains each of them.
    let all = (0..4).map(|function| format!("\"00:05.{function}\"")).collect::<Vec<_>>().join(", ");
    assert_eq!(plan(&[], &all).0, 1, "three of them start no page");
    assert_eq!(plan(&["--maps-containing-page"], &all).0, 0);
}

#[test]
fn attach_refuses_a_device_that_shares_a_page_with_one_outside_the_guest() {
    let tree = common::sysfs::pci_testdev();
    let host = tree.path().display().to_string();
    // The Xen platform device: it brings windows for ports and memory.
    let guest = r#"{"phys_bits": 39, "low_mem_pgend": 131072, "passthrough": true, "devices": [{"bdf": "00:02.0",
        "vendor": 22611, "device": 1, "class": 65408, "bars": [{"reg": 16, "kind": "io", "size": 256},
        {"reg": 20, "kind": "mem32", "size": 16777216, "prefetch": true}]}]}"#;
    let (code, layout, error) = run(&["plan", "--format", "json", "-"], guest);
    assert_eq!(code, 0, "{error}");
    let file = tree.path().join("layout.json");
    std::fs::write(&file, layout).unwrap();
    let file = file.display().to_string();
    let attach = |accept: &[&str]| {
        let arguments = ["attach", "--layout", &file, "--host", &host, "--format", "json", "00:05.0"];
        let (code, json, error) = run(&[&arguments, accept].concat(), "");
        (code, serde_json::from_str::<serde_json::Value>(&json).unwrap(), error)
    };
    let (code, answer, error) = attach(&[]);
    assert_eq!(
        (code, &answer["fits"], &answer["error"]["code"]),
        (1, &false.into(), &"unsafe".into()),
        "{error}"
    );
    assert!(answer["error"]["message"].as_str().unwrap().contains("XSA-461"), "{answer}");
    let (code, answer, error) = attach(&["--accept", "shared-page"]);
    assert_eq!((code, &answer["fits"]), (0, &true.into()), "{answer} {error}");
    let warnings = answer["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning["code"] == "accepted"), "{answer}");
}
