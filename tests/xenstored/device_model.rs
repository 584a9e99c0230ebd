// SPDX-License-Identifier: LGPL-2.1-or-later
//! `dm-args`: what QEMU is to be told of a stored layout.

use serde_json::Value;

use crate::daemon::{Daemon, Kind};
use crate::helper::{apply, guest, program, run};

crate::on_both_daemons!(
    dm_args_are_the_border_and_the_slots_of_the_stored_layout,
    without_a_layout_there_are_no_dm_args,
);

fn dm_args(daemon: &Daemon, arguments: &[&str]) -> crate::helper::Outcome {
    run(program(&daemon.socket()).args(["dm-args", "--domid", "7"]).args(arguments))
}

fn dm_args_are_the_border_and_the_slots_of_the_stored_layout(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[256 << 20, 1 << 20])).succeeded();
    let border = daemon.client().read("/local/domain/0/device-model/7/pci-layout/max-ram-below-4g").unwrap();
    let machine = format!("max-ram-below-4g={border}");
    assert_eq!(dm_args(&daemon, &[]).succeeded(), format!("-machine\n{machine}\n"));

    let devices: Vec<String> = [3, 4]
        .iter()
        .map(|slot| {
            format!(
                "xen-pci-passthrough,id=pci-pt-{slot:02x}_00.0,hostaddr=0000:{slot:02x}:00.0,addr={slot}.0"
            )
        })
        .collect();
    let text = dm_args(&daemon, &["--devices"]).succeeded();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["-machine", &machine, "-device", &devices[0], "-device", &devices[1]]);

    let json: Value = serde_json::from_str(&dm_args(&daemon, &["--format", "json"]).succeeded()).unwrap();
    crate::schema::check("dm-args-1", &json);
    assert_eq!((&json["schema"], &json["domid"]), (&"dm-args/1".into(), &7.into()));
    assert_eq!(json["arguments"], serde_json::json!(["-machine", machine]));
    assert_eq!(json["devices"][1]["arguments"][1], devices[1].as_str());
}

fn without_a_layout_there_are_no_dm_args(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    dm_args(&daemon, &[]).failed(1, &["no layout is stored for domain 7", "apply"]);
    run(program(&daemon.socket()).args(["dm-args", "--domid", "8"])).failed(3, &["domain 8 does not exist"]);
}
