// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the fuzz targets share: each input is taken through everything that a command would do with it, and what comes
//! out is held against the rules. A broken promise is a panic, which is what libFuzzer looks for.

pub mod guest;

use xen_pci_layout::audit::{self, audit, security_findings};
use xen_pci_layout::guest::Guest;
use xen_pci_layout::hotplug::{Present, attach, detach, free_slot};
use xen_pci_layout::hvmloader::{Outcome, Release, hazards, predict, suggest};
use xen_pci_layout::layout::{Layout, check};
use xen_pci_layout::pci::{Bdf, Device};
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::report::map::Map;
use xen_pci_layout::report::{self, Look};
use xen_pci_layout::source::description;
use xen_pci_layout::source::domain::{self, Surroundings};
use xen_pci_layout::source::domain_config::DomainConfig;
use xen_pci_layout::source::host::Host;
use xen_pci_layout::xenstore::schema::loader_keys;

/// No pci.ids.
const NAMELESS: fn(u16, u16) -> Option<String> = |_, _| None;

/// From how many functions on a guest is not planned a second time without one of them.
const MANY: usize = 48;

/// What `plan` does with a guest that was read and validated; the layout, if there is one.
pub fn planned(guest: &Guest, options: &Options) -> Option<Layout> {
    let layout = match plan(guest, options) {
        Ok(layout) => layout,
        Err(refusal) => {
            assert!(!refusal.message.is_empty() && !refusal.remedy.is_empty(), "{refusal:?}");
            return None;
        }
    };
    assert_eq!(check(guest, &layout), [], "{guest:#?} {layout:#?}");

    let json = serde_json::to_string(&layout).expect("a layout is JSON");
    let back: Layout = serde_json::from_str(&json).expect("what was written is read");
    assert_eq!(back, layout);

    let mut turned = guest.clone();
    turned.devices.reverse();
    turned.devices.iter_mut().for_each(|device| device.bars.reverse());
    let other = plan(&turned, options).expect("the order of devices decides nothing");
    assert_eq!((&other.bars, &other.vf_bars), (&layout.bars, &layout.vf_bars));
    assert_eq!((other.mmio_hole_size, &other.windows), (layout.mmio_hole_size, &layout.windows));

    let built = Options { built_hole: Some(layout.mmio_hole_size), ..options.clone() };
    let again = plan(guest, &built).expect("the hole that was chosen will do");
    assert_eq!(again.mmio_hole_size, layout.mmio_hole_size);

    let keep = Options { keep: Some(Box::new(layout.clone())), ..options.clone() };
    let kept = plan(guest, &keep).expect("what there is a layout for has one that keeps it");
    assert_eq!(check(guest, &kept), []);
    assert_eq!((&kept.bars, &kept.vf_bars), (&layout.bars, &layout.vf_bars), "nothing needs to move");
    Some(layout)
}

/// What `predict` does with a guest, under every algorithm that a release had.
pub fn predicted(guest: &Guest) {
    let bars: usize = guest.devices.iter().map(|device| device.bars.len()).sum();
    for release in Release::one_of_each_algorithm() {
        let Ok(prediction) = predict(guest, release) else { continue };
        let found = hazards(guest, &prediction);
        if prediction.result == Outcome::Crash {
            assert!(!found.is_empty(), "a crash is a hazard");
        }
        let mut text = Vec::new();
        let warnings: Vec<_> = found.into_iter().map(|hazard| hazard.warning).collect();
        let map = Map::of_prediction(guest, "x", &prediction, &NAMELESS);
        report::prediction::prediction(&mut text, &map, &prediction, &[], &warnings, bars % 2 == 0)
            .expect("memory takes it");
        report::svg::figure(&mut text, &[&map]).expect("memory takes it");
        // A hole that helps is looked for among all of them, which takes its time: some small guests are enough.
        if bars < 6 && guest.low_mem_pgend % 64 == 7 {
            let suggestion = suggest(guest, release);
            report::prediction::suggestion(&mut text, &suggestion, false).expect("memory takes it");
        }
    }
}

/// A guest from wherever it came, through everything: validated, planned, predicted, printed, hot-plugged.
pub fn everything(guest: &Guest) {
    if description::validate(guest).is_err() {
        return;
    }
    predicted(guest);
    for options in [Options::default(), Options { resize_hole: true, ..Options::default() }] {
        if let Some(layout) = planned(guest, &options) {
            stored(&layout);
            one_less(guest, &options);
        }
    }
}

