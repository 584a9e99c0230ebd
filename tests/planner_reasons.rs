// SPDX-License-Identifier: LGPL-2.1-or-later
//! `plan --explain`: each reason that there can be, and a guest that has it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};
use xen_pci_layout::address::Size;
use xen_pci_layout::layout::{Explanation, Layout, check};
use xen_pci_layout::planner::{Options, plan};
use xen_pci_layout::source::description;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn device(bdf: &str, bars: &Value) -> Value {
    json!({"bdf": bdf, "vendor": 0x10de, "device": 1, "class": 0x300, "bars": bars})
}

/// One device with one BAR.
fn one(bar: &Value) -> Value {
    json!([device("00:05.0", &json!([bar]))])
}

/// A guest of 8 GiB with those devices, and with whatever else is said of it.
fn planned(devices: &Value, more: &Value, options: Options) -> Layout {
    let mut text =
        json!({"phys_bits": 40, "low_mem_pgend": 0xf_0000, "high_mem_pgend": 0x21_0000, "devices": devices});
    text.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let guest = description::parse(&text.to_string()).unwrap();
    let layout = plan(&guest, &Options { explain: true, ..options }).unwrap();
    assert_eq!(check(&guest, &layout), []);
    layout
}

fn explained(devices: &Value, more: &Value, options: Options) -> Explanation {
    *planned(devices, more, options).explanation.unwrap()
}

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "\"{word}\" is not in \"{said}\"");
    }
}

#[test]
fn the_hole_was_built_demanded_kept_or_forced() {
    let small = one(&json!({"reg": 16, "kind": "mem32", "size": 4096}));
    let large = one(&json!({"reg": 16, "kind": "mem32", "size": 512 * M}));
    let none = json!({});
    let hole = |devices: &Value, more: &Value, options| explained(devices, more, options).hole;

    let built = Options { built_hole: Some(Size::new(G)), ..Options::default() };
    assert_says(&hole(&small, &none, built), &["1G", "laid out for it already"]);
    let demand = json!({"xenstore": {"platform/mmio_hole_size": "1073741824"}});
    assert_says(&hole(&small, &demand, Options::default()), &["1G", "configuration demands it"]);

    let old = planned(&large, &none, Options::default());
    let keep = Options { keep: Some(Box::new(old)), ..Options::default() };
    assert_says(&hole(&small, &none, keep), &["kept from the earlier layout", "256M would be enough"]);

    let rdm = json!({"memory_map": [{"addr": 0xe000_0000_u64, "size": M, "type": 2}]});
    assert_says(&hole(&small, &rdm, Options::default()), &["RAM would lie on reserved device memory"]);
    let video = json!({"high_mem_pgend": 0, "device_model_memory": [256 * M]});
    assert_says(&hole(&small, &video, Options::default()), &["the device model's memory", "fixed regions"]);
}

#[test]
fn a_window_says_where_it_begins_and_ends_and_why_there_is_none() {
    let small = one(&json!({"reg": 16, "kind": "mem32", "size": 4096}));
    let windows = explained(&small, &json!({}), Options::default()).windows;
    assert_says(&windows[0].reason, &["the whole hole, up to the fixed regions at 0xfc000000"]);
    assert_says(&windows[1].reason, &["none: nothing goes above 4G"]);

    let video = json!({"high_mem_pgend": 0, "device_model_memory": [16 * M]});
    let windows = explained(&small, &video, Options::default()).windows;
    assert_says(&windows[0].reason, &["from 0xf1000000, past the device model's memory"]);

    let passthrough = json!({"passthrough": true});
    let windows = explained(&small, &passthrough, Options::default()).windows;
    assert_says(
        &windows[1].reason,
        &["where memory ends", "the rest is for devices that are attached later"],
    );
}

