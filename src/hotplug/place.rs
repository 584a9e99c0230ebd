// SPDX-License-Identifier: LGPL-2.1-or-later
//! Places for a device's BARs in what is free.
//!
//! Blocks are powers of two and aligned to their size. Going down in size, a block takes one aligned block and with
//! it the same number of smaller ones wherever it goes, so which one it takes does not matter, and taking a block
//! wherever one is left is complete. What can go into either window takes the high one while that has room: whatever
//! then stays for the low one is no harder to place than any other choice's rest. docs/hotplug.md has the proof; the
//! tests compare with trying everything.

use super::Space;
use crate::address::{Address, Size};
use crate::pci::{Bar, BarKind};

/// A BAR that wants a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The register's offset in configuration space.
    pub reg: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// How much.
    pub size: Size,
    /// Whether it is prefetchable.
    pub prefetch: bool,
}

impl From<&Bar> for Wish {
    fn from(bar: &Bar) -> Self {
        Self { reg: bar.reg, kind: bar.kind, size: bar.size, prefetch: bar.prefetch }
    }
}

impl Wish {
    /// The block it takes: memory comes in whole pages, so that no two functions share one.
    pub fn block(&self, page: Size) -> Size {
        if self.kind.is_memory() { self.size.max(page) } else { self.size }
    }
}

/// A place for each wish, in the wishes' order; `None` where not all have one.
///
/// 64-bit BARs go into the high window while it has room, as Linux puts them; each takes the lowest place.
pub fn place(space: &Space, wishes: &[Wish], page: Size) -> Option<Vec<Address>> {
    place_what_fits(space, wishes, page).into_iter().collect()
}

/// The same where those that find no place have none.
pub(super) fn place_what_fits(space: &Space, wishes: &[Wish], page: Size) -> Vec<Option<Address>> {
    let mut space = space.clone();
    let mut order: Vec<(usize, &Wish)> = wishes.iter().enumerate().collect();
    order.sort_by_key(|(_, wish)| std::cmp::Reverse(wish.block(page)));
    let mut places = vec![None; wishes.len()];
    for (index, wish) in order {
        let rooms = match wish.kind {
            BarKind::Io => [space.io.as_mut(), None],
            _ if space.high_takes(wish) => [space.high.as_mut(), space.low.as_mut()],
            _ => [space.low.as_mut(), None],
        };
        let block = wish.block(page);
        let found = rooms.into_iter().flatten().find_map(|room| room.free.take_run(block, 1));
        if let (Some(place), Some((address, _))) = (places.get_mut(index), found) {
            *place = Some(address);
        }
    }
    places
}
