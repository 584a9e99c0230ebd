// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a stock hvmloader will do with a guest's PCI bus, exactly, for every known release of Xen.
//!
//! hvmloader's PCI setup (Xen's tools/firmware/hvmloader/pci.c, pci_setup) runs once, before the guest's firmware. It
//! scans bus 0 (`scan`), chooses how far the hole below 4 GiB reaches and moves RAM out of it (`hole`), and places
//! each BAR, the largest first (`assign`). The model does the same over a modelled bus (`bus`) and gives the state
//! that is left. What is odd about it is said where it happens; what the releases differ in is data (`release`).
//!
//! ```
//! use xen_pci_layout::hvmloader::{Release, predict};
//!
//! let guest = xen_pci_layout::source::description::parse(
//!     r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": [
//!         {"bdf": "00:05.0", "vendor": 4318, "device": 7864, "class": 770,
//!          "bars": [{"reg": 16, "kind": "mem32", "size": 16777216}]}]}"#,
//! )?;
//! let prediction = predict(&guest, Release::NEWEST)?;
//! assert_eq!(prediction.bars[0].address.map(|address| address.get()), Some(0xf000_0000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod assign;
mod bus;
mod hazards;
mod hole;
mod loader;
mod prediction;
mod release;
mod scan;
mod suggest;

pub use hazards::{Hazard, hazards};
pub use prediction::{IgnoredBar, Outcome, PredictedBar, Prediction, Relocation, Space};
pub use release::{Algorithm, Release, UnknownRelease};
pub use suggest::{Suggestion, suggest, with_hole};

use crate::guest::Guest;

/// A guest that no loader can be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredictError {
    /// struct hvm_info_table has 32 bits for a frame number.
    #[error("RAM ends at frame {frame}: hvmloader counts at most {} frames of 4 KiB (16 TiB)", u32::MAX)]
    TooMuchRam {
        /// The 4 KiB frame past RAM.
        frame: u64,
    },
}

/// What `release`'s hvmloader will do with a guest.
///
/// # Errors
///
/// A guest that cannot be described to a loader at all.
pub fn predict(guest: &Guest, release: Release) -> Result<Prediction, PredictError> {
    let frame = |frame: u64| u32::try_from(frame).map_err(|_| PredictError::TooMuchRam { frame });
    let ram = (frame(guest.low_mem_pgend)?, frame(guest.high_mem_pgend)?);
    Ok(loader::Loader::new(guest, release, ram).run())
}
