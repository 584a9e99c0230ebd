// SPDX-License-Identifier: LGPL-2.1-or-later
//! The forecast against what real guests' kernels logged when devices were attached to them.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::collections::HashSet;
use std::fs;

use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::hotplug::{Present, forecast};
use xen_pci_layout::layout::{Layout, LayoutDevice, PlacedBar, Window, WindowKind};
use xen_pci_layout::pci::{Bar, BarKind, Bdf, Device};

/// A BAR as the kernel writes it: `BAR 2 [mem 0x90000000-0x9fffffff 64bit pref]` and what follows.
struct Line {
    reg: u8,
    kind: BarKind,
    prefetch: bool,
    /// Start and size; no start in `[mem size 0x10000000 64bit pref]`.
    start: Option<u64>,
    size: u64,
    tail: String,
}

impl Line {
    fn bar(&self) -> Bar {
        Bar::new(self.reg, self.kind, Size::new(self.size), self.prefetch)
    }
}

fn bar_line(text: &str) -> Option<Line> {
    let (name, rest) = text.split_once('[')?;
    let reg = match name.trim() {
        "ROM" => 0x30,
        name => 0x10 + 4 * name.strip_prefix("BAR ")?.parse::<u8>().ok()?,
    };
    let (inside, tail) = rest.split_once(']')?;
    let words: Vec<&str> = inside.split_whitespace().collect();
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (start, size) = match words[1] {
        "size" => (None, number(words[2])?),
        range => {
            let (first, last) = range.split_once('-')?;
            (Some(number(first)?), number(last)? - number(first)? + 1)
        }
    };
    let kind = match (reg, words[0]) {
        (0x30, _) => BarKind::Rom,
        (_, "io") => BarKind::Io,
        _ if words.contains(&"64bit") => BarKind::Mem64,
        _ => BarKind::Mem32,
    };
    Some(Line { reg, kind, prefetch: words.contains(&"pref"), start, size, tail: tail.trim().to_owned() })
}

/// Where each BAR went, by register; nowhere where the kernel found no place.
type Outcome = Vec<(u8, Option<u64>)>;

/// What a kernel's log tells: the guest as it was booted, and each device that came later with what became of it.
#[derive(Default)]
struct Log {
    layout: Layout,
    attached: Vec<(Device, Outcome)>,
}

fn read(paths: &[&str]) -> Log {
    let mut log = Log::default();
    log.layout.phys_bits = 40;
    let mut seen = HashSet::new();
    let mut booted = false;
    let text: String = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    for line in text.lines().filter(|line| seen.insert(line.to_string())) {
        let message = line.split_once("] ").map_or(line, |(_, message)| message);
        if let Some(window) = message.strip_prefix("pci_bus 0000:00: root bus resource [mem ") {
            let (first, last) =
                window.split(' ').next().unwrap().trim_end_matches(']').split_once('-').unwrap();
            let number = |text: &str| u64::from_str_radix(&text[2..], 16).unwrap();
            let (start, end) = (Address::new(number(first)), Address::new(number(last) + 1));
            if start.get() >= 1 << 20 {
                let kind = if start < Address::FOUR_GIB { WindowKind::Low } else { WindowKind::High };
                log.layout.windows.push(Window { kind, start, end });
            }
        }
        // The last that a kernel says about its buses while it boots.
        booted |= message.contains("Limiting direct PCI/PCI transfers");
        let Some((bdf, message)) = message.strip_prefix("pci 0000:").and_then(|rest| rest.split_once(": "))
        else {
            continue;
        };
        let bdf: Bdf = bdf.parse().unwrap();
        if let Some((ids, class)) =
            message.strip_prefix('[').and_then(|rest| rest.split_once("] type 00 class 0x"))
        {
            let (vendor, id) = ids.split_once(':').unwrap();
            let hex = |text: &str| u16::from_str_radix(text, 16).unwrap();
            let (vendor, device, class) = (hex(vendor), hex(id), hex(&class[..4]));
            if booted {
                log.attached.push((Device::new(bdf, (vendor, device), class), Vec::new()));
            } else {
                log.layout.devices.push(LayoutDevice::new(bdf, (vendor, device), class));
            }
            continue;
        }
        let Some(line) = bar_line(message) else { continue };
        if !booted {
            if line.tail.is_empty() {
                place(&mut log.layout, bdf, &line, line.start.unwrap());
            }
            continue;
        }
        let (device, outcomes) = log.attached.iter_mut().find(|(device, _)| device.bdf == bdf).unwrap();
        match line.tail.as_str() {
            "" => device.bars.push(line.bar()),
            ": assigned" => outcomes.push((line.reg, line.start)),
            ": can't assign; no space" => outcomes.push((line.reg, None)),
            ": failed to assign" => {}
            other => panic!("{other}"),
        }
    }
    log
}

fn place(layout: &mut Layout, bdf: Bdf, line: &Line, address: u64) {
    layout.bars.push(PlacedBar::new(bdf, &line.bar(), Address::new(address)));
}

/// Compares each attachment of a recording, on top of where the ones before it really went. Returns how many BARs.
fn compare(name: &str, files: &[&str]) -> usize {
    let paths: Vec<String> = files
        .iter()
        .map(|file| format!("{}/tests/recordings/{name}/{file}", env!("CARGO_MANIFEST_DIR")))
        .collect();
    let mut log = read(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    let mut compared = 0;
    for (device, mut outcomes) in log.attached {
        outcomes.sort_unstable();
        let predicted: Outcome = forecast::linux(&log.layout, &Present::default(), &device)
            .bars
            .iter()
            .map(|bar| (bar.reg, bar.address.map(Address::get)))
            .collect();
        assert_eq!(predicted, outcomes, "{name}: {} of {:#x?}", device.bdf, log.layout.bars);
        compared += outcomes.len();
        for (reg, address) in outcomes {
            let bar = device.bars.iter().find(|bar| bar.reg == reg).unwrap();
            let Some(address) = address else { continue };
            log.layout.bars.push(PlacedBar::new(device.bdf, bar, Address::new(address)));
        }
    }
    compared
}

#[test]
fn recorded_guests_put_hot_added_bars_where_the_forecast_says() {
    assert_eq!(compare("hp-hole2g", &["guest.log"]), 8);
    assert_eq!(compare("hp-highwin", &["guest.log"]), 3);
    assert_eq!(compare("hotadd-nvme-highwin", &["guest.log"]), 1);
    assert_eq!(
        compare("pt-hotplug", &["guest.log", "hotplug.log"]),
        8,
        "among them the bug of 2014: no space"
    );
}
