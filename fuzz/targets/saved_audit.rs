// SPDX-License-Identifier: LGPL-2.1-or-later
//! An audit that was saved, compared with a host's.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::audit::{Options, audit, changes, read_saved};
use xen_pci_layout::report;
use xen_pci_layout::source::host::Host;

fuzz_target!(|text: &str| {
    let Ok(saved) = read_saved(text) else { return };
    let lspci = include_str!("../../tests/hosts/workstation.lspci");
    let host = Host::lspci_text(Path::new("workstation.lspci"), lspci).expect("the test's host is one");
    let mut now = audit(&host, &[], &Options::default()).expect("all functions are there");
    changes(&mut now, &saved, true);
    report::audit::report(&mut Vec::new(), &now).expect("memory takes it");
});
