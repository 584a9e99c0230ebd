// SPDX-License-Identifier: LGPL-2.1-or-later
//! A host's PCI functions, from sysfs (live or copied) or from `lspci -D -vv -nn` text.
//!
//! A [`Host`] is read whole, once: whether a device can be given away also depends on its neighbours. What a source
//! cannot tell stays unknown; [`HostDevice::for_guest`] refuses a device of which too much is unknown to plan with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::address::{Address, Range};
use crate::guest::HostCpu;
use crate::pci::{
    Bar, BarKind, Bdf, BridgeRegisters, Device, MsiX, Resizable, ResizableBar, Sbdf, SrIov, VirtualBar,
    VirtualFunctions,
};
use crate::source::{lspci, sysfs};

/// A PCI function of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Where the host has it.
    pub sbdf: Sbdf,
    /// The function itself. Its `bdf` is the host's, to be replaced by the guest's slot; its `host` says so too. A
    /// BAR without `host_address` has a size and no address.
    pub device: Device,
    /// The programming interface: the byte at 0x09; `None` where the source does not tell.
    pub interface: Option<u8>,
    /// BARs of which the source knows that they exist, and not how large they are.
    pub unsized_bars: Vec<UnsizedBar>,
    /// Its ROM is the copy that the firmware left in memory, not the device's own.
    pub shadow_rom: bool,
    /// How much of its configuration space the source could read.
    pub capabilities: Capabilities,
    /// MSI-X, if it has it.
    pub msix: Option<MsiX>,
    /// SR-IOV, if it is a physical function.
    pub sriov: Option<SrIov>,
    /// The BARs that can be resized.
    pub resizable: Vec<ResizableBar>,
    /// Whether it is a virtual function.
    pub is_virtual_function: bool,
    /// The physical function that it is a virtual function of; `None` also where the source does not tell.
    pub physfn: Option<Sbdf>,
    /// What it forwards, if it is a bridge.
    pub bridge: Option<BridgeRegisters>,
    /// The NUMA node it hangs on, where there is more than one.
    pub numa_node: Option<u32>,
    /// The driver that the host has bound to it.
    pub driver: Option<String>,
}

/// A BAR whose size is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsizedBar {
    /// The register's offset in configuration space.
    pub reg: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Where it is, if anywhere.
    pub address: Option<Address>,
}

/// Whether the capabilities could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capabilities {
    /// All of configuration space.
    Whole,
    /// The first 256 bytes: no SR-IOV, no resizable BARs.
    Conventional,
    /// Not at all: whoever looked was not root.
    Unreadable,
}

/// Reserved device memory: what firmware says certain devices must be able to reach at unchanged addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedMemory {
    /// Which memory.
    pub range: Range,
    /// The functions it is for, on buses that the table names directly; empty if for others, or for all.
    pub devices: Vec<Sbdf>,
}

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// What was read, for messages.
    origin: String,
    live: bool,
    devices: BTreeMap<Sbdf, HostDevice>,
    cpu: Option<HostCpu>,
    iommu_bits: Option<u8>,
    reserved_memory: Vec<ReservedMemory>,
}

/// Why a host could not be read, or has no such device.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file says something that makes no sense.
    #[error("{}{}: {problem}", .file.display(), .line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The line in it, from 1; `None` for a file without lines.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{}: {problem}{}", .file.display(), if *.live { "" } else { " (is this a copy of a host's /sys?)" })]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        problem: std::io::Error,
        /// Whether it belongs to the running system, not to a copy.
        live: bool,
    },
    /// The host has no such function.
    #[error("{sbdf}: no such device on this host ({origin}); {}", near(.same_bus))]
    NoDevice {
        /// What was asked for.
        sbdf: Sbdf,
        /// What was read.
        origin: String,
        /// The functions on the same bus.
        same_bus: Vec<Sbdf>,
    },
    /// The source does not tell enough to plan with.
    #[error("{sbdf}: {problem}")]
    Unknown {
        /// The function.
        sbdf: Sbdf,
        /// What is not known, and what would tell.
        problem: String,
    },
}

fn near(same_bus: &[Sbdf]) -> String {
    if same_bus.is_empty() {
        return "nothing on that bus".to_owned();
    }
    let shown: Vec<String> = same_bus.iter().take(8).map(Sbdf::to_string).collect();
    let more = if same_bus.len() > shown.len() { ", .." } else { "" };
    format!("on that bus: {}{more}", shown.join(", "))
}

impl HostError {
    /// Whether the surroundings failed (exit code 3), rather than that the input is wrong (exit code 2).
    pub fn is_environment(&self) -> bool {
        matches!(self, Self::Unreadable { live: true, .. })
    }
}

