// SPDX-License-Identifier: LGPL-2.1-or-later
//! An xl.cfg, and the guest that libxl would build of it on a host that has devices.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::source::{host::Host, xl_cfg};
use xen_pci_layout_fuzz::configured;

fuzz_target!(|bytes: &[u8]| {
    let Ok((config, _)) = xl_cfg::parse(bytes) else { return };
    let host = include_str!("../../tests/hosts/workstation.lspci");
    configured(&config, Host::lspci_text(Path::new("workstation.lspci"), host).ok());
});
