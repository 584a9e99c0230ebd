// SPDX-License-Identifier: LGPL-2.1-or-later
//! How much space lets devices come and go in any order without ever failing for fragmentation.
//!
//! A block of `b` bytes, wherever it is put at a multiple of `b`, keeps at most `max(b, s)` bytes' worth of the
//! aligned places for a block of `s` bytes from it. So a region that has those bytes for all blocks that can be there
//! at the same time, and `s` more, has a place for it, whatever the order and whoever chose the places: a guest's
//! system may choose as badly as it likes. The one thing asked of it is that it gives a device its BARs largest
//! first, as Linux and this program do. docs/hotplug.md has the proof, tests/hotplug.rs plays against it.

use crate::address::Size;
use crate::guest::Reserve;
use crate::pci::{BarKind, Device};

/// Devices of which at most so many are in the guest at the same time.
#[derive(Clone, Debug)]
pub struct Group {
    /// How many.
    pub at_once: usize,
    /// The devices.
    pub devices: Vec<Device>,
}

/// The space below and above 4 GiB in which the groups' devices can be attached and detached in any order. `None` past
/// 2^64 bytes.
pub fn any_order(groups: &[Group], page: Size) -> Option<Reserve> {
    let of = |high: bool| -> Vec<(usize, Vec<Vec<Size>>)> {
        let blocks = |device: &Device| {
            let bars = device.bars.iter().filter(|bar| bar.kind.is_memory());
            bars.filter(|bar| (bar.kind == BarKind::Mem64) == high).map(|bar| bar.size.max(page)).collect()
        };
        groups.iter().map(|group| (group.at_once, group.devices.iter().map(blocks).collect())).collect()
    };
    Some(Reserve { low: space_for(&of(false))?, high: space_for(&of(true))? })
}

/// The bytes in which the blocks of each group's devices, at most so many devices at once, can come and go.
fn space_for(groups: &[(usize, Vec<Vec<Size>>)]) -> Option<Size> {
    let mut most = Size::ZERO;
    for (index, (at_once, devices)) in groups.iter().enumerate().filter(|(_, (at_once, _))| *at_once > 0) {
        for (chosen, device) in devices.iter().enumerate() {
            for block in device {
                // Its own blocks that are placed before or together with this one.
                let own = sum(device.iter().filter(|other| *other >= block).copied())?;
                let mates = devices.iter().enumerate().filter(|(other, _)| *other != chosen);
                let mates = largest(mates.map(|(_, device)| device), at_once.saturating_sub(1), *block)?;
                let mut needed = own.checked_add(mates)?;
                for (_, (at_once, devices)) in groups.iter().enumerate().filter(|(other, _)| *other != index)
                {
                    needed = needed.checked_add(largest(devices.iter(), *at_once, *block)?)?;
                }
                most = most.max(needed);
            }
        }
    }
    Some(most)
}

/// What the `count` worst of these devices keep from a block of `size` bytes.
fn largest<'a>(devices: impl Iterator<Item = &'a Vec<Size>>, count: usize, size: Size) -> Option<Size> {
    let kept = |device: &Vec<Size>| sum(device.iter().map(|block| size.max(*block)));
    let mut kept: Vec<Size> = devices.map(kept).collect::<Option<_>>()?;
    kept.sort_unstable_by(|a, b| b.cmp(a));
    sum(kept.into_iter().take(count))
}

fn sum(mut sizes: impl Iterator<Item = Size>) -> Option<Size> {
    sizes.try_fold(Size::ZERO, Size::checked_add)
}
