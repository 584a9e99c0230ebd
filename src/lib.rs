// SPDX-License-Identifier: LGPL-2.1-or-later
//! Plans a Xen HVM guest's PCI MMIO layout before the guest exists.
//!
//! hvmloader decides inside the guest, while it boots, how large the MMIO hole below 4 GiB is and where each PCI base
//! address register (BAR) lies. This crate decides it before the guest is built: completely, with a reason for every
//! no, and with room for what is hot-plugged later.
//!
//! # One way through
//!
//! A **source** makes a [`guest::Guest`], the **planner** turns it into a [`layout::Layout`] or a
//! [`layout::Refusal`], a **sink** prints or stores it:
//!
//! ```text
//! source -> guest <- planner -> layout <- report, xenstore
//!                 <- hvmloader (what the stock loader would do)
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`address`] | addresses, sizes and ranges that cannot wrap |
//! | [`pci`] | PCI's nouns: functions, BARs, configuration space |
//! | [`guest`] | a guest's nouns: RAM, reserved and device-model memory, the machine's limits |
//! | [`layout`] | where everything goes, the rules it keeps, refusals |
//! | [`planner`] | the decisions; pure |
//! | [`hvmloader`] | what stock loaders do, release by release |
//! | [`recording`] | recorded guests, predicted again and compared |
//! | [`verify`] | a running guest against its layout and the rules |
//! | [`audit`] | what is unsafe about a host's own BAR layout |
//! | [`source`] | xl.cfg, libxl's JSON, guest descriptions, sysfs, lspci's text, the running Xen |
//! | [`xenstore`] | the schema, and whole layouts in and out of the store |
//! | [`report`] | answers for people |
//! | [`command`] | the subcommands |
//!
//! # Example
//!
//! ```
//! use xen_pci_layout::planner::{Options, plan};
//! use xen_pci_layout::source::description;
//!
//! // 512 MiB of RAM and a device with a 256 MiB 64-bit BAR.
//! let guest = description::parse(
//!     r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": [
//!         {"bdf": "00:05.0", "vendor": 4318, "device": 7864, "class": 770,
//!          "bars": [{"reg": 16, "kind": "mem64", "size": 268435456, "prefetch": true}]}]}"#,
//! )?;
//! let layout = plan(&guest, &Options::default())?;
//! // The default hole has 192 MiB for BARs, so it went above 4 GiB and the hole stayed as it is.
//! assert_eq!(layout.mmio_hole_size.get(), 256 << 20);
//! assert_eq!(layout.bars[0].address.get(), 1 << 32);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod address;
pub mod audit;
pub mod command;
pub mod guest;
pub mod hotplug;
pub mod hvmloader;
pub mod layout;
pub mod pci;
pub mod planner;
pub mod recording;
pub mod report;
pub mod source;
pub mod verify;
pub mod xenstore;
