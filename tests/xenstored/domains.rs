// SPDX-License-Identifier: LGPL-2.1-or-later
//! Domains for which nothing can be stored.

use std::time::Duration;

use crate::daemon::{Daemon, Kind};
use crate::helper::{apply, guest, show};

crate::on_both_daemons!(
    a_domain_that_does_not_exist_is_refused_and_not_made,
    domain_0_and_numbers_of_no_guest_are_bad_arguments,
    a_dying_domain_is_refused,
);

fn a_domain_that_does_not_exist_is_refused_and_not_made(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &[4096]);
    let before = daemon.client().dump("/local");
    apply(&daemon.socket(), 9, &guest).failed(3, &["domain 9 does not exist"]);
    show(&daemon.socket(), 9).failed(3, &["domain 9 does not exist"]);
    // Half gone: libxl removes the domain's own tree first.
    apply(&daemon.socket(), 7, &guest).succeeded();
    daemon.client().rm("/local/domain/7").unwrap();
    apply(&daemon.socket(), 7, &guest).failed(3, &["domain 7 does not exist"]);
    show(&daemon.socket(), 7).failed(3, &["domain 7 does not exist"]);
    daemon.make_domain(7);
    daemon.client().rm("/libxl/7/pci-layout").unwrap();
    daemon.client().rm("/local/domain/0").unwrap();
    assert_eq!(daemon.client().dump("/local"), before);
}

fn domain_0_and_numbers_of_no_guest_are_bad_arguments(kind: Kind) {
    let daemon = Daemon::start(kind);
    let guest = guest(&daemon.directory, "one", &[4096]);
    for domid in [0, 32752, 65535] {
        let outcome = apply(&daemon.socket(), domid, &guest);
        assert_eq!(outcome.code, Some(2), "{}", outcome.err);
        assert!(outcome.err.contains(if domid == 0 { "domain 0 is the host's own" } else { "no guest's" }));
    }
}

fn a_dying_domain_is_refused(kind: Kind) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = guest(&daemon.directory, "one", &[4096]);
    let mut ring = daemon.introduce(7);
    daemon.client().write("/local/domain/7/store/port", "1").unwrap();
    apply(&daemon.socket(), 7, &guest).succeeded();
    ring.line.die(&daemon.directory);
    let noticed = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !daemon.client().is_introduced(7)
    });
    assert!(noticed, "the daemon does not notice that the domain is dying");
    apply(&daemon.socket(), 7, &guest).failed(3, &["domain 7 is dying"]);
}
