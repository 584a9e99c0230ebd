// SPDX-License-Identifier: LGPL-2.1-or-later
//! hvmloader's own log, as `xl dmesg` shows it: what a loader said of itself, guest by guest and run by run.
//!
//! Xen puts `(dN)` before a guest's line, with a time stamp after it where it has one; before 4.4 it was `(XEN) HVMN:`.
//! Lines of Xen itself lie between them. A guest that reboots logs a second run.

use crate::address::{Address, Range, Size};
use crate::pci::Bdf;

/// One run of a loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The guest's number, where the log says it.
    pub domid: Option<u32>,
    /// Its lines without what Xen put before them, those of the firmware after the loader among them.
    pub lines: Vec<String>,
}

/// One BAR as the loader logged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedBar {
    /// The function.
    pub bdf: Bdf,
    /// The register's offset in configuration space.
    pub reg: u8,
    /// How many bytes.
    pub size: Size,
    /// The address with the register's low bits, as logged; `None` for "no space for resource!".
    pub logged: Option<u64>,
}

impl LoggedBar {
    /// Whether it was placed among the ports.
    pub fn is_io(&self) -> bool {
        self.logged.is_some_and(|logged| logged & 1 != 0)
    }

    /// Where it was placed.
    pub fn address(&self) -> Option<Address> {
        let bits = if self.is_io() { 3 } else { 0xf };
        self.logged.map(|logged| Address::new(logged & !bits))
    }
}

/// What a loader that knows of layouts made of one (xen-patches).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutUse {
    /// It programmed it, and these are its windows.
    Used {
        /// Below 4 GiB.
        low: Option<Range>,
        /// Above.
        high: Option<Range>,
    },
    /// It did as it does without one, and why.
    NotUsed(String),
}

/// The first words of the lines of a loader's PCI setup.
const PCI_SETUP: [&str; 11] = [
    "Relocating guest memory for",
    "Relocating 0x",
    "Xen platform PCI device BAR",
    "xen platform pci dev",
    "PCI-ISA link",
    "pci dev ",
    "pci_mem_start=",
    "max_ram_below_4g=",
    "Low MMIO hole not large enough",
    "RAM in high memory;",
    "No RAM in high memory;",
];

/// Every run in a log, in order; lines of Xen itself and of others are left out.
pub fn runs(text: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for line in text.lines() {
        let Some((domid, line)) = guest_line(line.trim_end_matches('\r')) else { continue };
        let last = runs.iter_mut().rfind(|run| run.domid == domid);
        match last {
            Some(run) if line != "HVM Loader" => run.lines.push(line.to_owned()),
            _ => runs.push(Run { domid, lines: vec![line.to_owned()] }),
        }
    }
    runs
}

/// The guest's number and what the guest wrote; `None` for a line of Xen itself.
fn guest_line(line: &str) -> Option<(Option<u32>, &str)> {
    let numbered = |rest: &'static str, end: char| {
        let (number, text) = line.strip_prefix(rest)?.split_once(end)?;
        Some((number.parse::<u32>().ok()?, text.strip_prefix(' ').unwrap_or(text)))
    };
    if let Some((domid, text)) = numbered("(d", ')').or_else(|| numbered("(XEN) HVM", ':')) {
        return Some((Some(domid), without_time(text)));
    }
    (!line.starts_with("(XEN)")).then_some((None, line))
}

/// A line without Xen's `[   28.321534] `.
fn without_time(text: &str) -> &str {
    let stamp = text.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match stamp {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest,
        _ => text,
    }
}

impl Run {
    /// Whether the log has the run from its beginning.
    pub fn is_whole(&self) -> bool {
        self.lines.first().is_some_and(|line| line == "HVM Loader")
    }

    /// What the loader made of a layout; `None` where it does not say, for it knows of none.
    pub fn layout_use(&self) -> Option<LayoutUse> {
        if let Some(reason) = self.after("PCI layout: not used: ") {
            return Some(LayoutUse::NotUsed(reason.to_owned()));
        }
        let (low, high) = self.after("PCI layout: used, low ")?.split_once(" high ")?;
        let window = |text: &str| {
            let (start, end) = text.split_once('-')?;
            let address = |text| u64::from_str_radix(text, 16).ok().map(Address::new);
            Range::new(address(start)?, address(end)?).filter(|window| !window.is_empty())
        };
        Some(LayoutUse::Used { low: window(low), high: window(high) })
    }

    /// The lines of the PCI setup, as the loader writes them.
    pub fn pci_setup(&self) -> impl Iterator<Item = &str> {
        let wanted = |line: &&str| {
            PCI_SETUP.iter().any(|start| line.starts_with(start)) || line.starts_with("WARNING: hvm_info->")
        };
        self.lines.iter().map(String::as_str).filter(wanted)
    }

