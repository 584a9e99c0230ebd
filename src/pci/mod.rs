// SPDX-License-Identifier: LGPL-2.1-or-later
//! PCI's nouns: where a function sits on the bus, its BARs, and the function itself.

mod bar;
mod bdf;
mod capability;
mod choice;
pub mod config_space;
mod device;
mod present;

pub use bar::{Bar, BarKind};
pub use bdf::{Bdf, ParseBdfError, Sbdf};
pub use capability::{BridgeRegisters, MsiX, ResizableBar, SrIov, VfBar};
pub use choice::{BarName, BarSetting};
pub use device::{
    Caching, CachingPolicy, Device, PlannedSize, RawRegister, Resizable, VirtualBar, VirtualFunctions,
};
pub use present::{PresentBar, PresentFunction};
