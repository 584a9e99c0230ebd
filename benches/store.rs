// SPDX-License-Identifier: LGPL-2.1-or-later
//! `apply` and `show` on Debian's real xenstored daemons: round trips and whole processes, by number of BARs.
//!
//! Needs what tests/stages/50-xenstored installs: `cargo bench --features real-xenstored --bench store`.
#![allow(missing_docs, dead_code, unused_imports, reason = "the daemon and its tools are the tests' own")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::print_stdout)]

mod common;
#[path = "../tests/xenstored/daemon.rs"]
mod daemon;
#[path = "../tests/xenstored/guest.rs"]
mod guest;
#[path = "../tests/xenstored/helper.rs"]
mod helper;
#[path = "../tests/xenstored/proxy.rs"]
mod proxy;
#[path = "../tests/xenstored/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use daemon::{Daemon, Kind};
use proxy::Proxy;

/// How often each is run; the middle one counts.
const RUNS: usize = 41;

fn main() {
    println!(
        "| daemon | BARs | round trips of `apply` | `apply` | `show` | as many round trips by themselves |"
    );
    println!("|---|---|---|---|---|---|");
    for kind in [Kind::C, Kind::OCaml] {
        for bars in [20, 100, 600] {
            row(kind, bars);
        }
    }
}

fn row(kind: Kind, bars: usize) {
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    let guest = daemon.directory.join("guest.json");
    fs::write(&guest, serde_json::to_string(&common::guest(bars)).unwrap()).unwrap();
    let proxy = Proxy::counting(&daemon.directory, daemon.socket());
    helper::apply(&proxy.socket, 7, &guest).succeeded();
    let trips = proxy.seen().len();
    let socket = daemon.socket();
    let apply = middle(|| helper::apply(&socket, 7, &guest).succeeded());
    let show = middle(|| helper::show(&socket, 7).succeeded());
    let bare = middle(|| bare_round_trips(&daemon, trips));
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    println!("| {kind:?} | {bars} | {trips} | {} | {} | {} |", ms(apply), ms(show), ms(bare));
}

/// The daemon's own share: that many reads of one key, one after the other.
fn bare_round_trips(daemon: &Daemon, count: usize) {
    let mut client = daemon.client();
    for _ in 0..count {
        client.read("/local/domain/7/name").unwrap();
    }
}

fn middle<T>(mut run: impl FnMut() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[RUNS / 2]
}
