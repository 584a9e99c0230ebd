// SPDX-License-Identifier: LGPL-2.1-or-later
//! PCI's nouns: where a function sits on the bus, its BARs, and the function itself.

mod bar;
mod bdf;
mod capability;
pub mod config_space;
mod device;
mod present;

pub use bar::{Bar, BarKind};
pub use bdf::{Bdf, ParseBdfError, Sbdf};
pub use capability::{BridgeRegisters, MsiX, ResizableBar, SrIov, VfBar};
pub use device::{Device, RawRegister, VirtualBar, VirtualFunctions};
pub use present::{PresentBar, PresentFunction};
