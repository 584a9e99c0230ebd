// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where a guest's RAM ends, and what the device model populates after it.

use serde::{Deserialize, Serialize};

use super::{Guest, LARGEST_HOLE};
use crate::address::{Address, Range, Size};

/// E820's type of a reserved region: what libxl gives the guest for RDM (RMRR).
pub const RESERVED_TYPE: u32 = 2;

/// QEMU's xen_ram_alloc starts each block at a multiple of this after the end of RAM (measured on Xen 4.17.7).
pub const DEVICE_MODEL_ALIGNMENT: Size = Size::new(256 << 10);

/// One entry of the guest's memory map (XENMEM_memory_map).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryMapEntry {
    /// Where it starts.
    pub addr: Address,
    /// How many bytes.
    pub size: Size,
    /// 1 RAM, 2 reserved (RDM).
    #[serde(rename = "type")]
    pub kind: u32,
}

/// A stretch of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryRange {
    /// Where it starts.
    pub addr: Address,
    /// How many bytes.
    pub size: Size,
}

/// Where RAM and what follows it lie, for one size of the MMIO hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamLayout {
    /// The end of RAM below 4 GiB.
    pub low_end: Address,
    /// The end of RAM above 4 GiB; 4 GiB where there is none.
    pub high_end: Address,
    /// The blocks that the device model populates, in order.
    pub device_model: Vec<Range>,
}

impl RamLayout {
    /// Where the device model's last block ends; where RAM ends if there is no block.
    pub fn populated_end(&self) -> Address {
        let ram_end = if self.high_end > Address::FOUR_GIB { self.high_end } else { self.low_end };
        self.device_model.last().map_or(ram_end, |block| block.end())
    }
}

impl Guest {
    /// All the guest's RAM: below 4 GiB, and what there is above. `None` where the sum has no meaning (2^64 and up).
    pub fn ram(&self) -> Option<Size> {
        let low = Address::from_frame(self.low_mem_pgend)?.distance_from(Address::ZERO);
        let high = Address::from_frame(self.high_mem_pgend)?.distance_from(Address::FOUR_GIB);
        low.checked_add(high)
    }

    /// The reserved device memory (RDM, RMRR), in the map's order; entries of no size are left out, and one that
    /// would run past the highest address ends there.
    pub fn reserved_device_memory(&self) -> impl Iterator<Item = Range> {
        self.memory_map
            .iter()
            .filter(|entry| entry.kind == RESERVED_TYPE && !entry.size.is_zero())
            .filter_map(|entry| Range::new(entry.addr, entry.addr.saturating_add(entry.size)))
    }

    /// The reserved device memory that RAM may cover under libxl's policy "relaxed": the guest is then not told of it.
    pub fn relaxed_memory(&self) -> impl Iterator<Item = Range> {
        let ranges = self.relaxed_memory.iter().filter(|range| !range.size.is_zero());
        ranges.filter_map(|range| Range::new(range.addr, range.addr.saturating_add(range.size)))
    }

    /// All reserved device memory, whatever the policy: no BAR may lie there.
    pub fn barred_memory(&self) -> impl Iterator<Item = Range> {
        self.reserved_device_memory().chain(self.relaxed_memory())
    }

    /// Where libxl and QEMU put RAM and what follows it under a hole of `hole` bytes.
    ///
    /// libxl (libxl__build_hvm) fills up to 4 GiB - hole and puts the rest at 4 GiB; QEMU (xen_ram_alloc) populates
    /// its own blocks after the end of all RAM, each at the next multiple of 256 KiB. `None` where that has no
    /// meaning (addresses of 2^64 and up).
    pub fn ram_layout(&self, hole: Size) -> Option<RamLayout> {
        let ram = self.ram()?;
        let border = Address::FOUR_GIB.checked_sub(hole.min(LARGEST_HOLE))?;
        let low_end = Address::ZERO.checked_add(ram)?.min(border);
        let high = ram.saturating_sub(low_end.distance_from(Address::ZERO));
        let high_end = Address::FOUR_GIB.checked_add(high)?;
        let device_model = self.populated_after(if high.is_zero() { low_end } else { high_end })?;
        Some(RamLayout { low_end, high_end, device_model })
    }

    /// The blocks that the device model populates where RAM ends as this guest says. They stay there, whatever a loader
    /// moves afterwards. Empty where that has no meaning (addresses of 2^64 and up).
    pub fn populated_memory(&self) -> Vec<Range> {
        let end = if self.high_mem_pgend == 0 { self.low_mem_pgend } else { self.high_mem_pgend };
        Address::from_frame(end).and_then(|end| self.populated_after(end)).unwrap_or_default()
    }

    /// The blocks that the device model populates where RAM ends at `ram_end`. `None` where that has no meaning
    /// (addresses of 2^64 and up).
    pub fn populated_after(&self, ram_end: Address) -> Option<Vec<Range>> {
        let mut blocks = Vec::with_capacity(self.device_model_memory.len());
        let mut end = ram_end;
        for &size in self.device_model_memory.iter().filter(|size| !size.is_zero()) {
            let block = Range::sized(end.align_up(DEVICE_MODEL_ALIGNMENT)?, size)?;
            end = block.end();
            blocks.push(block);
        }
        Some(blocks)
    }
}
