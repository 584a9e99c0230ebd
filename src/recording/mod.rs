// SPDX-License-Identifier: LGPL-2.1-or-later
//! Recorded layouts: what a loader really did, to compare with what the model says it does.
//!
//! There are two kinds. A line of the corpus ([`corpus`]) is a guest description, a release, and the whole state after
//! its loader ran. [`differences`] says in what two such states differ, BAR by BAR.

mod compare;
pub mod corpus;

pub use compare::{Difference, differences};
