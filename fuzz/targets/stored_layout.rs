// SPDX-License-Identifier: LGPL-2.1-or-later
//! A layout out of xenstore or a file, which may be anybody's: shown, hot-plugged, kept by a plan.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::layout::check;
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::source::description;
use xen_pci_layout::xenstore::schema;
use xen_pci_layout_fuzz::stored;

const GUEST: &str = r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": [
    {"bdf": "00:04.0", "vendor": 4318, "device": 7864, "class": 770, "bars": [
        {"reg": 16, "kind": "mem64", "size": 268435456, "prefetch": true}, {"reg": 24, "kind": "mem32", "size": 4096}]},
    {"bdf": "00:05.0", "vendor": 32902, "device": 4110, "class": 512, "bars": [
        {"reg": 16, "kind": "mem32", "size": 131072}, {"reg": 20, "kind": "io", "size": 64}]}]}"#;

fuzz_target!(|text: &str| {
    let _ = (schema::piece_count("layout/count", text), schema::decimal("generation", text));
    let Ok(layout) = schema::layout("layout", text) else { return };
    stored(&layout);
    let guest = description::parse(GUEST).expect("this is a guest");
    check(&guest, &layout);
    let options = Options { keep: Some(Box::new(layout)), ..Options::default() };
    let kept = plan(&guest, &options).expect("whatever is to be kept, this guest has a layout");
    assert_eq!(check(&guest, &kept), []);
});
