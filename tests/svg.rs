// SPDX-License-Identifier: LGPL-2.1-or-later
//! The figure: well-formed, every text inside it, no two texts on top of each other, every BAR drawn.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};

use common::program::program;
use proptest::prelude::*;
use xen_pci_layout::address::Size;
use xen_pci_layout::guest::{Guest, MemoryMapEntry, Reserve};
use xen_pci_layout::hvmloader::{self, Release};
use xen_pci_layout::pci::{Bar, BarKind, Bdf, Device};
use xen_pci_layout::planner::{self, Options};
use xen_pci_layout::report::{map::Map, svg};

fn no_names(_: u16, _: u16) -> Option<String> {
    None
}

/// The widest that a character of common fixed-width fonts is, in sizes of the font; and of the title's.
const WIDE: f64 = 0.605;
const TITLE_WIDE: f64 = 0.75;

/// A text and the box around it: left, top, right, bottom.
type Placed = (String, [f64; 4]);

/// Every text of a figure with the box that it may fill.
fn texts(figure: &str) -> (roxmltree::Document<'_>, Vec<Placed>) {
    let document = roxmltree::Document::parse(figure).unwrap_or_else(|error| panic!("{error}: {figure}"));
    let mut found = Vec::new();
    for node in document.descendants().filter(|node| node.has_tag_name("text")) {
        let number = |name| node.attribute(name).unwrap().parse::<f64>().unwrap();
        let classes: Vec<&str> = node.attribute("class").unwrap_or_default().split(' ').collect();
        let shift = node.ancestors().find_map(|parent| parent.attribute("transform")).unwrap();
        let shift: f64 = shift.trim_start_matches("translate(").split(' ').next().unwrap().parse().unwrap();
        let text = node.text().unwrap_or_default().to_owned();
        let (size, wide) = if classes.contains(&"title") { (17.0, TITLE_WIDE) } else { (11.0, WIDE) };
        let (x, y, width) = (number("x") + shift, number("y"), text.chars().count() as f64 * size * wide);
        let left = if classes.contains(&"end") { x - width } else { x };
        found.push((text, [left, y - 0.75 * size, left + width, y + 0.22 * size]));
    }
    (document, found)
}

/// Fails where a text overlaps another or leaves the figure.
fn check(figure: &str) {
    let (document, texts) = texts(figure);
    let root = document.root_element();
    let side = |name| root.attribute(name).unwrap().parse::<f64>().unwrap();
    let (width, height) = (side("width"), side("height"));
    for (index, (text, [left, top, right, bottom])) in texts.iter().enumerate() {
        assert!(
            *left >= 0.0 && *top >= 0.0 && *right <= width && *bottom <= height,
            "{text} leaves the figure"
        );
        for (other, [other_left, other_top, other_right, other_bottom]) in &texts[index + 1..] {
            let apart =
                right <= other_left || other_right <= left || bottom <= other_top || other_bottom <= top;
            assert!(apart, "\"{text}\" and \"{other}\" are on top of each other");
        }
    }
}

fn figure(maps: &[&Map]) -> String {
    let mut out = Vec::new();
    svg::figure(&mut out, maps).unwrap();
    String::from_utf8(out).unwrap()
}

/// A guest with that many BARs, six a function.
fn guest(sizes: &[u32], ports: usize, reserve: u64, rdm: bool) -> Guest {
    let mut guest = Guest::new(0xf_0000, 0x10_0000 + 0x30_0000, 46);
    guest.device_model_memory = vec![Size::new(16 << 20), Size::new(64 << 10)];
    guest.reserve = Reserve { low: Size::ZERO, high: Size::new(reserve << 30) };
    if rdm {
        let entry = |addr, size| MemoryMapEntry {
            addr: xen_pci_layout::address::Address::new(addr),
            size: Size::new(size),
            kind: 2,
        };
        guest.memory_map = vec![entry(0x7d80_0000, 40 << 20), entry(0xf800_0000, 1 << 20)];
    }
    for (function, sizes) in sizes.chunks(5).enumerate() {
        let (slot, function) = ((function / 8 + 2) as u8, (function % 8) as u8);
        let mut device = Device::new(Bdf::new(0, slot, function).unwrap(), (0x8086, 0x1572), 0x0200);
        device.model = (slot % 2 == 0).then(|| "a name that is longer than anybody would wish <&>".repeat(3));
        for (index, &size) in sizes.iter().enumerate() {
            let kind = if size > 22 { BarKind::Mem64 } else { BarKind::Mem32 };
            // A 64-bit BAR has two registers.
            let reg = if kind == BarKind::Mem64 && index > 0 { continue } else { 0x10 + 4 * index as u8 };
            let wide = kind == BarKind::Mem64;
            device.bars.push(bar(reg, kind, 1 << size));
            if wide {
                break;
            }
        }
        if device.bars.len() < 6 && usize::from(slot) * 8 + usize::from(function) < 16 + ports {
            device.bars.push(bar(0x24, BarKind::Io, 16));
        }
        guest.devices.push(device);
    }
    guest
}

