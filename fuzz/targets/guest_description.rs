// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest description, planned and predicted; one element of `devices` too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::source::description;
use xen_pci_layout_fuzz::everything;

fuzz_target!(|text: &str| {
    description::id(text);
    let _ = description::parse_device(text);
    if let Ok(guest) = description::parse(text) {
        everything(&guest);
    }
});
