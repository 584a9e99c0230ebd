// SPDX-License-Identifier: LGPL-2.1-or-later
//! A loader's log against a prediction, and a guest made of nothing but a log.

use std::collections::{BTreeMap, BTreeSet};

use super::Difference;
use crate::address::Address;
use crate::guest::{ALLOW_MEMORY_RELOCATE, Guest, MMIO_HOLE_SIZE};
use crate::hvmloader::Prediction;
use crate::pci::{Bar, BarKind, Bdf, Device};
use crate::source::hvmloader_log::{LoggedBar, Run};

/// In what a log and a predicted one differ: BAR by BAR, then the first other line.
pub fn log_differences(recorded: &Run, predicted: &Prediction) -> Vec<Difference> {
    let predicted = Run { domid: None, lines: predicted.log.clone().unwrap_or_default() };
    let mut found = bar_differences(recorded, &predicted);
    let others = |run: &Run| -> Vec<String> {
        run.pci_setup().filter(|line| !line.contains(" bar ")).map(str::to_owned).collect()
    };
    let (was, is) = (others(recorded), others(&predicted));
    if let Some(at) = (0..was.len().max(is.len())).find(|&at| was.get(at) != is.get(at)) {
        let line =
            |lines: &[String]| lines.get(at).map_or("no line".to_owned(), |line| format!("\"{line}\""));
        found.push(Difference {
            what: "the loader's log".to_owned(),
            recorded: line(&was),
            predicted: line(&is),
        });
    }
    found
}

/// In what the BARs of two logs differ.
pub fn bar_differences(recorded: &Run, predicted: &Run) -> Vec<Difference> {
    let by_name = |run: &Run| run.bars().map(|bar| ((bar.bdf, bar.reg), bar)).collect::<BTreeMap<_, _>>();
    let (was, is) = (by_name(recorded), by_name(predicted));
    let mut found = Vec::new();
    for at in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
        let shown = |side: &BTreeMap<_, LoggedBar>| match side.get(at) {
            None => "no such BAR".to_owned(),
            Some(LoggedBar { size, logged: Some(logged), .. }) => format!("{size} as 0x{logged:x}"),
            Some(LoggedBar { size, logged: None, .. }) => format!("{size} without a place"),
        };
        let (recorded, predicted) = (shown(&was), shown(&is));
        if recorded != predicted {
            let (bdf, reg) = at;
            found.push(Difference { what: format!("{bdf} BAR {reg:02x}"), recorded, predicted });
        }
    }
    let order = |run: &Run| {
        run.bars().map(|bar| format!("{} {:02x}", bar.bdf, bar.reg)).collect::<Vec<_>>().join(", ")
    };
    if found.is_empty() && order(recorded) != order(predicted) {
        let (recorded, predicted) = (order(recorded), order(predicted));
        found.push(Difference { what: "order of BARs".to_owned(), recorded, predicted });
    }
    found
}

/// In what a guest's first look at its BARs and the predicted registers differ.
///
/// The look is Linux's: `pci 0000:00:04.0: BAR 2 [mem 0x2e0000000-0x2efffffff 64bit pref]`, before 6.9
/// `reg 0x18: [mem ...]`; what it reassigns later is another story, and so is a device that came later. A BAR at 0 is an
/// emulated disk's or card's that a guest with Xen's drivers has unplugged before its look: QEMU resets it then.
pub fn guest_differences(guest: &Guest, guest_log: &str, predicted: &Prediction) -> Vec<Difference> {
    let mut seen: BTreeMap<(Bdf, u8), Address> = BTreeMap::new();
    let looks = guest_log.lines().filter_map(first_look);
    for (at, address) in looks.filter(|(_, address)| *address != Address::ZERO) {
        seen.entry(at).or_insert(address);
    }
    let mut found = Vec::new();
    for bar in &predicted.bars {
        let device = guest.devices.iter().find(|device| device.bdf == bar.bdf);
        let Some(kind) = device.and_then(|device| kind_of(device, bar.reg)) else { continue };
        let (Some(address), Some(&recorded)) = (bar.address, seen.get(&(bar.bdf, bar.reg))) else { continue };
        let bits = if kind == BarKind::Io { 3 } else { 0xf };
        let predicted = bar.register.map_or(address, |register| Address::new(register & !bits));
        if recorded != predicted {
            found.push(Difference {
                what: format!("{} BAR {:02x} in the guest", bar.bdf, bar.reg),
                recorded: recorded.to_string(),
                predicted: predicted.to_string(),
            });
        }
    }
    found
}

