// SPDX-License-Identifier: LGPL-2.1-or-later
//! Hot-plug: would a device fit into a running guest, where, and what would a guest's system make of it?
//!
//! A layout is all that is needed. Two answers are kept apart. *Has it room?* ([`attach()`]): nothing that is
//! attached moves, and the answer is yes exactly where the windows' free space has an aligned place for each BAR.
//! *Where will the guest put it?* ([`forecast`]): a hot-added device comes without addresses, and the guest's
//! operating system gives it some by rules of its own; they are Linux's here. docs/hotplug.md has the reasoning.

mod any_order;
mod attach;
mod detach;
pub mod forecast;
mod observe;
mod place;
mod promise;
mod space;
mod why_not;

pub use any_order::{Group, any_order};
pub use attach::{Attachment, attach, free_slot};
pub use detach::{Detachment, detach, there_are};
pub use observe::{Difference, Observation, observe};
pub use place::{Wish, place};
pub use space::{Room, Space};

use std::fmt;

use crate::address::{Address, Range};
use crate::pci::{BarKind, Bdf, Device, Sbdf};

/// What is known of a running guest beside its layout.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// Addresses that BARs really decode, where that is not their place in the layout: taken too.
    pub elsewhere: Vec<(Range, BarKind)>,
    /// Functions that the layout does not have.
    pub slots: Vec<Bdf>,
    /// Whether the device model maps the page that contains a passed-through BAR, not the next one: a BAR that does
    /// not start a page on the host then keeps its offset.
    pub maps_containing_page: bool,
}

/// A function's two names: the guest's, and the host's if it is one of the host's.
struct Name {
    guest: Bdf,
    host: Option<Sbdf>,
}

impl Name {
    fn of(device: &Device) -> Self {
        Self { guest: device.bdf, host: device.host }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => write!(f, "{} (host {host})", self.guest),
            None => write!(f, "{}", self.guest),
        }
    }
}

/// `BAR1`, `ROM`: a register as people call it.
pub fn register_name(reg: u8) -> String {
    match reg.checked_sub(0x10) {
        Some(offset) if offset < 0x18 => format!("BAR{}", offset >> 2),
        _ => "ROM".to_owned(),
    }
}

/// Where something is, or that it is nowhere.
pub fn place_name(address: Option<Address>) -> String {
    address.map_or_else(|| "nowhere".to_owned(), |address| address.to_string())
}
