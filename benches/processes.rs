// SPDX-License-Identifier: LGPL-2.1-or-later
//! Every command that needs no Xen, as people run it: from the process's start to its exit, and its peak memory; then
//! the throughput of a batch, and what both were meant to be. GNU time (`/usr/bin/time`) tells the memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::print_stdout, clippy::cast_precision_loss, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often each is run; the middle one counts.
const RUNS: usize = 101;
/// What planning a guest of 20 BARs may take, and how many of them a batch is to plan in a second on two processors.
const TARGET: (f64, f64, f64) = (5.0, 10.0, 20_000.0);
const PROGRAM: &str = env!("CARGO_BIN_EXE_xen-pci-layout");

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("guest.json"), serde_json::to_string(&common::guest(20)).unwrap()).unwrap();
    fs::write(path("full-bus.json"), serde_json::to_string(&common::guest(1536)).unwrap()).unwrap();
    let device = r#"{"bdf": "00:1f.0", "vendor": 4318, "device": 9008, "class": 770, "bars": [
        {"reg": 16, "kind": "mem32", "size": 16777216}]}"#;
    fs::write(path("device.json"), device).unwrap();
    let layout =
        Command::new(PROGRAM).args(["plan", "--format", "json", &path("guest.json")]).output().unwrap();
    assert!(layout.status.success());
    fs::write(path("layout.json"), &layout.stdout).unwrap();
    fs::write(path("attached.json"), &layout.stdout).unwrap();
    once(Command::new(PROGRAM).args([
        "attach",
        "--commit",
        "--layout",
        &path("attached.json"),
        &path("device.json"),
    ]));

    let hyperscale = ["--host", "examples/hyperscale/host", "examples/hyperscale/guest.cfg"];
    let commands: [(&str, Vec<String>); 11] = [
        ("nothing (`--version`)", words(&["--version"])),
        ("`plan`, 20 BARs", words(&["plan", &path("guest.json")])),
        ("`plan`, 1,536 BARs", words(&["plan", &path("full-bus.json")])),
        ("`plan`, the hyperscale example's xl.cfg and host", [words(&["plan"]), words(&hyperscale)].concat()),
        ("`predict`, the same", [words(&["predict"]), words(&hyperscale)].concat()),
        ("`predict --suggest`, the same", [words(&["predict", "--suggest"]), words(&hyperscale)].concat()),
        ("`attach --layout`", words(&["attach", "--layout", &path("layout.json"), &path("device.json")])),
        ("`detach --layout`", words(&["detach", "--layout", &path("attached.json"), &path("device.json")])),
        ("`replay`, one recording", words(&["replay", "tests/recordings/mixdev"])),
        ("`replay`, 3,000 recorded loaders", words(&["replay", "tests/corpus/cases-4.17.jsonl.xz"])),
        ("`audit --lspci`", words(&["audit", "--lspci", "tests/hosts/workstation.lspci"])),
    ];
    println!("| command | start to exit | peak memory |\n|---|---|---|");
    let mut plan = (0.0, 0.0);
    for (name, arguments) in commands {
        let runs = if name.contains("3,000") || name.contains("--suggest") { 5 } else { RUNS };
        let (time, memory) = (middle(runs, &arguments).as_secs_f64() * 1e3, peak(&arguments));
        println!("| {name} | {time:.2} ms | {memory:.1} MiB |");
        if name == "`plan`, 20 BARs" {
            plan = (time, memory);
        }
    }
    println!();
    let rate = batches(directory.path());
    let met = |met| if met { "met" } else { "**missed**" };
    let (time, memory, guests) = TARGET;
    println!("\n| target | found | |\n|---|---|---|");
    println!("| `plan` in less than {time:.0} ms | {:.2} ms | {} |", plan.0, met(plan.0 < time));
    println!("| and {memory:.0} MiB | {:.1} MiB | {} |", plan.1, met(plan.1 < memory));
    println!("| `plan --batch`, at least {guests} guests a second | {rate:.0} | {} |", met(rate >= guests));
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn middle(runs: usize, arguments: &[String]) -> Duration {
    let mut times: Vec<Duration> = (0..runs).map(|_| once(Command::new(PROGRAM).args(arguments))).collect();
    times.sort_unstable();
    times[runs / 2]
}

/// One run, which must not fail; a no is an answer.
fn once(command: &mut Command) -> Duration {
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let took = started.elapsed();
    assert!(matches!(status.code(), Some(0 | 1)), "{command:?}: {status}");
    took
}

/// The most memory that it had, MiB.
fn peak(arguments: &[String]) -> f64 {
    let run = Command::new("/usr/bin/time").args(["-f", "%M", PROGRAM]).args(arguments).output().unwrap();
    let errors = String::from_utf8(run.stderr).unwrap();
    let last = errors.lines().last().unwrap_or_default();
    last.parse::<f64>().unwrap_or_else(|_| panic!("GNU time says \"{last}\"")) / 1024.0
}

/// Guests of 20 BARs, one a line; how many `plan` does in a second.
fn batches(directory: &Path) -> f64 {
    const LINES: usize = 40_000;
    let file = directory.join("batch.jsonl");
    let line = serde_json::to_string(&common::guest(20)).unwrap();
    let mut lines = File::create(&file).unwrap();
    (0..LINES).for_each(|_| writeln!(lines, "{line}").unwrap());
    println!("| batch of {LINES} guests, 20 BARs each | guests a second | peak memory |\n|---|---|---|");
    let rates = ["plan", "predict"].map(|command| {
        let arguments = words(&[command, "--batch", &file.display().to_string()]);
        let rate = LINES as f64 / middle(5, &arguments).as_secs_f64();
        println!("| `{command} --batch` | {rate:.0} | {:.1} MiB |", peak(&arguments));
        rate
    });
    rates[0]
}
