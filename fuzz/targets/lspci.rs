// SPDX-License-Identifier: LGPL-2.1-or-later
//! What `lspci -D -vv -nn` prints, and an audit of that host.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::source::host::Host;
use xen_pci_layout_fuzz::audited;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(host) = Host::lspci_text(Path::new("lspci"), &String::from_utf8_lossy(bytes)) {
        audited(&host);
    }
});
