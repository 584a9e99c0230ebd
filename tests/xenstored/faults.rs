// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whatever dies, refuses or is in the way: the old layout or the new one, a sentence, and no hang.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemon::{Daemon, Kind};
use crate::helper::{apply, described, finish, guest, planned, program, show};
use crate::proxy::{Action, Proxy, signal};
use crate::wire::TRANSACTION_END;

crate::on_both_daemons!(
    a_daemon_killed_at_any_step_of_an_apply_is_an_error_at_once,
    a_helper_killed_at_any_step_leaves_the_old_layout_or_the_new_one,
    a_refusal_of_any_request_leaves_the_old_layout_or_the_new_one,
    a_commit_that_others_disturb_is_made_again,
    a_commit_that_others_disturb_for_ever_is_given_up_with_nothing_written,
    a_daemon_that_is_stopped_is_an_error_within_seconds,
    a_value_too_long_is_refused_with_nothing_written,
    garbage_in_our_keys_is_an_error_for_show_and_replaced_by_apply,
);

/// A domain with layout "old", to be replaced by "new".
struct Scene {
    daemon: Daemon,
    old: PathBuf,
    new: PathBuf,
}

impl Scene {
    fn new(kind: Kind) -> Self {
        let daemon = Daemon::start(kind);
        let old = guest(&daemon.directory, "old", &[1 << 30, 4096]);
        let new = guest(&daemon.directory, "new", &[16 << 30, 64 << 20, 1 << 20]);
        let scene = Self { daemon, old, new };
        scene.set();
        scene
    }

    fn set(&self) {
        self.daemon.make_domain(7);
        apply(&self.daemon.socket(), 7, &self.old).succeeded();
    }

    /// How many requests an apply of "new" makes in place of "old".
    fn steps(&self) -> usize {
        let proxy = Proxy::counting(&self.daemon.directory, self.daemon.socket());
        apply(&proxy.socket, 7, &self.new).succeeded();
        apply(&self.daemon.socket(), 7, &self.old).succeeded();
        proxy.seen().len()
    }

    /// Every key of every reader belongs to the same layout; whether that is the new one.
    fn is_whole(&self, step: &str) -> bool {
        let stored = show(&self.daemon.socket(), 7).succeeded();
        let is_new = stored == planned(&self.new);
        assert!(is_new || stored == planned(&self.old), "{step}: {stored}");
        let mut client = self.daemon.client();
        let bars = client.directory("/local/domain/7/hvmloader/pci/layout/bar").unwrap();
        assert_eq!(bars.len(), if is_new { 3 } else { 2 }, "{step}");
        assert_eq!(client.read("/local/domain/7/hvmloader/pci/layout/version").unwrap(), "1", "{step}");
        let slots = client.read("/local/domain/0/device-model/7/pci-layout/slots").unwrap();
        assert_eq!(slots, if is_new { "03.0 04.0 05.0" } else { "03.0 04.0" }, "{step}");
        is_new
    }
}

fn a_daemon_killed_at_any_step_of_an_apply_is_an_error_at_once(kind: Kind) {
    let mut scene = Scene::new(kind);
    let steps = scene.steps();
    let mut slowest = Duration::ZERO;
    for step in 0..steps {
        for after in [false, true] {
            let pid = scene.daemon.pid();
            let proxy =
                Proxy::start(&scene.daemon.directory, scene.daemon.socket(), move |number, _| match after {
                    _ if number != step => Action::Pass,
                    false => Action::Kill(pid),
                    true => Action::PassAndKill(pid),
                });
            let outcome = apply(&proxy.socket, 7, &scene.new);
            slowest = slowest.max(outcome.took);
            assert!(outcome.took < Duration::from_secs(5), "step {step} took {:?}", outcome.took);
            outcome.failed(3, &["the connection to xenstored broke at", "is xenstored still running?"]);
            scene.daemon.restart();
            // A restarted daemon has an empty store, in which there is no domain, whole or half.
            show(&scene.daemon.socket(), 7).failed(3, &["domain 7 does not exist"]);
            scene.set();
            assert!(!scene.is_whole(&format!("after a restart at step {step}")));
        }
    }
    println!("{kind:?}: daemon killed before and after each of {steps} requests; slowest error {slowest:?}");
}

