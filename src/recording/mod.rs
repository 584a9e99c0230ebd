// SPDX-License-Identifier: LGPL-2.1-or-later
//! Recorded layouts: what a loader really did, to compare with what the model says it does.
//!
//! There are three kinds. A line of the corpus ([`corpus`]) is a guest description, a release, and the whole state
//! after its loader ran. A recording ([`directory`]) is a real guest's: its configuration and its loader's log. A log
//! alone still says what BARs there were ([`guest_of`]). What differs is told BAR by BAR.

mod compare;
pub mod corpus;
pub mod directory;
mod log;
pub mod record;

pub use compare::{Difference, differences};
pub use log::{bar_differences, guest_differences, guest_of, log_differences};
