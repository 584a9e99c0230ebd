// SPDX-License-Identifier: LGPL-2.1-or-later
//! In what a recorded and a predicted state differ, as a person would want to read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::hvmloader::{PredictedBar, Prediction};
use crate::pci::Bdf;

/// One difference: what it is about, what was recorded, and what is predicted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// What differs: a BAR, a register, a figure.
    pub what: String,
    /// What the loader did.
    pub recorded: String,
    /// What the model says.
    pub predicted: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: recorded {}, predicted {}", self.what, self.recorded, self.predicted)
    }
}

/// Everything in which two states differ. What the recorded one leaves out is not compared.
pub fn differences(recorded: &Prediction, predicted: &Prediction) -> Vec<Difference> {
    let mut found = Found(Vec::new());
    found.compare("result", &format!("{:?}", recorded.result), &format!("{:?}", predicted.result));
    found.bars(&recorded.bars, &predicted.bars);
    let ignored = |state: &Prediction| {
        let shown = |bar: &crate::hvmloader::IgnoredBar| {
            format!("{} {:02x} ({} of {})", bar.bdf, bar.reg, bar.kind, bar.size)
        };
        list(state.ignored_bars.iter().map(shown))
    };
    found.compare("BARs never seen", &ignored(recorded), &ignored(predicted));
    found.registers("command register", &recorded.command, &predicted.command);
    if let (Some(recorded), Some(predicted)) = (&recorded.int_line, &predicted.int_line) {
        found.registers("interrupt line", recorded, predicted);
    }
    for (what, number) in NUMBERS {
        let shown = |state| format!("0x{:x}", number(state));
        found.compare(what, &shown(recorded), &shown(predicted));
    }
    let moved = |state: &Prediction| {
        list(state.relocations.iter().map(|moved| {
            format!("0x{:x} pages from frame 0x{:x} to 0x{:x}", moved.pages, moved.idx, moved.gpfn)
        }))
    };
    found.compare("RAM moved", &moved(recorded), &moved(predicted));
    // A map that has not changed is left out, and so is one that was not recorded: the log tells them apart.
    if recorded.log.is_some() || recorded.memory_map.is_some() {
        let map = |state: &Prediction| match &state.memory_map {
            None => "unchanged".to_owned(),
            Some(map) => {
                list(map.iter().map(|entry| format!("{} {} type {}", entry.addr, entry.size, entry.kind)))
            }
        };
        found.compare("memory map", &map(recorded), &map(predicted));
    }
    if let (Some(recorded), Some(predicted)) = (&recorded.log, &predicted.log) {
        found.log(recorded, predicted);
    }
    found.0
}

type Number = (&'static str, fn(&Prediction) -> u64);

const NUMBERS: [Number; 8] = [
    ("low_mem_pgend", |state| state.low_mem_pgend),
    ("high_mem_pgend", |state| state.high_mem_pgend),
    ("pages relocated", |state| state.pages_relocated),
    ("pci_mem_start", |state| state.pci_mem_start.get()),
    ("pci_mem_end", |state| state.pci_mem_end.get()),
    ("pci_hi_mem_start", |state| state.pci_hi_mem_start.get()),
    ("pci_hi_mem_end", |state| state.pci_hi_mem_end.get()),
    ("OpRegion's frame", |state| state.igd_opregion_pgbase),
];

struct Found(Vec<Difference>);

impl Found {
    fn compare(&mut self, what: &str, recorded: &str, predicted: &str) {
        if recorded != predicted {
            let (recorded, predicted) = (recorded.to_owned(), predicted.to_owned());
            self.0.push(Difference { what: what.to_owned(), recorded, predicted });
        }
    }

    fn bars(&mut self, recorded: &[PredictedBar], predicted: &[PredictedBar]) {
        let name = |bar: &PredictedBar| (bar.bdf, bar.reg);
        let by_name = |bars: &[PredictedBar]| {
            bars.iter().map(|bar| (name(bar), bar_text(bar))).collect::<BTreeMap<_, _>>()
        };
        let (was, is) = (by_name(recorded), by_name(predicted));
        let names: BTreeSet<_> = was.keys().chain(is.keys()).collect();
        for at @ (bdf, reg) in names {
            let shown =
                |side: &BTreeMap<_, String>| side.get(at).cloned().unwrap_or("no such BAR".to_owned());
            self.compare(&format!("{bdf} BAR {reg:02x}"), &shown(&was), &shown(&is));
        }
        let order =
            |bars: &[PredictedBar]| list(bars.iter().map(|bar| format!("{} {:02x}", bar.bdf, bar.reg)));
        if was.keys().eq(is.keys()) {
            self.compare("order of BARs", &order(recorded), &order(predicted));
        }
    }

    fn registers<T: fmt::LowerHex>(&mut self, what: &str, was: &BTreeMap<Bdf, T>, is: &BTreeMap<Bdf, T>) {
        for bdf in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
            let shown = |side: &BTreeMap<Bdf, T>| {
                side.get(bdf).map_or("none".to_owned(), |value| format!("0x{value:x}"))
            };
            self.compare(&format!("{bdf} {what}"), &shown(was), &shown(is));
        }
    }

    /// The first line that differs; the lines after it differ because of it.
    fn log(&mut self, recorded: &[String], predicted: &[String]) {
        let longest = recorded.len().max(predicted.len());
        let line =
            |log: &[String], at| log.get(at).map_or("no line".to_owned(), |line| format!("\"{line}\""));
        if let Some(at) = (0..longest).find(|&at| recorded.get(at) != predicted.get(at)) {
            let number = at.saturating_add(1);
            self.compare(&format!("log line {number}"), &line(recorded, at), &line(predicted, at));
        }
    }
}

