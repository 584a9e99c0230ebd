// SPDX-License-Identifier: LGPL-2.1-or-later
//! What `attach` and `detach` answer, for people and for programs.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::address::{Address, Size};
use crate::hotplug::forecast::{CHECKED_ON, ForecastBar};
use crate::hotplug::{Attachment, Detachment, Present, Room, Space, place_name, register_name};
use crate::layout::{Layout, PlacedBar, Refusal};
use crate::pci::{BarKind, Bdf, Device};

/// The version of attach's JSON.
const ATTACH: &str = "attach/1";
/// The version of detach's JSON.
const DETACH: &str = "detach/1";

/// A yes, as attach/1.
pub fn attached_json(device: &Device, found: &Attachment, committed: bool) -> Value {
    json!({
        "schema": ATTACH,
        "fits": true,
        "bdf": device.bdf,
        "host": device.host,
        "bars": found.bars,
        "forecast": found.forecast.bars,
        "forecast_system": {"name": "Linux", "checked_on": CHECKED_ON},
        "warnings": found.forecast.warnings,
        "already_attached": found.already,
        "committed": committed,
    })
}

/// A no, as attach/1.
pub fn refused_json(refusal: &Refusal) -> Value {
    json!({"schema": ATTACH, "fits": false, "error": refusal})
}

/// A yes, as detach/1.
pub fn detached_json(bdf: Bdf, found: &Detachment, committed: bool) -> Value {
    json!({
        "schema": DETACH,
        "detached": true,
        "bdf": bdf,
        "bars": found.bars,
        "free": rooms(&found.layout),
        "committed": committed,
    })
}

/// A no, as detach/1.
pub fn not_detached_json(refusal: &Refusal) -> Value {
    json!({"schema": DETACH, "detached": false, "error": refusal})
}

fn rooms(layout: &Layout) -> Vec<Value> {
    let space = Space::of(layout, &Present::default(), None);
    let room = |(kind, room): (&str, &Option<Room>)| {
        let room = room.as_ref()?;
        Some(json!({"window": kind, "free": room.bytes(), "largest_block": room.free.largest_block()}))
    };
    ["low", "high", "io"].into_iter().zip([&space.low, &space.high, &space.io]).filter_map(room).collect()
}

/// A yes, for people.
pub fn attached(out: &mut dyn Write, device: &Device, found: &Attachment, committed: bool) -> io::Result<()> {
    let name = device.host.map_or_else(
        || device.model.clone().unwrap_or_else(|| format!("{:04x}:{:04x}", device.vendor, device.device)),
        |host| host.to_string(),
    );
    let how = if found.already { "is attached already as" } else { "fits as" };
    writeln!(out, "{name} {how} {}", device.bdf)?;
    for bar in &found.bars {
        writeln!(out, "  {}", bar_line(bar))?;
    }
    write_forecast(out, found)?;
    for warning in &found.forecast.warnings {
        writeln!(out, "warning: {} [{}]", warning.message, warning.code)?;
    }
    writeln!(
        out,
        "{}",
        match (found.already, committed) {
            (true, _) => "nothing to record: it is there",
            (false, true) => "recorded: the space is taken",
            (false, false) => "nothing was recorded; --commit does that",
        }
    )
}

fn write_forecast(out: &mut dyn Write, found: &Attachment) -> io::Result<()> {
    let kernels = CHECKED_ON.join(", ");
    let differs = |bar: &&ForecastBar| {
        let own = found.bars.iter().find(|own| own.reg == bar.reg).map(|own| own.address);
        own != bar.address
    };
    let others: Vec<&ForecastBar> = found.forecast.bars.iter().filter(differs).collect();
    if others.is_empty() {
        return writeln!(
            out,
            "Linux in the guest would choose the same places (checked on kernels {kernels})"
        );
    }
    writeln!(out, "Linux in the guest would choose these instead (checked on kernels {kernels}):")?;
    for bar in others {
        writeln!(out, "  {:<4} {}", register_name(bar.reg), place_name(bar.address))?;
    }
    Ok(())
}

fn bar_line(bar: &PlacedBar) -> String {
    let last = |address: Address| address.get().saturating_add(bar.size.get()).saturating_sub(1);
    let place = if bar.kind == BarKind::Io {
        format!("port {:#x} - {:#x}", bar.address.get(), last(bar.address))
    } else {
        format!("{:#014x} - {:#014x}", bar.address.get(), last(bar.address))
    };
    let prefetchable = if bar.prefetch { " prefetchable" } else { "" };
    format!("{:<4} {place}  {:>6}  {}{prefetchable}", register_name(bar.reg), bar.size.to_string(), bar.kind)
}

/// A no, for people.
pub fn refused(out: &mut dyn Write, refusal: &Refusal) -> io::Result<()> {
    writeln!(out, "no: {}", refusal.message)?;
    if !refusal.remedy.is_empty() {
        writeln!(out, "what would help: {}", refusal.remedy)?;
    }
    Ok(())
}

/// A device that goes, for people.
pub fn detached(out: &mut dyn Write, bdf: Bdf, found: &Detachment, committed: bool) -> io::Result<()> {
    let sum = found
        .bars
        .iter()
        .filter(|bar| bar.kind.is_memory())
        .fold(Size::ZERO, |sum, bar| sum.saturating_add(bar.size));
    let verb = if committed { "is detached" } else { "would be detached" };
    writeln!(out, "{bdf} {verb}; {sum} of memory space is free again")?;
    for bar in &found.bars {
        writeln!(out, "  {}", bar_line(bar))?;
    }
    for (name, room) in Space::of(&found.layout, &Present::default(), None).named() {
        let largest = room.free.largest_block();
        writeln!(
            out,
            "{name} {} then has {} free, the largest aligned block {largest}",
            room.window,
            room.bytes()
        )?;
    }
    if !committed {
        writeln!(out, "nothing was recorded; --commit does that")?;
    }
    Ok(())
}
