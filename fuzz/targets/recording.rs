// SPDX-License-Identifier: LGPL-2.1-or-later
//! A line of a corpus: a guest that no machine need have, and what a loader made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::recording::corpus::Case;
use xen_pci_layout::recording::differences;
use xen_pci_layout_fuzz::predicted;

fuzz_target!(|text: &str| {
    let Ok(case) = Case::parse(text) else { return };
    if let (Ok(recorded), Ok(predicted)) = (case.recorded(), case.predict()) {
        differences(&recorded, &predicted);
    }
    let whole: serde_json::Value = serde_json::from_str(text).expect("a line that was read is JSON");
    predicted(&serde_json::from_value(whole["input"].clone()).expect("so is its guest"));
});
