// SPDX-License-Identifier: LGPL-2.1-or-later
//! The decisions: how deep the hole is, what goes above 4 GiB, where each BAR lies, and why not.
//!
//! Pure: no I/O, no clock, no environment, and the same answer for the same guest whatever the order of its devices.
//! Blocks are powers of two and naturally aligned, so they nest; placing the largest first into any aligned free
//! block then finds a placement wherever there is one ([`size_classes`]). What is left to choose is small and is
//! searched completely: the hole, from the smallest up in steps of 2 MiB ([`choose`]), and how many of the largest
//! 64-bit BARs go above 4 GiB. docs/planner.md has the argument, and where it would stop to hold.

mod choose;
mod conflict;
mod demand;
pub(crate) mod free_space;
mod high_window;
mod keep;
mod reasons;
mod room;
mod size_classes;
mod why_not;

use std::borrow::Cow;

use crate::address::Size;
use crate::guest::Guest;
use crate::layout::{Layout, Refusal};
use crate::pci::Device;

/// What the caller asks for beside the guest.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether the hole may differ from the one that the guest's configuration demands.
    pub resize_hole: bool,
    /// The hole that the guest's RAM is laid out for already: that one or a refusal.
    pub built_hole: Option<Size>,
    /// 64-bit BARs larger than this go above 4 GiB, whatever room there is below.
    pub high_above: Option<Size>,
    /// The device model is known to map the page that contains a passed-through BAR, not the next one: a BAR then
    /// keeps the host's offset into its page, and one that does not start a page is not refused.
    pub maps_containing_page: bool,
    /// The caller takes upon himself that a passed-through BAR which does not start a page on the host will not work.
    pub accept_unaligned: bool,
    /// An earlier layout of this guest: what it placed stays where it is, as far as that can be.
    pub keep: Option<Box<Layout>>,
    /// Whether the layout is to say why it is as it is.
    pub explain: bool,
}

impl Options {
    /// The hole that must be kept, if one must.
    pub fn fixed_hole(&self, guest: &Guest) -> Option<Size> {
        self.built_hole.or_else(|| if self.resize_hole { None } else { guest.demanded_hole() })
    }

    fn sends_high(&self, size: Size) -> bool {
        self.high_above.is_some_and(|limit| size > limit)
    }
}

/// The layout for `guest`.
///
/// # Errors
///
/// Why there is none, what is in the way, and what would help.
pub fn plan(guest: &Guest, options: &Options) -> Result<Layout, Box<Refusal>> {
    let guest = &*in_order(guest);
    if !options.maps_containing_page && !options.accept_unaligned {
        why_not::unaligned_on_host(guest)?;
    }
    let kept = options.keep.as_ref().and_then(|old| keep::layout(guest, options, old));
    let planned = kept.or_else(|| choose::layout(guest, options));
    let mut layout = planned.ok_or_else(|| Box::new(why_not::explain(guest, options)))?;
    if options.explain {
        layout.explanation = Some(Box::new(reasons::explain(guest, options, &layout)));
    }
    Ok(layout)
}

/// The guest with its functions and their BARs in the order of their addresses: what is said of them comes in that order.
fn in_order(guest: &Guest) -> Cow<'_, Guest> {
    let is_sorted = |device: &Device| {
        let mut virtual_functions = device.sriov.iter();
        device.bars.is_sorted_by_key(|bar| bar.reg)
            && virtual_functions.all(|functions| functions.bars.is_sorted_by_key(|bar| bar.reg))
    };
    if guest.devices.is_sorted_by_key(|device| device.bdf) && guest.devices.iter().all(is_sorted) {
        return Cow::Borrowed(guest);
    }
    let mut sorted = guest.clone();
    sorted.devices.sort_by_key(|device| device.bdf);
    for device in &mut sorted.devices {
        device.bars.sort_by_key(|bar| bar.reg);
        device.sriov.iter_mut().for_each(|functions| functions.bars.sort_by_key(|bar| bar.reg));
    }
    Cow::Owned(sorted)
}
