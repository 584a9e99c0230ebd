// SPDX-License-Identifier: LGPL-2.1-or-later
//! What guests can do to a stored layout, tried by guests.

use crate::daemon::{Daemon, Kind};
use crate::guest::Guest;
use crate::helper::{apply, guest, show};
use crate::wire::Client;

crate::on_both_daemons!(
    the_guest_reads_its_loaders_keys_and_changes_nothing,
    another_guest_gets_nothing,
    a_stub_domain_reads_its_own_part_and_no_other,
    permissions_left_wrong_by_hand_are_put_right,
    a_layout_is_never_stored_where_a_guest_could_replace_it,
    a_guest_that_has_used_up_its_quotas_stops_nobody,
);

const LOADER: &str = "/local/domain/7/hvmloader/pci/layout";
const TOOLSTACK: &str = "/libxl/7/pci-layout";

/// A domain with a layout, and its guest.
fn stored(daemon: &Daemon) -> Client<Guest> {
    daemon.make_domain(7);
    let ring = daemon.introduce(7);
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[16 << 30, 4096])).succeeded();
    ring
}

fn paths(daemon: &Daemon, roots: &[&str]) -> Vec<String> {
    let mut client = daemon.client();
    let nodes = roots.iter().flat_map(|root| client.dump(root)).collect::<Vec<_>>();
    assert!(nodes.len() > 3);
    nodes.into_iter().map(|(path, _, _)| path).collect()
}

fn denied(result: Result<impl std::fmt::Debug, String>, what: &str) {
    assert_eq!(result.unwrap_err(), "EACCES", "{what}");
}

/// Every way of changing a node, tried.
fn changes_nothing(client: &mut Client<Guest>, path: &str, domid: u32) {
    denied(client.write(path, "f0000000:1000"), &format!("write {path}"));
    denied(client.write(&format!("{path}/more"), "1"), &format!("create below {path}"));
    denied(client.mkdir(&format!("{path}/directory")), &format!("mkdir below {path}"));
    denied(client.set_permissions(path, &format!("n{domid}")), &format!("permissions of {path}"));
    denied(client.set_permissions(path, &format!("n0,b{domid}")), &format!("permissions of {path}"));
    denied(client.rm(path), &format!("remove {path}"));
}

fn the_guest_reads_its_loaders_keys_and_changes_nothing(kind: Kind) {
    let daemon = Daemon::start(kind);
    let mut guest = stored(&daemon);
    let before = daemon.client().dump("/local/domain/7/hvmloader");
    // As the loader reads: relative paths, no transaction.
    assert_eq!(guest.read("hvmloader/pci/layout/version").unwrap(), "1");
    for path in paths(&daemon, &[LOADER]) {
        guest.read(&path).unwrap();
        changes_nothing(&mut guest, &path, 7);
    }
    for parent in ["/local/domain/7/hvmloader/pci", "/local/domain/7/hvmloader", "/local/domain/7"] {
        changes_nothing(&mut guest, parent, 7);
    }
    for path in paths(&daemon, &[TOOLSTACK, "/local/domain/0/device-model/7/pci-layout"]) {
        denied(guest.read(&path), &format!("read {path}"));
        denied(guest.directory(&path), &format!("list {path}"));
        denied(guest.permissions(&path), &format!("see the permissions of {path}"));
        changes_nothing(&mut guest, &path, 7);
    }
    assert_eq!(daemon.client().dump("/local/domain/7/hvmloader"), before);
}

fn another_guest_gets_nothing(kind: Kind) {
    let daemon = Daemon::start(kind);
    let _guest = stored(&daemon);
    daemon.make_domain(8);
    let mut other = daemon.introduce(8);
    other.read("name").unwrap();
    for path in paths(&daemon, &[LOADER, TOOLSTACK, "/local/domain/0/device-model/7/pci-layout"]) {
        denied(other.read(&path), &format!("read {path}"));
        denied(other.directory(&path), &format!("list {path}"));
        changes_nothing(&mut other, &path, 8);
    }
}