impl HostDevice {
    /// A function of which nothing more is known yet.
    pub fn new(sbdf: Sbdf, vendor: u16, device: u16, class: u16) -> Self {
        Self {
            sbdf,
            device: Device { host: Some(sbdf), ..Device::new(sbdf.bdf, (vendor, device), class) },
            interface: None,
            unsized_bars: Vec::new(),
            shadow_rom: false,
            capabilities: Capabilities::Whole,
            msix: None,
            sriov: None,
            resizable: Vec::new(),
            is_virtual_function: false,
            physfn: None,
            bridge: None,
            numa_node: None,
            driver: None,
        }
    }

    /// Whether it is a virtual function.
    pub fn is_virtual(&self) -> bool {
        self.is_virtual_function || self.physfn.is_some()
    }

    /// Its BARs that decode memory, each with what it decodes; those without an address are left out.
    pub fn memory_bars(&self) -> impl Iterator<Item = (&Bar, Range)> {
        self.device.bars.iter().filter(|bar| bar.kind.is_memory()).filter_map(|bar| {
            let range = Range::sized(bar.host_address?, bar.size)?;
            Some((bar, range))
        })
    }

    /// The BAR with that number (0 to 5), whether it is a 64-bit one or not.
    pub fn bar(&self, index: u8) -> Option<&Bar> {
        let reg = register(index)?;
        self.device.bars.iter().find(|bar| bar.reg == reg)
    }

    /// The function as a guest is to see it, at `bdf`.
    ///
    /// Command register, interrupt line and capabilities are what the device model emulates; what the guest finds is
    /// the host's identity and BARs, and the header type as QEMU's xen_pt shows it (multi-function, type 0).
    ///
    /// # Errors
    ///
    /// If the size of a BAR is not known, or it is no function that can be passed through.
    pub fn for_guest(&self, bdf: Bdf) -> Result<Device, HostError> {
        let unknown = |problem: String| HostError::Unknown { sbdf: self.sbdf, problem };
        if self.bridge.is_some() || self.device.header & 0x7f != 0 {
            return Err(unknown(
                "is a bridge: only functions with header type 0 can be passed through".to_owned(),
            ));
        }
        if let Some(bar) = self.unsized_bars.first() {
            return Err(unknown(format!(
                "BAR 0x{:02x} ({}): its size is not told: lspci prints none for it; a copy of the host's sysfs (--host) has it",
                bar.reg, bar.kind
            )));
        }
        let resizable = self.resizable.iter().filter_map(|bar| {
            let sizes = bar.supported.clone();
            Some(Resizable { reg: register(bar.index)?, sizes, plan: None })
        });
        Ok(Device {
            bdf,
            header: 0x80,
            command: 0,
            int_line: 0,
            virtual_function: self.is_virtual(),
            resizable: resizable.collect(),
            ..self.device.clone()
        })
    }

    /// What its virtual functions' BARs take, for a guest that is shown its SR-IOV capability.
    ///
    /// # Errors
    ///
    /// If the size of a VF BAR is not known, or how many virtual functions there can be.
    pub fn virtual_functions(&self) -> Result<Option<VirtualFunctions>, HostError> {
        let unknown = |problem: String| Err(HostError::Unknown { sbdf: self.sbdf, problem });
        let Some(sriov) = &self.sriov else { return Ok(None) };
        if sriov.total_vfs == 0 {
            return Ok(None);
        }
        let mut bars = Vec::new();
        for bar in &sriov.bars {
            let Some(reg) = register(bar.index) else { continue };
            let Some(size) = bar.size else {
                return unknown(format!(
                    "VF BAR {} ({}): its size is not known from this source, since neither the capability nor lspci tells it; \
                     read the host's sysfs, whose resource file does",
                    bar.index, bar.kind
                ));
            };
            bars.push(VirtualBar { reg, kind: bar.kind, size, prefetch: bar.prefetch });
        }
        Ok(Some(VirtualFunctions { total_vfs: sriov.total_vfs, bars }))
    }
}

/// The register of the BAR with that number: 0x10 for 0, up to 0x24 for 5.
pub fn register(index: u8) -> Option<u8> {
    (index < 6).then(|| 0x10_u8.checked_add(index.checked_mul(4)?))?
}

impl Host {
    /// The running system's `/sys` and `/proc/cpuinfo`.
    ///
    /// # Errors
    ///
    /// What cannot be read, or makes no sense.
    pub fn live() -> Result<Self, HostError> {
        sysfs::read(Path::new("/sys"), Path::new("/proc/cpuinfo"), true)
    }

