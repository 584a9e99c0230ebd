// SPDX-License-Identifier: LGPL-2.1-or-later
//! The program on genuine xenstored daemons: C xenstored and oxenstored, as Debian packages them.
//!
//! No hypervisor is needed: `stand-in.c`, preloaded into the daemon, stands in for it. Guests are played by
//! the tests, over a real ring page that the daemon maps ([`guest`]); a proxy in front of the daemon counts
//! requests and breaks things ([`proxy`]). Everything that is tested runs as the program's own process.
//!
//! Needs Debian's xen-utils and libxen-dev (tests/stages/50-xenstored installs them), hence the cargo feature
//! `real-xenstored`; without it these tests do not exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::print_stdout)]

mod attaching;
mod daemon;
mod device_model;
mod domains;
mod faults;
mod guest;
mod helper;
mod permissions;
mod places;
mod proxy;
#[path = "../common/schema.rs"]
mod schema;
mod storing;
mod storm;
mod updating;
mod verifying;
mod wire;
mod wrapper;

/// Makes each named function a test on either daemon.
macro_rules! on_both_daemons {
    ($($name:ident),* $(,)?) => {
        mod c_xenstored {
            $(#[test] fn $name() { super::$name(crate::daemon::Kind::C); })*
        }
        mod oxenstored {
            $(#[test] fn $name() { super::$name(crate::daemon::Kind::OCaml); })*
        }
    };
}
pub(crate) use on_both_daemons;
