// SPDX-License-Identifier: GPL-2.0-only
//! A guest as the corpus describes one: what hvmloader can see of it, and nothing else.
//!
//! The field names are the corpus's own; tests/corpus/FORMAT.md explains them. Keys that say something to the planner
//! only (`reserve`, `cpu`, `host` and so on) are ignored here, since no loader can see them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The `input` object of a corpus line.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Guest {
    /// CPUID 0x80000008 EAX[7:0].
    pub phys_bits: u8,
    /// CPUID 0x80000000 EAX; absent means 0x80000008.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuid_max_ext: Option<u32>,
    /// End of RAM below 4 GiB, in 4 KiB pages.
    pub low_mem_pgend: u32,
    /// End of RAM above 4 GiB, in 4 KiB pages; 0 for none.
    #[serde(default)]
    pub high_mem_pgend: u32,
    /// What XENMEM_memory_map returns, in order; if empty, RAM as libxl lays it out.
    #[serde(default)]
    pub memory_map: Vec<MapEntry>,
    /// Which kind of guest the generator or the corpus meant this to be; a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Which oddity was put in; a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weird: Option<String>,
    /// What the loader finds in xenstore, by the path it asks for.
    #[serde(default)]
    pub xenstore: BTreeMap<String, String>,
    /// The functions, in any order.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Sizes of the blocks that the device model populated after the end of RAM. Stock loaders know nothing of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_model_memory: Vec<u64>,
}

impl Guest {
    /// Where there is memory, as start and end: RAM, then the device model's blocks, each at the next multiple of
    /// 256 KiB from the end of RAM on.
    pub fn populated(&self) -> Vec<(u64, u64)> {
        const BLOCK_ALIGNMENT: u64 = 256 << 10;
        let (low, high) = (u64::from(self.low_mem_pgend) << 12, u64::from(self.high_mem_pgend) << 12);
        let mut populated = vec![(0, low), (1 << 32, high)];
        let mut end = low.max(high);
        for size in &self.device_model_memory {
            let start = end.next_multiple_of(BLOCK_ALIGNMENT);
            end = start.saturating_add(*size);
            populated.push((start, end));
        }
        populated
    }

    /// The memory map that the loader gets. Xen never gives an empty one, and a loader stops at one.
    pub fn loaders_map(&self) -> Vec<MapEntry> {
        if !self.memory_map.is_empty() {
            return self.memory_map.clone();
        }
        const MIB: u64 = 1 << 20;
        const BELOW_4G: u64 = 1 << 32;
        let end = |page: u32| u64::from(page) << 12;
        let low = MapEntry { addr: MIB, size: end(self.low_mem_pgend).saturating_sub(MIB), kind: 1 };
        let high =
            MapEntry { addr: BELOW_4G, size: end(self.high_mem_pgend).saturating_sub(BELOW_4G), kind: 1 };
        [low, high].into_iter().filter(|entry| entry.size > 0).collect()
    }
}

/// One entry of the guest's memory map.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// 1 RAM, 2 reserved device memory.
    #[serde(rename = "type")]
    pub kind: u32,
}

/// One PCI function.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Device {
    /// Where it sits.
    pub bdf: Bdf,
    /// Vendor identifier.
    pub vendor: u16,
    /// Device identifier.
    pub device: u16,
    /// Class and subclass, the word at 0x0a.
    #[serde(default)]
    pub class: u16,
    /// The byte at 0x0e.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub header: u8,
    /// The command register before the loader ran.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub command: u16,
    /// 0 for none, 1 to 4 for INTA to INTD.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub int_pin: u8,
    /// The byte at 0x3c before the loader ran.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub int_line: u8,
    /// Its base address registers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bars: Vec<Bar>,
    /// Other registers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub raw: Vec<Raw>,
}

/// One base address register.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Bar {
    /// Offset in configuration space.
    pub reg: u8,
    /// What the register's low bits say it is.
    pub kind: BarKind,
    /// Bytes it decodes, a power of two.
    pub size: u64,
    /// The prefetchable bit.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prefetch: bool,
    /// Its content before the loader ran.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub value: u64,
    /// An I/O BAR whose upper 16 bits are wired to 0.
    #[serde(default, skip_serializing_if = "is_false")]
    pub io16: bool,
}

