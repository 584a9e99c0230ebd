// SPDX-License-Identifier: LGPL-2.1-or-later
//! What `xl dmesg` shows of hvmloader, and the guest that a log alone tells of.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::hvmloader::{Release, predict};
use xen_pci_layout::recording::directory::loader_run;
use xen_pci_layout::recording::{guest_differences, guest_of, log_differences};
use xen_pci_layout::source::hvmloader_log::runs;
use xen_pci_layout_fuzz::predicted;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for run in runs(&text) {
        (run.xen_version(), run.high_ram_end(), run.has_all_bars());
    }
    let Ok(run) = loader_run(Path::new("log"), &text) else { return };
    let guest = guest_of(&run);
    predicted(&guest);
    if let Ok(prediction) = predict(&guest, Release::NEWEST) {
        log_differences(&run, &prediction);
        guest_differences(&guest, &text, &prediction);
    }
});
