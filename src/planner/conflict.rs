// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which BARs cannot all be placed: a set as small as can be found, and whether it is proven that there is no smaller.
//!
//! Whether some BARs fit depends on how many there are of each kind and size, not on which. So the sets to be looked
//! at are few, and small conflicts are found by trying them all, the smallest first.

use std::collections::BTreeMap;

use super::Options;
use super::choose::possible;
use crate::address::Size;
use crate::guest::Guest;
use crate::layout::Blocking;
use crate::pci::{BarKind, Bdf, VirtualBar};

/// How many sets are tried to find a smaller one, and to thin one out.
const MOST_SETS: usize = 250;

/// BARs that cannot all be placed, and that could if any one of them were not there.
pub struct Conflict {
    /// The BARs, the largest first; none where hot-plug space or RAM is to blame.
    pub items: Vec<Item>,
    /// How it is known that no set is smaller.
    known: Known,
}

/// What is known of a conflict's size.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// No smaller set conflicts: all were tried.
    Smallest,
    /// Without any one of them the others fit; another set might be smaller.
    Irredundant,
    /// Not even that was tried to the end.
    TooMany,
}

/// A BAR, or one of all virtual functions of a physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The function.
    pub bdf: Bdf,
    /// The register.
    reg: u8,
    kind: BarKind,
    prefetch: bool,
    size: Size,
    bridge: Option<Bdf>,
    /// How many virtual functions; `None` for the function's own BAR.
    count: Option<u16>,
    /// The Xen platform device's BARs may lie above the low window.
    platform: bool,
}

/// What decides about where an item may go, all but which one it is.
type Class = (Size, BarKind, bool, Option<Bdf>, Option<u16>, bool);

impl Item {
    fn class(&self) -> Class {
        (self.size, self.kind, self.prefetch && self.bridge.is_some(), self.bridge, self.count, self.platform)
    }

    /// All that it takes.
    fn total(&self) -> Size {
        self.size.checked_mul(self.count.unwrap_or(1).into()).unwrap_or(Size::new(u64::MAX))
    }
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bdf, reg, size, kind, .. } = self;
        match self.count {
            None => write!(f, "{bdf} BAR 0x{reg:02x} ({size}, {kind})"),
            Some(count) => write!(f, "{bdf} VF BAR 0x{reg:02x} ({count} times {size}, {kind})"),
        }
    }
}

impl Conflict {
    /// Whether it is about ports alone.
    pub fn is_of_ports(&self) -> bool {
        !self.items.is_empty() && self.items.iter().all(|item| item.kind == BarKind::Io)
    }

    /// For a refusal's `blocking`.
    pub fn blocking(&self) -> Vec<Blocking> {
        let of = |item: &Item| Blocking { bdf: item.bdf, reg: item.reg, size: item.total() };
        self.items.iter().map(of).collect()
    }

    /// Who does not fit, as the start of a sentence.
    pub fn sentence(&self, guest: &Guest) -> String {
        let beside = if guest.reserve.is_empty() {
            String::new()
        } else {
            let (low, high) = (guest.reserve.low, guest.reserve.high);
            format!(" beside the hot-plug space asked for ({low} below 4G, {high} above)")
        };
        match self.items.as_slice() {
            [] => format!(
                "the hot-plug space asked for ({} below 4G, {} above)",
                guest.reserve.low, guest.reserve.high
            ),
            [one] => format!("{one}{beside}"),
            [first, .., last] if self.items.len() > 6 => {
                format!("{} BARs from {first} to {last} together{beside}", self.items.len())
            }
            [all @ .., last] => {
                let all: Vec<String> = all.iter().map(Item::to_string).collect();
                format!("{} and {last} together{beside}", all.join(", "))
            }
        }
    }

    /// How small the set is, as the end of a sentence.
    pub fn proof(&self) -> &'static str {
        match self.known {
            _ if self.items.len() < 2 => "",
            Known::Smallest => "; no fewer BARs conflict",
            Known::Irredundant => {
                "; without any one of them the others fit, though another set might be smaller"
            }
            Known::TooMany => "; fewer of them might conflict, too",
        }
    }
}

/// The guest's BARs and virtual functions' BARs, the largest first.
fn all_items(guest: &Guest) -> Vec<Item> {
    let mut items = Vec::new();
    for device in &guest.devices {
        let (bdf, bridge, platform) = (device.bdf, device.bridge, device.is_xen_platform());
        let own = device.bars.iter().map(|bar| (bar.reg, bar.kind, bar.prefetch, bar.size, None));
        let virtual_ones = device.sriov.iter().flat_map(|functions| {
            let of_all =
                |bar: &VirtualBar| (bar.reg, bar.kind, bar.prefetch, bar.size, Some(functions.total_vfs));
            functions.bars.iter().map(of_all)
        });
        items.extend(own.chain(virtual_ones).map(|(reg, kind, prefetch, size, count)| Item {
            bdf,
            reg,
            kind,
            prefetch,
            size,
            bridge,
            count,
            platform,
        }));
    }
    items.sort_by(|a, b| b.total().cmp(&a.total()).then(a.bdf.cmp(&b.bdf)).then(a.reg.cmp(&b.reg)));
    items
}

