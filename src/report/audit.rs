// SPDX-License-Identifier: LGPL-2.1-or-later
//! An audit for people: what was found, the worst first, then what each device can be used with.

use std::io::{self, Write};

use crate::address::Size;
use crate::audit::{AuditedDevice, Finding, Report, Severity, list};
use crate::guest::PAGE_SIZES;

/// Writes the whole report.
///
/// # Errors
///
/// What `out` says.
pub fn report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let mut remedy = None;
    for finding in &report.findings {
        write_finding(out, finding, remedy == Some(&finding.remedy))?;
        remedy = Some(&finding.remedy);
    }
    if let Some(argument) = report.kernel_argument.as_ref().filter(|_| remedies(report) > 1) {
        writeln!(out, "All the kernel arguments above in one: {argument}")?;
    }
    for group in &report.groups {
        writeln!(out, "To the same guest or to none: {}.", list(group))?;
    }
    for device in &report.devices {
        write_device(out, device, worst(report, device))?;
    }
    writeln!(out, "{}", summary(report))
}

/// How many different kernel arguments the findings ask for.
fn remedies(report: &Report) -> usize {
    let arguments = report.findings.iter().filter_map(|finding| finding.remedy.kernel_argument.as_deref());
    arguments.collect::<std::collections::BTreeSet<_>>().len()
}

fn write_finding(out: &mut dyn Write, finding: &Finding, same_remedy: bool) -> io::Result<()> {
    writeln!(out, "{}: {}: {}", list(&finding.devices), finding.severity, finding.code)?;
    writeln!(out, "    {}", finding.consequence)?;
    for bar in finding.bars.iter().filter(|_| finding.devices.len() > 1) {
        writeln!(out, "      {} {bar}", bar.sbdf)?;
    }
    if same_remedy {
        return writeln!(out, "    remedy: the one above\n");
    }
    writeln!(out, "    remedy: {}", finding.remedy.advice)?;
    if let Some(argument) = &finding.remedy.kernel_argument {
        writeln!(out, "      {argument}")?;
    }
    if let Some(cost) = &finding.remedy.cost {
        writeln!(out, "    cost: {cost}")?;
    }
    writeln!(out)
}

/// How bad what was found about a device is.
fn worst(report: &Report, device: &AuditedDevice) -> Option<Severity> {
    let about = report.findings.iter().filter(|finding| finding.devices.contains(&device.sbdf));
    about.map(|finding| finding.severity).max()
}

fn write_device(out: &mut dyn Write, device: &AuditedDevice, worst: Option<Severity>) -> io::Result<()> {
    let state = match worst {
        Some(Severity::Security) => "unsafe",
        Some(Severity::Functional) => "broken",
        Some(Severity::Note) | None => "safe",
    };
    let sizes: Vec<Size> = PAGE_SIZES.into_iter().filter(|size| device.page_sizes.contains(size)).collect();
    let sizes =
        if sizes.is_empty() { "at no page size".to_owned() } else { format!("at {} pages", list(sizes)) };
    let name = device.model.as_ref().map(|model| format!("{model} ")).unwrap_or_default();
    writeln!(
        out,
        "{} {state:<6} {sizes:<25} {name}[{:04x}:{:04x}]",
        device.sbdf, device.vendor, device.device
    )
}

fn summary(report: &Report) -> String {
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let (security, functional, notes) =
        (count(Severity::Security), count(Severity::Functional), count(Severity::Note));
    format!(
        "{} devices of {} at {} pages: {security} unsafe, {functional} broken, {notes} notes",
        report.devices.len(),
        report.host,
        report.page_size
    )
}
