// SPDX-License-Identifier: LGPL-2.1-or-later
//! Long random sequences of attach and detach, through files and exit codes, against an oracle of its own: it keeps
//! the guest's space as a plain list of what is taken, and decides by counting aligned blocks for every way to divide
//! the 64-bit BARs between the windows. It shares no arithmetic with the program.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use common::program::{json_of, run_in as run};
use common::sysfs;
use serde_json::{Value, json};
use xen_pci_layout::address::Size;

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// A small generator of its own (SplitMix64), so that a seed names a sequence for good.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Start and end.
type Span = (u64, u64);

/// What of `window` no span of `taken` covers.
fn gaps(window: Span, taken: &[Span]) -> Vec<Span> {
    let mut taken = taken.to_vec();
    taken.sort_unstable();
    let (mut at, mut gaps) = (window.0, Vec::new());
    for (start, end) in taken {
        if start.min(window.1) > at {
            gaps.push((at, start.min(window.1)));
        }
        at = at.max(end).min(window.1);
    }
    gaps.push((at, window.1));
    gaps.retain(|(start, end)| start < end);
    gaps
}

/// Whether blocks of these sizes, all powers of two, can be placed: for each size the larger ones leave enough.
fn holds(gaps: &[Span], blocks: &[u64]) -> bool {
    blocks.iter().all(|&size| {
        let places: u64 =
            gaps.iter().map(|(start, end)| (end / size).saturating_sub(start.div_ceil(size))).sum();
        let wanted: u128 =
            blocks.iter().filter(|other| **other >= size).map(|other| u128::from(*other)).sum();
        wanted <= u128::from(places) * u128::from(size)
    })
}

fn largest(gaps: &[Span]) -> u64 {
    (0..64).rev().map(|bits| 1 << bits).find(|size| holds(gaps, &[*size])).unwrap_or(0)
}

/// What is known of a guest: from its first layout, and from what was attached and detached since.
struct Oracle {
    page: u64,
    first: Value,
    /// The BARs that are there, by function: as the program said them.
    there: BTreeMap<String, Vec<Value>>,
    hosts: BTreeMap<String, String>,
}

impl Oracle {
    fn new(layout: &Value) -> Self {
        let mut there: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for device in list(&layout["devices"]) {
            there.entry(device["bdf"].as_str().unwrap().to_owned()).or_default();
        }
        for bar in list(&layout["bars"]) {
            there.entry(bar["bdf"].as_str().unwrap().to_owned()).or_default().push(bar.clone());
        }
        Self { page: number(&layout["page_size"]), first: layout.clone(), there, hosts: BTreeMap::new() }
    }

    fn block(&self, bar: &Value) -> u64 {
        let size = number(&bar["size"]);
        if bar["kind"] == "io" { size } else { size.max(self.page) }
    }

    /// What is taken: memory in whole pages, or ports.
    fn taken(&self, ports: bool) -> Vec<Span> {
        let bars = self.there.values().flatten().filter(|bar| (bar["kind"] == "io") == ports);
        let mut spans: Vec<Span> = bars
            .map(|bar| {
                let start = number(&bar["address"]);
                let block = self.block(bar);
                (start / block * block, start / block * block + block)
            })
            .collect();
        if !ports {
            let reserved = list(&self.first["reserved_memory"]).iter();
            spans.extend(reserved.map(|r| (number(&r["start"]), number(&r["start"]) + number(&r["size"]))));
            spans.push((0, number(&self.first["low_mem_pgend"]) * 4096));
            spans.push((4 * G, 4 * G.max(number(&self.first["high_mem_pgend"]) * 1024)));
        }
        spans
    }

    fn free(&self, window: &str) -> Option<Vec<Span>> {
        let found = list(&self.first["windows"]).iter().find(|found| found["kind"] == window)?;
        let span = (number(&found["start"]), number(&found["end"]));
        Some(gaps(span, &self.taken(window == "io")))
    }

