// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a layout is as it is, in sentences, beside the thing that each is about.

use serde::{Deserialize, Serialize};

use super::WindowKind;
use crate::address::{Address, Size};
use crate::pci::Bdf;

/// Why a layout is as it is: what `plan --explain` adds to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What forced the hole.
    pub hole: String,
    /// Why each window is where it is; a window that there is not has a reason, too.
    pub windows: Vec<WindowReason>,
    /// Why each BAR is where it is, in the order of the layout's.
    pub bars: Vec<BarReason>,
    /// The same of virtual functions' BARs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vf_bars: Vec<BarReason>,
    /// Why each reservation is where it is, in the order of the layout's.
    pub reserved: Vec<ReservationReason>,
    /// What each size of a resizable BAR would cost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resizable: Vec<ResizableCosts>,
}

/// Why a window is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowReason {
    /// Which.
    pub kind: WindowKind,
    /// A sentence.
    pub reason: String,
}

/// Why a BAR is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarReason {
    /// The function.
    pub bdf: Bdf,
    /// The register.
    pub reg: u8,
    /// A sentence.
    pub reason: String,
}

/// Why a reservation is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationReason {
    /// The window that it lies in.
    pub window: WindowKind,
    /// Its first address.
    pub start: Address,
    /// A sentence.
    pub reason: String,
}

/// What a resizable BAR's sizes cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizableCosts {
    /// The function.
    pub bdf: Bdf,
    /// The register.
    pub reg: u8,
    /// The size that the layout has.
    pub planned: Size,
    /// Each size that it can have.
    pub sizes: Vec<SizeCost>,
}

/// The layout that there would be with another size of one BAR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeCost {
    /// The BAR's size.
    pub size: Size,
    /// The hole below 4 GiB; `None` where there is no layout.
    pub mmio_hole_size: Option<Size>,
    /// How large the high window is; zero without one.
    pub high_window: Size,
}
