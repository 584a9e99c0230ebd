// SPDX-License-Identifier: LGPL-2.1-or-later
//! PCI's nouns: where a function sits on the bus, its BARs, and the function itself.

mod bar;
mod bdf;
mod device;

pub use bar::{Bar, BarKind};
pub use bdf::{Bdf, ParseBdfError, Sbdf};
pub use device::{Device, RawRegister};
