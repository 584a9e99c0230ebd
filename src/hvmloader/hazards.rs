// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is dangerous about the state that a stock loader leaves, by name.
//!
//! A loader places BARs without knowing what QEMU, libxl and the other functions of a page do. Each check here looks
//! at the end of the simulated run alone.

use std::collections::{BTreeMap, BTreeSet};

use super::prediction::{Outcome, PredictedBar, Prediction, Space};
use super::scan::command;
use crate::address::{Address, Range};
use crate::guest::{DEFAULT_HOLE, Guest};
use crate::layout::Warning;
use crate::pci::{BarKind, Bdf, Device};

/// Something that the guest's owner should know about a prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hazard {
    /// Its name, and a sentence.
    pub warning: Warning,
    /// Whether a guest with it is not to be started; otherwise it is merely odd.
    pub unsafe_to_start: bool,
}

/// Everything dangerous or odd about what a loader will leave of a guest.
pub fn hazards(guest: &Guest, prediction: &Prediction) -> Vec<Hazard> {
    let mut found = Found { guest, prediction, hazards: Vec::new() };
    if prediction.result == Outcome::Crash {
        found.crash();
        return found.hazards;
    }
    found.unplaced();
    found.never_seen();
    found.stale_upper_dwords();
    found.shared_pages();
    found.memory_under_bars();
    found.ram();
    found.bridges();
    found.hazards
}

struct Found<'a> {
    guest: &'a Guest,
    prediction: &'a Prediction,
    hazards: Vec<Hazard>,
}

/// "BAR 0x10 (256M)".
fn name(bar: &PredictedBar) -> String {
    format!("BAR 0x{:02x} ({})", bar.reg, bar.size)
}

fn join(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}

