// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which BARs share pages, which start in the middle of one, and which functions therefore belong together.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{BarPlace, Code, Finding, Severity, list};
use super::remedy;
use crate::address::{Range, Size};
use crate::pci::{BarKind, Sbdf};
use crate::source::host::{Host, HostDevice};

/// A memory BAR that has its place.
#[derive(Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) device: &'a HostDevice,
    pub(super) bar: BarPlace,
    pub(super) range: Range,
}

/// Every memory BAR of the host that has an address, in address order; the firmware's copy of a ROM is memory, no BAR.
pub(super) fn placed(host: &Host) -> Vec<Placed<'_>> {
    let mut all: Vec<Placed<'_>> = host
        .devices()
        .flat_map(|device| {
            device
                .memory_bars()
                .filter(|(bar, _)| !(device.shadow_rom && bar.reg == 0x30))
                .map(move |(bar, range)| Placed { device, bar: BarPlace::new(device.sbdf, bar), range })
        })
        .collect();
    all.sort_by_key(|placed| (placed.range, placed.bar));
    all
}

/// The whole pages that a range touches.
fn pages(range: Range, page: Size) -> Option<Range> {
    Range::new(range.start().align_down(page), range.end().align_up(page)?)
}

/// Runs of BARs that hang together by common pages, with those pages; BARs alone on theirs are left out.
fn clusters<'a>(placed: &[Placed<'a>], page: Size) -> Vec<(Range, Vec<Placed<'a>>)> {
    let mut runs: Vec<(Range, Vec<Placed<'a>>)> = Vec::new();
    for item in placed {
        let Some(own) = pages(item.range, page) else { continue };
        match runs.last_mut() {
            Some((range, members)) if range.overlaps(own) => {
                members.push(*item);
                if let Some(wider) = Range::new(range.start(), range.end().max(own.end())) {
                    *range = wider;
                }
            }
            _ => runs.push((own, vec![*item])),
        }
    }
    runs.retain(|(_, members)| members.len() > 1);
    runs
}

fn functions(members: &[Placed<'_>]) -> Vec<Sbdf> {
    members.iter().map(|member| member.device.sbdf).collect::<BTreeSet<_>>().into_iter().collect()
}

fn places(members: &[Placed<'_>]) -> Vec<BarPlace> {
    let mut bars: Vec<BarPlace> = members.iter().map(|member| member.bar).collect();
    bars.sort_unstable();
    bars
}

/// Pages shared between functions and within one.
pub(super) fn shared(host: &Host, placed: &[Placed<'_>], page: Size) -> Vec<Finding> {
    let mut found = Vec::new();
    for (range, members) in clusters(placed, page) {
        let owners = functions(&members);
        if owners.len() > 1 {
            found.push(between(host, range, &members, &owners, page));
        }
        let mut own: BTreeMap<Sbdf, Vec<Placed<'_>>> = BTreeMap::new();
        for member in &members {
            own.entry(member.device.sbdf).or_default().push(*member);
        }
        for (sbdf, members) in own.into_iter().filter(|(_, members)| members.len() > 1) {
            found.push(Finding {
                code: Code::SharedPageWithin,
                severity: Severity::Functional,
                devices: vec![sbdf],
                bars: places(&members),
                page: Some(range.into()),
                consequence: format!(
                    "{} of {sbdf} lie on one {page} page, which a guest cannot have in several places: at most one \
                     of them works in a guest.",
                    list(members.iter().map(|member| member.bar)),
                ),
                remedy: remedy::alignment(host, &[sbdf], page),
            });
        }
    }
    found
}

fn between(host: &Host, range: Range, members: &[Placed<'_>], owners: &[Sbdf], page: Size) -> Finding {
    let overlapping = members
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.range.overlaps(b.range) && a.device.sbdf != b.device.sbdf));
    let bridges: BTreeSet<Sbdf> = members
        .iter()
        .filter(|member| member.device.bridge.is_some())
        .map(|member| member.bar.sbdf)
        .collect();
    let together = if bridges.is_empty() {
        "they go to the same guest or to none".to_owned()
    } else {
        format!("{} stays with the host as a bridge, so the others go to no guest", list(&bridges))
    };
    let (code, consequence) = if overlapping {
        let what = "claim the same addresses: an access reaches one of them or both, whoever owns them";
        (Code::OverlappingBars, format!("{} {what}; {together}.", list(owners)))
    } else {
        let what = format!("have BARs on one {page} page (XSA-461): whoever gets one can drive the others");
        (Code::SharedPage, format!("{} {what}; {together}.", list(owners)))
    };
    let mut remedy = remedy::alignment(host, owners, page);
    if overlapping {
        let advice = "let the kernel place them anew, or change the firmware's PCI settings";
        remedy = super::finding::Remedy::argument("pci=realloc", advice);
    }
    Finding {
        code,
        severity: Severity::Security,
        devices: owners.to_vec(),
        bars: places(members),
        page: Some(range.into()),
        consequence,
        remedy,
    }
}

/// Functions with memory BARs that do not start a page.
pub(super) fn unaligned(host: &Host, placed: &[Placed<'_>], page: Size) -> Vec<Finding> {
    let mut own: BTreeMap<Sbdf, Vec<Placed<'_>>> = BTreeMap::new();
    for item in placed.iter().filter(|item| !item.range.start().is_aligned(page)) {
        // What cannot be given to a guest cannot be mapped into it.
        if item.device.bridge.is_none() {
            own.entry(item.device.sbdf).or_default().push(*item);
        }
    }
    let finding = |(sbdf, members): (Sbdf, Vec<Placed<'_>>)| Finding {
        code: Code::UnalignedBar,
        severity: Severity::Security,
        devices: vec![sbdf],
        bars: places(&members),
        page: None,
        consequence: unaligned_consequence(sbdf, &places(&members), page),
        remedy: remedy::alignment(host, &[sbdf], page),
    };
    own.into_iter().map(finding).collect()
}

/// What can happen with memory BARs that do not start a page.
pub(super) fn unaligned_consequence(whose: impl std::fmt::Display, bars: &[BarPlace], page: Size) -> String {
    format!(
        "{} of {whose} {} not start a {page} page: QEMU maps the page after it into the guest, which is not \
         the device's, and the guest does not reach its registers.",
        list(bars),
        if bars.len() == 1 { "does" } else { "do" },
    )
}

/// The page sizes at which each BAR of the function starts a page and no other function's BAR is on its pages; none
/// where a memory BAR has no address.
pub(super) fn page_sizes(placed: &[Placed<'_>], device: &HostDevice, sizes: &[Size]) -> Vec<Size> {
    let missing =
        |kind: BarKind, address: Option<_>| kind.is_memory() && kind != BarKind::Rom && address.is_none();
    if device.device.bars.iter().any(|bar| missing(bar.kind, bar.host_address))
        || device.unsized_bars.iter().any(|bar| bar.kind.is_memory() && bar.kind != BarKind::Rom)
    {
        return Vec::new();
    }
    let fits = |page: Size| {
        placed.iter().filter(|item| item.device.sbdf == device.sbdf).all(|item| {
            let alone = pages(item.range, page).is_some_and(|own| {
                placed
                    .iter()
                    .filter(|other| other.device.sbdf != device.sbdf)
                    .all(|other| !own.overlaps(other.range))
            });
            alone && item.range.start().is_aligned(page)
        })
    };
    sizes.iter().copied().filter(|page| fits(*page)).collect()
}

/// The functions that go to the same guest or to none, by what was found; each set ascending.
pub(super) fn groups(findings: &[Finding]) -> Vec<Vec<Sbdf>> {
    let mut groups: Vec<BTreeSet<Sbdf>> = Vec::new();
    let together = |finding: &&Finding| matches!(finding.code, Code::SharedPage | Code::OverlappingBars);
    for finding in findings.iter().filter(together) {
        let mut merged: BTreeSet<Sbdf> = finding.devices.iter().copied().collect();
        groups.retain(|group| {
            let apart = group.is_disjoint(&merged);
            if !apart {
                merged.extend(group);
            }
            apart
        });
        groups.push(merged);
    }
    groups.sort();
    groups.into_iter().map(|group| group.into_iter().collect()).collect()
}
