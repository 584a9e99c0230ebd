// SPDX-License-Identifier: LGPL-2.1-or-later
//! The library's own functions for stored layouts: many change one at once, and none undoes another's change;
//! keys that were tampered with are found. libxenstore takes the store's place from the environment, so each
//! test starts itself as a process that has it there.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use xen_pci_layout::layout::Warning;
use xen_pci_layout::xenstore::{Domid, Store};

use crate::daemon::{Daemon, Kind};
use crate::helper::{Outcome, apply, finish, guest, program, show};

crate::on_both_daemons!(
    changes_by_eight_processes_at_once_are_all_kept,
    keys_that_differ_from_the_stored_layout_are_found,
    attachments_at_once_all_get_a_place_of_their_own,
);

const PROCESSES: u64 = 8;
const CHANGES: u64 = 10;

/// What the process that a test starts is to do.
const ROLE: &str = "ROLE_IN_TEST";

/// Starts `test` of this program again, in a role.
fn start(daemon: &Daemon, test: &str, role: &str) -> Child {
    let module = if daemon.kind == Kind::C { "c_xenstored" } else { "oxenstored" };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("updating::{module}::{test}")]).env(ROLE, role);
    command.env("XENSTORED_PATH", daemon.socket()).env_remove("XENSTORED_RUNDIR");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(process: Child) -> Outcome {
    let outcome = finish(process, Instant::now());
    assert!(outcome.out.contains("1 passed"), "{} {}", outcome.out, outcome.err);
    outcome
}

fn changes_by_eight_processes_at_once_are_all_kept(kind: Kind) {
    if let Ok(role) = std::env::var(ROLE) {
        return make_changes(&role);
    }
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[4096])).succeeded();
    let processes: Vec<Child> = (0..PROCESSES)
        .map(|process| {
            start(&daemon, "changes_by_eight_processes_at_once_are_all_kept", &process.to_string())
        })
        .collect();
    for process in processes {
        ended(process);
    }
    let layout: serde_json::Value = serde_json::from_str(&show(&daemon.socket(), 7).succeeded()).unwrap();
    let mut made: Vec<_> =
        layout["warnings"].as_array().unwrap().iter().map(|warning| warning["code"].to_string()).collect();
    made.retain(|code| code.starts_with("\"change-"));
    made.sort();
    made.dedup();
    assert_eq!(u64::try_from(made.len()).unwrap(), PROCESSES * CHANGES);
    let generation = daemon.client().read("/libxl/7/pci-layout/generation").unwrap();
    assert_eq!(generation, (1 + PROCESSES * CHANGES).to_string());
}

fn make_changes(process: &str) {
    let store = Store::open().unwrap();
    let domid = Domid::new(7).unwrap();
    for number in 0..CHANGES {
        let code = format!("change-{process}-{number}");
        let change = move |layout: &xen_pci_layout::layout::Layout| {
            let mut layout = layout.clone();
            layout.warnings.push(Warning::new(&code, "a change"));
            Ok::<_, std::convert::Infallible>(layout)
        };
        store.update(domid, change).unwrap().unwrap();
    }
    let declined = store.update(domid, |_| Err("no")).unwrap_err();
    assert_eq!(declined.to_string(), "no");
}

fn keys_that_differ_from_the_stored_layout_are_found(kind: Kind) {
    if std::env::var(ROLE).is_ok() {
        let found = Store::open().unwrap().differences(Domid::new(7).unwrap()).unwrap().unwrap();
        for difference in found {
            println!("differs: {} {:?} {:?}", difference.path, difference.expected, difference.found);
        }
        return;
    }
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[16 << 30])).succeeded();
    let differences = || {
        let printed = ended(start(&daemon, "keys_that_differ_from_the_stored_layout_are_found", "look")).out;
        printed
            .lines()
            .filter_map(|line| line.split_once("differs: "))
            .map(|(_, rest)| rest.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(differences(), Vec::<String>::new());
    let root = "/local/domain/7/hvmloader/pci/layout";
    let mut client = daemon.client();
    let high = client.read(&format!("{root}/high")).unwrap();
    client.write(&format!("{root}/low"), "0:1").unwrap();
    client.rm(&format!("{root}/high")).unwrap();
    client.write(&format!("{root}/bar/1f-7"), "10=0:1000").unwrap();
    let found = differences();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[0].starts_with(&format!("{root}/low Some(")) && found[0].ends_with(" Some(\"0:1\")"),
        "{found:?}"
    );
    assert_eq!(found[1], format!("{root}/high Some(\"{high}\") None"));
    assert_eq!(found[2], format!("{root}/bar/1f-7 None Some(\"10=0:1000\")"));
}

fn attachments_at_once_all_get_a_place_of_their_own(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[4 << 30])).succeeded();
    let started = Instant::now();
    let attaching: Vec<Child> = (0x10..0x18)
        .map(|slot| {
            let device = daemon.directory.join(format!("device-{slot:x}.json"));
            let text = serde_json::json!({
                "bdf": format!("00:{slot:02x}.0"), "vendor": 0x1234, "device": slot, "class": 0x0200,
                "bars": [{"reg": 16, "kind": "mem32", "size": 0x10_0000}],
            });
            std::fs::write(&device, text.to_string()).unwrap();
            let mut command = program(&daemon.socket());
            command.args(["attach", "--commit", "--domid", "7"]).arg(device).spawn().unwrap()
        })
        .collect();
    for process in attaching {
        finish(process, started).succeeded();
    }
    let layout: serde_json::Value = serde_json::from_str(&show(&daemon.socket(), 7).succeeded()).unwrap();
    let small = layout["bars"].as_array().unwrap().iter().filter(|bar| bar["size"] == 0x10_0000);
    let mut places: Vec<u64> = small.map(|bar| bar["address"].as_u64().unwrap()).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 8, "{layout}");
    assert_eq!(daemon.client().read("/libxl/7/pci-layout/generation").unwrap(), "9");
    let low = daemon.client().read("/local/domain/7/hvmloader/pci/layout/bar/17-0").unwrap();
    assert!(low.starts_with("10=") && low.ends_with(":100000"), "{low}");
}
