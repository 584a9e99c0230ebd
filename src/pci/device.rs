// SPDX-License-Identifier: LGPL-2.1-or-later
//! A PCI function as a guest sees it.

use serde::{Deserialize, Serialize};

use super::{Bar, BarKind, Bdf, Sbdf};
use crate::address::Size;

/// One PCI function on the guest's bus: its identity, its BARs, and what its registers hold before the loader runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where the guest sees it.
    pub bdf: Bdf,
    /// Vendor ID, register 0x00.
    pub vendor: u16,
    /// Device ID, register 0x02.
    pub device: u16,
    /// Base class and subclass: the 16-bit word at 0x0a.
    pub class: u16,
    /// The header type byte at 0x0e: 1 in the low seven bits is a PCI-to-PCI bridge, bit 7 is multi-function.
    #[serde(default, skip_serializing_if = "is_default")]
    pub header: u8,
    /// The command register's initial value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub command: u16,
    /// The interrupt pin, 1 for INTA; 0 for none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub int_pin: u8,
    /// The interrupt line's initial value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub int_line: u8,
    /// Its BARs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bars: Vec<Bar>,
    /// Registers that are no BARs, for the stock loader's model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub raw: Vec<RawRegister>,
    /// The bridge it sits behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Bdf>,
    /// For a passed-through device, where it is on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Sbdf>,
    /// What people call it: QEMU's model name, or the host's name of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its virtual functions, where the guest is shown the SR-IOV capability: each of their BARs takes room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sriov: Option<VirtualFunctions>,
    /// Whether it is a virtual function: its own BAR registers and memory enable bit are hard-wired to zero on the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub virtual_function: bool,
}

/// What a physical function's SR-IOV capability asks for (PCI Express, section 9.3.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualFunctions {
    /// How many virtual functions it can have (TotalVFs): all of them have their BARs in one stretch.
    pub total_vfs: u16,
    /// The BARs that every one of them has.
    #[serde(default)]
    pub bars: Vec<VirtualBar>,
}

/// A BAR that every virtual function of a physical one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualBar {
    /// The register that it would be in each virtual function's header: 0x10 to 0x24.
    pub reg: u8,
    /// What it decodes: `mem32` or `mem64`.
    pub kind: BarKind,
    /// One virtual function's share: a power of two, bytes.
    pub size: Size,
    /// Whether reads have no side effects (the prefetchable bit).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prefetch: bool,
}

/// A register that is no BAR: `value` where `wmask` is 0 cannot be changed by a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRegister {
    /// Offset in configuration space.
    pub off: u8,
    /// Initial value.
    pub value: u64,
    /// The bits that a write changes.
    pub wmask: u64,
    /// How many bytes.
    #[serde(default = "four")]
    pub len: u8,
}

impl Device {
    /// A function with that identity (vendor and device ID) and class, and nothing else.
    pub fn new(bdf: Bdf, (vendor, device): (u16, u16), class: u16) -> Self {
        Self {
            bdf,
            vendor,
            device,
            class,
            header: 0,
            command: 0,
            int_pin: 0,
            int_line: 0,
            bars: Vec::new(),
            raw: Vec::new(),
            bridge: None,
            host: None,
            model: None,
            sriov: None,
            virtual_function: false,
        }
    }

    /// Whether this is the Xen platform device (5853:0001; hvmloader takes 5853:0002 for one too).
    pub fn is_xen_platform(&self) -> bool {
        self.vendor == 0x5853 && matches!(self.device, 1 | 2)
    }

    /// Whether this is known to be emulated: a device model's model, not one of the host's.
    pub fn is_emulated(&self) -> bool {
        self.host.is_none() && self.model.is_some()
    }

    /// Whether this is a PCI-to-PCI bridge (header type 1).
    pub fn is_bridge(&self) -> bool {
        self.header & 0x7f == 1
    }
}

fn four() -> u8 {
    4
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