/// Takes the guest's last function out, and plans the rest: it is attached again, keeps the rules, and goes without a
/// trace.
fn one_less(guest: &Guest, options: &Options) {
    let mut rest = guest.clone();
    let Some(device) = rest.devices.pop() else { return };
    if device.is_bridge() || guest.devices.len() > MANY {
        return;
    }
    let Ok(before) = plan(&rest, options) else { panic!("a guest without {} is harder", device.bdf) };
    let Ok(attached) = attach(&before, &Present::default(), &device) else { return };
    // What comes later gets no room for virtual functions, and is warned of it.
    let mut grown = rest;
    grown.devices.push(Device { sriov: None, ..device.clone() });
    assert_eq!(check(&grown, &attached.layout), [], "{grown:#?} {:#?}", attached.layout);
    let detached = detach(&attached.layout, device.bdf).expect("what was attached can be detached");
    assert_eq!(detached.layout, before);
    stored(&attached.layout);
}

/// What libxl and QEMU would build of a configuration, and everything about that guest.
pub fn configured(config: &DomainConfig, host: Option<Host>) {
    let surroundings =
        Surroundings { phys_bits: 39, cpu: None, rdm: Vec::new(), host, ask_qemu: None, shows_sriov: false };
    if let Ok(guest) = domain::guest(config, &surroundings, &mut Vec::new()) {
        everything(&guest);
    }
}

/// What the commands do with a stored layout, which may be anybody's.
pub fn stored(layout: &Layout) {
    let mut text = Vec::new();
    let look = Look { names: &NAMELESS, colour: false };
    report::text::layout(&mut text, layout, &look).expect("memory takes it");
    report::loader_lines::pci_dev(&mut text, layout).expect("memory takes it");
    if let Ok(keys) = loader_keys(layout) {
        report::loader_lines::keys(&mut text, &keys).expect("memory takes it");
    }
    let present = Present::default();
    for device in layout.devices.iter().take(8) {
        match detach(layout, device.bdf) {
            Ok(found) => report::hotplug::detached(&mut text, device.bdf, &found, false),
            Err(refusal) => report::hotplug::refused(&mut text, &refusal),
        }
        .expect("memory takes it");
    }
    let Some(bdf) = free_slot(layout, &present) else { return };
    for device in newcomers(bdf) {
        match attach(layout, &present, &device) {
            Ok(found) => report::hotplug::attached(&mut text, &device, &found, false),
            Err(refusal) => report::hotplug::refused(&mut text, &refusal),
        }
        .expect("memory takes it");
    }
}

/// Devices of several sizes.
fn newcomers(bdf: Bdf) -> impl Iterator<Item = Device> {
    let bars = [
        r#"[{"reg": 16, "kind": "mem32", "size": 256}]"#,
        r#"[{"reg": 16, "kind": "mem64", "size": 17179869184, "prefetch": true}, {"reg": 24, "kind": "io", "size": 256},
            {"reg": 28, "kind": "mem32", "size": 16777216}, {"reg": 48, "kind": "rom", "size": 524288}]"#,
    ];
    bars.into_iter().map(move |bars| {
        let mut device = Device::new(bdf, (0x10de, 0x2330), 0x0302);
        device.bars = serde_json::from_str(bars).expect("these are BARs");
        device
    })
}

/// What `audit` and passthrough do with a host.
pub fn audited(host: &Host) {
    let mut text = Vec::new();
    let report = audit(host, &[], &audit::Options::default()).expect("every function asked about is there");
    report::audit::report(&mut text, &report).expect("memory takes it");
    let json = serde_json::to_string(&report).expect("a report is JSON");
    audit::changes(&mut report.clone(), &audit::read_saved(&json).expect("what was written is read"), true);
    let all: Vec<_> = host.devices().map(|device| device.sbdf).collect();
    security_findings(host, &all, xen_pci_layout::address::Size::FRAME);
    for device in host.devices() {
        host.bridge_of(device);
        if let Some(bdf) = Bdf::new(0, 5, 0)
            && let Ok(device) = device.for_guest(bdf)
        {
            let mut guest = Guest::new(1 << 18, 0, 39);
            guest.devices.push(device);
            everything(&guest);
        }
    }
}
