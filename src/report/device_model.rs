// SPDX-License-Identifier: LGPL-2.1-or-later
//! QEMU's arguments that follow from a layout, as libxl writes its own (libxl_dm.c, libxl_pci.c).

use serde::Serialize;

use crate::address::Address;
use crate::layout::Layout;
use crate::pci::{Bdf, Sbdf};
use crate::xenstore::Domid;

/// The version of the JSON form.
const SCHEMA: &str = "dm-args/1";

/// What QEMU is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arguments {
    schema: &'static str,
    domid: u32,
    /// For every QEMU; each is one element of its argument list. QEMU merges several `-machine`, and the last wins.
    pub arguments: Vec<String>,
    /// For a QEMU to which libxl adds no devices; those behind a bridge are left out, for libxl cannot add them either.
    pub devices: Vec<DeviceArguments>,
}

/// One passed-through device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceArguments {
    /// Where the guest must see it, or its loader will not find its keys.
    pub bdf: Bdf,
    /// The host's function.
    pub host: Sbdf,
    /// Each is one element of QEMU's argument list.
    pub arguments: Vec<String>,
}

/// What follows from `layout`.
pub fn arguments(domid: Domid, layout: &Layout) -> Arguments {
    let border = Address::FOUR_GIB.checked_sub(layout.mmio_hole_size);
    let machine = border.map(|border| format!("max-ram-below-4g={}", border.get()));
    let devices = layout.host_devices().into_iter().filter(|(bdf, _)| bdf.bus() == 0);
    Arguments {
        schema: SCHEMA,
        domid: domid.get(),
        arguments: machine.map(|machine| vec!["-machine".to_owned(), machine]).unwrap_or_default(),
        devices: devices.map(|(bdf, host)| device(bdf, host)).collect(),
    }
}

/// As pci_add_qmp_device_add (libxl_pci.c) has it, so that a later `xl pci-detach` finds the device by its id.
fn device(bdf: Bdf, host: Sbdf) -> DeviceArguments {
    let (bus, slot, function) = (host.bdf.bus(), host.bdf.slot(), host.bdf.function());
    let argument = format!(
        "xen-pci-passthrough,id=pci-pt-{bus:02x}_{slot:02x}.{function:x},hostaddr={host},addr={:x}.{:x}",
        bdf.slot(),
        bdf.function()
    );
    DeviceArguments { bdf, host, arguments: vec!["-device".to_owned(), argument] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Size;
    use crate::layout::LayoutDevice;

    #[test]
    fn the_border_is_four_gib_less_the_hole_and_devices_are_where_the_loader_looks() {
        let mut layout = Layout::default();
        layout.mmio_hole_size = Size::GIB;
        let device = |bdf: &str, host: Option<&str>| LayoutDevice {
            bdf: bdf.parse().unwrap(),
            vendor: 1,
            device: 1,
            class: 0,
            bridge: None,
            host: host.map(|host| host.parse().unwrap()),
            model: None,
        };
        layout.devices = vec![
            device("00:1f.0", Some("0001:3b:1f.7")),
            device("00:02.0", None),
            device("00:05.0", Some("0000:03:00.0")),
            device("01:00.0", Some("0000:04:00.0")),
        ];
        let found = arguments(Domid::new(7).unwrap(), &layout);
        assert_eq!(found.arguments, ["-machine", "max-ram-below-4g=3221225472"]);
        let devices: Vec<_> = found.devices.iter().flat_map(|device| &device.arguments).collect();
        assert_eq!(
            devices,
            [
                "-device",
                "xen-pci-passthrough,id=pci-pt-03_00.0,hostaddr=0000:03:00.0,addr=5.0",
                "-device",
                "xen-pci-passthrough,id=pci-pt-3b_1f.7,hostaddr=0001:3b:1f.7,addr=1f.0",
            ]
        );
    }
}