fn a_stub_domain_reads_its_own_part_and_no_other(kind: Kind) {
    let daemon = Daemon::start(kind);
    let mut guest = stored(&daemon);
    // libxl starts the stub domain after the guest's RAM is laid out, and then writes where it is.
    daemon.make_domain(9);
    let mut stub = daemon.introduce(9);
    let mut client = daemon.client();
    client.write("/local/domain/7/image/device-model-domid", "9").unwrap();
    client.mkdir("/local/domain/9/device-model/7").unwrap();
    client.set_permissions("/local/domain/9/device-model/7", "n9,r7").unwrap();
    apply(&daemon.socket(), 7, &crate::helper::guest(&daemon.directory, "one", &[16 << 30])).succeeded();

    let part = "/local/domain/9/device-model/7/pci-layout";
    assert!(
        client.dump("/local/domain/0/device-model/7/pci-layout").is_empty(),
        "the first write's part is left"
    );
    assert_eq!(stub.read(&format!("{part}/version")).unwrap(), "1");
    for path in paths(&daemon, &[part]) {
        stub.read(&path).unwrap();
        changes_nothing(&mut stub, &path, 9);
        denied(guest.read(&path), &format!("the guest reads {path}"));
    }
    for path in paths(&daemon, &[LOADER, TOOLSTACK]) {
        denied(stub.read(&path), &format!("read {path}"));
    }
    client.rm("/local/domain/9").unwrap();
    let result = apply(&daemon.socket(), 7, &crate::helper::guest(&daemon.directory, "one", &[16 << 30]));
    result.failed(3, &["device model of domain 7", "domain 9", "does not exist"]);
}

fn permissions_left_wrong_by_hand_are_put_right(kind: Kind) {
    let daemon = Daemon::start(kind);
    let mut ring = stored(&daemon);
    let mut client = daemon.client();
    for path in paths(&daemon, &[LOADER, TOOLSTACK]) {
        client.set_permissions(&path, "n7").unwrap();
    }
    ring.write(&format!("{LOADER}/bar/1f-7"), "10=1000:1000").unwrap();
    ring.write(&format!("{LOADER}/low"), "0:ffffffff").unwrap();
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[16 << 30, 4096])).succeeded();
    for path in paths(&daemon, &[LOADER, TOOLSTACK]) {
        changes_nothing(&mut ring, &path, 7);
    }
    assert_eq!(client.read(&format!("{LOADER}/bar/1f-7")).unwrap_err(), "ENOENT");
}

fn a_layout_is_never_stored_where_a_guest_could_replace_it(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &[4096]);
    let mut client = daemon.client();
    for (node, right) in
        [("/local/domain/7/hvmloader", "n0,r7"), ("/local/domain/7", "n0,r7"), ("/libxl/7", "n0")]
    {
        for permissions in ["n7", "n0,b7", "n0,w7", "n0,r7,w8", "b0"] {
            client.set_permissions(node, permissions).unwrap();
            apply(&daemon.socket(), 7, &guest).failed(3, &[node, "can be written by domain"]);
        }
        client.set_permissions(node, right).unwrap();
    }
    assert!(client.dump(LOADER).is_empty() && client.dump(TOOLSTACK).is_empty());
    apply(&daemon.socket(), 7, &guest).succeeded();
}

fn a_guest_that_has_used_up_its_quotas_stops_nobody(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let mut ring = daemon.introduce(7);
    let refused = (0..5000).find_map(|number| ring.write(&format!("data/{number}"), "x").err());
    let refused = refused.expect("the daemon lets a guest make any number of nodes");
    assert!(matches!(refused.as_str(), "ENOSPC" | "EQUOTA"), "{refused}");
    let open = (0..50).find_map(|_| {
        ring.transaction = 0;
        ring.start().err()
    });
    assert!(open.is_some(), "the daemon lets a guest start any number of transactions");
    ring.transaction = 0;
    apply(&daemon.socket(), 7, &guest(&daemon.directory, "one", &[16 << 30])).succeeded();
    show(&daemon.socket(), 7).succeeded();
    assert_eq!(ring.read(&format!("{LOADER}/version")).unwrap(), "1");
}