/// The kinds of BAR the corpus knows.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BarKind {
    /// 32-bit memory.
    Mem32,
    /// 64-bit memory.
    Mem64,
    /// Memory below 1 MiB, a type that PCI 2.2 dropped.
    Mem1m,
    /// I/O ports.
    Io,
    /// An expansion ROM.
    Rom,
}

/// A register that is no BAR: a bridge's windows and the like.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Raw {
    /// Offset in configuration space.
    pub off: u8,
    /// Its content before the loader ran.
    pub value: u32,
    /// The bits that can be written.
    pub wmask: u32,
    /// Bytes, 4 if absent.
    #[serde(default = "four", skip_serializing_if = "is_four")]
    pub len: u8,
}

const fn four() -> u8 {
    4
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_four(value: &u8) -> bool {
    *value == 4
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A function's place: bus, slot, function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf {
    /// Bus number; hvmloader looks at bus 0 only.
    pub bus: u8,
    /// Slot and function as configuration cycles carry them.
    pub devfn: u8,
}

impl Bdf {
    /// The function of bus 0 with this slot and function number (taken modulo 32 and 8).
    pub const fn on_root(slot: u8, function: u8) -> Self {
        Self { bus: 0, devfn: (slot & 31) << 3 | function & 7 }
    }

    /// 0 to 31.
    pub const fn slot(self) -> u8 {
        self.devfn >> 3
    }

    /// 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{:x}", self.bus, self.slot(), self.function())
    }
}

impl FromStr for Bdf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(bus, rest)| {
            let (slot, function) = rest.split_once('.')?;
            let number = |digits| u8::from_str_radix(digits, 16).ok();
            Some((number(bus)?, number(slot)?, number(function)?))
        });
        match parts {
            Some((bus, slot, function)) if slot < 32 && function < 8 => {
                Ok(Self { bus, devfn: slot << 3 | function })
            }
            _ => Err(format!("`{text}` is not a function's place; it is written BB:SS.F, as in 00:05.0")),
        }
    }
}

impl Serialize for Bdf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bdf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A line that holds a guest: a bare input object, or one with its name and perhaps the recorded outcome.
#[derive(Debug)]
pub struct Line {
    /// The guest's name, JSON null if it has none.
    pub id: serde_json::Value,
    /// The release that the recorded outcome is of.
    pub xen: Option<String>,
    /// The guest.
    pub guest: Guest,
    /// What was recorded, if anything.
    pub output: Option<serde_json::Value>,
}

impl FromStr for Line {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        let mut value: serde_json::Value = serde_json::from_str(text)?;
        let id = value.get("id").cloned().unwrap_or_default();
        let xen = value.get("xen").and_then(serde_json::Value::as_str).map(str::to_owned);
        let output = value.get_mut("output").map(serde_json::Value::take);
        let input = value.get_mut("input").map(serde_json::Value::take);
        let guest = serde_json::from_value(input.unwrap_or(value))?;
        Ok(Self { id, xen, guest, output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_be_a_bare_guest_or_a_recorded_case() {
        let bare = r#"{"phys_bits":36,"low_mem_pgend":4096}"#;
        let line: Line = bare.parse().unwrap();
        assert_eq!((line.id.is_null(), line.guest.phys_bits), (true, 36));
        let line: Line =
            format!(r#"{{"id":"a","xen":"4.17","input":{bare},"output":{{}}}}"#).parse().unwrap();
        assert_eq!((line.id.as_str(), line.xen.as_deref()), (Some("a"), Some("4.17")));
        assert!(line.output.is_some());
    }

    #[test]
    fn a_place_reads_back_as_it_was_written() {
        for text in ["00:00.0", "00:1f.7", "01:05.0"] {
            assert_eq!(text.parse::<Bdf>().unwrap().to_string(), text);
        }
        for text in ["00:20.0", "00:01.8", "0:1", ""] {
            assert!(text.parse::<Bdf>().is_err(), "{text}");
        }
    }
}
