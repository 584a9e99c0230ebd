// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's nouns: its memory, the machine's fixed regions, its devices.
//!
//! A [`Guest`] is what every source produces, and what the planner and the model of stock loaders read. It says what
//! the guest *is*, before anybody has decided where things go.

mod loader_keys;
mod machine;
mod memory;
mod wanted;

pub use loader_keys::{ALLOW_MEMORY_RELOCATE, MMIO_HOLE_SIZE, PLATFORM_BAR_UC, demanded_hole, strtoll};
pub use machine::{
    DEFAULT_HOLE, FIXED_REGIONS, HOLE_GRANULARITY, HostCpu, IO_WINDOW, LARGEST_HOLE, PAGE_SIZES,
    SMALLEST_HOLE, WIDEST,
};
pub use memory::{DEVICE_MODEL_ALIGNMENT, MemoryMapEntry, MemoryRange, RESERVED_TYPE, RamLayout};
pub use wanted::AnyOf;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::{Address, Size};
use crate::pci::{Device, Sbdf};

/// An HVM guest: RAM, machine, devices, and what the toolstack tells its loader.
///
/// The JSON form is the guest description of docs/guest-description.md; an unknown key is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Whatever the caller wants back with the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<serde_json::Value>,
    /// The domain's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The guest's physical address width in bits (CPUID 0x80000008 EAX\[7:0\]).
    pub phys_bits: u8,
    /// The highest extended CPUID leaf (CPUID 0x80000000 EAX); below 0x80000008 a loader assumes 36 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuid_max_ext: Option<u32>,
    /// The 4 KiB frame past the RAM below 4 GiB (struct hvm_info_table).
    pub low_mem_pgend: u64,
    /// The 4 KiB frame past the RAM above 4 GiB; 0 where there is none.
    #[serde(default)]
    pub high_mem_pgend: u64,
    /// What XENMEM_memory_map returns to the guest.
    #[serde(default)]
    pub memory_map: Vec<MemoryMapEntry>,
    /// Reserved device memory that RAM may cover (libxl's policy "relaxed"); no BAR may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relaxed_memory: Vec<MemoryRange>,
    /// The guest's PCI functions, bus 0 and behind bridges.
    pub devices: Vec<Device>,
    /// The keys of the guest's own xenstore directory that a loader reads.
    #[serde(default)]
    pub xenstore: BTreeMap<String, String>,
    /// Hot-plug space wanted beyond the guest's own devices.
    #[serde(default, skip_serializing_if = "Reserve::is_empty")]
    pub reserve: Reserve,
    /// Devices of the host that there is to be room for as well, all of them in any order. What they need is looked up
    /// on the host and added to `reserve` before a plan is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserve_for: Vec<Sbdf>,
    /// The same for any so many of some devices at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserve_any: Vec<AnyOf>,
    /// The page size that isolates devices from each other: 4096, 16384 or 65536 bytes.
    #[serde(default = "default_page_size")]
    pub page_size: Size,
    /// The host's processor, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<HostCpu>,
    /// Blocks that the device model populates past the end of RAM, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_model_memory: Vec<Size>,
    /// Whether devices may be passed through to it, at boot or later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passthrough: bool,
    /// Where the recorder of a test guest came from; read and ignored.
    #[serde(default, skip_serializing)]
    pub profile: Option<serde_json::Value>,
    /// What is odd about a test guest; read and ignored.
    #[serde(default, skip_serializing)]
    pub weird: Option<serde_json::Value>,
}

/// Hot-plug space, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reserve {
    /// Below 4 GiB.
    pub low: Size,
    /// Above 4 GiB.
    pub high: Size,
}

impl Reserve {
    /// One number for both: a quarter below 4 GiB, 1 GiB at most, and the rest above.
    ///
    /// A device with a large 64-bit BAR has small ones that must lie low; more than a quarter would cost RAM below
    /// 4 GiB. And no hole has an aligned 2 GiB: the fixed regions end the last one.
    pub fn split(total: Size) -> Self {
        let low = Size::new(total.get() >> 2).min(Size::GIB);
        Self { low, high: total.saturating_sub(low) }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn default_page_size() -> Size {
    Size::FRAME
}

impl Guest {
    /// A guest with that much RAM below and above 4 GiB (as hvm_info_table counts it), that width, and nothing else.
    pub fn new(low_mem_pgend: u64, high_mem_pgend: u64, phys_bits: u8) -> Self {
        Self {
            id: None,
            name: None,
            phys_bits,
            cpuid_max_ext: None,
            low_mem_pgend,
            high_mem_pgend,
            memory_map: Vec::new(),
            relaxed_memory: Vec::new(),
            devices: Vec::new(),
            xenstore: BTreeMap::new(),
            reserve: Reserve::default(),
            reserve_for: Vec::new(),
            reserve_any: Vec::new(),
            page_size: default_page_size(),
            cpu: None,
            device_model_memory: Vec::new(),
            passthrough: false,
            profile: None,
            weird: None,
        }
    }

    /// The guest's physical address width as its loader will see it.
    ///
    /// hvmloader (util.c, cpu_phys_addr) assumes 36 bits where CPUID has no leaf 0x80000008.
    pub fn loader_phys_bits(&self) -> u8 {
        match self.cpuid_max_ext {
            Some(leaf) if leaf < 0x8000_0008 => 36,
            _ => self.phys_bits,
        }
    }

    /// The width to plan for: what both the loader and the processor can reach, bits.
    pub fn usable_phys_bits(&self) -> u8 {
        self.loader_phys_bits().min(self.phys_bits)
    }

    /// The first address past what may be used.
    pub fn address_limit(&self) -> Address {
        Address::new(1_u64.checked_shl(self.usable_phys_bits().into()).unwrap_or(u64::MAX))
    }

    /// Whether devices are or may be passed through.
    pub fn takes_host_devices(&self) -> bool {
        self.passthrough || self.devices.iter().any(|device| device.host.is_some())
    }
}