fn kind_of(device: &Device, reg: u8) -> Option<BarKind> {
    device.bars.iter().find(|bar| bar.reg == reg).map(|bar| bar.kind)
}

/// Linux's line about a BAR as it found it.
fn first_look(line: &str) -> Option<((Bdf, u8), Address)> {
    let (function, rest) = line.split_once("pci 0000:")?.1.split_once(": ")?;
    let bdf: Bdf = function.parse().ok()?;
    let (name, resource) = rest.split_once('[')?;
    let name = name.trim_end().trim_end_matches(':');
    let reg = match name.strip_prefix("BAR ") {
        Some(number) => number.parse::<u8>().ok()?.checked_mul(4)?.checked_add(0x10)?,
        None if name == "ROM" => 0x30,
        None => u8::from_str_radix(name.strip_prefix("reg 0x")?, 16).ok()?,
    };
    // What follows the bracket is about what the kernel did with it.
    let resource = resource.strip_suffix(']')?;
    let start = resource.trim_start_matches(|c: char| !c.is_ascii_digit()).strip_prefix("0x")?;
    let (start, _) = start.split_once('-')?;
    Some(((bdf, reg), Address::new(u64::from_str_radix(start, 16).ok()?)))
}

/// What a log alone says about its guest: the BARs, the interrupts, RAM, the hole. Everything else (whose devices they
/// are, what they do) it does not say.
pub fn guest_of(run: &Run) -> Guest {
    let mut devices: BTreeMap<Bdf, Device> = BTreeMap::new();
    // The interrupt links are the ISA bridge's.
    if let Some(bdf) = Bdf::new(0, 1, 0) {
        devices.insert(bdf, Device::new(bdf, (0x8086, 0x7000), 0x0601));
    }
    let unknown = |bdf| Device::new(bdf, (0, 0), 0);
    for (bdf, pin) in run.interrupt_pins() {
        devices.entry(bdf).or_insert_with(|| unknown(bdf)).int_pin = pin;
    }
    for bar in run.bars() {
        devices.entry(bar.bdf).or_insert_with(|| unknown(bar.bdf)).bars.push(as_found(&bar));
    }
    let low_end = run.ram().map(|ram| ram.end()).filter(|&end| end <= Address::FOUR_GIB).max();
    let moved = run.pages_relocated();
    let frame = |end: Option<Address>| end.map_or(0, |end| end.get() >> 12);
    let low = frame(low_end).saturating_add(moved);
    let high = frame(run.high_ram_end()).saturating_sub(moved);
    let high = if high <= Address::FOUR_GIB.get() >> 12 { 0 } else { high };
    let mut guest = Guest::new(low, high, run.phys_bits().unwrap_or(36));
    guest.devices = devices.into_values().collect();
    if let Some(may) = run.may_relocate() {
        guest.xenstore.insert(ALLOW_MEMORY_RELOCATE.to_owned(), u8::from(may).to_string());
    }
    if let Some(hole) = run.asked_hole() {
        guest.xenstore.insert(MMIO_HOLE_SIZE.to_owned(), hole.get().to_string());
    }
    guest
}

