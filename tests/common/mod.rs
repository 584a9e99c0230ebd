// SPDX-License-Identifier: LGPL-2.1-or-later
//! What tests share.

pub mod program;
pub mod sysfs;
