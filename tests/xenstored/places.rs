// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which store is used, and that no other one ever is.

use std::path::Path;
use std::process::Command;

use crate::daemon::{Daemon, Kind};
use crate::helper::{Outcome, guest, program, run};

crate::on_both_daemons!(
    the_variables_lead_to_the_store_in_libxenstores_order,
    a_wrong_variable_is_an_error_and_no_other_store_is_touched,
);

fn apply_with(variables: &[(&str, &Path)], guest: &Path) -> Outcome {
    let mut command: Command = program(Path::new("/"));
    command.env_remove("XENSTORED_PATH");
    for (name, value) in variables {
        command.env(name, value);
    }
    run(command.args(["apply", "--domid", "7"]).arg(guest))
}

fn the_variables_lead_to_the_store_in_libxenstores_order(kind: Kind) {
    let (first, second) = (Daemon::start(kind), Daemon::start(kind));
    for daemon in [&first, &second] {
        daemon.make_domain(7);
    }
    let guest = guest(&first.directory, "one", &[4096]);
    let stored = |daemon: &Daemon| !daemon.client().dump("/libxl/7/pci-layout").is_empty();
    apply_with(&[("XENSTORED_RUNDIR", &first.directory)], &guest).succeeded();
    assert!(stored(&first) && !stored(&second));
    let both = [("XENSTORED_PATH", &*second.socket()), ("XENSTORED_RUNDIR", &*first.directory)];
    apply_with(&both, &guest).succeeded();
    assert!(stored(&second));
    assert_eq!(first.client().read("/libxl/7/pci-layout/generation").unwrap(), "1");
}

fn a_wrong_variable_is_an_error_and_no_other_store_is_touched(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &[4096]);
    let here = daemon.directory.as_path();
    let nowhere = here.join("nowhere");
    let long = here.join("x".repeat(200));
    apply_with(&[("XENSTORED_PATH", &nowhere), ("XENSTORED_RUNDIR", here)], &guest)
        .failed(3, &["XENSTORED_PATH", "nowhere"]);
    apply_with(&[("XENSTORED_PATH", &guest), ("XENSTORED_RUNDIR", here)], &guest)
        .failed(3, &["XENSTORED_PATH", "neither xenstored's socket nor a device"]);
    apply_with(&[("XENSTORED_PATH", here), ("XENSTORED_RUNDIR", here)], &guest)
        .failed(3, &["XENSTORED_PATH", "neither xenstored's socket nor a device"]);
    apply_with(&[("XENSTORED_PATH", &long), ("XENSTORED_RUNDIR", here)], &guest)
        .failed(3, &["XENSTORED_PATH"]);
    apply_with(&[("XENSTORED_PATH", Path::new("")), ("XENSTORED_RUNDIR", here)], &guest)
        .failed(3, &["XENSTORED_PATH"]);
    // A device that is no xenstore.
    apply_with(&[("XENSTORED_PATH", Path::new("/dev/null")), ("XENSTORED_RUNDIR", here)], &guest)
        .failed(3, &[]);
    apply_with(&[("XENSTORED_RUNDIR", &nowhere)], &guest).failed(3, &["XENSTORED_RUNDIR", "nowhere/socket"]);
    apply_with(&[("XENSTORED_RUNDIR", Path::new(""))], &guest).failed(3, &["XENSTORED_RUNDIR"]);
    apply_with(&[], &guest).failed(3, &["no connection to xenstore"]);
    assert!(daemon.client().dump("/libxl/7/pci-layout").is_empty());
    assert_eq!(
        std::fs::read_to_string(&guest).unwrap().chars().next(),
        Some('{'),
        "an ordinary file was written to"
    );
}