    /// Whether these BARs have room, all together.
    fn has_room(&self, bars: &[Value]) -> bool {
        let blocks = |kinds: &[&str]| -> Vec<u64> {
            let of_kind = bars.iter().filter(|bar| kinds.contains(&bar["kind"].as_str().unwrap()));
            of_kind.map(|bar| self.block(bar)).collect()
        };
        let (ports, wide) = (blocks(&["io"]), blocks(&["mem64"]));
        let low = blocks(&["mem32", "rom", "mem1m"]);
        let space = |window| self.free(window).unwrap_or_default();
        let (low_space, high_space) = (space("low"), space("high"));
        holds(&space("io"), &ports)
            && (0_u32..1 << wide.len()).any(|up| {
                let side = |wanted: bool| -> Vec<u64> {
                    let chosen =
                        wide.iter().enumerate().filter(|(index, _)| (up >> index & 1 == 1) == wanted);
                    chosen.map(|(_, block)| *block).collect()
                };
                holds(&high_space, &side(true)) && holds(&low_space, &[low.clone(), side(false)].concat())
            })
    }

    /// That these are the device's BARs, each in a window that it may use, aligned, and on space that was free.
    fn accept(&mut self, device: &Value, bars: &[Value]) {
        let mut asked = list(&device["bars"]).to_vec();
        asked.sort_by_key(|bar| number(&bar["reg"]));
        assert_eq!(asked.len(), bars.len(), "{device} {bars:?}");
        let mut new: Vec<(bool, Span)> = Vec::new();
        for (asked, bar) in asked.iter().zip(bars) {
            for key in ["reg", "kind", "size"] {
                assert_eq!(asked[key], bar[key], "{device} {bars:?}");
            }
            let ports = bar["kind"] == "io";
            let (block, start) = (self.block(bar), number(&bar["address"]));
            assert_eq!(start % block, 0, "{bar}");
            let span = (start, start + block);
            let windows: &[&str] = match bar["kind"].as_str().unwrap() {
                "io" => &["io"],
                "mem64" => &["low", "high"],
                _ => &["low"],
            };
            let inside = |gap: &Span| gap.0 <= span.0 && span.1 <= gap.1;
            assert!(windows.iter().filter_map(|w| self.free(w)).flatten().any(|gap| inside(&gap)), "{bar}");
            let clash = |(p, other): &(bool, Span)| *p == ports && other.0 < span.1 && span.0 < other.1;
            assert!(!new.iter().any(clash), "{bars:?}");
            new.push((ports, span));
        }
    }

    /// What is left of the space that was kept, as pages.
    fn kept(&self) -> Vec<Span> {
        let taken = self.taken(false);
        let reserved = list(&self.first["reserved"]).iter();
        let whole = reserved.map(|r| (number(&r["start"]), number(&r["start"]) + number(&r["size"])));
        let bars: Vec<Span> = taken.into_iter().collect();
        whole.flat_map(|whole| gaps(whole, &bars)).collect()
    }

    /// That a layout is the first one and what came since, and nothing moved.
    fn compare(&self, layout: &Value) {
        let mut expected: Vec<&Value> = self.there.values().flatten().collect();
        let mut found: Vec<&Value> = list(&layout["bars"]).iter().collect();
        let key = |bar: &&Value| (bar["bdf"].to_string(), number(&bar["reg"]));
        expected.sort_by_key(key);
        found.sort_by_key(key);
        assert_eq!(found, expected);
        for key in
            ["windows", "mmio_hole_size", "low_mem_pgend", "high_mem_pgend", "bridges", "reserved_memory"]
        {
            assert_eq!(layout[key], self.first[key], "{key}");
        }
        let mut kept: Vec<Span> = Vec::new();
        for r in list(&layout["reserved"]) {
            let (start, size) = (number(&r["start"]), number(&r["size"]));
            assert_eq!(
                start % (1 << size.ilog2()),
                0,
                "{r} is not aligned to the largest power of two in it"
            );
            kept.push((start, start + size));
        }
        kept.sort_unstable();
        let mut joined: Vec<Span> = Vec::new();
        for (start, end) in kept {
            match joined.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => joined.push((start, end)),
            }
        }
        assert_eq!(joined, self.kept(), "what is kept is what the BARs leave of it");
    }
}