/// The guest with only these BARs.
fn with(guest: &Guest, kept: &[Item]) -> Guest {
    let mut guest = guest.clone();
    for device in &mut guest.devices {
        let bdf = device.bdf;
        let has = |reg: u8, virtual_functions: bool| {
            let same =
                |item: &&Item| (item.bdf, item.reg, item.count.is_some()) == (bdf, reg, virtual_functions);
            kept.iter().any(|item| same(&item))
        };
        device.bars.retain(|bar| has(bar.reg, false));
        if let Some(functions) = &mut device.sriov {
            functions.bars.retain(|bar| has(bar.reg, true));
        }
    }
    guest
}

/// BARs that cannot all be placed; none where even without any BAR there is no layout.
pub fn conflicting(guest: &Guest, options: &Options) -> Conflict {
    let mut tries = MOST_SETS;
    let mut items = all_items(guest);
    let fits = |kept: &[Item]| possible(&with(guest, kept), options);
    if fits(&[]) {
        // The shortest run of the largest that does not fit; what comes after it is not to blame.
        let (mut fitting, mut failing) = (0, items.len());
        while failing.saturating_sub(fitting) > 1 {
            let middle = fitting.midpoint(failing);
            if fits(items.get(..middle).unwrap_or_default()) { fitting = middle } else { failing = middle }
        }
        items.truncate(failing);
    } else {
        items.clear();
    }
    let thinned = thin_out(&mut items, &fits, &mut tries);
    let smaller = smaller_conflict(guest, items.len(), &fits, &mut tries);
    let known = match smaller {
        Some(Some(smaller)) => {
            items = smaller;
            Known::Smallest
        }
        Some(None) => Known::Smallest,
        None if thinned => Known::Irredundant,
        None => Known::TooMany,
    };
    Conflict { items, known }
}

/// Takes out whatever is not needed for the conflict, many at a time first; whether that was done to the end.
fn thin_out(items: &mut Vec<Item>, fits: &impl Fn(&[Item]) -> bool, tries: &mut usize) -> bool {
    let mut step = items.len().next_power_of_two();
    while step > 0 {
        let mut at = 0;
        while at < items.len() {
            let Some(left) = tries.checked_sub(1) else { return false };
            *tries = left;
            let mut without = items.clone();
            without.drain(at..at.saturating_add(step).min(items.len()));
            if !without.is_empty() && !fits(&without) {
                *items = without
            } else {
                at = at.saturating_add(step)
            }
        }
        step >>= 1;
    }
    true
}

/// A conflict of fewer than `than` BARs, the smallest; `Some(None)` where there is none, `None` where that would take
/// too many tries.
fn smaller_conflict(
    guest: &Guest,
    than: usize,
    fits: &impl Fn(&[Item]) -> bool,
    tries: &mut usize,
) -> Option<Option<Vec<Item>>> {
    let mut classes: BTreeMap<Class, Vec<Item>> = BTreeMap::new();
    for item in all_items(guest) {
        classes.entry(item.class()).or_default().push(item);
    }
    let classes: Vec<Vec<Item>> = classes.into_values().rev().collect();
    for count in 1..than {
        let mut sets = Vec::new();
        choose(&classes, count, &mut Vec::new(), &mut sets, *tries);
        for set in sets {
            *tries = tries.checked_sub(1)?;
            if !fits(&set) {
                return Some(Some(set));
            }
        }
    }
    Some(None)
}

/// Every way to take `count` items of the classes that differs in more than which one of a class it is; one more than
/// `most` ways at the most.
fn choose(
    classes: &[Vec<Item>],
    count: usize,
    taken: &mut Vec<Item>,
    sets: &mut Vec<Vec<Item>>,
    most: usize,
) {
    if count == 0 {
        sets.push(taken.clone());
        return;
    }
    let Some((class, rest)) = classes.split_first() else { return };
    for of_it in (0..=count.min(class.len())).rev() {
        if sets.len() > most {
            return;
        }
        let before = taken.len();
        taken.extend(class.iter().take(of_it));
        choose(rest, count.saturating_sub(of_it), taken, sets, most);
        taken.truncate(before);
    }
}