fn a_helper_killed_at_any_step_leaves_the_old_layout_or_the_new_one(kind: Kind) {
    let scene = Scene::new(kind);
    let steps = scene.steps();
    let mut replaced = 0;
    for step in 0..steps {
        for reaches_the_daemon in [false, true] {
            let victim: Arc<Mutex<Option<u32>>> = Arc::default();
            let killer = Arc::clone(&victim);
            let proxy = Proxy::start(&scene.daemon.directory, scene.daemon.socket(), move |number, _| {
                if number != step {
                    return Action::Pass;
                }
                let pid = loop {
                    if let Some(pid) = *killer.lock().unwrap() {
                        break pid;
                    }
                    std::thread::yield_now();
                };
                if reaches_the_daemon { Action::PassAndKill(pid) } else { Action::Kill(pid) }
            });
            let started = Instant::now();
            let child =
                program(&proxy.socket).args(["apply", "--domid", "7"]).arg(&scene.new).spawn().unwrap();
            *victim.lock().unwrap() = Some(child.id());
            assert_eq!(finish(child, started).code, None, "killed at step {step}");
            if scene.is_whole(&format!("helper killed at step {step}")) {
                replaced += 1;
                apply(&scene.daemon.socket(), 7, &scene.old).succeeded();
            }
        }
    }
    assert!(replaced > 0 && replaced < 2 * steps);
    println!(
        "{kind:?}: helper killed at each of {steps} requests twice: {replaced} times the new layout, else the old"
    );
}

fn a_refusal_of_any_request_leaves_the_old_layout_or_the_new_one(kind: Kind) {
    let scene = Scene::new(kind);
    let steps = scene.steps();
    for error in ["ENOSPC", "EQUOTA", "E2BIG", "EIO", "EACCES", "EINVAL"] {
        for step in 0..steps {
            let proxy = Proxy::start(&scene.daemon.directory, scene.daemon.socket(), move |number, _| {
                if number == step { Action::Refuse(error) } else { Action::Pass }
            });
            let outcome = apply(&proxy.socket, 7, &scene.new);
            // libxenstore's "is it introduced?" has no error: a refusal counts as no. It is not asked here,
            // where the domain was never built, so that every refusal is seen.
            outcome.failed(3, &["xenstored refused \""]);
            if scene.is_whole(&format!("{error} at step {step}")) {
                apply(&scene.daemon.socket(), 7, &scene.old).succeeded();
            }
        }
    }
}

fn a_commit_that_others_disturb_is_made_again(kind: Kind) {
    let scene = Scene::new(kind);
    let mut disturbed = 0;
    let proxy = Proxy::start(&scene.daemon.directory, scene.daemon.socket(), move |_, message| {
        if message.operation == TRANSACTION_END && disturbed < 5 {
            disturbed += 1;
            return Action::Refuse("EAGAIN");
        }
        Action::Pass
    });
    apply(&proxy.socket, 7, &scene.new).succeeded();
    assert!(scene.is_whole("five times EAGAIN"));
}

fn a_commit_that_others_disturb_for_ever_is_given_up_with_nothing_written(kind: Kind) {
    let scene = Scene::new(kind);
    let proxy = Proxy::start(&scene.daemon.directory, scene.daemon.socket(), |_, message| {
        if message.operation == TRANSACTION_END { Action::Refuse("EAGAIN") } else { Action::Pass }
    });
    let outcome = apply(&proxy.socket, 7, &scene.new);
    assert!(outcome.took < Duration::from_secs(15), "{:?}", outcome.took);
    outcome.failed(3, &["could not be stored", "nothing was written"]);
    assert!(!scene.is_whole("EAGAIN for ever"));
}