/// A device such as hosts have, and odd ones.
fn device(chance: &mut Chance, slot: u64, function: u64) -> Value {
    let mut bars = Vec::new();
    let mut reg = 16_u64;
    while reg <= 36 {
        match chance.below(9) {
            0 | 1 => {
                let size = 16 << chance.below(23);
                bars.push(json!({"reg": reg, "kind": "mem32", "size": size, "prefetch": chance.one_in(3)}));
            }
            2..=4 if reg <= 32 => {
                let size = if chance.one_in(3) { 16 << chance.below(14) } else { M << chance.below(16) };
                bars.push(json!({"reg": reg, "kind": "mem64", "size": size, "prefetch": chance.one_in(2)}));
                reg += 4;
            }
            5 => bars.push(json!({"reg": reg, "kind": "io", "size": 4 << chance.below(9)})),
            _ => {}
        }
        reg += 4;
    }
    if chance.one_in(3) {
        bars.push(json!({"reg": 48, "kind": "rom", "size": (2 * K) << chance.below(12)}));
    }
    let mut device = json!({"bdf": format!("00:{slot:02x}.{function:x}"), "vendor": 0x10de,
        "device": chance.below(0x1_0000), "class": 0x0200, "bars": bars});
    if chance.one_in(2) {
        device["host"] = json!(format!("0000:{:02x}:00.0", 1 + chance.below(24)));
    }
    device
}

fn guest(chance: &mut Chance) -> (Value, Vec<String>) {
    let phys_bits = chance.choose(&[36, 39, 42, 46, 48, 52]);
    let high = chance.choose(&[0, 0x140000, 0x800000]);
    let mut guest = json!({"phys_bits": phys_bits, "low_mem_pgend": 0xf0000, "high_mem_pgend": high, "devices": [
        {"bdf": "00:02.0", "vendor": 0x5853, "device": 1, "class": 0xff80, "bars": [
            {"reg": 16, "kind": "io", "size": 256},
            {"reg": 20, "kind": "mem32", "size": 16 * M, "prefetch": true}]},
        {"bdf": "00:03.0", "vendor": 0x1013, "device": 0xb8, "class": 0x300, "bars": [
            {"reg": 16, "kind": "mem32", "size": 32 * M, "prefetch": true},
            {"reg": 20, "kind": "mem32", "size": 4096}]}]});
    guest["page_size"] = json!(chance.choose(&[4096, 4096, 4096, 16384, 65536]));
    guest["passthrough"] = json!(chance.one_in(2));
    if chance.one_in(3) {
        guest["device_model_memory"] = json!([16 * M, 64 * K, 256 * K]);
    }
    if chance.one_in(3) {
        guest["memory_map"] = json!([{"addr": 0xf800_0000_u64, "size": 3 * M + 4096, "type": 2}]);
    }
    if chance.one_in(3) {
        guest["cpu"] =
            json!({"vendor": "AMD", "family": chance.choose(&[0x15, 0x19]), "phys_bits": phys_bits});
    }
    let mut options = Vec::new();
    for option in ["--reserve", "--reserve-low", "--reserve-high"] {
        if chance.one_in(3) {
            let most = if option == "--reserve-low" { 64 } else { 4096 };
            options.push(option.to_owned());
            options.push(format!("{}M", 1 + chance.below(most)));
        }
    }
    (guest, options)
}

fn plan(directory: &Path, options: &[String]) -> Output {
    let mut arguments = vec!["plan", "guest.json", "--format", "json"];
    arguments.extend(options.iter().map(String::as_str));
    run(directory, &arguments)
}