    /// Xen's version as the loader found it: major, minor, patch, and the text.
    pub fn xen_version(&self) -> Option<(u32, u32, u32, &str)> {
        let text = self.after("Detected Xen v")?;
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next()?.ok()?;
        let patch = numbers.next().and_then(Result::ok).unwrap_or_default();
        Some((major, minor, patch, text))
    }

    /// The guest's physical address width (`- CPU0 ... 39-bit phys ...`).
    pub fn phys_bits(&self) -> Option<u8> {
        self.lines.iter().find_map(|line| {
            let before = line.split_once("-bit phys")?.0;
            before.rsplit(' ').next()?.parse().ok()
        })
    }

    /// Whether the PCI setup is there from its beginning: what comes just before the first BAR.
    pub fn has_all_bars(&self) -> bool {
        self.high_memory().is_some()
    }

    /// Whether there is RAM above 4 GiB when BARs are placed, and where they start there.
    fn high_memory(&self) -> Option<(bool, Address)> {
        let parts =
            self.lines.iter().find_map(|line| line.split_once("setting high_mem resource base to "))?;
        let base = u64::from_str_radix(parts.1.trim(), 16).ok()?;
        Some((!parts.0.starts_with("No RAM"), Address::new(base)))
    }

    /// The end of RAM above 4 GiB when BARs are placed, if there is any.
    pub fn high_ram_end(&self) -> Option<Address> {
        self.high_memory().and_then(|(has_ram, end)| has_ram.then_some(end))
    }

    /// Each BAR, in the loader's order.
    pub fn bars(&self) -> impl Iterator<Item = LoggedBar> {
        self.lines.iter().filter_map(|line| parse_bar(line))
    }

    /// Each function with an interrupt, and its pin: 1 for INTA.
    pub fn interrupt_pins(&self) -> impl Iterator<Item = (Bdf, u8)> {
        self.lines.iter().filter_map(|line| {
            let (function, rest) = parse_function(line)?;
            let letter = rest.strip_prefix("INT")?.bytes().next()?;
            Some((function, letter.checked_sub(b'A')?.checked_add(1)?))
        })
    }

    /// How many 4 KiB pages of RAM the loader moved out of the hole.
    pub fn pages_relocated(&self) -> u64 {
        let pages = self.lines.iter().filter_map(|line| {
            let (pages, _) = line.strip_prefix("Relocating 0x")?.split_once(" pages from ")?;
            u64::from_str_radix(pages, 16).ok()
        });
        pages.fold(0, u64::saturating_add)
    }

    /// The hole that was asked for and obeyed: from where `pci_mem_start=` says it starts.
    pub fn asked_hole(&self) -> Option<Size> {
        let start = self.after("pci_mem_start=0x")?.split(' ').next()?;
        let start = Address::new(u64::from_str_radix(start, 16).ok()?);
        Some(Address::FOUR_GIB.distance_from(start))
    }

    /// Whether the loader says it may move RAM; `None` where it does not say.
    pub fn may_relocate(&self) -> Option<bool> {
        self.after("Relocating guest memory for lowmem MMIO space ").map(|word| word == "enabled")
    }

    /// The ranges of RAM from 1 MiB up in the table that the loader gives to the firmware (E820).
    pub fn ram(&self) -> impl Iterator<Item = Range> {
        self.lines.iter().filter_map(|line| {
            let (_, range) = line.trim_start().strip_prefix('[')?.split_once("]: ")?;
            let (start, end) = range.strip_suffix(": RAM")?.split_once(" - ")?;
            let address = |text: &str| {
                let (high, low) = text.split_once(':')?;
                let half = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
                Some(Address::new((half(high)? << 32) | half(low)?))
            };
            Range::new(address(start)?, address(end)?).filter(|ram| ram.start().get() >= Size::MIB.get())
        })
    }

    /// What follows the first line's `start`.
    fn after(&self, start: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(start))
    }
}

/// `pci dev SS:F REST`
fn parse_function(line: &str) -> Option<(Bdf, &str)> {
    let (function, rest) = line.strip_prefix("pci dev ")?.split_once(' ')?;
    let (slot, function) = function.split_once(':')?;
    let number = |text| u8::from_str_radix(text, 16).ok();
    Some((Bdf::new(0, number(slot)?, number(function)?)?, rest))
}

