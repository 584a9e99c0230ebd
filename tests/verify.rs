// SPDX-License-Identifier: LGPL-2.1-or-later
//! `verify`: a guest about which all agree, and one thing after another changed; and a real guest on stock Xen.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::collections::BTreeMap;
use std::path::Path;

use xen_pci_layout::address::{Address, Range, Size};
use xen_pci_layout::layout::{Layout, WindowKind};
use xen_pci_layout::pci::{BarKind, Bdf, PresentBar, PresentFunction};
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::report::loader_lines;
use xen_pci_layout::source::description;
use xen_pci_layout::source::hvmloader_log::{Run, runs};
use xen_pci_layout::source::ram_blocks::RamBlock;
use xen_pci_layout::verify::{DeviceModelState, Evidence, verify};

fn block(name: &str, start: u64, size: u64) -> RamBlock {
    RamBlock { name: name.to_owned(), range: Range::sized(Address::new(start), Size::new(size)).unwrap() }
}

/// 5 GiB of RAM, video memory and a ROM behind it; a card with a 32-bit, a 64-bit and an I/O BAR of the host's, and an
/// emulated NIC with a small BAR.
fn layout() -> Layout {
    let text = r#"{"phys_bits": 40, "low_mem_pgend": 983040, "high_mem_pgend": 1310720, "passthrough": true,
        "device_model_memory": [8388608, 65536], "reserve": {"high": 268435456}, "devices": [
        {"bdf": "00:05.0", "vendor": 4318, "device": 7864, "class": 770, "host": "0000:3b:00.0", "bars": [
            {"reg": 16, "kind": "mem32", "size": 16777216},
            {"reg": 20, "kind": "mem64", "size": 8589934592, "prefetch": true},
            {"reg": 28, "kind": "io", "size": 128}]},
        {"bdf": "00:06.0", "vendor": 4332, "device": 33081, "class": 512, "model": "rtl8139", "bars": [
            {"reg": 16, "kind": "mem32", "size": 256}]}]}"#;
    plan(&description::parse(text).unwrap(), &Options::default()).unwrap()
}

fn log(layout: &Layout) -> Vec<String> {
    let window =
        |kind| layout.window(kind).map_or((0, 0), |window| (window.start().get(), window.end().get()));
    let (low, high) = (window(WindowKind::Low), window(WindowKind::High));
    let mut lines = vec![
        "HVM Loader".to_owned(),
        format!("PCI layout: used, low {:09x}-{:09x} high {:09x}-{:09x}", low.0, low.1, high.0, high.1),
    ];
    let mut bars = Vec::new();
    loader_lines::pci_dev(&mut bars, layout).unwrap();
    lines.extend(String::from_utf8(bars).unwrap().lines().map(str::to_owned));
    let (low, high) = (layout.low_mem_pgend << 12, layout.high_mem_pgend << 12);
    lines.push(format!(" [02]: 00000000:00100000 - 00000000:{low:08x}: RAM"));
    lines.push(format!(" [05]: 00000001:00000000 - {:08x}:{:08x}: RAM", high >> 32, high & 0xffff_ffff));
    lines
}

/// What everybody says of a guest that is as planned.
fn agreeing() -> Evidence {
    let layout = layout();
    let mut functions: BTreeMap<Bdf, PresentFunction> = BTreeMap::new();
    for bar in &layout.bars {
        let device = layout.device(bar.bdf).unwrap();
        let function = functions.entry(bar.bdf).or_insert_with(|| PresentFunction {
            bdf: bar.bdf,
            vendor: device.vendor,
            device: device.device,
            passed_through: device.host.is_some(),
            bars: Vec::new(),
        });
        let address = Some(bar.address);
        function.bars.push(PresentBar { reg: bar.reg, kind: bar.kind, size: bar.size, address });
    }
    let end = layout.high_mem_pgend << 12;
    let border = Address::FOUR_GIB.checked_sub(layout.mmio_hole_size);
    Evidence {
        libxl_hole: Some(layout.mmio_hole_size),
        device_model: Some(DeviceModelState {
            functions: functions.into_values().collect(),
            border,
            blocks: vec![
                block("xen.ram", 0, end),
                block("vga.vram", end, 8 << 20),
                block("vga.rom", end + (8 << 20), 64 << 10),
            ],
        }),
        loader: Some(Run { domid: Some(7), lines: log(&layout) }),
        layout: Some(layout),
    }
}

/// The codes of the disagreements; those of the notes after a bar.
fn codes(evidence: &Evidence) -> String {
    let verdict = verify(evidence);
    let join = |found: &[xen_pci_layout::verify::Finding]| {
        found.iter().map(|found| found.code).collect::<Vec<_>>().join(" ")
    };
    format!("{}|{}", join(&verdict.disagreements), join(&verdict.notes))
}

type Change = fn(&mut Evidence);

fn model(evidence: &mut Evidence) -> &mut DeviceModelState {
    evidence.device_model.as_mut().unwrap()
}

