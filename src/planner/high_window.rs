// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where the high window lies: past all memory, aligned to its size where it can be, lowest address first.

use super::free_space::{FreeSpace, Shape};
use super::room::may_fit;
use super::size_classes::SizeClasses;
use crate::address::{Address, Range, Size};

/// How many places are tried for a window of one size.
const TRIES: usize = 1024;

/// The smallest window that is worth having for hot-plug that nobody asked for.
const SMALLEST_SPARE: Size = Size::new(1 << 30);

/// A high window and the free space inside.
#[derive(Clone, Debug)]
pub struct HighWindow {
    /// The window; `None` where it is to be as wide as what is then placed in it.
    pub window: Option<Range>,
    /// Where blocks may be placed.
    pub free: FreeSpace,
}

/// What a high window must hold.
#[derive(Clone, Debug)]
pub struct Content {
    /// The blocks.
    pub blocks: SizeClasses,
    /// What is no block.
    pub shapes: Vec<Shape>,
    /// Space beside all that which would be good to have.
    pub spare: Size,
    /// What lies there already and stays.
    pub kept: Option<Range>,
}

impl Content {
    /// Whether all of it can be placed in `free`.
    fn fits(&self, free: &FreeSpace) -> bool {
        free.carve(&self.shapes, |left, to_come| may_fit(&self.blocks, to_come, left)).is_some()
    }
}

/// Old Linux guests get no further: SeaBIOS ends its 64-bit window here unless something needs more.
const OLD_GUESTS: Address = Address::new(1 << 44);

/// Chooses the window in `free` (everything above 4 GiB that is not barred; `holes` are what it must not span if that
/// can be helped). Below 2^44 if everything fits there. `None` where nothing needs one.
pub fn choose(free: &FreeSpace, holes: &[Range], content: &Content) -> Option<HighWindow> {
    let old = Range::new(Address::ZERO, OLD_GUESTS)
        .filter(|old| content.kept.is_none_or(|kept| old.contains(kept)));
    let below = old.map(|old| free.within(old)).filter(|below| below != free);
    below.and_then(|below| choose_in(&below, holes, content)).or_else(|| choose_in(free, holes, content))
}

fn choose_in(free: &FreeSpace, holes: &[Range], content: &Content) -> Option<HighWindow> {
    let kept = content.kept.map_or(Size::ZERO, Range::size);
    let shapes = content.shapes.iter().fold(Size::ZERO, |sum, shape| sum.saturating_add(shape.size));
    let needed = content.blocks.total().saturating_add(shapes).saturating_add(kept);
    if needed.is_zero() && content.spare.is_zero() {
        return None;
    }
    let spares = std::iter::successors(Some(content.spare), |spare| Some(Size::new(spare.get() >> 1)))
        .take_while(|spare| *spare >= SMALLEST_SPARE)
        .chain([Size::ZERO]);
    let mut tried = Size::ZERO;
    for spare in spares {
        let least = needed.saturating_add(spare).next_power_of_two()?;
        // Twice as large helps where a reserved region stands in the middle.
        for size in [Some(least), least.checked_mul(2)].into_iter().flatten() {
            if size == tried || size.get() <= 1 {
                continue;
            }
            tried = size;
            let window = aligned(free, holes, content, size);
            if window.is_some() {
                return window;
            }
        }
    }
    if needed.is_zero() {
        return None;
    }
    // Too tight for a window aligned to its size: whatever holds it, on one side of the hole if possible.
    let all = free
        .ranges()
        .first()
        .zip(free.ranges().last())
        .and_then(|(first, last)| Range::new(first.start(), last.end()))?;
    let sides = holes.iter().flat_map(|hole| all.without(*hole)).chain([all]);
    let free = sides.map(|side| free.within(side)).find(|part| content.fits(part))?;
    Some(HighWindow { window: None, free })
}

/// The lowest window of `size` bytes, aligned to its size, that holds the content.
fn aligned(free: &FreeSpace, holes: &[Range], content: &Content, size: Size) -> Option<HighWindow> {
    let lowest = free.ranges().first()?.start();
    let highest = free.ranges().last()?.end();
    let first = match content.kept {
        Some(kept) => kept.start().align_down(size),
        None => lowest.align_up(size)?,
    };
    if first < lowest.min(content.kept.map_or(lowest, Range::start)) {
        return None;
    }
    std::iter::successors(Some(first), |start| start.checked_add(size))
        .take(TRIES)
        .map_while(|start| Range::sized(start, size).filter(|window| window.end() <= highest))
        .filter(|window| content.kept.is_none_or(|kept| window.contains(kept)))
        .filter(|window| holes.iter().all(|hole| !hole.overlaps(*window)))
        .map(|window| HighWindow { window: Some(window), free: free.within(window) })
        .find(|window| content.fits(&window.free))
}

/// The lowest and highest address of what was placed, as a window.
pub fn around(blocks: impl Iterator<Item = Range>) -> Option<Range> {
    let (start, end) = blocks.fold((Address::new(u64::MAX), Address::ZERO), |(start, end), block| {
        (start.min(block.start()), end.max(block.end()))
    });
    Range::new(start, end)
}
