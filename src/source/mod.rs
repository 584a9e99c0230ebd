// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where guests and devices come from.

pub mod description;
pub mod domain_config;
pub mod libxl_json;
pub mod xl_cfg;
