// SPDX-License-Identifier: LGPL-2.1-or-later
//! What comes over QMP: the whole dialogue of `query_pci`, whatever the other side says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qapi::{Qmp, Stream, qmp};
use xen_pci_layout::hotplug::observe;
use xen_pci_layout::layout::Layout;
use xen_pci_layout::source::present::functions;

fuzz_target!(|bytes: &[u8]| {
    // Nothing at all is noticed before the dialogue (source/qmp.rs): qapi would panic.
    if bytes.is_empty() {
        return;
    }
    let mut session = Qmp::new(Stream::new(bytes, std::io::sink()));
    let over_the_wire = session.handshake().and_then(|_| Ok(session.execute(&qmp::query_pci {})));
    let buses = match over_the_wire {
        Ok(Ok(buses)) => buses,
        // The answer alone, so that its fields are reached without a dialogue around them.
        _ => match serde_json::from_slice::<Vec<qmp::PciInfo>>(bytes) {
            Ok(buses) => buses,
            Err(_) => return,
        },
    };
    let Ok(found) = functions(&buses) else { return };
    let mut layout = Layout::default();
    observe(&layout, &found);
    layout.bars = serde_json::from_str(
        r#"[{"bdf": "00:05.0", "reg": 24, "kind": "mem64", "size": 268435456, "address": 4294967296}]"#,
    )
    .expect("this is a BAR");
    observe(&layout, &found);
});
