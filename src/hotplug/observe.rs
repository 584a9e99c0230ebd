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
use crate::layout::{Layout, PlacedBar};
use crate::pci::{Bdf, PresentFunction};

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
pub fn observe(stored: &Layout, functions: &[PresentFunction]) -> Observation {
    let mut differences = Vec::new();
    let mut present = Present::default();
    let mut moved: Vec<(usize, Address)> = Vec::new();
    for (index, bar) in stored.bars.iter().enumerate() {
        let (bdf, reg, place) = (bar.bdf, bar.reg, bar.address);
        let Some(function) = functions.iter().find(|function| function.bdf == bdf) else { continue };
        match function.bars.iter().find(|now| now.reg == reg).map(|now| now.address) {
            Some(Some(address)) if address != place => {
                moved.push((index, address));
                differences.push(Difference::Moved { bdf, reg, stored: place, present: address });
            }
            Some(Some(_)) => {}
            Some(None) | None => differences.push(Difference::Uncertain { bdf, reg, stored: place }),
        }
    }
    for function in functions {
        let known =
            stored.device(function.bdf).is_some() || stored.bars.iter().any(|bar| bar.bdf == function.bdf);
        let unknown = function
            .bars
            .iter()
            .filter(|now| !stored.bars.iter().any(|bar| (bar.bdf, bar.reg) == (function.bdf, now.reg)));
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
    let there = |bdf| functions.iter().any(|function| function.bdf == bdf);
    let absent = stored.devices.iter().filter(|device| !there(device.bdf));
    differences.extend(absent.map(|device| Difference::Absent { bdf: device.bdf }));
    let layout = settle(stored, moved, &mut present);
    Observation { layout, present, differences }
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
        let unfit = moved.iter().position(|(index, _)| !fits(&layout, *index));
        let Some(unfit) = unfit else {
            super::promise::settle(&mut layout);
            return layout;
        };
        let (index, address) = moved.swap_remove(unfit);
        if let Some(bar) = stored.bars.get(index) {
            present.elsewhere.extend(Range::sized(address, bar.size).map(|range| (range, bar.kind)));
        }
    }
}

/// Whether a BAR lies in a window, with its pages to itself.
fn fits(layout: &Layout, index: usize) -> bool {
    let extent = |bar: &PlacedBar| {
        let range = bar.range()?;
        if bar.kind.is_memory() { pages(range, layout.page_size) } else { Some(range) }
    };
    let Some(bar) = layout.bars.get(index) else { return false };
    let Some(range) = extent(bar) else { return false };
    let alone = layout.bars.iter().enumerate().all(|(other_index, other)| {
        other_index == index
            || other.kind.is_memory() != bar.kind.is_memory()
            || extent(other).is_none_or(|other| !other.overlaps(range))
    });
    alone && layout.windows.iter().filter_map(|window| window.range()).any(|window| window.contains(range))
}
