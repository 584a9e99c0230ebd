// SPDX-License-Identifier: LGPL-2.1-or-later
//! Planning again without moving what can stay.
//!
//! An operating system takes a device that moved for a new one, or finds its registers gone. So an earlier layout's
//! blocks are pinned, under its hole if possible, and let go only where the guest's devices no longer fit otherwise.

use super::Options;
use super::choose::{holes, layout_in};
use super::demand::{Demand, Key, Pins};
use crate::address::Range;
use crate::guest::{Guest, HOLE_GRANULARITY};
use crate::layout::Layout;

/// The layout closest to `old`, if there is any that keeps something.
pub fn layout(guest: &Guest, options: &Options, old: &Layout) -> Option<Layout> {
    let all = holes(guest, options, &Demand::of(guest, options));
    let same = old.mmio_hole_size.get().checked_div(HOLE_GRANULARITY.get())?;
    let attempts = [all.contains(&same).then_some(same..=same), Some(all)];
    let attempt = |pins: &Pins| {
        attempts
            .iter()
            .flatten()
            .find_map(|holes| layout_in(guest, Demand::keeping(guest, options, pins), holes.clone()))
    };
    let mut pins = pins(old);
    if let Some(layout) = attempt(&pins) {
        return Some(layout);
    }
    // Let go of the smallest first until it fits, then take back what did not have to go.
    let mut by_size: Vec<_> = pins.iter().map(|(key, range)| (range.size(), *key, *range)).collect();
    by_size.sort_unstable();
    let mut dropped = Vec::new();
    let mut found = None;
    for (_, key, range) in by_size {
        pins.remove(&key);
        dropped.push((key, range));
        found = attempt(&pins);
        if found.is_some() {
            break;
        }
    }
    let mut best = found?;
    for (key, range) in dropped.into_iter().rev().skip(1) {
        pins.insert(key, range);
        match attempt(&pins) {
            Some(layout) => best = layout,
            None => {
                pins.remove(&key);
            }
        }
    }
    Some(best)
}

/// Where an earlier layout has each block: BARs in whole pages, and bridges' windows.
fn pins(old: &Layout) -> Pins {
    let bars = old.bars.iter().filter_map(|bar| {
        let block = if bar.kind.is_memory() { bar.size.max(old.page_size) } else { bar.size };
        Some((Key::own(bar.bdf, bar.reg), Range::sized(bar.address.align_down(block), block)?))
    });
    let windows = old.bridges.iter().flat_map(|bridge| {
        let window = |reg, bounds: Option<_>| {
            let (start, end) = bounds?;
            Some((Key::own(bridge.bdf, reg), Range::new(start, end)?))
        };
        [window(0x1c, bridge.io), window(0x20, bridge.memory), window(0x24, bridge.prefetchable)]
    });
    let virtual_functions =
        old.vf_bars.iter().filter_map(|bars| Some((Key::vf(bars), bars.range(old.page_size)?)));
    bars.chain(windows.flatten()).chain(virtual_functions).collect()
}