/// What a remedy advises for the next boot; a window that it does not name keeps what was reserved there.
fn advised(remedy: &str, first: &Value) -> Vec<String> {
    let Some((_, advice)) = remedy.split_once("plan it with ") else { return Vec::new() };
    let (advice, more) = advice.split_once(" in all").unwrap();
    let mut advice: Vec<String> = advice.split(' ').map(str::to_owned).collect();
    if let Some((_, bits)) = more.split_once("give the guest ") {
        advice.extend(["--phys-bits".to_owned(), bits.split(' ').next().unwrap().to_owned()]);
    }
    for (option, window) in [("--reserve-low", "low"), ("--reserve-high", "high")] {
        let reserved = list(&first["reserved"]).iter().filter(|reserved| reserved["window"] == window);
        let reserved: u64 = reserved.map(|reserved| number(&reserved["size"])).sum();
        if reserved > 0 && !advice.iter().any(|word| word == option) {
            advice.extend([option.to_owned(), reserved.to_string()]);
        }
    }
    advice
}

#[derive(Default)]
struct Count {
    yes: usize,
    no: usize,
    again: usize,
    taken: usize,
    detached: usize,
    advised: usize,
}

fn sequence(seed: u64, steps: usize, count: &mut Count) {
    let mut chance = Chance(seed);
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (guest, options) = guest(&mut chance);
    fs::write(directory.join("guest.json"), guest.to_string()).unwrap();
    let planned = plan(directory, &options);
    if !planned.status.success() {
        assert_eq!(planned.status.code(), Some(1), "seed {seed}: {planned:?}");
        return;
    }
    let file = directory.join("layout.json");
    fs::write(&file, &planned.stdout).unwrap();
    let read = || -> Value { serde_json::from_slice(&fs::read(&file).unwrap()).unwrap() };
    let mut oracle = Oracle::new(&read());
    let mut devices: BTreeMap<String, Value> = BTreeMap::new();
    for _ in 0..steps {
        let before = fs::read(&file).unwrap();
        let context = format!("seed {seed}, guest {guest}, options {options:?}");
        if !devices.is_empty() && chance.one_in(3) {
            let index = chance.below(devices.len() as u64) as usize;
            let (bdf, gone) =
                devices.iter().nth(index).map(|(bdf, gone)| (bdf.clone(), gone.clone())).unwrap();
            let name = match gone["host"].as_str() {
                Some(host) if chance.one_in(2) => host.to_owned(),
                _ => {
                    fs::write(directory.join("gone.json"), gone.to_string()).unwrap();
                    "gone.json".to_owned()
                }
            };
            let answer =
                run(directory, &["detach", "--layout", "layout.json", &name, "--commit", "--format", "json"]);
            assert_eq!(answer.status.code(), Some(0), "{context}: {answer:?}");
            assert_eq!(list(&json_of(&answer)["bars"]), oracle.there[&bdf], "{context}");
            oracle.there.remove(&bdf);
            oracle.hosts.retain(|_, there| *there != bdf);
            devices.remove(&bdf);
            oracle.compare(&read());
            count.detached += 1;
            continue;
        }
        let again = chance.one_in(8) && !devices.is_empty();
        let wanted = if again {
            let index = chance.below(devices.len() as u64) as usize;
            devices.values().nth(index).cloned().unwrap()
        } else {
            let slot = 2 + chance.below(12);
            let function = if chance.one_in(4) { chance.below(8) } else { 0 };
            device(&mut chance, slot, function)
        };
        let bdf = wanted["bdf"].as_str().unwrap().to_owned();
        fs::write(directory.join("device.json"), wanted.to_string()).unwrap();
        let commit = chance.below(4) > 0;
        let mut arguments = vec!["attach", "--layout", "layout.json", "device.json", "--format", "json"];
        if commit {
            arguments.push("--commit");
        }
        let output = run(directory, &arguments);
        let answer = json_of(&output);
        let context = format!("{context}, {wanted}: {answer}");
        assert_eq!(answer["schema"], "attach/1", "{context}");
        let code = answer["error"]["code"].as_str();
        if again {
            assert_eq!(
                (output.status.code(), list(&answer["bars"])),
                (Some(0), oracle.there[&bdf].as_slice()),
                "{context}"
            );
            assert_eq!(fs::read(&file).unwrap(), before, "{context}");
            count.again += 1;
            continue;
        }
        let same_host = wanted["host"].as_str().is_some_and(|host| oracle.hosts.contains_key(host));
        if oracle.there.contains_key(&bdf) || same_host {
            let expected = if same_host { "already-attached" } else { "slot-taken" };
            assert_eq!((output.status.code(), code), (Some(1), Some(expected)), "{context}");
            assert_eq!(fs::read(&file).unwrap(), before, "{context}");
            count.taken += 1;
            continue;
        }
        let bars = list(&wanted["bars"]);
        if oracle.has_room(bars) {
            assert_eq!((output.status.code(), &answer["fits"]), (Some(0), &json!(true)), "{context}");
            oracle.accept(&wanted, list(&answer["bars"]));
            assert_eq!(list(&answer["forecast"]).len(), bars.len(), "{context}");
            count.yes += 1;
            if commit {
                oracle.there.insert(bdf.clone(), list(&answer["bars"]).to_vec());
                if let Some(host) = wanted["host"].as_str() {
                    oracle.hosts.insert(host.to_owned(), bdf.clone());
                }
                devices.insert(bdf, wanted);
                oracle.compare(&read());
            } else {
                assert_eq!(fs::read(&file).unwrap(), before, "{context}");
            }
            continue;
        }
        count.no += 1;
        assert_eq!((output.status.code(), &answer["fits"]), (Some(1), &json!(false)), "{context}");
        assert_eq!(fs::read(&file).unwrap(), before, "{context}");
        let blocking: Vec<Value> = bars
            .iter()
            .filter(|bar| {
                let named = json!({"bdf": bdf, "reg": bar["reg"], "size": bar["size"]});
                list(&answer["error"]["blocking"]).contains(&named)
            })
            .cloned()
            .collect();
        assert_eq!(blocking.len(), list(&answer["error"]["blocking"]).len(), "{context}");
        assert!(!oracle.has_room(&blocking), "{context}");
        for index in 0..blocking.len() {
            let mut fewer = blocking.clone();
            fewer.remove(index);
            assert!(oracle.has_room(&fewer), "each is needed to block: {context}");
        }
        let message = answer["error"]["message"].as_str().unwrap();
        let ports = blocking.iter().all(|bar| bar["kind"] == "io");
        for window in if ports { &["io"][..] } else { &["low", "high"][..] } {
            let Some(free) = oracle.free(window) else { continue };
            let block = format!("the largest aligned block {}", Size::new(largest(&free)));
            assert!(message.contains(&block), "{window}: {block}: {context}");
        }
        let remedy = answer["error"]["remedy"].as_str().unwrap();
        let advice = advised(remedy, &oracle.first);
        let too_large = remedy.contains("no guest has addresses");
        if advice.is_empty() || too_large {
            assert!(ports || too_large, "{context}");
            continue;
        }
        // At the next boot, with what is advised, what is attached now and this device have room.
        let next = plan(directory, &advice);
        if next.status.code() == Some(1) {
            continue;
        }
        count.advised += 1;
        assert_eq!(next.status.code(), Some(0), "{context}: {next:?}");
        fs::write(directory.join("next.json"), &next.stdout).unwrap();
        for device in devices.values().chain([&wanted]) {
            fs::write(directory.join("device.json"), device.to_string()).unwrap();
            let again = run(directory, &["attach", "--layout", "next.json", "device.json", "--commit"]);
            if again.status.code() != Some(0) {
                let text = String::from_utf8_lossy(&again.stdout).into_owned();
                assert!(text.contains("I/O"), "{context}: {device}: {text}");
            }
        }
        fs::remove_file(directory.join("next.json")).unwrap();
    }
    let rest: Vec<String> = devices.keys().cloned().collect();
    for bdf in rest {
        fs::write(directory.join("gone.json"), devices[&bdf].to_string()).unwrap();
        let answer = run(directory, &["detach", "--layout", "layout.json", "gone.json", "--commit"]);
        assert_eq!(answer.status.code(), Some(0), "{answer:?}");
    }
    assert_eq!(fs::read(&file).unwrap(), planned.stdout, "seed {seed}: everything is given back");
}

