// SPDX-License-Identifier: LGPL-2.1-or-later
//! Planning, and what the stock loader would do, by number of BARs, beside the peers on the same BARs.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod common;

use std::hint::black_box;

use common::peers;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use xen_pci_layout::address::Size;
use xen_pci_layout::hotplug::{Present, attach, free_slot};
use xen_pci_layout::hvmloader::{Release, predict};
use xen_pci_layout::layout::{WindowKind, check};
use xen_pci_layout::pci::Device;
use xen_pci_layout::planner::{Options, plan};

fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("planning");
    let options = Options { high_above: Some(Size::ZERO), ..Options::default() };
    for bars in common::COUNTS {
        let guest = common::guest(bars);
        // Every 64-bit BAR above 4 GiB, as the bump allocator has them; and left to itself.
        let layout = plan(&guest, &options).unwrap();
        assert_eq!(check(&guest, &layout), []);
        assert!(plan(&guest, &Options::default()).is_ok());
        let requests = peers::requests(&layout);
        let start = |kind| layout.window(kind).unwrap().start().get();
        let (low, high) = (start(WindowKind::Low), start(WindowKind::High));
        assert_eq!(peers::bump(&guest, low, high).len(), layout.bars.len());
        group.bench_function(BenchmarkId::new("plan", bars), |bencher| {
            bencher.iter(|| plan(black_box(&guest), &Options::default()).unwrap());
        });
        group.bench_function(BenchmarkId::new("plan-all-high", bars), |bencher| {
            bencher.iter(|| plan(black_box(&guest), &options).unwrap());
        });
        group.bench_function(BenchmarkId::new("sorted-bump", bars), |bencher| {
            bencher.iter(|| peers::bump(black_box(&guest), low, high));
        });
        if bars > 5000 {
            group.sample_size(10);
        }
        group.bench_function(BenchmarkId::new("vm-allocator", bars), |bencher| {
            bencher.iter(|| peers::vm_allocator(black_box(&requests)));
        });
        group.bench_function(BenchmarkId::new("check", bars), |bencher| {
            bencher.iter(|| check(black_box(&guest), &layout));
        });
    }
    group.finish();
}

fn predicting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("predict");
    for bars in [20, 1536] {
        let mut guest = common::guest(bars);
        // The stock loader looks at bus 0 alone.
        guest.devices.retain(|device| device.bdf.bus() == 0);
        group.bench_function(BenchmarkId::new("predict", bars), |bencher| {
            bencher.iter(|| predict(black_box(&guest), Release::NEWEST).unwrap());
        });
    }
    group.finish();
}

/// One device more, on a layout that has all but the last slot taken.
fn attaching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attach");
    for bars in [20, 1200] {
        let mut guest = common::guest(bars);
        guest.devices.retain(|device| device.bdf.bus() == 0 && device.bdf.slot() < 31);
        guest.reserve.high = Size::GIB;
        let layout = plan(&guest, &Options::default()).unwrap();
        let present = Present::default();
        let mut device = Device::new(free_slot(&layout, &present).unwrap(), (0x8086, 0x1572), 0x0200);
        device.bars = guest.devices[0].bars.clone();
        assert!(attach(&layout, &present, &device).is_ok());
        group.bench_function(BenchmarkId::new("attach", layout.bars.len()), |bencher| {
            bencher.iter(|| attach(black_box(&layout), &present, black_box(&device)).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, planning, predicting, attaching);
criterion_main!(benches);