fn bar_text(bar: &PredictedBar) -> String {
    let mut text = match bar.address {
        Some(address) => format!("{} at {address}", bar.size),
        None => format!("{} without a place", bar.size),
    };
    if bar.above_4g {
        text.push_str(" above 4G");
    }
    if let Some(space) = bar.space {
        text.push_str(match space {
            crate::hvmloader::Space::Mem => " in memory",
            crate::hvmloader::Space::Io => " in I/O space",
        });
    }
    if let Some(register) = bar.register {
        text.push_str(&format!(", register 0x{register:x}"));
    }
    text
}

fn list(items: impl Iterator<Item = String>) -> String {
    let text = items.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Address, Size};
    use crate::hvmloader::{Release, predict};

    fn prediction() -> Prediction {
        let text = r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": [
            {"bdf": "00:05.0", "vendor": 4318, "device": 7864, "class": 770, "int_pin": 1,
             "bars": [{"reg": 16, "kind": "mem32", "size": 16777216}]}]}"#;
        predict(&crate::source::description::parse(text).unwrap(), Release::NEWEST).unwrap()
    }

    fn texts(recorded: &Prediction) -> Vec<String> {
        differences(recorded, &prediction()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bar_elsewhere_is_named_with_both_places() {
        let mut recorded = prediction();
        recorded.bars[0].address = Some(Address::new(0xe000_0000));
        assert_eq!(
            texts(&recorded),
            ["00:05.0 BAR 10: recorded 16M at 0xe0000000, predicted 16M at 0xf0000000"]
        );
        recorded.bars[0].reg = 0x14;
        assert_eq!(texts(&recorded).len(), 2, "a BAR that is not predicted, and one that was not recorded");
    }

    type Change = (&'static str, fn(&mut Prediction));

    #[test]
    fn every_field_is_compared() {
        let changes: [Change; 16] = [
            ("result", |state| state.result = crate::hvmloader::Outcome::Crash),
            ("BAR", |state| state.bars[0].size = Size::MIB),
            ("BAR", |state| state.bars[0].above_4g = true),
            ("BAR", |state| state.bars[0].space = Some(crate::hvmloader::Space::Io)),
            ("BAR", |state| state.bars[0].register = Some(1)),
            ("command", |state| state.command.clear()),
            ("interrupt line", |state| state.int_line = Some(BTreeMap::new())),
            ("low_mem_pgend", |state| state.low_mem_pgend += 1),
            ("high_mem_pgend", |state| state.high_mem_pgend += 1),
            ("pages", |state| state.pages_relocated += 1),
            ("pci_mem_start", |state| state.pci_mem_start = Address::ZERO),
            ("pci_mem_end", |state| state.pci_mem_end = Address::ZERO),
            ("pci_hi_mem_start", |state| state.pci_hi_mem_start = Address::new(1)),
            ("pci_hi_mem_end", |state| state.pci_hi_mem_end = Address::new(1)),
            ("OpRegion", |state| state.igd_opregion_pgbase = 1),
            ("log line 3", |state| state.log.as_mut().unwrap()[2].clear()),
        ];
        for (name, change) in changes {
            let mut recorded = prediction();
            change(&mut recorded);
            let texts = texts(&recorded);
            assert!(texts.len() == 1 && texts[0].contains(name), "{name}: {texts:?}");
        }
    }

    #[test]
    fn what_was_not_recorded_is_not_compared() {
        let mut recorded = prediction();
        (recorded.log, recorded.int_line) = (None, None);
        assert_eq!(texts(&recorded), <[&str; 0]>::default());
    }
}