#[test]
fn every_answer_of_a_long_sequence_is_right() {
    let seeds = std::env::var("SEQUENCES").map_or(5, |text| text.parse().unwrap());
    let first = std::env::var("FIRST_SEED").map_or(1, |text| text.parse().unwrap());
    let mut count = Count::default();
    for seed in first..first + seeds {
        sequence(seed, 40, &mut count);
    }
    let Count { yes, no, again, taken, detached, advised } = count;
    let said =
        format!("{yes} yes, {no} no, {again} again, {taken} taken, {detached} detached, {advised} advised");
    assert!([yes, no, again, taken, detached, advised].iter().all(|count| *count >= 5), "{said}");
}

/// Where a card is, its identity (vendor, device, class with interface), and its BARs: size, flags.
type Card = (&'static str, (u16, u16, u32), &'static [(u64, u64)]);

/// A host with five cards, one of them with two functions, each BAR on pages of its own.
fn host() -> sysfs::Tree {
    let tree = sysfs::Tree::new();
    let cards: [Card; 6] = [
        (
            "0000:3b:00.0",
            (0x10de, 0x2204, 0x03_0000),
            &[
                (16 * M, sysfs::MEM32),
                (256 * M, sysfs::MEM64_PREFETCH),
                (0, 0),
                (32 * M, sysfs::MEM64_PREFETCH),
                (0, 0),
                (128, sysfs::IO),
                (512 * K, sysfs::ROM),
            ],
        ),
        ("0000:3b:00.1", (0x10de, 0x1aef, 0x04_0300), &[(16 * K, sysfs::MEM32)]),
        (
            "0000:3c:00.0",
            (0x8086, 0x10d3, 0x02_0000),
            &[(128 * K, sysfs::MEM32), (512 * K, sysfs::MEM32), (32, sysfs::IO), (16 * K, sysfs::MEM32)],
        ),
        (
            "0000:3d:00.0",
            (0x15b7, 0x501a, 0x01_0802),
            &[(16 * K, sysfs::MEM64), (0, 0), (0, 0), (0, 0), (256, sysfs::MEM64)],
        ),
        (
            "0001:3e:00.0",
            (0x10de, 0x20b7, 0x03_0200),
            &[
                (16 * M, sysfs::MEM32),
                (4 * G, sysfs::MEM64_PREFETCH),
                (0, 0),
                (32 * M, sysfs::MEM64_PREFETCH),
            ],
        ),
        (
            "0000:3f:1f.7",
            (0x8086, 0x37d0, 0x02_0000),
            &[(16 * M, sysfs::MEM64_PREFETCH), (0, 0), (0, 0), (32 * K, sysfs::MEM64_PREFETCH)],
        ),
    ];
    let (mut low, mut high, mut ports) = (0xa000_0000_u64, 0x60_0000_0000_u64, 0x3000_u64);
    for (at, identity, bars) in cards {
        let mut config = sysfs::Config::of(256);
        config.put(0x0e, &[if at.starts_with("0000:3b") { 0x80 } else { 0 }]);
        let place = |&(size, flags): &(u64, u64)| {
            let from = match flags {
                sysfs::IO => &mut ports,
                sysfs::MEM64 | sysfs::MEM64_PREFETCH => &mut high,
                _ => &mut low,
            };
            let start = if size == 0 { 0 } else { from.next_multiple_of(size.max(4096)) };
            *from = (*from).max(start + size);
            (start, size, flags)
        };
        tree.add(at, identity, &config, &bars.iter().map(place).collect::<Vec<_>>());
    }
    tree
}

