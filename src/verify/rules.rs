// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where BARs are now, held against the rules: nothing on memory that is not theirs, nothing on another's, all in a window.

use super::bars::{Placed, decoding, whole_pages};
use super::{Evidence, Verdict};
use crate::address::{Address, Range, Size};
use crate::guest::FIXED_REGIONS;
use crate::layout::{Layout, ReservedKind, WindowKind};
use crate::pci::BarKind;

/// The vendor of the Xen platform device, whose BAR `xen_platform_pci_bar_uc=0` puts above the low window.
const XEN: u16 = 0x5853;

pub(super) fn verify(evidence: &Evidence, verdict: &mut Verdict) {
    let Some(model) = &evidence.device_model else { return };
    let bars = decoding(&model.functions);
    let layout = evidence.layout.as_ref();
    let page = layout.map_or(Size::FRAME, |layout| layout.page_size);

    let mut barred: Vec<(&'static str, String, Range)> = Vec::new();
    barred.extend(evidence.ram().into_iter().map(|ram| ("bar-on-ram", "RAM".to_owned(), ram)));
    let blocks = model.blocks.iter().filter(|block| !block.is_ram());
    barred.extend(blocks.map(|block| {
        ("bar-on-device-model-memory", format!("the device model's memory ({})", block.name), block.range)
    }));
    let reserved = layout.iter().flat_map(|layout| &layout.reserved_memory);
    let reserved = reserved.filter(|memory| memory.what != ReservedKind::DeviceModel);
    barred.extend(
        reserved
            .filter_map(|memory| Some(("bar-on-reserved-memory", memory.what.to_string(), memory.range()?))),
    );
    barred.extend(
        Range::new(FIXED_REGIONS, Address::FOUR_GIB)
            .map(|fixed| ("bar-on-fixed-region", "the platform's own regions".to_owned(), fixed)),
    );

    for bar in bars.iter().filter(|bar| bar.kind.is_memory()) {
        let mut said: Vec<&str> = Vec::new();
        for (code, what, range) in &barred {
            // Several witnesses name the same RAM.
            if bar.range.overlaps(*range) && !(*code == "bar-on-ram" && said.contains(code)) {
                said.push(code);
                let message = format!("{} lies on {what} at {range}", bar.name());
                verdict.disagree_about(code, bar.function.bdf, Some(bar.reg), message);
            }
        }
    }
    width(evidence, &bars, verdict);
    if let Some(layout) = layout {
        windows(layout, &bars, verdict);
    }
    neighbours(&bars, page, verdict);
}

fn width(evidence: &Evidence, bars: &[Placed<'_>], verdict: &mut Verdict) {
    let layout = evidence.layout.as_ref().map(|layout| layout.phys_bits);
    let Some(bits) = layout.or_else(|| evidence.loader.as_ref()?.phys_bits()) else { return };
    let Some(limit) = 1_u64.checked_shl(bits.into()).map(Address::new) else { return };
    for bar in bars.iter().filter(|bar| bar.kind.is_memory() && bar.range.end() > limit) {
        let message = format!("{} is past the guest's {bits} bits", bar.name());
        verdict.disagree_about("bar-past-width", bar.function.bdf, Some(bar.reg), message);
    }
}

fn windows(layout: &Layout, bars: &[Placed<'_>], verdict: &mut Verdict) {
    let inside = |kinds: &[WindowKind], range| {
        kinds.iter().any(|kind| layout.window(*kind).is_some_and(|window| window.contains(range)))
    };
    for bar in bars {
        let kinds: &[WindowKind] = match bar.kind {
            BarKind::Io => &[WindowKind::Io],
            _ => &[WindowKind::Low, WindowKind::High],
        };
        if !inside(kinds, bar.range) && bar.function.vendor != XEN {
            let message = format!("{} lies in no window of the layout", bar.name());
            verdict.disagree_about("outside-windows", bar.function.bdf, Some(bar.reg), message);
        }
    }
}

/// No two on the same bytes, and no passed-through function on a page with another one: whoever has one has the other.
fn neighbours(bars: &[Placed<'_>], page: Size, verdict: &mut Verdict) {
    for (index, first) in bars.iter().enumerate() {
        let others = bars.iter().skip(index.saturating_add(1));
        for second in others.filter(|other| other.kind.is_memory() == first.kind.is_memory()) {
            let (bdf, reg) = (second.function.bdf, Some(second.reg));
            if first.range.overlaps(second.range) {
                let message = format!("{} overlaps {}", second.name(), first.name());
                verdict.disagree_about("bars-overlap", bdf, reg, message);
            } else if first.kind.is_memory()
                && first.function.bdf != second.function.bdf
                && whole_pages(first.range, page).overlaps(whole_pages(second.range, page))
            {
                let message = format!("{} shares a page with {}", second.name(), first.name());
                if first.function.passed_through || second.function.passed_through {
                    verdict.disagree_about("shared-page", bdf, reg, message);
                } else {
                    verdict.note_about("shared-page", bdf, reg, format!("{message}; both are emulated"));
                }
            }
        }
    }
}