fn lines(evidence: &mut Evidence) -> &mut Vec<String> {
    &mut evidence.loader.as_mut().unwrap().lines
}

fn stored(evidence: &mut Evidence) -> &mut Layout {
    evidence.layout.as_mut().unwrap()
}

/// Puts a BAR of the device model elsewhere; `None`: its decode is off.
fn put(evidence: &mut Evidence, function: usize, bar: usize, address: Option<u64>) {
    model(evidence).functions[function].bars[bar].address = address.map(Address::new);
}

/// The loader's memory map ends RAM above 4 GiB so many bytes before the layout does.
fn loader_ends_ram(evidence: &mut Evidence, less: u64) {
    let end = (stored(evidence).high_mem_pgend << 12) - less;
    let line = lines(evidence).iter_mut().find(|line| line.contains("00000001:00000000")).unwrap();
    *line = format!(" [05]: 00000001:00000000 - {:08x}:{:08x}: RAM", end >> 32, end & 0xffff_ffff);
}

#[test]
fn all_agree_about_a_guest_that_is_as_planned() {
    let evidence = agreeing();
    let layout = evidence.layout.as_ref().unwrap();
    assert!(layout.window(WindowKind::High).is_some() && layout.bars.len() == 4, "{layout:?}");
    assert_eq!(codes(&evidence), "|");
}

#[test]
fn each_disagreement_has_its_name() {
    let changes: [(&str, Change); 34] = [
        // 4 GiB less 256 MiB is where QEMU ends RAM of itself.
        ("|", |evidence| model(evidence).border = None),
        ("hole device-model-hole|", |evidence| evidence.libxl_hole = Some(Size::new(512 << 20))),
        // A guest that was restored: QEMU is held against the layout then.
        ("|no-libxl-hole", |evidence| evidence.libxl_hole = None),
        ("device-model-hole ram|no-libxl-hole", |evidence| {
            evidence.libxl_hole = None;
            model(evidence).border = Some(Address::new(3 << 30));
        }),
        ("device-model-hole ram|", |evidence| model(evidence).border = Some(Address::new(3 << 30))),
        ("ram|", |evidence| model(evidence).blocks[0] = block("xen.ram", 0, 5 << 30 | 1 << 20)),
        ("ram|", |evidence| lines(evidence).retain(|line| !line.contains("00000001:00000000"))),
        // The loader takes the last 2 MiB for OVMF's image; so many as no firmware needs is another matter.
        ("|ram-for-firmware", |evidence| loader_ends_ram(evidence, 2 << 20)),
        ("ram|", |evidence| loader_ends_ram(evidence, 32 << 20)),
        ("device-model-memory|", |evidence| model(evidence).blocks.push(block("late.rom", 1 << 38, 4096))),
        // The video RAM is where the layout has none, on the 64-bit BAR's place.
        ("device-model-memory bar-on-device-model-memory|", |evidence| {
            let place = stored(evidence).bars.iter().find(|bar| bar.kind == BarKind::Mem64).unwrap().address;
            model(evidence).blocks[1] = block("vga.vram", place.get() + (1 << 20), 8 << 20);
        }),
        ("layout-not-used|", |evidence| lines(evidence)[1] = "PCI layout: not used: bad BAR".to_owned()),
        ("layout-not-read|", |evidence| drop(lines(evidence).remove(1))),
        ("loader-window|", |evidence| {
            lines(evidence)[1] = lines(evidence)[1].replace("fc000000 ", "fb000000 ")
        }),
        ("loader-bar|", |evidence| drop(lines(evidence).remove(2))),
        ("loader-bar|", |evidence| {
            lines(evidence).push("pci dev 09:0 bar 10 size 000001000: 0f7000000".to_owned());
        }),
        // A guest that writes the loader's lines after it: the first counts.
        ("|", |evidence| lines(evidence).push("pci dev 05:0 bar 10 size 001000000: 0f8000000".to_owned())),
        ("unplaced|", |evidence| {
            let at = lines(evidence).iter().position(|line| line.starts_with("pci dev 06:0")).unwrap();
            lines(evidence)[at] = "pci dev 06:0 bar 10 size 000000100: no space for resource!".to_owned();
        }),
        ("|loader-log-cut", |evidence| drop(lines(evidence).drain(..2))),
        ("|no-loader-log", |evidence| evidence.loader = None),
        ("|no-device-model", |evidence| evidence.device_model = None),
        // The guest moves its 16 MiB BAR: within the window, out of it, onto RAM, onto the other BAR, past its width.
        ("moved|", |evidence| put(evidence, 0, 0, Some(0xf800_0000))),
        ("moved outside-windows|", |evidence| put(evidence, 0, 0, Some(0x30_0000_0000))),
        ("moved bar-on-ram outside-windows|", |evidence| put(evidence, 0, 0, Some(0x1000_0000))),
        ("moved bar-on-fixed-region outside-windows|", |evidence| put(evidence, 0, 0, Some(0xfe00_0000))),
        ("moved bar-past-width outside-windows|", |evidence| put(evidence, 0, 0, Some(1 << 40))),
        ("moved bars-overlap|", |evidence| {
            let place = stored(evidence).bars.iter().find(|bar| bar.kind == BarKind::Mem64).unwrap().address;
            put(evidence, 0, 0, Some(place.get()));
        }),
        ("moved shared-page|loader-log-cut", |evidence| {
            let nic = model(evidence).functions[1].bars[0].address.unwrap();
            model(evidence).functions[0].bars[0].size = Size::new(256);
            stored(evidence).bars.iter_mut().find(|bar| bar.size.get() == 16 << 20).unwrap().size =
                Size::new(256);
            put(evidence, 0, 0, Some(nic.get() + 256));
            lines(evidence).retain(|line| !line.starts_with("pci dev 05:0 bar 10"));
            lines(evidence).remove(0);
        }),
        ("|no-decode", |evidence| put(evidence, 0, 0, None)),
        ("other-size|", |evidence| model(evidence).functions[0].bars[0].size = Size::new(1 << 20)),
        ("other-device|", |evidence| model(evidence).functions[0].device = 1),
        ("unrecorded|", |evidence| {
            let mut more = model(evidence).functions[1].clone();
            (more.bdf, more.bars[0].address) = (Bdf::new(0, 9, 0).unwrap(), Some(Address::new(0xf900_0000)));
            model(evidence).functions.push(more);
        }),
        ("absent|", |evidence| drop(model(evidence).functions.remove(0))),
        ("|unplugged", |evidence| drop(model(evidence).functions.remove(1))),
    ];
    for (number, (expected, change)) in changes.into_iter().enumerate() {
        let mut evidence = agreeing();
        change(&mut evidence);
        assert_eq!(codes(&evidence), expected, "change {number}: {:?}", verify(&evidence));
    }
}