/// Three of a host's six functions at a time, by name and with a slot or without: what `--reserve-any` keeps is always
/// enough, each comes as function 0 of the slot that xl would give it, and the end is as the beginning.
#[test]
fn a_hosts_devices_come_and_go_by_name_and_slot() {
    const NAMES: [&str; 6] = ["3b:00.0", "0000:3b:00.1", "3c:00.0", "3d:00.0", "0001:3e:00.0", "3f:1f.7"];
    let (tree, directory) = (host(), tempfile::tempdir().unwrap());
    let (host, directory) = (tree.path().to_str().unwrap(), directory.path());
    fs::write(directory.join("guest.cfg"), "type='hvm'\nmemory=2048\npassthrough='enabled'\n").unwrap();
    let any = format!("3:{}", NAMES.join(","));
    let options = ["--cpu", "Intel:6:46", "--format", "json", "--reserve-any", &any];
    let planned = run(directory, &[&["plan", "guest.cfg", "--host", host][..], &options].concat());
    assert!(planned.status.success(), "{planned:?}");
    fs::write(directory.join("layout.json"), &planned.stdout).unwrap();
    let first: Value = serde_json::from_slice(&planned.stdout).unwrap();
    let slot_of = |bdf: &Value| u64::from_str_radix(&bdf.as_str().unwrap()[3..5], 16).unwrap();
    let boot: Vec<u64> = list(&first["devices"]).iter().map(|device| slot_of(&device["bdf"])).collect();
    let mut chance = Chance(7);
    let mut there: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seen = [0; 4];
    for _ in 0..150 {
        let name = chance.choose(&NAMES);
        let at = chance.one_in(2).then(|| 1 + chance.below(12));
        let argument = at.map_or_else(|| name.to_owned(), |slot| format!("{name}@{slot:x}"));
        let ask = |command: &str, argument: &str| {
            let on = ["--host", host, "--format", "json", "--commit"];
            let on = if command == "attach" { &on[..] } else { &on[2..] };
            let output = run(directory, &[&[command, "--layout", "layout.json", argument], on].concat());
            (output.status.code(), json_of(&output))
        };
        if there.contains_key(name) && chance.one_in(2) {
            let (code, answer) = ask("detach", &argument);
            let right = at.is_none_or(|slot| slot == there[name]);
            assert_eq!(code, Some(i32::from(!right)), "{argument}: {answer}");
            if right {
                there.remove(name);
                seen[0] += 1;
            }
            continue;
        }
        if there.len() == 3 && !there.contains_key(name) {
            continue;
        }
        let taken =
            |slot: &u64| *slot == 0 || boot.contains(slot) || there.values().any(|other| other == slot);
        let (code, answer) = ask("attach", &argument);
        match (there.get(name), at) {
            (Some(own), at) if at.is_none_or(|slot| slot == *own) => {
                assert_eq!(
                    (code, &answer["already_attached"]),
                    (Some(0), &json!(true)),
                    "{argument}: {answer}"
                );
                seen[1] += 1;
            }
            (Some(_), _) => assert_eq!(answer["error"]["code"], "already-attached", "{argument}: {answer}"),
            (None, Some(slot)) if taken(&slot) => {
                assert_eq!(
                    (code, &answer["error"]["code"]),
                    (Some(1), &json!("slot-taken")),
                    "{argument}: {answer}"
                );
                seen[2] += 1;
            }
            (None, at) => {
                assert_eq!(code, Some(0), "{argument}: {answer}");
                let slot = at.unwrap_or_else(|| (2..32).find(|slot| !taken(slot)).unwrap());
                assert_eq!(answer["bdf"], format!("00:{slot:02x}.0"), "{argument}");
                let forecast = list(&answer["forecast"]);
                assert!(forecast.iter().all(|bar| bar["address"].is_u64()), "Linux has room too: {answer}");
                there.insert(name, slot);
                seen[3] += 1;
            }
        }
    }
    assert!(seen.iter().all(|count| *count >= 3), "{seen:?}");
    for name in there.keys() {
        let gone = run(directory, &["detach", "--layout", "layout.json", name, "--commit"]);
        assert_eq!(gone.status.code(), Some(0), "{gone:?}");
    }
    assert_eq!(fs::read(directory.join("layout.json")).unwrap(), planned.stdout);
}
