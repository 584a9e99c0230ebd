// SPDX-License-Identifier: LGPL-2.1-or-later
//! A genuine xenstored in a directory of its own.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::guest::Guest;
use crate::wire::{Client, INTRODUCE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    C,
    OCaml,
}

/// A running daemon; killed and its directory removed when dropped.
pub struct Daemon {
    pub kind: Kind,
    pub directory: PathBuf,
    process: Child,
}

impl Daemon {
    /// A new, empty store.
    pub fn start(kind: Kind) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("xs-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("kva"), [0; 4096]).unwrap();
        std::fs::write(directory.join("port"), "1").unwrap();
        let made = Command::new("mkfifo").arg(directory.join("events")).status().unwrap();
        assert!(made.success());
        let process = spawn(kind, &directory);
        let daemon = Self { kind, directory, process };
        daemon.wait_until_it_listens();
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    pub fn client(&self) -> Client<UnixStream> {
        Client::connect(&self.socket())
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Makes a domain as libxl makes it (libxl_create.c, libxl__domain_make), as far as it matters here.
    pub fn make_domain(&self, domid: u32) {
        std::fs::write(self.directory.join(format!("ring-{domid}")), [0; 4096]).unwrap();
        let mut client = self.client();
        let home = format!("/local/domain/{domid}");
        let nodes = [
            (home.clone(), format!("n0,r{domid}")),
            (format!("{home}/hvmloader"), format!("n0,r{domid}")),
            (format!("{home}/data"), format!("n{domid}")),
            (format!("/libxl/{domid}"), "n0".to_owned()),
        ];
        for (path, permissions) in nodes {
            client.write(&path, "").unwrap();
            client.set_permissions(&path, &permissions).unwrap();
        }
        client.write(&format!("{home}/name"), &format!("guest-{domid}")).unwrap();
    }

    /// Gives the domain a ring and tells the daemon of it: from now on the guest can talk.
    pub fn introduce(&self, domid: u32) -> Client<Guest> {
        let guest = Guest::new(&self.directory, domid);
        self.client().request(INTRODUCE, format!("{domid}\0{}\0{}\0", 1, 1).as_bytes()).unwrap();
        Client { line: guest, transaction: 0 }
    }

    /// Ends the daemon as `kill -9` does and starts it again, its store empty.
    pub fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        // What a dead daemon leaves behind, another could take for its own.
        for file in ["socket", "tdb", "tdb.0x0"] {
            let _ = std::fs::remove_file(self.directory.join(file));
        }
        self.process = spawn(self.kind, &self.directory);
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&self) {
        let started = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_secs(20), "{:?} does not listen: {log}", self.kind);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn spawn(kind: Kind, directory: &Path) -> Child {
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let mut command = match kind {
        Kind::C => {
            let mut command = Command::new(program("xenstored"));
            command.args(["--no-fork", "--pid-file"]).arg(directory.join("pid"));
            command
        }
        Kind::OCaml => {
            let configuration = directory.join("oxenstored.conf");
            let at = directory.display();
            // The quotas are those of the configuration that Debian ships.
            let text = format!(
                "pid-file = {at}/pid\nxenstored-kva = {at}/kva\nxenstored-port = {at}/port\n\
                 xenstored-log-file = {at}/daemon.log\naccess-log-file = {at}/access.log\npersistent = false\n\
                 merge-activate = true\nperms-activate = true\nquota-activate = true\nquota-maxentity = 1000\n\
                 quota-maxsize = 2048\nquota-maxwatch = 100\nquota-transaction = 10\nquota-maxrequests = 1024\n"
            );
            std::fs::write(&configuration, text).unwrap();
            let mut command = Command::new(program("oxenstored"));
            command.args(["--no-fork", "--config-file"]).arg(configuration);
            command
        }
    };
    command
        .env("LD_PRELOAD", stand_in())
        .env("STAND_IN_DIRECTORY", directory)
        .env("XENSTORED_RUNDIR", directory)
        .env_remove("XENSTORED_PATH")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Debian's program of that name, of the newest Xen that is installed.
fn program(name: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("xen-"))
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("no {name}: tests/run 50-xenstored installs Debian's xen-utils"))
}

/// The library that stands in for the hypervisor, compiled once a run.
fn stand_in() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/xenstored/stand-in.c");
        let library =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stand-in-{}.so", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-O1", "-Wall", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .args([source, "-ldl"])
            .status()
            .unwrap();
        assert!(compiled.success(), "stand-in.c does not compile: Debian's libxen-dev has the headers");
        library
    })
}