    /// A copy of a host's `/sys`: `dir/bus/pci/devices`, and where they are there `dir/cpuinfo` and
    /// `dir/firmware/acpi/tables`.
    ///
    /// # Errors
    ///
    /// What cannot be read, or makes no sense.
    pub fn copied(dir: &Path) -> Result<Self, HostError> {
        sysfs::read(dir, &dir.join("cpuinfo"), false)
    }

    /// A file with what `lspci -D -vv -nn` printed.
    ///
    /// # Errors
    ///
    /// That it cannot be read, or the line that makes no sense.
    pub fn lspci(file: &Path) -> Result<Self, HostError> {
        let bytes = std::fs::read(file).map_err(|problem| HostError::Malformed {
            file: file.to_owned(),
            line: None,
            problem: problem.to_string(),
        })?;
        Self::lspci_text(file, &String::from_utf8_lossy(&bytes))
    }

    /// What `lspci -D -vv -nn` printed; `file` is for messages.
    ///
    /// # Errors
    ///
    /// The line that makes no sense.
    pub fn lspci_text(file: &Path, text: &str) -> Result<Self, HostError> {
        let devices = lspci::parse(text).map_err(|error| HostError::Malformed {
            file: file.to_owned(),
            line: error.line,
            problem: error.problem,
        })?;
        Ok(Self::new(file.display().to_string(), false, devices))
    }

    /// A host with those functions; a function that is there twice counts once, as the last.
    pub fn new(origin: String, live: bool, devices: impl IntoIterator<Item = HostDevice>) -> Self {
        let devices = devices.into_iter().map(|device| (device.sbdf, device)).collect();
        let mut host =
            Self { origin, live, devices, cpu: None, iommu_bits: None, reserved_memory: Vec::new() };
        host.link_virtual_functions();
        host
    }

    /// What the host's processor and firmware say.
    pub(super) fn with_platform(
        self,
        cpu: Option<HostCpu>,
        iommu_bits: Option<u8>,
        reserved_memory: Vec<ReservedMemory>,
    ) -> Self {
        Self { cpu, iommu_bits, reserved_memory, ..self }
    }

    /// Text and copies without links do not say whose virtual function one is; the physical one's capability does.
    fn link_virtual_functions(&mut self) {
        let mut links = Vec::new();
        for physical in self.devices.values() {
            let Some(sriov) = &physical.sriov else { continue };
            for bdf in sriov.virtual_functions(physical.sbdf.bdf) {
                links.push((Sbdf { segment: physical.sbdf.segment, bdf }, physical.sbdf));
            }
        }
        for (virtual_function, physical) in links {
            if let Some(device) = self.devices.get_mut(&virtual_function) {
                device.physfn.get_or_insert(physical);
            }
        }
    }

    /// What was read: a directory or a file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether this is the running system.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The function at `sbdf`.
    ///
    /// # Errors
    ///
    /// That there is none.
    pub fn device(&self, sbdf: Sbdf) -> Result<&HostDevice, HostError> {
        self.devices.get(&sbdf).ok_or_else(|| {
            let same_bus = |other: &&Sbdf| (other.segment, other.bdf.bus()) == (sbdf.segment, sbdf.bdf.bus());
            HostError::NoDevice {
                sbdf,
                origin: self.origin.clone(),
                same_bus: self.devices.keys().filter(same_bus).copied().collect(),
            }
        })
    }

    /// All its functions, by address.
    pub fn devices(&self) -> impl Iterator<Item = &HostDevice> {
        self.devices.values()
    }

    /// The bridge right above a function; `None` on a root bus.
    ///
    /// A virtual function may sit on a bus number past its physical function's: the bridge is the physical one's.
    pub fn bridge_of(&self, device: &HostDevice) -> Option<&HostDevice> {
        let place = device.physfn.unwrap_or(device.sbdf);
        self.devices.values().find(|bridge| {
            let secondary = bridge.bridge.is_some_and(|registers| registers.secondary == place.bdf.bus());
            secondary && bridge.sbdf.segment == place.segment && bridge.sbdf.bdf.bus() != place.bdf.bus()
        })
    }

    /// The processor, where the source tells.
    pub fn cpu(&self) -> Option<&HostCpu> {
        self.cpu.as_ref()
    }

    /// How many address bits the IOMMU takes, where the source tells (ACPI tables DMAR, IVRS).
    pub fn iommu_bits(&self) -> Option<u8> {
        self.iommu_bits
    }

    /// The reserved device memory, where the source tells (ACPI tables DMAR, IVRS).
    pub fn reserved_memory(&self) -> &[ReservedMemory] {
        &self.reserved_memory
    }

    /// Puts what the running Xen says in the place of what the tables say: Xen knows more than they do, and hides them.
    pub fn set_reserved_memory(&mut self, memory: Vec<ReservedMemory>) {
        self.reserved_memory = memory;
    }
}
