// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hole, RAM's ends and the device model's memory, as each witness has them.

use std::fmt;

use super::{DeviceModelState, Evidence, Verdict};
use crate::address::{Address, Range, Size};
use crate::guest::DEFAULT_HOLE;
use crate::layout::{Layout, ReservedKind};
use crate::source::hvmloader_log::Run;

/// Where RAM ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ram {
    /// Below 4 GiB.
    low: Address,
    /// Above; `None` where there is none.
    high: Option<Address>,
}

/// What a loader takes from RAM at most: an image of OVMF has 4 MiB, and tables hardly one.
const FIRMWARE: Size = Size::new(16 << 20);

impl Ram {
    /// Whether this is `given` without some of its last pages, as mem_hole_populate_ram takes them for memory elsewhere
    /// once the guest has all that it may have: above 4 GiB if there is RAM, else below.
    fn is_less_what_firmware_took(self, given: Self) -> bool {
        let (end, given_end) = match (self.high, given.high) {
            (Some(end), Some(given_end)) if self.low == given.low => (end, given_end),
            (None, None) => (self.low, given.low),
            _ => return false,
        };
        end < given_end && given_end.distance_from(end) <= FIRMWARE
    }
}

impl fmt::Display for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.high {
            Some(high) => write!(f, "{} and {high}", self.low),
            None => write!(f, "{} and none above 4G", self.low),
        }
    }
}

pub(super) fn verify(evidence: &Evidence, verdict: &mut Verdict) {
    holes(evidence, verdict);
    ram(evidence, verdict);
    device_model_memory(evidence, verdict);
}

fn holes(evidence: &Evidence, verdict: &mut Verdict) {
    let planned = evidence.layout.as_ref().map(|layout| layout.mmio_hole_size);
    if let (Some(libxl), Some(planned)) = (evidence.libxl_hole, planned)
        && planned != libxl
    {
        verdict.disagree("hole", format!("libxl has left a hole of {libxl}, the layout needs {planned}"));
    }
    let said =
        evidence.libxl_hole.map(|hole| ("libxl's", hole)).or(planned.map(|hole| ("the layout's", hole)));
    if let (Some((whose, hole)), Some(model)) = (said, &evidence.device_model) {
        let border = border(model);
        let wanted = Address::FOUR_GIB.checked_sub(hole).unwrap_or_default();
        if border != wanted {
            let told = match model.border {
                Some(told) => format!("max-ram-below-4g={}", told.get()),
                None => "no max-ram-below-4g".to_owned(),
            };
            let message = format!(
                "QEMU ends RAM below 4G at {border} ({told}), {whose} hole of {hole} ends it at {wanted}"
            );
            verdict.disagree("device-model-hole", message);
        }
    }
}

/// Where QEMU ends RAM below 4 GiB at the latest: xen_ram_init takes its own border where it is told none or a higher one.
fn border(model: &DeviceModelState) -> Address {
    let own = Address::FOUR_GIB.checked_sub(DEFAULT_HOLE).unwrap_or_default();
    model.border.map_or(own, |told| told.min(own))
}

fn ram(evidence: &Evidence, verdict: &mut Verdict) {
    let layout = evidence.layout.as_ref().and_then(ram_of_layout);
    let model = evidence.device_model.as_ref().and_then(ram_of_device_model);
    if let (Some(layout), Some(model)) = (layout, model)
        && layout != model
    {
        verdict.disagree("ram", format!("RAM ends at {model} for QEMU, and at {layout} for the layout"));
    }
    let told = layout.map(|ram| ("the layout", ram)).or(model.map(|ram| ("QEMU", ram)));
    let (Some((who, given)), Some(mapped)) = (told, evidence.loader.as_ref().and_then(ram_of_loader)) else {
        return;
    };
    if mapped == given {
        return;
    }
    let message = format!("RAM ends at {mapped} for the loader's memory map, and at {given} for {who}");
    if mapped.is_less_what_firmware_took(given) {
        verdict
            .note("ram-for-firmware", format!("{message}: the loader took the last of it for the firmware"));
    } else {
        verdict.disagree("ram", message);
    }
}

fn ram_of_layout(layout: &Layout) -> Option<Ram> {
    let high = Address::from_frame(layout.high_mem_pgend)?;
    Some(Ram {
        low: Address::from_frame(layout.low_mem_pgend)?,
        high: (high > Address::FOUR_GIB).then_some(high),
    })
}

fn ram_of_loader(run: &Run) -> Option<Ram> {
    let ends = || run.ram().map(|ram| ram.end());
    Some(Ram {
        low: ends().filter(|end| *end <= Address::FOUR_GIB).max()?,
        high: ends().filter(|end| *end > Address::FOUR_GIB).max(),
    })
}

/// xen_ram_init makes one block of all RAM, the hole in it where there is RAM above 4 GiB.
fn ram_of_device_model(model: &DeviceModelState) -> Option<Ram> {
    let end = model.blocks.iter().find(|block| block.is_ram())?.range.end();
    Some(if end > Address::FOUR_GIB {
        Ram { low: border(model), high: Some(end) }
    } else {
        Ram { low: end, high: None }
    })
}

impl Evidence {
    /// Where RAM lies, for each witness that knows it.
    pub(super) fn ram(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = self.layout.iter().flat_map(Layout::ram).collect();
        ranges.extend(self.loader.iter().flat_map(Run::ram));
        if let Some(ram) = self.device_model.as_ref().and_then(ram_of_device_model) {
            ranges.extend(Range::new(Address::ZERO, ram.low));
            ranges.extend(ram.high.and_then(|high| Range::new(Address::FOUR_GIB, high)));
        }
        ranges
    }
}

/// Everything that the device model has must be where the layout has it: the loader keeps clear of nothing else.
fn device_model_memory(evidence: &Evidence, verdict: &mut Verdict) {
    let (Some(layout), Some(model)) = (&evidence.layout, &evidence.device_model) else { return };
    let known: Vec<Range> = layout
        .reserved_memory
        .iter()
        .filter(|memory| memory.what == ReservedKind::DeviceModel)
        .filter_map(|memory| memory.range())
        .collect();
    let place = |range: Range| known.iter().any(|known| known.contains(range));
    for block in model.blocks.iter().filter(|block| !block.is_ram() && !block.range.is_empty()) {
        if !place(block.range) {
            let message = format!(
                "QEMU has {} of its own ({}) at {}, where the layout knows of none",
                block.range.size(),
                block.name,
                block.range
            );
            verdict.disagree("device-model-memory", message);
        }
    }
}
