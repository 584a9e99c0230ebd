// SPDX-License-Identifier: LGPL-2.1-or-later
//! The stored layout: what is written to xenstore, and how.
//!
//! [`schema`] says which keys there are and what is in them; it is pure, and docs/xenstore.md is its prose.
//! The rest needs the cargo feature `xenstore`: [`client`] talks to the daemon through libxenstore, behind
//! xenstore-rs's traits; [`Store`] writes and reads whole layouts, each in one transaction.
//!
//! A guest can read the loader's keys and write none of ours, and nothing that a guest can write is read
//! here.

mod domid;
pub mod schema;

#[cfg(feature = "xenstore")]
pub mod client;
#[cfg(feature = "xenstore")]
mod error;
#[cfg(feature = "xenstore")]
mod store;
#[cfg(feature = "xenstore")]
mod turn;

pub use domid::{Domid, DomidError};
#[cfg(feature = "xenstore")]
pub use error::StoreError;
#[cfg(feature = "xenstore")]
pub use store::{Difference, Store, Stored, UpdateError, Written};
