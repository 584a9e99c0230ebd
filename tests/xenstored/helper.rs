// SPDX-License-Identifier: LGPL-2.1-or-later
//! Runs the program, and makes guests for it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No run may take longer, whatever happens to the daemon, on a busy machine and under valgrind: a hang.
const HANG: Duration = Duration::from_secs(60);

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Outcome {
    /// Asserts success and returns what was printed.
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }

    /// Asserts the exit code and that there is one sentence which holds all of `words`.
    pub fn failed(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{} {}", self.out, self.err);
        assert!(self.err.starts_with("xen-pci-layout: "), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "\"{word}\" is not in: {}", self.err);
        }
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_xen-pci-layout");

/// The program, to be run against the store at `socket`; by the command in the variable UNDER, if there is one.
pub fn program(socket: &Path) -> Command {
    let under = std::env::var("UNDER").unwrap_or_default();
    let mut words = under.split_whitespace().chain([PROGRAM]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    against(socket, command)
}

fn against(socket: &Path, mut command: Command) -> Command {
    command.env("XENSTORED_PATH", socket).env_remove("XENSTORED_RUNDIR");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn apply(socket: &Path, domid: u32, guest: &Path) -> Outcome {
    run(program(socket).args(["apply", "--domid", &domid.to_string()]).arg(guest))
}

pub fn show(socket: &Path, domid: u32) -> Outcome {
    run(program(socket).args(["show", "--format", "json", "--domid", &domid.to_string()]))
}

/// What `plan` says of the guest, and `show` must say after `apply`.
pub fn planned(guest: &Path) -> String {
    plan(guest, "json")
}

/// What `plan` says in that format; no store is asked.
pub fn plan(guest: &Path, format: &str) -> String {
    let mut command = against(Path::new("/nonexistent"), Command::new(PROGRAM));
    run(command.args(["plan", "--format", format]).arg(guest)).succeeded()
}

pub fn run(command: &mut Command) -> Outcome {
    let started = Instant::now();
    finish(command.spawn().unwrap(), started)
}

pub fn finish(mut child: Child, started: Instant) -> Outcome {
    // What is printed fits in a pipe or is read here, beside the wait.
    let mut out = child.stdout.take().unwrap();
    let mut err = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || std::io::read_to_string(&mut out).unwrap());
    let complaints = std::thread::spawn(move || std::io::read_to_string(&mut err).unwrap());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > HANG {
            child.kill().unwrap();
            panic!("the program hangs");
        }
        std::thread::sleep(Duration::from_micros(200));
    };
    let took = started.elapsed();
    Outcome { code: status.code(), out: reader.join().unwrap(), err: complaints.join().unwrap(), took }
}

/// A guest description in the daemon's directory, with a device for each of `sizes`: one 64-bit BAR of that
/// size.
pub fn guest(directory: &Path, name: &str, sizes: &[u64]) -> PathBuf {
    let devices: Vec<Value> = (3..)
        .zip(sizes)
        .map(|(slot, size)| {
            json!({
                "bdf": format!("00:{slot:02x}.0"), "vendor": 0x10de, "device": 0x2204, "class": 0x0300,
                "host": format!("0000:{slot:02x}:00.0"),
                "bars": [{"reg": 16, "kind": "mem64", "size": size, "prefetch": true}],
            })
        })
        .collect();
    described(directory, name, &json!(devices))
}

pub fn described(directory: &Path, name: &str, devices: &Value) -> PathBuf {
    let path = directory.join(format!("{name}.json"));
    let guest = json!({
        "name": name, "phys_bits": 46, "low_mem_pgend": 0x20000, "high_mem_pgend": 0, "memory_map": [],
        "device_model_memory": [0x80_0000], "devices": devices, "passthrough": true,
    });
    std::fs::write(&path, guest.to_string()).unwrap();
    path
}
