// SPDX-License-Identifier: LGPL-2.1-or-later
//! A "no" that helps: what is in the way, what was free, what would make it work.

use serde::{Deserialize, Serialize};

use crate::address::Size;
use crate::pci::Bdf;

/// Why there is no layout, or why a device does not fit.
///
/// In JSON it stands under the key `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// A name that scripts can match.
    pub code: Code,
    /// What is wrong, with figures.
    pub message: String,
    /// The BARs that cannot all be placed.
    pub blocking: Vec<Blocking>,
    /// The least change that makes it work.
    pub remedy: String,
}

/// The kinds of "no". More may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// There is a window, and not enough aligned room in it.
    DoesNotFit,
    /// There is no window of the kind that is needed.
    NoWindow,
    /// Reserved device memory is in the way of RAM or of a device.
    ReservedMemory,
    /// The guest's physical address width is too small.
    Width,
    /// It could be placed, and would be unsafe.
    Unsafe,
    /// The input makes no sense.
    InvalidInput,
    /// Another function sits at that address of the guest's bus, or none is free.
    SlotTaken,
    /// The guest has this device of the host already.
    AlreadyAttached,
    /// The guest does not have this device.
    NotAttached,
    /// There is no layout to start from.
    NotStored,
    /// The surroundings failed: xenstore, QMP, sysfs, permission.
    Environment,
}

/// A BAR that stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocking {
    /// The function.
    pub bdf: Bdf,
    /// The register's offset.
    pub reg: u8,
    /// The BAR's size.
    pub size: Size,
}
