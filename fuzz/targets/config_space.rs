// SPDX-License-Identifier: LGPL-2.1-or-later
//! An image of a function's configuration space.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::pci::{Bdf, config_space::ConfigSpace};

fuzz_target!(|bytes: &[u8]| {
    // The lengths that the kernel has: 64 bytes for the unprivileged, 256, and 4096.
    let length = match bytes.len() {
        0..=64 => 64,
        65..=256 => 256,
        _ => 4096,
    };
    let _ = ConfigSpace::new(bytes.to_vec());
    let mut image = bytes.to_vec();
    image.resize(length, 0);
    let Ok(space) = ConfigSpace::new(image) else { panic!("{length} bytes are an image") };
    space.has_capabilities();
    (0..=u16::MAX).step_by(0xfff).for_each(|offset| {
        (space.u8(offset), space.u16(offset), space.u32(offset));
    });
    (0..=0x40)
        .for_each(|offset| assert!(space.bar(offset).is_none_or(|(_, _, address)| address.get() & 3 == 0)));
    if let Some(msix) = space.msix() {
        (msix.table_size(), msix.pba_size());
    }
    if let Some(sriov) = space.sriov() {
        let first = Bdf::new(0, 0, 0).expect("there is such a function");
        let last = Bdf::new(0xff, 0x1f, 7).expect("there is such a function");
        assert!(sriov.virtual_functions(first).count() <= usize::from(sriov.total_vfs));
        sriov.virtual_functions(last).for_each(drop);
    }
    (space.resizable_bars(), space.bridge());
});