/// `pci dev SS:F bar RR size SIZE: ADDRESS` or `...: no space for resource!`
fn parse_bar(line: &str) -> Option<LoggedBar> {
    let (bdf, rest) = parse_function(line)?;
    let (reg, rest) = rest.strip_prefix("bar ")?.split_once(" size ")?;
    let (size, place) = rest.split_once(": ")?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let logged = if place == "no space for resource!" { None } else { Some(number(place)?) };
    Some(LoggedBar { bdf, reg: u8::from_str_radix(reg, 16).ok()?, size: Size::new(number(size)?), logged })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
(d1) HVM Loader\n(d1) Detected Xen v4.12.1-1.el7\n(d1) pci dev 02:0 bar 14 size 001000000: 0f0000008\n\
(XEN) irq.c:374: Dom1 PCI link 3 changed 0 -> 5\n\
(d2) [   26.398853] HVM Loader\n(d2) [   26.408488] Detected Xen v4.17.7\n\
(d2) [   27.033177] pci dev 1f:7 INTB->IRQ11\n\
(d2) [   29.259479] RAM in high memory; setting high_mem resource base to 13f800000\n\
(d2) [   29.268903] pci dev 04:0 bar 18 size 040000000: 14000000c\n\
(d2) [   29.268904] pci dev 04:0 bar 30 size 000010000: no space for resource!\n\
(d2) [   29.410009]  - CPU0 ... 40-bit phys ... fixed MTRRs ... var MTRRs [6/8] ... done.\n\
(d2) [   29.410010]  [02]: 00000000:00100000 - 00000000:7f800000: RAM\n\
(d2) [   29.575698] Relocating init from 0x000d3b00 to 0x7efeae00 (size 86368)\n";

    #[test]
    fn guests_are_told_apart_and_xen_is_left_out() {
        let runs = runs(LOG);
        assert_eq!(runs.iter().map(|run| run.domid).collect::<Vec<_>>(), [Some(1), Some(2)]);
        assert_eq!(runs[0].xen_version(), Some((4, 12, 1, "4.12.1-1.el7")));
        assert_eq!(runs[1].xen_version(), Some((4, 17, 7, "4.17.7")));
    }

    #[test]
    fn a_reboot_is_a_run_of_its_own() {
        let runs = runs("(d3) HVM Loader\n(d3) one\n(d3) HVM Loader\n(d3) two\n");
        assert_eq!(runs.iter().map(|run| run.lines.len()).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn bars_are_read_with_and_without_a_place() {
        let run = &runs(LOG)[1];
        let bars: Vec<_> =
            run.bars().map(|bar| (bar.bdf.to_string(), bar.reg, bar.size, bar.address())).collect();
        let size = |bytes| Size::new(bytes);
        assert_eq!(
            bars,
            [
                ("00:04.0".to_owned(), 0x18, size(1 << 30), Some(Address::new(0x1_4000_0000))),
                ("00:04.0".to_owned(), 0x30, size(1 << 16), None)
            ]
        );
        assert_eq!(
            run.interrupt_pins().map(|(bdf, pin)| (bdf.devfn(), pin)).collect::<Vec<_>>(),
            [(0xff, 2)]
        );
    }

    #[test]
    fn what_the_loader_says_of_the_guest_is_found() {
        let run = &runs(LOG)[1];
        assert_eq!((run.phys_bits(), run.has_all_bars()), (Some(40), true));
        assert_eq!(run.ram().map(|ram| ram.end().get()).collect::<Vec<_>>(), [0x7f80_0000]);
        assert_eq!(run.pci_setup().count(), 4, "the firmware's own \"Relocating init\" is not the loader's");
    }

    #[test]
    fn what_became_of_a_layout_is_read() {
        let of = |line: &str| Run { domid: None, lines: vec![line.to_owned()] }.layout_use();
        let window = |start, end| Range::new(Address::new(start), Address::new(end));
        assert_eq!(
            of("PCI layout: used, low 0f0000000-0fc000000 high 100000000-110000000"),
            Some(LayoutUse::Used {
                low: window(0xf000_0000, 0xfc00_0000),
                high: window(0x1_0000_0000, 0x1_1000_0000)
            })
        );
        let low_alone = of("PCI layout: used, low 0f0000000-0fc000000 high 000000000-000000000");
        assert!(matches!(low_alone, Some(LayoutUse::Used { high: None, .. })), "{low_alone:?}");
        assert_eq!(of("PCI layout: not used: no layout"), Some(LayoutUse::NotUsed("no layout".to_owned())));
        assert_eq!(of("HVM Loader"), None);
    }

    #[test]
    fn the_old_form_of_the_prefix_is_read() {
        let runs = runs("(XEN) HVM4: HVM Loader\n(XEN) HVM4: pci dev 01:3 INTA->IRQ10\n(XEN) else\n");
        assert_eq!((runs.len(), runs[0].domid, runs[0].lines.len()), (1, Some(4), 2));
    }
}