#[test]
fn a_bar_that_the_guest_moved_and_attach_has_recorded_is_only_noted() {
    let mut evidence = agreeing();
    put(&mut evidence, 0, 0, Some(0xf800_0000));
    stored(&mut evidence).bars.iter_mut().find(|bar| bar.size.get() == 16 << 20).unwrap().address =
        Address::new(0xf800_0000);
    assert_eq!(codes(&evidence), "|recorded-move");
}

#[test]
fn what_came_later_is_not_looked_for_in_the_log() {
    let mut evidence = agreeing();
    stored(&mut evidence).hot_plugged = vec!["00:05.0".parse().unwrap()];
    lines(&mut evidence).retain(|line| !line.starts_with("pci dev 05:0"));
    assert_eq!(codes(&evidence), "|");
}

/// The recording of a guest with two 1 GiB BARs on Xen 4.17.7, one of them on the VGA's option ROM.
#[test]
fn on_stock_xen_the_bar_on_the_vga_s_rom_is_found() {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/bar-on-rom");
    let text = std::fs::read_to_string(recording.join("hvmloader.log")).unwrap();
    let run = runs(&text).remove(0);
    let mut functions: BTreeMap<Bdf, PresentFunction> = BTreeMap::new();
    for bar in run.bars() {
        let function = functions.entry(bar.bdf).or_insert_with(|| PresentFunction {
            bdf: bar.bdf,
            vendor: 1,
            device: 1,
            passed_through: false,
            bars: Vec::new(),
        });
        let kind = if bar.is_io() { BarKind::Io } else { BarKind::Mem64 };
        function.bars.push(PresentBar { reg: bar.reg, kind, size: bar.size, address: bar.address() });
    }
    let number = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap();
    let traced = std::fs::read_to_string(recording.join("qemu-ram.log")).unwrap();
    let mut blocks = vec![block("xen.ram", 0, 0x1_3f80_0000)];
    for (line, name) in traced.lines().zip(["vga.vram", "vga.rom"]) {
        let (start, size) = line.rsplit_once(": ").unwrap().1.split_once(", size ").unwrap();
        blocks.push(block(name, number(start), number(size)));
    }
    let evidence = Evidence {
        layout: None,
        libxl_hole: Some(Size::new(2 << 30)),
        device_model: Some(DeviceModelState {
            functions: functions.into_values().collect(),
            border: Some(Address::new(2 << 30)),
            blocks,
        }),
        loader: Some(run),
    };
    let verdict = verify(&evidence);
    let [found] = verdict.disagreements.as_slice() else { panic!("{verdict:?}") };
    assert_eq!((found.code, found.reg), ("bar-on-device-model-memory", Some(0x18)));
    assert_eq!(
        found.message,
        "00:04.0 BAR2 (1G) at 0x140000000-0x17fffffff lies on the device model's memory (vga.rom) at 0x140000000-0x14000ffff"
    );
    assert!(
        verdict.notes.iter().all(|note| ["no-layout", "shared-page"].contains(&note.code)),
        "{verdict:?}"
    );
}
