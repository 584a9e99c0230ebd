// SPDX-License-Identifier: LGPL-2.1-or-later
//! libxl's domain configuration in JSON, and the guest that libxl would build of it on a host that has devices.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::source::{host::Host, libxl_json};
use xen_pci_layout_fuzz::configured;

fuzz_target!(|text: &str| {
    libxl_json::is_domain(text);
    let Ok((config, _)) = libxl_json::parse(text) else { return };
    let host = include_str!("../../tests/hosts/workstation.lspci");
    configured(&config, Host::lspci_text(Path::new("workstation.lspci"), host).ok());
});