fn bar(reg: u8, kind: BarKind, size: u64) -> Bar {
    Bar { reg, kind, size: Size::new(size), prefetch: true, value: 0, io16: false, host_address: None }
}

fn planned(guest: &Guest) -> Option<Map> {
    let layout = planner::plan(guest, &Options { resize_hole: true, ..Options::default() }).ok()?;
    Some(Map::of_layout(&layout, &no_names))
}

fn stock(guest: &Guest, release: &str) -> Map {
    let prediction = hvmloader::predict(guest, release.parse::<Release>().unwrap()).unwrap();
    Map::of_prediction(guest, &format!("Xen {release}"), &prediction, &no_names)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_text_lies_on_another(
        sizes in prop::collection::vec(8_u32..36, 0..260),
        ports in 0_usize..60,
        reserve in prop_oneof![Just(0_u64), 1_u64..64],
        rdm: bool,
    ) {
        let guest = guest(&sizes, ports, reserve, rdm);
        let stock = stock(&guest, "4.17");
        check(&figure(&[&stock]));
        if let Some(planned) = planned(&guest) {
            check(&figure(&[&planned]));
            check(&figure(&[&stock, &planned]));
        }
    }
}

#[test]
fn every_bar_is_drawn_with_its_address_whatever_shares_a_row() {
    for count in [1, 20, 200] {
        let sizes: Vec<u32> = (0..count).map(|number| 12 + number % 10).collect();
        let guest = guest(&sizes, 0, 0, false);
        let figure = figure(&[&planned(&guest).unwrap()]);
        let document = roxmltree::Document::parse(&figure).unwrap();
        let titles: Vec<&str> = document
            .descendants()
            .filter(|node| node.has_tag_name("title"))
            .filter_map(|node| node.text())
            .filter(|title| title.contains("BAR") && title.contains("0x"))
            .collect();
        assert_eq!(titles.len(), count as usize, "{titles:?}");
    }
}

#[test]
fn what_a_stock_loader_puts_on_top_of_each_other_or_nowhere_is_marked() {
    // The guest of Xen 4.17.7 that read the VGA's ROM through a BAR, with one BAR too many.
    let guest: Guest = serde_json::from_value(serde_json::json!({
        "phys_bits": 40, "low_mem_pgend": 524_288, "high_mem_pgend": 1_308_672,
        "xenstore": {"platform/mmio_hole_size": "2147483648"}, "device_model_memory": [8_388_608, 65_536], "devices": [
        {"bdf": "00:03.0", "vendor": 1, "device": 1, "class": 255, "bars": [
            {"reg": 16, "kind": "mem32", "size": 2_147_483_648_u64}, {"reg": 24, "kind": "mem64", "size": 1_073_741_824}]},
        {"bdf": "00:04.0", "vendor": 1, "device": 1, "class": 255, "bars": [
            {"reg": 24, "kind": "mem64", "size": 1_073_741_824}]}]}))
    .unwrap();
    let figure = figure(&[&stock(&guest, "4.20")]);
    check(&figure);
    assert!(
        figure.contains("overlaps: device-model memory") && figure.contains("class=\"clash\""),
        "{figure}"
    );
    assert!(figure.contains("00:03.0 BAR0 32-bit prefetchable (no place)") || figure.contains("(no place)"));
    let crash = Guest {
        devices: vec![Device::new(Bdf::new(0, 4, 0).unwrap(), (0x10de, 2), 0x0680)],
        ..Guest::new(0x2_0000, 0, 40)
    };
    let figure = self::figure(&[&stock(&crash, "4.20")]);
    check(&figure);
    assert!(figure.contains("crashes before the guest starts"));
}

#[test]
fn the_readme_s_figure_is_what_plan_draws() {
    let output = program()
        .args([
            "plan",
            "--format",
            "svg",
            "--pci-ids",
            "tests/pci.ids",
            "--host",
            "examples/consumer-gpu/host",
        ])
        .arg("examples/consumer-gpu/guest.cfg")
        .output()
        .unwrap();
    let drawn = String::from_utf8(output.stdout).unwrap();
    assert!(
        drawn == include_str!("../docs/consumer-gpu.svg"),
        "the same command writes docs/consumer-gpu.svg anew"
    );
}

#[test]
fn plan_and_predict_draw_the_examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for (example, host) in
        [("consumer-gpu", "host"), ("hyperscale", "host"), ("endpoint-test", "host-aligned")]
    {
        let directory: PathBuf = examples.join(example);
        for command in ["plan", "predict"] {
            let output = program()
                .args([command, "--format", "svg", "--host"])
                .args([directory.join(host), directory.join("guest.cfg")])
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            check(&String::from_utf8(output.stdout).unwrap());
        }
    }
}
