// SPDX-License-Identifier: LGPL-2.1-or-later
//! `verify` on a real store: a socket that speaks QMP and a log stand for the rest, which stage 80 has real ones of.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::daemon::{Daemon, Kind};
use crate::helper::{Outcome, apply, guest, plan, program, run, show};

crate::on_both_daemons!(
    verify_agrees_about_a_guest_that_is_as_stored,
    verify_names_a_key_that_was_changed_behind_the_layout,
    verify_names_libxls_other_hole_and_a_moved_bar,
    verify_says_who_could_not_be_asked,
);

/// Slots 3 and 4.
const SIZES: [u64; 2] = [256 << 20, 1 << 20];

/// A QEMU that answers one visit: `query-pci` with the layout's functions, the machine's property, its memory.
fn device_model(daemon: &Daemon, layout: &Value, change: impl FnOnce(&mut Value)) -> PathBuf {
    let device = |bdf: &str| {
        let bars = layout["bars"].as_array().unwrap().iter().filter(|bar| bar["bdf"] == bdf);
        let regions: Vec<Value> = bars
            .map(|bar| {
                let index = (bar["reg"].as_u64().unwrap() - 16) / 4;
                json!({"bar": index, "type": "memory", "mem_type_64": true, "prefetch": true,
                    "size": bar["size"], "address": bar["address"]})
            })
            .collect();
        let slot = u64::from_str_radix(&bdf[3..5], 16).unwrap();
        json!({"bus": 0, "slot": slot, "function": 0, "qdev_id": "pci-pt-03_00.0", "irq_pin": 1,
            "class_info": {"class": 768}, "id": {"vendor": 0x10de, "device": 0x2204}, "regions": regions})
    };
    let end = layout["low_mem_pgend"].as_u64().unwrap() << 12;
    let blocks = format!(
        "              Block Name    PSize              Offset               Used              Total\n\
         xen.ram    4 KiB  0x0000000000000000 {end:#018x} {end:#018x}\n\
         vga.vram    4 KiB  {end:#018x} 0x0000000000800000 0x0000000000800000\n"
    );
    let border = (1_u64 << 32) - layout["mmio_hole_size"].as_u64().unwrap();
    let mut answers =
        json!([{}, [{"bus": 0, "devices": [device("00:03.0"), device("00:04.0")]}], border, blocks]);
    change(&mut answers);

    let socket = daemon.directory.join("qmp");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let version = json!({"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""});
        writeln!(stream, "{}", json!({"QMP": {"version": version, "capabilities": []}})).unwrap();
        for answer in answers.as_array().unwrap() {
            let Some(Ok(line)) = lines.next() else { return };
            let command: Value = serde_json::from_str(&line).unwrap();
            let mut reply = json!({"return": answer});
            if let Some(id) = command.get("id") {
                reply["id"] = id.clone();
            }
            writeln!(stream, "{reply}").unwrap();
        }
    });
    socket
}

/// What the loader of `layout` logs.
fn log(daemon: &Daemon, guest: &Path, layout: &Value) -> PathBuf {
    let lines = plan(guest, "hvmloader");
    let window = |kind: &str| {
        let windows = layout["windows"].as_array().unwrap();
        let end = |window: &Value, name: &str| window[name].as_u64().unwrap();
        let found = windows.iter().find(|window| window["kind"] == kind);
        found.map_or((0, 0), |window| (end(window, "start"), end(window, "end")))
    };
    let (low, high) = (window("low"), window("high"));
    let mut text = format!(
        "(d7) HVM Loader\n(d7) PCI layout: used, low {:09x}-{:09x} high {:09x}-{:09x}\n",
        low.0, low.1, high.0, high.1
    );
    for line in lines.lines() {
        text.push_str(&format!("(d7) [   28.1] {line}\n(XEN) something else\n"));
    }
    let path = daemon.directory.join("dmesg");
    std::fs::write(&path, text).unwrap();
    path
}

/// A guest with a stored layout; its file and the layout.
fn stored(daemon: &Daemon) -> (PathBuf, Value) {
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &SIZES);
    apply(&daemon.socket(), 7, &guest).succeeded();
    // As libxl does when it builds the domain.
    daemon.client().write("/local/domain/7/platform/acpi", "1").unwrap();
    let layout = serde_json::from_str(&show(&daemon.socket(), 7).succeeded()).unwrap();
    crate::schema::check("layout-1", &layout);
    (guest, layout)
}

fn verify(daemon: &Daemon, socket: &Path, log: &Path, more: &[&str]) -> Outcome {
    let mut command = program(&daemon.socket());
    command.args(["verify", "--domid", "7", "--qmp"]).arg(socket).arg("--log").arg(log).args(more);
    run(&mut command)
}

