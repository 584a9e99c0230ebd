// SPDX-License-Identifier: LGPL-2.1-or-later
//! What has changed since an audit was saved: BARs that moved, grew, vanished; functions that came or went.

use std::collections::BTreeMap;

use super::finding::{BarPlace, Code, Finding, Remedy, Severity, bar_name};
use super::{AuditedBar, AuditedDevice, Report, SCHEMA};
use crate::pci::Sbdf;

/// What is wrong with a saved audit.
#[derive(Debug, thiserror::Error)]
pub enum SavedAuditError {
    /// It is no audit in JSON.
    #[error("is no saved audit (audit --format json): {0}")]
    Shape(#[from] serde_json::Error),
    /// It is of another version.
    #[error("schema \"{0}\" is not known here, only \"{SCHEMA}\"")]
    Schema(String),
}

/// Reads an audit that was saved with `--format json`.
///
/// # Errors
///
/// That it is none.
pub fn read_saved(text: &str) -> Result<Report, SavedAuditError> {
    let report: Report = serde_json::from_str(text)?;
    if report.schema == SCHEMA { Ok(report) } else { Err(SavedAuditError::Schema(report.schema)) }
}

/// Adds what has changed since `saved` to `report`. Functions that only one of the two was asked about do not count,
/// except that one which was there and is not any more is named where `all` functions were asked about.
pub fn changes(report: &mut Report, saved: &Report, all: bool) {
    let before: BTreeMap<Sbdf, &AuditedDevice> =
        saved.devices.iter().map(|device| (device.sbdf, device)).collect();
    let mut found: Vec<Finding> =
        report.devices.iter().filter_map(|now| changed(before.get(&now.sbdf)?, now)).collect();
    let gone =
        saved.devices.iter().filter(|device| !report.devices.iter().any(|now| now.sbdf == device.sbdf));
    if all {
        found.extend(
            gone.map(|device| finding(device.sbdf, Vec::new(), "is not on this host any more".to_owned())),
        );
    }
    report.findings.extend(found);
    super::sort(&mut report.findings);
}

fn finding(sbdf: Sbdf, bars: Vec<BarPlace>, what: String) -> Finding {
    Finding {
        code: Code::Changed,
        severity: Severity::Functional,
        devices: vec![sbdf],
        bars,
        page: None,
        consequence: format!("{sbdf} {what}: what was planned with the saved audit may not fit any more."),
        remedy: Remedy::advice(
            "plan guests that have the device anew; if nobody changed the hardware, compare the firmware's \
             and the kernel's settings; if the change is wanted, save this audit in place of the old one",
        ),
    }
}

fn changed(before: &AuditedDevice, now: &AuditedDevice) -> Option<Finding> {
    if (before.vendor, before.device) != (now.vendor, now.device) {
        let what = format!(
            "is {:04x}:{:04x} where it was {:04x}:{:04x}",
            now.vendor, now.device, before.vendor, before.device
        );
        return Some(finding(now.sbdf, Vec::new(), what));
    }
    let mut what = Vec::new();
    let mut bars = Vec::new();
    let find = |device: &AuditedDevice, reg| device.bars.iter().find(|bar| bar.reg == reg).cloned();
    let regs: std::collections::BTreeSet<u8> =
        before.bars.iter().chain(&now.bars).map(|bar| bar.reg).collect();
    for reg in regs {
        let (old, new) = (find(before, reg), find(now, reg));
        if old == new {
            continue;
        }
        let shown = |bar: &Option<AuditedBar>| bar.as_ref().map_or("nothing".to_owned(), describe);
        what.push(format!("{} is {} where it was {}", bar_name(reg), shown(&new), shown(&old)));
        let place = new.or(old);
        bars.extend(place.map(|bar| BarPlace {
            sbdf: now.sbdf,
            reg,
            address: bar.address,
            size: Some(bar.size),
        }));
    }
    (!what.is_empty()).then(|| finding(now.sbdf, bars, format!("has changed: {}", what.join(", "))))
}

fn describe(bar: &AuditedBar) -> String {
    let prefetch = if bar.prefetch { " prefetchable" } else { "" };
    let place = bar.address.map_or(" without an address".to_owned(), |address| format!(" at {address}"));
    format!("{} of {}{prefetch}{place}", bar.kind, bar.size)
}