/// The BAR that the loader must have found to log this.
fn as_found(bar: &LoggedBar) -> Bar {
    let bits = bar.logged.unwrap_or_default();
    let kind = match bits {
        _ if bar.reg == 0x30 => BarKind::Rom,
        bits if bits & 1 != 0 => BarKind::Io,
        bits if bits & 6 == 4 => BarKind::Mem64,
        bits if bits & 6 == 2 => BarKind::Mem1m,
        _ => BarKind::Mem32,
    };
    Bar {
        reg: bar.reg,
        kind,
        size: bar.size,
        prefetch: kind.is_memory() && kind != BarKind::Rom && bits & 8 != 0,
        // A ROM among the ports is one whose enable bit was set.
        value: u64::from(kind == BarKind::Rom && bar.is_io()),
        io16: false,
        host_address: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hvmloader::{Release, predict};
    use crate::source::hvmloader_log::runs;

    const LOG: &str = "\
(d1) HVM Loader\n(d1) Relocating guest memory for lowmem MMIO space enabled\n\
(d1) pci dev 05:0 INTA->IRQ10\n\
(d1) Relocating 0x10000 pages from 0e0000000 to 100000000 for lowmem MMIO hole\n\
(d1) RAM in high memory; setting high_mem resource base to 110000000\n\
(d1) pci dev 05:0 bar 14 size 010000000: 0e000000c\n(d1) pci dev 05:0 bar 10 size 000004000: 0f0000000\n\
(d1) pci dev 05:0 bar 1c size 000000100: 00000c001\n\
(d1)  [02]: 00000000:00100000 - 00000000:e0000000: RAM\n\
(d1)  [05]: 00000001:00000000 - 00000001:10000000: RAM\n";

    #[test]
    fn a_guest_made_of_a_log_gives_that_log() {
        let run = &runs(LOG)[0];
        let guest = guest_of(run);
        assert_eq!(
            (guest.low_mem_pgend, guest.high_mem_pgend),
            (0xf0000, 0),
            "RAM as it was before it was moved"
        );
        let predicted = predict(&guest, Release::NEWEST).unwrap();
        let lines = Run { domid: None, lines: predicted.log.clone().unwrap() };
        assert_eq!(bar_differences(run, &lines), []);
    }

    #[test]
    fn a_bar_that_moved_and_one_that_is_missing_are_told() {
        let run = &runs(LOG)[0];
        let other = &runs(&LOG.replace(": 0f0000000", ": 0f0000800").replace("bar 1c", "bar 20"))[0];
        let texts: Vec<_> = bar_differences(run, other).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "00:05.0 BAR 10: recorded 16K as 0xf0000000, predicted 16K as 0xf0000800",
                "00:05.0 BAR 1c: recorded 256 as 0xc001, predicted no such BAR",
                "00:05.0 BAR 20: recorded no such BAR, predicted 256 as 0xc001"
            ]
        );
    }

    #[test]
    fn a_guest_s_first_look_is_told_from_what_it_does_later() {
        let look = |line: &str| first_look(line).map(|((bdf, reg), at)| (bdf.devfn(), reg, at.get()));
        assert_eq!(
            look("[    2.367212] pci 0000:00:04.0: BAR 2 [mem 0x2e0000000-0x2efffffff 64bit pref]"),
            Some((0x20, 0x18, 0x2_e000_0000))
        );
        assert_eq!(look("[0.7] pci 0000:00:02.0: reg 0x10: [io  0xc000-0xc0ff]"), Some((0x10, 0x10, 0xc000)));
        assert_eq!(
            look("pci 0000:00:03.0: ROM [mem 0xf3000000-0xf300ffff pref]"),
            Some((0x18, 0x30, 0xf300_0000))
        );
        for line in [
            "pci 0000:00:04.0: BAR 2 [mem 0xe0000000-0xefffffff 64bit pref]: assigned",
            "pci 0000:00:04.0: BAR 2 [mem size 0x10000000 64bit pref]",
            "pci 0000:00:01.1: BAR 0 [io  0x01f0-0x01f7]: legacy IDE quirk",
        ] {
            assert_eq!(look(line), None, "{line}");
        }
    }

    #[test]
    fn the_guest_s_view_of_a_stale_upper_half_is_compared() {
        let text = r#"{"phys_bits": 40, "low_mem_pgend": 131072, "devices": [{"bdf": "00:04.0", "vendor": 1, "device": 2,
            "class": 3, "bars": [{"reg": 24, "kind": "mem64", "size": 268435456, "value": 10737418240}]}]}"#;
        let guest = crate::source::description::parse(text).unwrap();
        let predicted = predict(&guest, Release::NEWEST).unwrap();
        let seen = |at: &str| {
            guest_differences(&guest, &format!("pci 0000:00:04.0: BAR 2 [mem {at}-0x0 64bit]"), &predicted)
        };
        assert_eq!(seen("0x2e0000000"), []);
        assert_eq!(seen("0x00000000"), [], "unplugged");
        assert_eq!(
            seen("0xe0000000")[0].to_string(),
            "00:04.0 BAR 18 in the guest: recorded 0xe0000000, predicted 0x2e0000000"
        );
    }
}