#[test]
fn the_platform_devices_bar_stays_write_back_above_the_low_window() {
    let mut platform =
        device("00:02.0", &json!([{"reg": 20, "kind": "mem32", "size": 16 * M, "prefetch": true}]));
    (platform["vendor"], platform["device"]) = (0x5853.into(), 1.into());
    let asked = json!({"xenstore": {"hvmloader/pci/xen-platform-pci-bar-uc": "0"}});
    let explained = explained(&json!([platform]), &asked, Options::default());
    assert_says(&explained.bars[0].reason, &["above the low window", "xen_platform_pci_bar_uc=0"]);
    assert_says(&explained.windows[0].reason, &["up to the Xen platform device's BAR at 0xfb000000"]);
}

#[test]
fn a_bar_says_why_it_is_below_or_above_4g() {
    let reason = |bar: &Value, options| explained(&one(bar), &json!({}), options).bars[0].reason.clone();
    let wide = |size| json!({"reg": 16, "kind": "mem64", "size": size, "prefetch": true});

    let high_above = Options { high_above: Some(Size::new(M)), ..Options::default() };
    assert_says(&reason(&wide(2 * M), high_above), &["above 4G: it is larger than --high-above"]);
    let old = json!({"reg": 16, "kind": "mem1m", "size": 4096});
    assert_says(&reason(&old, Options::default()), &["it asks for memory below 1M"]);
    assert_says(&reason(&wide(M), Options::default()), &["64-bit BARs stay there while they fit"]);
    assert_says(&reason(&wide(G), Options::default()), &["above 4G: below it would take a hole of"]);
    assert_says(&reason(&wide(4 * G), Options::default()), &["above 4G: no hole has room for it below"]);

    let two = json!([device("00:05.0", &json!([wide(128 * M)])), device("00:06.0", &json!([wide(128 * M)]))]);
    let high: Vec<String> = explained(&two, &json!({}), Options::default())
        .bars
        .into_iter()
        .map(|bar| bar.reason)
        .filter(|reason| reason.starts_with("above 4G"))
        .collect();
    assert_eq!(high.len(), 1);
    assert_says(&high[0], &["not all 64-bit BARs fit below under this hole, and the largest leave first"]);
}

#[test]
fn a_bar_behind_a_bridge_follows_what_the_bridge_forwards() {
    let mut bridge = device("00:06.0", &json!([]));
    (bridge["header"], bridge["class"]) = (1.into(), 0x604.into());
    let mut behind = device(
        "01:00.0",
        &json!([{"reg": 16, "kind": "mem64", "size": M}, {"reg": 24, "kind": "mem64", "size": 4 * G, "prefetch": true}]),
    );
    behind["bridge"] = "00:06.0".into();
    let bars = explained(&json!([bridge, behind]), &json!({}), Options::default()).bars;
    assert_says(
        &bars[0].reason,
        &["a bridge forwards only prefetchable memory above", "behind bridge 00:06.0"],
    );
    assert_says(
        &bars[1].reason,
        &["above 4G with its bridge's prefetchable window", "behind bridge 00:06.0"],
    );
}

#[test]
fn a_bars_place_is_kept_or_the_hosts_offset_or_a_page_of_its_own() {
    let bar = json!({"reg": 16, "kind": "mem32", "size": 256, "host_address": 0xe000_0200_u64});
    let mut devices = one(&bar);
    devices[0]["host"] = "0000:01:00.0".into();
    let offset = Options { maps_containing_page: true, ..Options::default() };
    let layout = planned(&devices, &json!({}), offset.clone());
    assert_says(
        &layout.explanation.as_ref().unwrap().bars[0].reason,
        &["512 into a page of its own, as on the host"],
    );

    let keep = Options { keep: Some(Box::new(layout)), ..offset };
    let kept = explained(&devices, &json!({}), keep);
    assert_says(&kept.bars[0].reason, &["where the earlier layout had it"]);

    let emulated = one(&json!({"reg": 16, "kind": "mem32", "size": 256}));
    let alone = explained(&emulated, &json!({}), Options::default());
    assert_says(&alone.bars[0].reason, &["in a page of 4K of its own"]);
}
