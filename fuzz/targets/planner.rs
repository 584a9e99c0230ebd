// SPDX-License-Identifier: LGPL-2.1-or-later
//! Guests of every shape, planned under every option and predicted, the rules as the judge.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::source::description;
use xen_pci_layout_fuzz::guest::Request;
use xen_pci_layout_fuzz::{everything, planned};

fuzz_target!(|request: Request| {
    let (guest, options) = request.build();
    if let Err(error) = description::validate(&guest) {
        panic!("the generator makes possible guests: {error}");
    }
    planned(&guest, &options);
    everything(&guest);
});