impl Found<'_> {
    fn add(&mut self, unsafe_to_start: bool, warning: Warning) {
        self.hazards.push(Hazard { warning, unsafe_to_start });
    }

    fn device(&self, bdf: Bdf) -> Option<&Device> {
        self.guest.devices.iter().find(|device| device.bdf == bdf)
    }

    fn is_io(&self, bar: &PredictedBar) -> bool {
        match bar.space {
            Some(space) => space == Space::Io,
            None => self
                .device(bar.bdf)
                .and_then(|device| device.bars.iter().find(|other| other.reg == bar.reg))
                .is_some_and(|bar| !bar.kind.is_memory()),
        }
    }

    /// The BARs in memory that have a place, and where they really are: where a stale upper dword puts them.
    fn memory_bars(&self) -> Vec<(&PredictedBar, Range)> {
        let in_memory = self.prediction.bars.iter().filter(|bar| !self.is_io(bar));
        let placed = in_memory.filter_map(|bar| {
            let start = match (bar.address?, bar.register) {
                (_, Some(register)) if self.is_stale(bar) => Address::new(register & !0xf),
                (address, _) => address,
            };
            Some((bar, Range::sized(start, bar.size)?))
        });
        placed.collect()
    }

    /// Whether a BAR's upper dword is not what was logged. A bridge's register that differs is no BAR at all.
    fn is_stale(&self, bar: &PredictedBar) -> bool {
        let is_64bit = self.device(bar.bdf).is_some_and(|device| {
            device.bars.iter().any(|other| other.reg == bar.reg && other.kind == BarKind::Mem64)
        });
        is_64bit && bar.address.is_some() && bar.register.is_some()
    }

    fn crash(&mut self) {
        let mut lines =
            self.prediction.log.iter().flatten().rev().filter(|line| !line.contains("HVMLoader crashed"));
        let last = lines.next().cloned().unwrap_or_default();
        // An assertion says what it is about; before a mere place the line above does.
        let reason = match lines.next() {
            Some(above) if last.contains("HVMLoader bug at") => format!("{above} {last}"),
            _ => last,
        };
        self.add(
            true,
            Warning::new("crash", format!("the guest will not start, its loader stops: {reason}")),
        );
    }

    fn unplaced(&mut self) {
        let unplaced: Vec<_> = self.prediction.bars.iter().filter(|bar| bar.address.is_none()).collect();
        for bar in unplaced {
            let name = name(bar);
            self.add(true, Warning::about("no-space", bar.bdf, format!("{name} gets no address")));
            let bit = if self.is_io(bar) { command::IO } else { command::MEMORY };
            if self.prediction.command.get(&bar.bdf).is_some_and(|command| command & bit != 0) {
                let at = Address::new(bar.register.unwrap_or_default() & !0xf);
                let message =
                    format!("{name} has no address, and yet its function decodes: it answers at {at}");
                self.add(true, Warning::about("decode-on-unplaced", bar.bdf, message));
            }
        }
    }

    fn never_seen(&mut self) {
        for bar in &self.prediction.ignored_bars {
            let what = format!("BAR 0x{:02x} ({}, {})", bar.reg, bar.kind, bar.size);
            let (code, reason) = if bar.bdf.bus() != 0 {
                ("never-scanned", "sits behind a bridge: the loader scans bus 0 alone and sizes no bridge")
            } else {
                ("never-seen", "is not seen by the loader, which takes an I/O BAR of 64K and more for none")
            };
            self.add(true, Warning::about(code, bar.bdf, format!("{what} {reason}")));
        }
    }

    fn stale_upper_dwords(&mut self) {
        let stale: Vec<_> = self.prediction.bars.iter().filter(|bar| self.is_stale(bar)).collect();
        for bar in stale {
            let (logged, real) = (bar.address.unwrap_or_default(), bar.register.unwrap_or_default() & !0xf);
            let message = format!(
                "{} is logged at {logged} and really is at {}: the loader leaves the upper half of a BAR below 4G alone",
                name(bar),
                Address::new(real)
            );
            self.add(true, Warning::about("stale-upper-dword", bar.bdf, message));
        }
    }

    fn shared_pages(&mut self) {
        let page = self.guest.page_size;
        let mut pages: BTreeMap<Address, Vec<&PredictedBar>> = BTreeMap::new();
        for (bar, range) in self.memory_bars() {
            if bar.size < page {
                pages.entry(range.start().align_down(page)).or_default().push(bar);
            }
        }
        let mut shared = Vec::new();
        for (at, bars) in pages {
            let functions: BTreeSet<Bdf> = bars.iter().map(|bar| bar.bdf).collect();
            if functions.len() > 1 {
                let names = join(bars.iter().map(|bar| format!("{} {}", bar.bdf, name(bar))));
                let emulated = functions.iter().all(|&bdf| self.device(bdf).is_some_and(Device::is_emulated));
                let harm = if emulated { ", which is harmless: all are emulated" } else { "" };
                shared.push((!emulated, format!("{names} share the guest page at {at}{harm}")));
            }
        }
        for (harmful, message) in shared {
            self.add(harmful, Warning::new("shared-page", message));
        }
    }

    /// BARs on memory that is not theirs: reserved, the device model's, or none that the host's processor reaches.
    fn memory_under_bars(&mut self) {
        let mut taken: Vec<(&str, &str, Range)> = Vec::new();
        taken.extend(
            self.guest.reserved_device_memory().map(|range| ("bar-on-rdm", "reserved device memory", range)),
        );
        taken.extend(self.guest.populated_memory().into_iter().map(|range| {
            ("bar-on-device-model-memory", "the device model's memory (video RAM, option ROMs)", range)
        }));
        taken.extend(
            self.guest
                .hypertransport_hole()
                .map(|range| ("bar-on-hypertransport", "AMD's HyperTransport hole", range)),
        );
        let mut found = Vec::new();
        for (bar, range) in self.memory_bars() {
            for (code, what, memory) in &taken {
                if range.overlaps(*memory) {
                    let message = format!("{} at {range} lies on {what} at {memory}", name(bar));
                    found.push(Warning::about(code, bar.bdf, message));
                }
            }
        }
        found.into_iter().for_each(|warning| self.add(true, warning));
    }

    fn ram(&mut self) {
        let rdm: Vec<_> = self.guest.reserved_device_memory().collect();
        for ram in self.prediction.ram() {
            for memory in rdm.iter().filter(|memory| memory.overlaps(ram)) {
                let message = format!("RAM at {ram} covers reserved device memory at {memory}");
                self.add(true, Warning::new("ram-on-rdm", message));
            }
        }
        // QEMU's xen_ram_init knows the hole that the administrator gave and all of RAM, and nothing else.
        let hole = self.guest.demanded_hole().unwrap_or(DEFAULT_HOLE);
        let qemu = self.guest.ram_layout(hole).map(|layout| layout.low_end);
        let real = Address::from_frame(self.prediction.low_mem_pgend);
        if let (Some(qemu), Some(real)) = (qemu, real)
            && qemu != real
        {
            let why = if self.prediction.relocations.is_empty() {
                "libxl laid it out so, for reserved device memory or another hole"
            } else {
                "the loader moves it, and QEMU does not notice"
            };
            let message = format!("RAM below 4G ends at {real} for the guest and at {qemu} for QEMU: {why}");
            self.add(true, Warning::new("ram-seen-differently", message));
        }
    }

    fn bridges(&mut self) {
        let mut bridges: Vec<_> = self.guest.devices.iter().filter(|device| device.is_bridge()).collect();
        bridges.sort_unstable_by_key(|bridge| bridge.bdf);
        for bridge in bridges {
            let mistaken = self.prediction.bars.iter().filter(|bar| bar.bdf == bridge.bdf);
            let registers = join(
                mistaken
                    .filter(|bar| (0x18..=0x24).contains(&bar.reg))
                    .map(|bar| format!("0x{:02x}", bar.reg)),
            );
            if !registers.is_empty() {
                let message = format!(
                    "the bridge's bus numbers and windows (registers {registers}) are taken for BARs and overwritten"
                );
                self.add(false, Warning::about("bridge-read-as-bars", bridge.bdf, message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hvmloader::{Release, predict};

    /// The codes of what is wrong with a guest, each with whether it is unsafe, and the messages.
    fn found(release: &str, description: &str) -> (Vec<(String, bool)>, String) {
        let guest = crate::source::description::parse(description).unwrap();
        let prediction = predict(&guest, release.parse::<Release>().unwrap()).unwrap();
        let hazards = hazards(&guest, &prediction);
        let codes = hazards.iter().map(|found| (found.warning.code.clone(), found.unsafe_to_start)).collect();
        (codes, hazards.iter().map(|found| format!("{}\n", found.warning.message)).collect())
    }

    fn only(code: &str) -> Vec<(String, bool)> {
        vec![(code.to_owned(), true)]
    }

    fn guest(rest: &str, bars: &str) -> String {
        format!(
            r#"{{"phys_bits": 40, "low_mem_pgend": 131072, {rest} "devices": [
                {{"bdf": "00:04.0", "vendor": 4318, "device": 1, "class": 770, "bars": [{bars}]}}]}}"#
        )
    }

    #[test]
    fn a_guest_without_oddities_has_no_hazard() {
        let (codes, _) = found("4.17", &guest("", r#"{"reg": 16, "kind": "mem32", "size": 65536}"#));
        assert_eq!(codes, []);
    }

    #[test]
    fn two_functions_on_one_page_are_named_and_harmless_only_where_emulated() {
        let two = |extra: &str| {
            let device = |bdf: &str| {
                format!(
                    r#"{{"bdf": "{bdf}", "vendor": 1, "device": 2, "class": 512, {extra}
                        "bars": [{{"reg": 16, "kind": "mem32", "size": 256}}]}}"#
                )
            };
            let (first, second) = (device("00:04.0"), device("00:05.0"));
            format!(r#"{{"phys_bits": 40, "low_mem_pgend": 131072, "devices": [{first}, {second}]}}"#)
        };
        let (codes, message) = found("4.17", &two(""));
        assert_eq!(codes, only("shared-page"));
        assert_eq!(
            message,
            "00:04.0 BAR 0x10 (256), 00:05.0 BAR 0x10 (256) share the guest page at 0xf0000000\n"
        );
        let (codes, message) = found("4.17", &two(r#""model": "rtl8139","#));
        assert_eq!(codes, [("shared-page".to_owned(), false)]);
        assert!(message.contains("harmless"), "{message}");
    }

    #[test]
    fn reserved_memory_above_4g_is_hit() {
        let map = r#""memory_map": [{"addr": 1048576, "size": 535822336, "type": 1},
            {"addr": 8589934592, "size": 4096, "type": 2}],"#;
        let (codes, _) = found("4.17", &guest(map, r#"{"reg": 16, "kind": "mem64", "size": 8589934592}"#));
        assert_eq!(codes, only("bar-on-rdm"));
    }

    #[test]
    fn the_device_model_s_memory_after_high_ram_is_hit() {
        // 3 GiB with a hole of 2 GiB: measured on Xen 4.17.7, where a guest read the VGA's ROM through its BAR.
        let text = r#"{"phys_bits": 40, "low_mem_pgend": 524288, "high_mem_pgend": 1308672,
            "xenstore": {"platform/mmio_hole_size": "2147483648"}, "device_model_memory": [8388608, 65536], "devices": [
            {"bdf": "00:03.0", "vendor": 1, "device": 1, "class": 255, "bars": [{"reg": 24, "kind": "mem64", "size": 1073741824}]},
            {"bdf": "00:04.0", "vendor": 1, "device": 1, "class": 255, "bars": [{"reg": 24, "kind": "mem64", "size": 1073741824}]}]}"#;
        let (codes, message) = found("4.17", text);
        assert_eq!(codes, only("bar-on-device-model-memory"));
        assert!(message.contains("0x140000000-0x14000ffff"), "{message}");
    }

    #[test]
    fn a_stale_upper_half_is_told_with_the_real_address() {
        let bar = r#"{"reg": 24, "kind": "mem64", "size": 268435456, "value": 10737418240}"#;
        let (codes, message) = found("4.17", &guest("", bar));
        assert_eq!(codes, only("stale-upper-dword"));
        assert!(message.contains("logged at 0xe0000000 and really is at 0x2e0000000"), "{message}");
    }

    #[test]
    fn a_function_that_decodes_without_a_place_for_a_bar_is_told() {
        let bars =
            r#"{"reg": 16, "kind": "mem32", "size": 2147483648}, {"reg": 20, "kind": "mem32", "size": 4096}"#;
        let (codes, _) = found("4.17", &guest("", bars));
        assert_eq!(codes, [("no-space".to_owned(), true), ("decode-on-unplaced".to_owned(), true)]);
    }

    #[test]
    fn ram_that_the_loader_moves_is_seen_differently_by_qemu() {
        let bar = r#"{"reg": 16, "kind": "mem32", "size": 536870912}"#;
        let moved = guest("", bar).replace("131072", "983040");
        let (codes, message) = found("4.17", &moved);
        assert_eq!(codes, only("ram-seen-differently"));
        assert!(message.contains("ends at 0xc0000000 for the guest and at 0xf0000000 for QEMU"), "{message}");
    }

    #[test]
    fn a_bridge_whose_registers_are_taken_for_bars_is_odd_and_not_unsafe() {
        let text = r#"{"phys_bits": 40, "low_mem_pgend": 131072, "devices": [{"bdf": "00:04.0", "vendor": 1, "device": 2,
            "class": 1540, "header": 1, "raw": [{"off": 32, "value": 0, "wmask": 4293984240}]}]}"#;
        let (codes, message) = found("4.17", text);
        assert_eq!(codes, [("bridge-read-as-bars".to_owned(), false)]);
        assert!(message.contains("0x20"), "{message}");
    }

    #[test]
    fn a_crash_is_told_with_the_loader_s_own_words() {
        let text = r#"{"phys_bits": 40, "low_mem_pgend": 131072, "devices": [
            {"bdf": "00:04.0", "vendor": 4318, "device": 2, "class": 1664}]}"#;
        let (codes, message) = found("4.20", text);
        assert_eq!(codes, only("crash"));
        assert!(message.contains("failed at pci.c:206"), "{message}");
        let (codes, message) = found("4.20", r#"{"phys_bits": 40, "low_mem_pgend": 0, "devices": []}"#);
        assert_eq!(codes, only("crash"));
        assert!(
            message.contains("Get guest memory maps[0] failed. (0) *** HVMLoader bug at e820.c:39"),
            "{message}"
        );
    }

    #[test]
    fn what_the_loader_never_sees_is_told() {
        let text = r#"{"phys_bits": 40, "low_mem_pgend": 131072, "devices": [
            {"bdf": "00:04.0", "vendor": 1, "device": 2, "class": 1540, "header": 1},
            {"bdf": "01:00.0", "vendor": 1, "device": 2, "class": 512, "bridge": "00:04.0",
             "bars": [{"reg": 16, "kind": "mem32", "size": 4096}]},
            {"bdf": "00:05.0", "vendor": 1, "device": 2, "class": 512, "bars": [{"reg": 16, "kind": "io", "size": 65536}]}]}"#;
        let (codes, _) = found("4.17", text);
        assert_eq!(codes, [("never-scanned".to_owned(), true), ("never-seen".to_owned(), true)]);
    }
}
