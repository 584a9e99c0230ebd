// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where guests and devices come from.

pub mod description;
pub mod domain;
pub mod domain_config;
pub mod host;
pub mod hvmloader_log;
pub mod libxl_json;
mod lspci;
mod platform;
pub mod present;
pub mod qemu_devices;
pub mod qmp;
pub mod ram_blocks;
pub mod running_xen;
mod sysfs;
pub mod tool;
pub mod xl_cfg;
