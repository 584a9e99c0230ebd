// SPDX-License-Identifier: LGPL-2.1-or-later
//! Eight writers and eight readers at once: nobody ever sees anything but one whole layout.
//!
//! `STORM_SECONDS` is how long it lasts, 10 if it is not set.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Kind};
use crate::helper::{apply, guest, planned, show};

crate::on_both_daemons!(eight_writers_and_eight_readers_see_whole_layouts_only);

const LOADER: &str = "/local/domain/7/hvmloader/pci/layout";

type Keys = BTreeMap<String, String>;

/// The loader's keys as one transaction sees them; `None` where the daemon says that they changed meanwhile.
fn loader_keys(daemon: &Daemon) -> Option<Keys> {
    let mut client = daemon.client();
    client.start().unwrap();
    let nodes = client.dump(LOADER);
    match client.commit() {
        Ok(()) => Some(nodes.into_iter().map(|(path, value, _)| (path, value)).collect()),
        Err(error) => {
            assert_eq!(error, "EAGAIN");
            None
        }
    }
}

fn eight_writers_and_eight_readers_see_whole_layouts_only(kind: Kind) {
    let seconds = std::env::var("STORM_SECONDS").map_or(10, |text| text.parse().unwrap());
    let daemon = Daemon::start(kind);
    daemon.make_domain(7);
    // Eight guests whose layouts differ in every BAR and in how many there are.
    let guests: Vec<_> = (0..8_u64)
        .map(|number| {
            let sizes: Vec<u64> = (0..=number).map(|bar| 1 << (20 + (number + bar) % 8)).collect();
            guest(&daemon.directory, &format!("guest{number}"), &sizes)
        })
        .collect();
    let mut shown = Vec::new();
    let mut known = Vec::new();
    for guest in &guests {
        apply(&daemon.socket(), 7, guest).succeeded();
        shown.push(planned(guest));
        known.push(loader_keys(&daemon).unwrap());
    }
    let stop = AtomicBool::new(false);
    let [written, by_show, plainly, disturbed, slowest] = [const { AtomicU64::new(0) }; 5];
    let add = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
    let running = || !stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for guest in &guests {
            threads.push(scope.spawn(|| {
                while running() {
                    let outcome = apply(&daemon.socket(), 7, guest);
                    let took = u64::try_from(outcome.took.as_millis()).unwrap();
                    outcome.succeeded();
                    slowest.fetch_max(took, Ordering::Relaxed);
                    add(&written);
                }
            }));
        }
        for _ in 0..4 {
            threads.push(scope.spawn(|| {
                while running() {
                    let seen = show(&daemon.socket(), 7).succeeded();
                    assert!(shown.contains(&seen), "a mixture: {seen}");
                    add(&by_show);
                }
            }));
            threads.push(scope.spawn(|| {
                while running() {
                    let Some(keys) = loader_keys(&daemon) else {
                        add(&disturbed);
                        continue;
                    };
                    assert!(known.contains(&keys), "a mixture: {keys:?}");
                    add(&plainly);
                }
            }));
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(seconds)
            && !threads.iter().any(|thread| thread.is_finished())
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let [written, by_show, plainly, disturbed, slowest] =
        [written, by_show, plainly, disturbed, slowest].map(AtomicU64::into_inner);
    println!(
        "{kind:?}: {seconds} s: {written} layouts written (slowest {slowest} ms), {by_show} read by show, \
         {plainly} by the loader's keys ({disturbed} disturbed); no mixture"
    );
    assert!(written > 8 && by_show > 8 && plainly > 8);
    // No write was lost: each raised the generation by one.
    let generation: u64 = daemon.client().read("/libxl/7/pci-layout/generation").unwrap().parse().unwrap();
    assert_eq!(generation, written + 8);
}
