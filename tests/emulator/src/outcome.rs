// SPDX-License-Identifier: GPL-2.0-only
//! A run as the corpus records one: the `output` object of tests/corpus/FORMAT.md.

use serde_json::{Map, Value, json};

use crate::config_space::register;
use crate::guest::{Bar, BarKind, Bdf, Device, Guest, MapEntry};
use crate::machine::Run;

/// What the loader says before it looks at memory map and PCI; no part of the recorded log.
const PREAMBLE: [&str; 5] =
    ["HVM Loader", "Detected Xen v", "Xenbus rings @", "System requested ", "CPU speed is "];

/// A BAR's line in the loader's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placement {
    bdf: Bdf,
    register: u8,
    size: u64,
    /// What the loader wrote; none for "no space for resource!".
    content: Option<u64>,
}

/// `pci dev SS:F bar RR size SIZE: CONTENT`, all hexadecimal.
fn placement(line: &str) -> Option<Placement> {
    let (place, rest) = line.strip_prefix("pci dev ")?.split_once(" bar ")?;
    let (slot, function) = place.split_once(':')?;
    let (register, rest) = rest.split_once(" size ")?;
    let (size, content) = rest.split_once(": ")?;
    let small = |digits| u8::from_str_radix(digits, 16).ok();
    let large = |digits| u64::from_str_radix(digits, 16).ok();
    Some(Placement {
        bdf: Bdf::on_root(small(slot)?, small(function)?),
        register: small(register)?,
        size: large(size)?,
        content: if content == "no space for resource!" { None } else { Some(large(content)?) },
    })
}

fn declared(guest: &Guest, place: Placement) -> Option<BarKind> {
    let device = guest.devices.iter().find(|device| device.bdf == place.bdf)?;
    device.bars.iter().find(|bar| bar.reg == place.register).map(|bar| bar.kind)
}

/// A BAR's bytes: 8 if it is declared so, or if it is some other register that the loader must take for such a BAR.
fn width(kind: Option<BarKind>, run: &Run, bdf: Bdf, register: u8) -> usize {
    let looks_wide = || register != 0x30 && run.bus.peek(bdf, register, 4) & 7 == 4;
    if kind.map_or_else(looks_wide, |kind| kind == BarKind::Mem64) { 8 } else { 4 }
}

fn bar(guest: &Guest, run: &Run, place: Placement) -> Value {
    let kind = declared(guest, place);
    let content = run.bus.peek(place.bdf, place.register, width(kind, run, place.bdf, place.register));
    let is_io = place.content.unwrap_or(content) & 1 != 0;
    let address = place.content.map(|content| {
        let flags = if is_io { 3 } else { 0xf };
        content & !flags
    });
    let mut bar = json!({
        "bdf": place.bdf, "reg": place.register, "size": place.size, "address": address,
    });
    let mut put = |name: &str, value: Value| {
        bar.as_object_mut().into_iter().for_each(|bar| {
            bar.insert(name.to_owned(), value.clone());
        });
    };
    if address.is_some_and(|address| address >> 32 != 0) {
        put("above_4g", true.into());
    }
    if is_io != (kind == Some(BarKind::Io)) {
        put("space", if is_io { "io" } else { "mem" }.into());
    }
    if place.content != Some(content) {
        put("register", content.into());
    }
    bar
}

fn by_function<'a>(devices: &'a [Device], value: impl Fn(&'a Device) -> Option<Value>) -> Value {
    let entries = devices.iter().filter_map(|device| Some((device.bdf.to_string(), value(device)?)));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// The `output` object.
pub fn outcome(guest: &Guest, run: &Run) -> Value {
    let placements: Vec<Placement> = run.lines.iter().filter_map(|line| placement(line)).collect();
    let log = run.lines.iter().skip_while(|line| PREAMBLE.iter().any(|start| line.starts_with(start)));
    let moved: u32 = run.relocations.iter().map(|relocation| relocation.pages).sum();
    let mut output = json!({
        "result": if run.crashed { "crash" } else { "ok" },
        "bars": placements.iter().map(|place| bar(guest, run, *place)).collect::<Vec<_>>(),
        "command": by_function(&guest.devices, |device| Some(run.bus.peek(device.bdf, register::COMMAND, 2).into())),
        "int_line": by_function(&guest.devices, |device| {
            let line = run.bus.peek(device.bdf, register::INTERRUPT_LINE, 1);
            (line != u64::from(device.int_line)).then(|| line.into())
        }),
        "low_mem_pgend": run.low_mem_pgend,
        "high_mem_pgend": run.high_mem_pgend,
        "pages_relocated": moved,
        "igd_opregion_pgbase": run.bus.opregion() >> 12,
        "log": log.collect::<Vec<_>>(),
    });
    let Some(fields) = output.as_object_mut() else { return output };
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    if let Some(windows) = run.windows {
        put("pci_mem_start", windows.pci_mem_start.into());
        put("pci_mem_end", windows.pci_mem_end.into());
        put("pci_hi_mem_start", windows.pci_hi_mem_start.into());
        put("pci_hi_mem_end", windows.pci_hi_mem_end.into());
    }
    // A crash ends the scan, so what the loader then never saw says nothing.
    let ignored: Vec<Value> = if run.crashed { Vec::new() } else { ignored(guest, &placements) };
    if !ignored.is_empty() {
        put("ignored_bars", ignored.into());
    }
    if !run.relocations.is_empty() {
        let relocation =
            |r: &crate::hypercall::Relocation| json!({"idx": r.idx, "gpfn": r.gpfn, "pages": r.pages});
        put("relocations", run.relocations.iter().map(relocation).collect());
    }
    if let Some(map) = run.memory_map.as_ref().filter(|map| **map != guest.loaders_map()) {
        let entry = |entry: &MapEntry| json!({"addr": entry.addr, "size": entry.size, "type": entry.kind});
        put("memory_map", map.iter().map(entry).collect());
    }
    output
}

fn ignored(guest: &Guest, placements: &[Placement]) -> Vec<Value> {
    let mut ignored = Vec::new();
    for device in &guest.devices {
        for bar in &device.bars {
            if !placements.iter().any(|place| (place.bdf, place.register) == (device.bdf, bar.reg)) {
                ignored.push(json!({"bdf": device.bdf, "reg": bar.reg, "kind": bar.kind, "size": bar.size}));
            }
        }
    }
    ignored
}

/// What every declared BAR's register holds, by function and offset (decimal): 64 bits for a 64-bit BAR.
pub fn registers(guest: &Guest, run: &Run) -> Value {
    by_function(&guest.devices, |device| {
        let content = |bar: &Bar| {
            let width = width(Some(bar.kind), run, device.bdf, bar.reg);
            run.bus.peek(device.bdf, bar.reg, width)
        };
        let entries = device.bars.iter().map(|bar| (bar.reg.to_string(), content(bar).into()));
        (!device.bars.is_empty()).then(|| Value::Object(entries.collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placed_bar_and_an_unplaced_one_are_read_from_their_lines() {
        let bdf = Bdf::on_root(4, 1);
        let read = |line: &str| placement(line).unwrap();
        assert_eq!(
            read("pci dev 04:1 bar 14 size 400000000: 40000000c"),
            Placement { bdf, register: 0x14, size: 1 << 34, content: Some(0x4_0000_000c) }
        );
        assert_eq!(
            read("pci dev 04:1 bar 30 size 000040000: no space for resource!"),
            Placement { bdf, register: 0x30, size: 0x4_0000, content: None }
        );
        assert_eq!(placement("pci dev 04:1 INTA->IRQ10"), None);
    }
}
