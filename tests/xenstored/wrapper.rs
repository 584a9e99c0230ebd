// SPDX-License-Identifier: LGPL-2.1-or-later
//! libexec/device-model-wrapper: becomes QEMU only where QEMU was told what the layout says. In QEMU's place stands
//! echo, so that the arguments which QEMU would get are what is printed.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::daemon::{Daemon, Kind};
use crate::helper::{Outcome, guest, program, run, show};

crate::on_both_daemons!(
    the_wrapper_stores_the_layout_and_becomes_qemu,
    the_wrapper_refuses_another_end_of_ram,
    the_wrapper_refuses_a_slot_that_disagrees,
    every_slot_is_told_apart,
    the_wrapper_refuses_where_no_layout_fits_the_built_hole,
    the_wrapper_says_what_is_missing,
);

/// Slots 3 and 4, passed through.
const SIZES: [u64; 2] = [256 << 20, 1 << 20];

fn wrapper(daemon: &Daemon, guest: &Path, arguments: &[&str]) -> Outcome {
    let wrapper = concat!(env!("CARGO_MANIFEST_DIR"), "/libexec/device-model-wrapper");
    let mut command = Command::new(wrapper);
    let probe = program(&daemon.socket());
    for (name, value) in probe.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command.arg("-xen-domid").arg("7");
    command.arg(format!("-pci-layout-program={}", env!("CARGO_BIN_EXE_xen-pci-layout")));
    command.arg(format!("-pci-layout-guest={}", guest.display()));
    command.arg("-pci-layout-qemu=/bin/echo");
    run(command.args(arguments))
}

fn refused(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    assert_eq!(outcome.out, "", "QEMU was started");
    for word in words {
        assert!(outcome.err.contains(word), "\"{word}\" is not in: {}", outcome.err);
    }
}

fn the_wrapper_stores_the_layout_and_becomes_qemu(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &SIZES);
    let arguments = [
        "-name",
        "one two",
        "-device",
        "e1000,id=nic0,addr=0x05",
        "-device",
        "xen-pci-passthrough,addr=03.0",
        "-machine",
        "pc,accel=xen",
    ];
    let printed = wrapper(&daemon, &guest, &arguments).succeeded();
    assert_eq!(printed, format!("-xen-domid 7 {}\n", arguments.join(" ")));
    show(&daemon.socket(), 7).succeeded();

    // The hole that the administrator chose, in both places.
    daemon.client().write("/local/domain/7/platform/mmio_hole_size", "1073741824").unwrap();
    wrapper(&daemon, &guest, &["-machine", "pc,accel=xen,max-ram-below-4g=3221225472,usb=off"]).succeeded();
}

fn the_wrapper_refuses_another_end_of_ram(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &SIZES);
    let told = wrapper(&daemon, &guest, &["-machine", "pc,accel=xen,max-ram-below-4g=3221225472"]);
    refused(&told, 1, &["3221225472", "4026531840", "mmio_hole=256"]);
    daemon.client().write("/local/domain/7/platform/mmio_hole_size", "1073741824").unwrap();
    refused(&wrapper(&daemon, &guest, &["-machine", "pc,accel=xen"]), 1, &["4026531840", "mmio_hole=1024"]);
    // One byte off, a unit, and the last of several.
    for machine in ["pc,max-ram-below-4g=3221225471", "pc,max-ram-below-4g=3G", "pc,max-ram-below-4g="] {
        refused(&wrapper(&daemon, &guest, &["-machine", machine]), 1, &["3221225472", "mmio_hole=1024"]);
    }
    let (right, wrong) = ("xenfv,max-ram-below-4g=3221225472", "xenfv,max-ram-below-4g=4026531840");
    refused(&wrapper(&daemon, &guest, &["-machine", right, "-M", wrong]), 1, &["4026531840"]);
    wrapper(&daemon, &guest, &["-M", wrong, "-machine", right, "-machine", "xenfv,usb=off"]).succeeded();
}

fn the_wrapper_refuses_a_slot_that_disagrees(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &SIZES);
    let taken = wrapper(&daemon, &guest, &["-device", "e1000,id=nic0,addr=0x4"]);
    refused(&taken, 1, &["e1000", "slot 04"]);
    let elsewhere = wrapper(&daemon, &guest, &["-device", "xen-pci-passthrough,addr=0x6.0x0"]);
    refused(&elsewhere, 1, &["06.0", "03.0 04.0"]);
    let nowhere = wrapper(&daemon, &guest, &["-device", "e1000,addr=here"]);
    refused(&nowhere, 2, &["here"]);
    let json = wrapper(&daemon, &guest, &["-device", r#"{"driver":"e1000","addr":"04"}"#]);
    refused(&json, 2, &["JSON", "addr=SLOT"]);
}

/// The layout has passed-through devices at 03.0 and 04.0: those two and no other slot are theirs, and no slot of theirs is
/// another's, however it is written.
fn every_slot_is_told_apart(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &SIZES);
    let kept = [3, 4];
    let mut good: Vec<String> =
        kept.iter().map(|slot| format!("xen-pci-passthrough,addr={slot:#x}")).collect();
    good.extend(
        (0..32).filter(|slot| !kept.contains(slot)).map(|slot| format!("e1000,id=own{slot},addr={slot:#x}")),
    );
    good.extend(["e1000", "xen-pci-passthrough,hostaddr=0000:00:04.0"].map(str::to_owned));
    let arguments: Vec<&str> = good.iter().flat_map(|device| ["-device", device]).collect();
    wrapper(&daemon, &guest, &arguments).succeeded();

    for address in ["3", "03", "0x3", "0x03.0", "4.0", "0x4.0x0", "04.1", "3.0x7"] {
        let device = format!("e1000,addr={address},id=own");
        refused(&wrapper(&daemon, &guest, &["-device", &device]), 1, &[&device, "keeps slot 0"]);
    }
    for address in ["0", "2", "5", "0x1f", "3.1", "0x4.0x7", "13"] {
        let device = format!("xen-pci-passthrough,addr={address}");
        refused(&wrapper(&daemon, &guest, &["-device", &device]), 1, &[&device, "03.0 04.0"]);
    }
}

fn the_wrapper_refuses_where_no_layout_fits_the_built_hole(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let bar = json!({"reg": 16, "kind": "mem32", "size": 1 << 30});
    let devices = json!([{"bdf": "00:05.0", "vendor": 1, "device": 1, "class": 0x0300, "bars": [bar]}]);
    let big = crate::helper::described(&daemon.directory, "big", &devices);
    refused(&wrapper(&daemon, &big, &[]), 1, &["mmio_hole=", "domain 7"]);
}

fn the_wrapper_says_what_is_missing(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let nothing = daemon.directory.join("nothing.cfg");
    refused(&wrapper(&daemon, &nothing, &[]), 2, &["nothing.cfg", "-pci-layout-guest="]);
    let guest = guest(&daemon.directory, "one", &SIZES);
    refused(&wrapper(&daemon, &guest, &["-pci-layout-qemu=/nonexistent"]), 3, &["/nonexistent"]);
    refused(&wrapper(&daemon, &guest, &["-pci-layout-rigid"]), 2, &["-pci-layout-rigid"]);
    refused(&wrapper(&daemon, &guest, &["-xen-domid", "seven"]), 2, &["-xen-domid"]);
}
