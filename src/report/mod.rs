// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an answer looks like: text for people, the loader's lines, the picture.

pub mod audit;
pub mod device_model;
pub mod hotplug;
pub mod loader_lines;
pub mod map;
pub mod prediction;
pub mod reasons;
pub mod shadow;
pub mod svg;
pub mod text;

/// How maps are shown.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// What devices are called.
    pub names: map::NameOf<'a>,
    /// Whether the reader sees colours.
    pub colour: bool,
}
