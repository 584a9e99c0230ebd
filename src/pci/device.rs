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
    /// Which of its BARs can have other sizes, and which size each is planned with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resizable: Vec<Resizable>,
    /// How the administrator wants BARs of it to be mapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caching: Vec<CachingPolicy>,
}

/// A BAR that can have other sizes than it has (the Resizable BAR capability; PCI Express, section 7.8.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resizable {
    /// The BAR's register.
    pub reg: u8,
    /// The sizes that it can have, ascending.
    pub sizes: Vec<Size>,
    /// The size to plan with; its present one where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlannedSize>,
}

/// The size that a resizable BAR is planned with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedSize {
    /// The largest that it can have.
    Largest,
    /// That many bytes.
    #[serde(untagged)]
    Bytes(Size),
}

/// How the administrator wants a BAR to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachingPolicy {
    /// The BAR's register.
    pub reg: u8,
    /// The memory type.
    pub hint: Caching,
}

/// A memory type that a BAR is best mapped with. Nothing about a BAR tells it: a prefetchable one may have registers
/// that must not be write-combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Caching {
    /// Nobody has said.
    #[default]
    Unknown,
    /// Uncached: registers.
    Uncached,
    /// Write-combining: a frame buffer.
    WriteCombining,
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
            resizable: Vec::new(),
            caching: Vec::new(),
        }
    }

    /// How the administrator wants the BAR at `reg` to be mapped.
    pub fn caching_of(&self, reg: u8) -> Caching {
        let policy = self.caching.iter().rev().find(|policy| policy.reg == reg);
        policy.map_or(Caching::Unknown, |policy| policy.hint)
    }

    /// Gives each resizable BAR the size that it is planned with.
    ///
    /// # Errors
    ///
    /// A BAR that is not there, or a size that it cannot have, in a sentence.
    pub fn resize(&mut self) -> Result<(), String> {
        for resizable in &self.resizable {
            let Some(plan) = resizable.plan else { continue };
            let name = format!("BAR 0x{:02x}", resizable.reg);
            let bar = self.bars.iter_mut().find(|bar| bar.reg == resizable.reg);
            let bar = bar.ok_or_else(|| format!("resizable: {name} is not among its BARs"))?;
            let sizes = || resizable.sizes.iter().map(Size::to_string).collect::<Vec<_>>().join(", ");
            bar.size = match plan {
                PlannedSize::Largest => *resizable
                    .sizes
                    .iter()
                    .max()
                    .ok_or_else(|| format!("{name} has no sizes to choose from"))?,
                PlannedSize::Bytes(size) if size == bar.size || resizable.sizes.contains(&size) => size,
                PlannedSize::Bytes(size) => {
                    return Err(format!("{name} cannot have {size}: it can have {}", sizes()));
                }
            };
        }
        Ok(())
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