fn a_daemon_that_is_stopped_is_an_error_within_seconds(kind: Kind) {
    let scene = Scene::new(kind);
    signal(scene.daemon.pid(), "STOP");
    let outcomes = [apply(&scene.daemon.socket(), 7, &scene.new), show(&scene.daemon.socket(), 7)];
    signal(scene.daemon.pid(), "CONT");
    for outcome in outcomes {
        assert!(outcome.took < Duration::from_secs(8), "{:?}", outcome.took);
        outcome.failed(3, &["has not answered"]);
    }
    assert!(!scene.is_whole("stopped before the first request"));

    // And in the middle of an apply: the answer to a request does not come.
    let pid = scene.daemon.pid();
    let proxy = Proxy::start(&scene.daemon.directory, scene.daemon.socket(), move |number, _| {
        if number == 20 {
            signal(pid, "STOP");
        }
        Action::Pass
    });
    let outcome = apply(&proxy.socket, 7, &scene.new);
    signal(scene.daemon.pid(), "CONT");
    assert!(outcome.took < Duration::from_secs(12), "{:?}", outcome.took);
    outcome.failed(3, &["has not answered"]);
    assert!(!scene.is_whole("stopped in the middle"));
}

fn a_value_too_long_is_refused_with_nothing_written(kind: Kind) {
    let scene = Scene::new(kind);
    let path = described(&scene.daemon.directory, "blocks", &json!([]));
    let mut guest: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    guest["device_model_memory"] = json!(vec![0x1_0000; 400]);
    std::fs::write(&path, guest.to_string()).unwrap();
    apply(&scene.daemon.socket(), 7, &path).failed(3, &["device-model", "bytes"]);
    assert!(!scene.is_whole("a value too long"));
}

fn garbage_in_our_keys_is_an_error_for_show_and_replaced_by_apply(kind: Kind) {
    let scene = Scene::new(kind);
    let socket = scene.daemon.socket();
    let root = "/libxl/7/pci-layout";
    let long = "x".repeat(1900);
    let garbage: [(&str, &[u8]); 12] = [
        ("version", b"2"),
        ("version", b""),
        ("version", b"\xff\xfe"),
        ("generation", b"many"),
        ("generation", b"99999999999999999999999"),
        ("layout/count", b"0"),
        ("layout/count", b"4294967295"),
        ("layout/count", b"2"),
        ("layout/0", b"{}"),
        ("layout/0", b"\x00\xc3\x28"),
        ("layout/0", b"{\"schema\":\"layout/2\"}"),
        ("layout/0", long.as_bytes()),
    ];
    for (key, value) in garbage {
        scene.daemon.client().write_bytes(&format!("{root}/{key}"), value).unwrap();
        show(&socket, 7).failed(3, &[root, "apply replaces it"]);
        apply(&socket, 7, &scene.old).succeeded();
        assert!(!scene.is_whole(&format!("{key} was garbage")));
    }
    for key in ["version", "generation", "layout/count", "layout/0", "layout"] {
        scene.daemon.client().rm(&format!("{root}/{key}")).unwrap();
        show(&socket, 7).failed(3, &[root, "apply replaces it"]);
        apply(&socket, 7, &scene.new).succeeded();
        assert!(scene.is_whole(&format!("{key} was missing")));
    }
    // Keys of another version, and a subtree where a value should be.
    let mut client = scene.daemon.client();
    for path in
        ["/local/domain/7/hvmloader/pci/layout/bar/03-0/extra", "/libxl/7/pci-layout/layout/0/deep/er"]
    {
        client.write(path, "?").unwrap();
    }
    apply(&socket, 7, &scene.old).succeeded();
    assert!(!scene.is_whole("keys of another version"));
    assert_eq!(client.read("/local/domain/7/hvmloader/pci/layout/bar/03-0/extra").unwrap_err(), "ENOENT");
}
