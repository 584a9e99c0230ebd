// SPDX-License-Identifier: LGPL-2.1-or-later
//! Reading each kind of input: the examples' and the tests' own files.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects)]

mod common;

use std::fs;
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use xen_pci_layout::pci::config_space::ConfigSpace;
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::source::host::Host;
use xen_pci_layout::source::hvmloader_log::runs;
use xen_pci_layout::source::{description, libxl_json, xl_cfg};
use xen_pci_layout::xenstore::schema;

fn inputs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inputs");
    let mut text = |name: &str, text: &str, read: &dyn Fn(&str)| {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| read(black_box(text))));
    };
    let file = |path: &str| fs::read_to_string(path).unwrap();
    text("xl.cfg", &file("examples/hyperscale/guest.cfg"), &|text| {
        drop(xl_cfg::parse(text.as_bytes()).unwrap())
    });
    let json = file("tests/xl/fixtures/passthrough.json");
    text("libxl's JSON", &json, &|text| drop(libxl_json::parse(text).unwrap()));
    let guest = common::guest(20);
    let json = serde_json::to_string(&guest).unwrap();
    text("guest description, 20 BARs", &json, &|text| drop(description::parse(text).unwrap()));
    let json = serde_json::to_string(&plan(&guest, &Options::default()).unwrap()).unwrap();
    text("stored layout, 20 BARs", &json, &|text| drop(schema::layout("layout", text).unwrap()));
    let lspci = file("tests/hosts/workstation.lspci");
    text("lspci's text", &lspci, &|text| drop(Host::lspci_text(Path::new("lspci"), text).unwrap()));
    let log = file("tests/recordings/mixdev/hvmloader.log");
    text("hvmloader's log", &log, &|text| drop(runs(text)));
    group.bench_function("sysfs, the hyperscale example", |bencher| {
        bencher.iter(|| Host::copied(Path::new("examples/hyperscale/host")).unwrap());
    });
    let image = fs::read("examples/hyperscale/host/bus/pci/devices/0000:18:00.0/config").unwrap();
    group.bench_function("configuration space", |bencher| {
        bencher.iter(|| {
            let space = ConfigSpace::new(black_box(&image).clone()).unwrap();
            (space.msix(), space.sriov(), space.resizable_bars(), space.bridge())
        });
    });
    group.finish();
}

criterion_group!(benches, inputs);
criterion_main!(benches);
