// SPDX-License-Identifier: LGPL-2.1-or-later
//! Plans a Xen HVM guest's PCI MMIO layout before the guest exists.
#![forbid(unsafe_code)]

pub mod address;
pub mod audit;
pub mod command;
pub mod guest;
pub mod hvmloader;
pub mod layout;
pub mod pci;
pub mod planner;
pub mod recording;
pub mod report;
pub mod source;
pub mod xenstore;