/// The codes of the disagreements, with the exit code that they must have.
fn codes(outcome: Outcome) -> Vec<String> {
    let json: Value = serde_json::from_str(&outcome.out).unwrap_or_else(|_| panic!("{outcome:?}"));
    crate::schema::check("verify-1", &json);
    let found = json["disagreements"].as_array().unwrap();
    assert_eq!(json["schema"], "verify/1");
    assert_eq!(
        (outcome.code, json["agrees"].as_bool()),
        (Some(i32::from(!found.is_empty())), Some(found.is_empty()))
    );
    found.iter().map(|found| found["code"].as_str().unwrap().to_owned()).collect()
}

fn verify_agrees_about_a_guest_that_is_as_stored(kind: Kind) {
    let daemon = Daemon::start(kind);
    let (guest, layout) = stored(&daemon);
    let log = log(&daemon, &guest, &layout);
    let text = verify(&daemon, &device_model(&daemon, &layout, |_| {}), &log, &[]).succeeded();
    assert_eq!(text, "domain 7: all agree about 2 BARs\n");
    let json = verify(&daemon, &device_model(&daemon, &layout, |_| {}), &log, &["--format", "json"]);
    assert!(codes(json).is_empty());

    // A restored domain has no such keys: nothing is known of libxl's hole, and QEMU's is held against the layout.
    daemon.client().rm("/local/domain/7/platform").unwrap();
    let text = verify(&daemon, &device_model(&daemon, &layout, |_| {}), &log, &[]).succeeded();
    assert!(
        text.starts_with("domain 7: all agree about 2 BARs\nnote: ") && text.ends_with("[no-libxl-hole]\n"),
        "{text}"
    );
    let other = device_model(&daemon, &layout, |answers| answers[2] = json!(2_u64 << 30));
    assert_eq!(codes(verify(&daemon, &other, &log, &["--format", "json"])), ["device-model-hole"]);

    // libxl starts a stub domain after the layout was stored, whose part for the device model stays with domain 0.
    daemon.make_domain(9);
    daemon.client().write("/local/domain/7/image/device-model-domid", "9").unwrap();
    verify(&daemon, &device_model(&daemon, &layout, |_| {}), &log, &[]).succeeded();
    daemon.client().write("/local/domain/0/device-model/7/pci-layout/low", "0:1").unwrap();
    let changed = verify(&daemon, &device_model(&daemon, &layout, |_| {}), &log, &["--format", "json"]);
    assert_eq!(codes(changed), ["stored-key"]);
}

fn verify_names_a_key_that_was_changed_behind_the_layout(kind: Kind) {
    let daemon = Daemon::start(kind);
    let (guest, layout) = stored(&daemon);
    let log = log(&daemon, &guest, &layout);
    let key = "/local/domain/7/hvmloader/pci/layout/bar/04-0";
    daemon.client().write(key, "10=f8000000:100000").unwrap();
    let socket = device_model(&daemon, &layout, |_| {});
    let outcome = verify(&daemon, &socket, &log, &[]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.out.contains(key) && outcome.out.contains("10=f8000000:100000"), "{}", outcome.out);
    let socket = device_model(&daemon, &layout, |_| {});
    assert_eq!(codes(verify(&daemon, &socket, &log, &["--format", "json"])), ["stored-key"]);
}

fn verify_names_libxls_other_hole_and_a_moved_bar(kind: Kind) {
    let daemon = Daemon::start(kind);
    let (guest, layout) = stored(&daemon);
    let log = log(&daemon, &guest, &layout);
    daemon.client().write("/local/domain/7/platform/mmio_hole_size", "1073741824").unwrap();
    let json = ["--format", "json"];
    let socket = device_model(&daemon, &layout, |_| {});
    assert_eq!(codes(verify(&daemon, &socket, &log, &json)), ["hole", "device-model-hole"]);

    daemon.client().rm("/local/domain/7/platform/mmio_hole_size").unwrap();
    let socket = device_model(&daemon, &layout, |answers| {
        answers[1][0]["devices"][1]["regions"][0]["address"] = json!(0xf900_0000_u64);
    });
    assert_eq!(codes(verify(&daemon, &socket, &log, &json)), ["moved"]);
}

fn verify_says_who_could_not_be_asked(kind: Kind) {
    let daemon = Daemon::start(kind);
    let (guest, layout) = stored(&daemon);
    let log = log(&daemon, &guest, &layout);
    let nowhere = daemon.directory.join("nowhere");
    verify(&daemon, &nowhere, &log, &[]).failed(3, &["cannot reach the guest's QEMU", "nowhere"]);
    let socket = device_model(&daemon, &layout, |_| {});
    verify(&daemon, &socket, &nowhere, &[]).failed(2, &["nowhere"]);
    let socket = device_model(&daemon, &layout, |answers| answers[3] = json!("unknown command"));
    verify(&daemon, &socket, &log, &[]).failed(3, &["unknown command"]);
    run(program(&daemon.socket()).args(["verify", "--domid", "8"])).failed(3, &["domain 8 does not exist"]);

    daemon.client().write("/local/domain/7/image/device-model-domid", "9").unwrap();
    let mut command = program(&daemon.socket());
    command.args(["verify", "--domid", "7", "--log"]).arg(&log);
    daemon.make_domain(9);
    run(&mut command).failed(3, &["stub domain 9"]);
}
