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

/// A text from elsewhere as it may be shown: what a terminal would obey is replaced.
pub fn printable(text: &str) -> String {
    text.chars().map(|shown| if shown.is_control() { char::REPLACEMENT_CHARACTER } else { shown }).collect()
}

/// How maps are shown.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// What devices are called.
    pub names: map::NameOf<'a>,
    /// Whether the reader sees colours.
    pub colour: bool,
}
