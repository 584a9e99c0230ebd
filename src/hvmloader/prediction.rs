// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a stock loader leaves behind: every BAR, the command registers, RAM, the windows, and its own log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::{Address, Range, Size};
use crate::guest::MemoryMapEntry;
use crate::pci::{BarKind, Bdf};

/// How a loader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It went through.
    Ok,
    /// It stopped at an assertion: the guest never starts.
    Crash,
}

/// The state after a loader's PCI setup: the `output` of the corpus of recorded loaders.
///
/// `log`, `int_line` and `memory_map` may be absent where it was recorded; `None` is then "not known".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// How it ended.
    pub result: Outcome,
    /// Every BAR that the loader saw, in the order in which it placed them; after a crash those placed up to there.
    pub bars: Vec<PredictedBar>,
    /// BARs of the guest that the loader never saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_bars: Vec<IgnoredBar>,
    /// Each function's command register.
    pub command: BTreeMap<Bdf, u16>,
    /// Each function's interrupt line, where it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int_line: Option<BTreeMap<Bdf, u8>>,
    /// The 4 KiB frame past RAM below 4 GiB.
    pub low_mem_pgend: u64,
    /// The 4 KiB frame past RAM above 4 GiB; 0 where there is none.
    pub high_mem_pgend: u64,
    /// RAM that was moved out of the hole, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relocations: Vec<Relocation>,
    /// How many 4 KiB pages of RAM were moved.
    pub pages_relocated: u64,
    /// Where the low window starts.
    pub pci_mem_start: Address,
    /// Where BARs in the low window end.
    pub pci_mem_end: Address,
    /// Where the high window starts; 0 where there is none.
    pub pci_hi_mem_start: Address,
    /// Where the high window ends; 0 where there is none.
    pub pci_hi_mem_end: Address,
    /// The frame of an Intel graphics device's OpRegion; 0 for none.
    pub igd_opregion_pgbase: u64,
    /// The loader's copy of the memory map, where it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_map: Option<Vec<MemoryMapEntry>>,
    /// The lines that it logs in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Vec<String>>,
}

/// One BAR that the loader saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictedBar {
    /// The function.
    pub bdf: Bdf,
    /// The register's offset in configuration space.
    pub reg: u8,
    /// How many bytes the loader thinks it has.
    pub size: Size,
    /// Where the loader put it; `None` where it logged "no space for resource!".
    pub address: Option<Address>,
    /// Whether that is above 4 GiB.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub above_4g: bool,
    /// Which space it was placed in, where that is not the one that the BAR decodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<Space>,
    /// What the register holds at the end, where the BAR has no place or the loader logged something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register: Option<u64>,
}

/// Memory or I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// Memory.
    Mem,
    /// I/O ports.
    Io,
}

/// A BAR that the loader never saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredBar {
    /// The function.
    pub bdf: Bdf,
    /// The register's offset in configuration space.
    pub reg: u8,
    /// What the BAR decodes.
    pub kind: BarKind,
    /// How many bytes.
    pub size: Size,
}

/// RAM moved from the hole to above 4 GiB (XENMEM_add_to_physmap), in 4 KiB frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocation {
    /// The first frame, before.
    pub idx: u64,
    /// The first frame, after.
    pub gpfn: u64,
    /// How many.
    pub pages: u64,
}

impl Prediction {
    /// The high window, if there is one; it may be empty.
    pub fn high_window(&self) -> Option<Range> {
        let used = self.pci_hi_mem_start != Address::ZERO;
        used.then(|| Range::new(self.pci_hi_mem_start, self.pci_hi_mem_end))?
    }

    /// Where RAM lies afterwards, below and above 4 GiB.
    pub fn ram(&self) -> impl Iterator<Item = Range> {
        let part = |start, frame| Range::new(start, Address::from_frame(frame)?);
        let low = part(Address::ZERO, self.low_mem_pgend);
        let high = part(Address::FOUR_GIB, self.high_mem_pgend);
        [low, high].into_iter().flatten().filter(|range| !range.is_empty())
    }

    /// Whether every BAR has a place and the loader goes through.
    pub fn is_complete(&self) -> bool {
        self.result == Outcome::Ok
            && self.ignored_bars.is_empty()
            && self.bars.iter().all(|bar| bar.address.is_some())
    }

    /// The loader's own line about each BAR, as `xl dmesg` shows it after the domain's number.
    pub fn bar_lines(&self) -> impl Iterator<Item = &str> {
        let lines = self.log.iter().flatten().map(String::as_str);
        lines.filter(|line| line.starts_with("pci dev ") && line.contains(" bar "))
    }
}

impl PredictedBar {
    /// What it decodes where the loader put it, if it has a place.
    pub fn range(&self) -> Option<Range> {
        Range::sized(self.address?, self.size)
    }
}
