// SPDX-License-Identifier: LGPL-2.1-or-later
//! A layout brought up to what the device model says is there.
//!
//! Nothing that a guest can write is believed: addresses are QEMU's. What the guest has moved to a place that a layout
//! may have is taken into the layout; what it has moved elsewhere keeps its place there, and the place where it is
//! now is taken too.

use serde::Serialize;

use super::space::pages;
use super::{Present, register_name};
use crate::address::{Address, Range};
use crate::layout::{Layout, PlacedBar, WindowKind};
use crate::pci::{Bdf, PresentBar, PresentFunction};

/// A layout, what is taken beside it, and how it differed.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The layout with the addresses that BARs have now.
    pub layout: Layout,
    /// What is taken beside it.
    pub present: Present,
    /// How the guest differs from what was stored.
    pub differences: Vec<Difference>,
}

/// One way in which a guest differs from its stored layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Difference {
    /// A BAR is elsewhere.
    Moved {
        /// The function.
        bdf: Bdf,
        /// The register.
        reg: u8,
        /// Its place in the layout.
        stored: Address,
        /// Where it is.
        present: Address,
    },
    /// A BAR's decode is off, so that nobody knows where the guest would have it: it keeps its place.
    Uncertain {
        /// The function.
        bdf: Bdf,
        /// The register.
        reg: u8,
        /// Its place in the layout.
        stored: Address,
    },
    /// A function is there that the layout does not have.
    Unrecorded {
        /// The function.
        bdf: Bdf,
        /// Vendor ID.
        vendor: u16,
        /// Device ID.
        device: u16,
    },
    /// A function is in the layout and not there: attached on record alone, or gone.
    Absent {
        /// The function.
        bdf: Bdf,
    },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Moved { bdf, reg, stored, present } => {
                write!(f, "{bdf} {} is at {present}, stored was {stored}", register_name(*reg))
            }
            Self::Uncertain { bdf, reg, stored } => {
                write!(
                    f,
                    "{bdf} {} does not decode now; it is taken to be at {stored}, as stored",
                    register_name(*reg)
                )
            }
            Self::Unrecorded { bdf, vendor, device } => {
                write!(f, "{bdf} ({vendor:04x}:{device:04x}) is in the guest and not in the stored layout")
            }
            Self::Absent { bdf } => write!(f, "{bdf} is in the stored layout and not in the guest"),
        }
    }
}

/// The stored layout and the functions that QEMU has, brought together.
///
/// A function that is not the one which the layout has there is another: what the layout has keeps its place, and what
/// QEMU has is taken beside it.
pub fn observe(stored: &Layout, functions: &[PresentFunction]) -> Observation {
    let mut differences = Vec::new();
    let mut present = Present::default();
    let mut moved: Vec<(usize, Address)> = Vec::new();
    let recorded = |bdf| functions.iter().find(|now| now.bdf == bdf && is_recorded(stored, now));
    for (index, bar) in stored.bars.iter().enumerate() {
        let (bdf, reg, place) = (bar.bdf, bar.reg, bar.address);
        let Some(function) = recorded(bdf) else { continue };
        match function.bars.iter().find(|now| is_same(bar, now)).and_then(|now| now.address) {
            Some(address) if address != place => {
                moved.push((index, address));
                differences.push(Difference::Moved { bdf, reg, stored: place, present: address });
            }
            Some(_) => {}
            None => differences.push(Difference::Uncertain { bdf, reg, stored: place }),
        }
    }
    for function in functions {
        let known = is_recorded(stored, function);
        let in_layout = |now: &PresentBar| {
            known && stored.bars.iter().any(|bar| bar.bdf == function.bdf && is_same(bar, now))
        };
        let unknown = function.bars.iter().filter(|now| !in_layout(now));
        present
            .elsewhere
            .extend(unknown.filter_map(|now| Some((Range::sized(now.address?, now.size)?, now.kind))));
        if !known {
            present.slots.push(function.bdf);
            if !function.bars.is_empty() {
                let PresentFunction { bdf, vendor, device, .. } = *function;
                differences.push(Difference::Unrecorded { bdf, vendor, device });
            }
        }
    }
    let absent = stored.devices.iter().filter(|device| recorded(device.bdf).is_none());
    differences.extend(absent.map(|device| Difference::Absent { bdf: device.bdf }));
    let layout = settle(stored, moved, &mut present);
    Observation { layout, present, differences }
}

/// Whether a function is the one that the layout has at its place.
fn is_recorded(stored: &Layout, function: &PresentFunction) -> bool {
    match stored.device(function.bdf) {
        Some(device) => (device.vendor, device.device) == (function.vendor, function.device),
        None => stored.bars.iter().any(|bar| bar.bdf == function.bdf),
    }
}

/// Whether a BAR is the one that the layout has: the same register, as large, of the same space.
fn is_same(bar: &PlacedBar, now: &PresentBar) -> bool {
    (bar.reg, bar.size, bar.kind.is_memory()) == (now.reg, now.size, now.kind.is_memory())
}

/// Takes what moved into the layout where that is a place that a layout may have, and else into `present`.
fn settle(stored: &Layout, mut moved: Vec<(usize, Address)>, present: &mut Present) -> Layout {
    loop {
        let mut layout = stored.clone();
        for (index, address) in &moved {
            if let Some(bar) = layout.bars.get_mut(*index) {
                bar.address = *address;
            }
        }
        // One that must stay may stand where another has gone: then that one stays too.
        let unfit = moved.iter().copied().find(|(index, _)| !fits(&layout, *index));
        let Some((index, address)) = unfit else {
            super::promise::settle(&mut layout);
            return layout;
        };
        moved.retain(|(other, _)| *other != index);
        if let Some(bar) = stored.bars.get(index) {
            present.elsewhere.extend(Range::sized(address, bar.size).map(|range| (range, bar.kind)));
        }
    }
}

/// Whether a BAR lies in a window, with its pages to itself, and off what no BAR may touch.
fn fits(layout: &Layout, index: usize) -> bool {
    let extent = |bar: &PlacedBar| {
        let range = bar.range()?;
        if bar.kind.is_memory() { pages(range, layout.page_size) } else { Some(range) }
    };
    let Some(bar) = layout.bars.get(index) else { return false };
    let Some(range) = extent(bar) else { return false };
    let memory = bar.kind.is_memory();
    let alone = layout.bars.iter().enumerate().all(|(other_index, other)| {
        other_index == index
            || other.kind.is_memory() != memory
            || extent(other).is_none_or(|other| !other.overlaps(range))
    });
    let barred = layout.reserved_memory.iter().filter_map(|reserved| reserved.range());
    let barred = barred.chain(layout.vf_bars.iter().filter_map(|bars| bars.range(layout.page_size)));
    let barred = memory && barred.chain(layout.ram()).any(|other| other.overlaps(range));
    let windows = layout.windows.iter().filter(|window| (window.kind != WindowKind::Io) == memory);
    let inside = windows.filter_map(|window| window.range()).any(|window| window.contains(range));
    alone && !barred && inside
}
