// SPDX-License-Identifier: LGPL-2.1-or-later
//! A running guest's functions as its device model has them now.

use super::{BarKind, Bdf};
use crate::address::{Address, Size};

/// A function as the device model has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentFunction {
    /// Where it sits.
    pub bdf: Bdf,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Whether it is one of the host's.
    pub passed_through: bool,
    /// Its BARs.
    pub bars: Vec<PresentBar>,
}

/// A BAR as the device model has it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresentBar {
    /// The register's offset in configuration space.
    pub reg: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// How much.
    pub size: Size,
    /// Where; `None` while its decode is off.
    pub address: Option<Address>,
}
