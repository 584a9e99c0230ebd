// SPDX-License-Identifier: LGPL-2.1-or-later
//! The same guest as xl.cfg and as the JSON that the real `xl create -n` made of it (tests/xl/fixtures; the stage
//! 45-xl-parser compares them with a fresh run) gives the same configuration.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use xen_pci_layout::source::domain_config::{DomainConfig, DomainKind, RdmStrategy, Vga};
use xen_pci_layout::source::{libxl_json, xl_cfg};

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xl").join(directory);
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == "cfg")).collect();
    files.sort();
    assert!(files.len() > 8, "the fixtures are gone");
    files
}

fn read(name: &str) -> (DomainConfig, Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xl/fixtures").join(name);
    let (config, warnings) = xl_cfg::parse(&fs::read(path).unwrap()).unwrap();
    (config, warnings.into_iter().map(|warning| warning.message).collect())
}

#[test]
fn both_forms_of_a_guest_give_the_same_configuration() {
    for file in files("fixtures") {
        let (mut from_cfg, _) = xl_cfg::parse(&fs::read(&file).unwrap()).unwrap();
        let json = fs::read_to_string(file.with_extension("json")).unwrap();
        let (mut from_json, warnings) = libxl_json::parse(&json).unwrap();
        let listed = libxl_json::parse(&format!("[{{\"domid\":5,\"config\":{json}}}]")).unwrap().0;
        assert_eq!(listed, from_json, "as `xl list -l` prints it");
        assert!(warnings.is_empty(), "{}: {warnings:?}", file.display());
        // xl ignores keys that it does not know, ours among them.
        from_cfg.reserve_low = None;
        from_cfg.reserve_high = None;
        // The policy that goes with rdm="strategy=host" is whatever xl found on its stack.
        if from_cfg.rdm_strategy == RdmStrategy::Host {
            from_json.rdm_policy = None;
        }
        assert_eq!(from_cfg, from_json, "{}", file.display());
    }
}

#[test]
fn what_xl_refuses_is_refused_in_one_line() {
    for file in files("refused") {
        match xl_cfg::parse(&fs::read(&file).unwrap()) {
            Ok(_) => panic!("{} is taken", file.display()),
            Err(error) => {
                let message = error.to_string();
                assert!(message.starts_with("line ") && !message.contains('\n'), "{message}");
            }
        }
    }
}

#[test]
fn what_xl_ignores_is_ignored_and_named() {
    let (config, warnings) = read("quirks.cfg");
    assert_eq!(
        (config.name.as_deref(), config.kind, config.vga),
        (Some("quirks"), DomainKind::Hvm, Vga::Std)
    );
    assert_eq!((config.pci.len(), config.nics.len(), config.mmio_hole), (0, 0, None));
    let all = warnings.join("\n");
    for ignored in [
        "line 12: vif: holds a list",
        "line 13: pci: is a single value",
        "line 14: mmio_hole: \"512M\"",
        "line 15: acpi",
    ] {
        assert!(all.contains(ignored), "{ignored}:\n{all}");
    }
}

#[test]
fn an_rdm_policy_makes_xl_drop_the_strategy_and_that_is_said() {
    let (config, warnings) = read("rdm-dropped.cfg");
    assert_eq!(config.rdm_strategy, RdmStrategy::Ignore);
    assert!(warnings.iter().any(|warning| warning.contains("drops an rdm=")), "{warnings:?}");
    assert_eq!(read("rdm-host.cfg").0.rdm_strategy, RdmStrategy::Host);
}

#[test]
fn a_key_that_nobody_knows_is_named_with_its_line() {
    let text = b"name='g'\ntype='hvm'\nmemory=512\nmemroy=1024\npci_reserve='4G'\n";
    let (_, warnings) = xl_cfg::parse(text).unwrap();
    let messages: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(messages, ["line 4: \"memroy\" is no parameter that xl or this program knows; it is ignored"]);
}
