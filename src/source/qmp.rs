// SPDX-License-Identifier: LGPL-2.1-or-later
//! A running guest's device model, asked over libxl's own QMP socket.
//!
//! QEMU serves one client at a time on that socket, and libxl connects for every command of its own. So the lock that
//! libxl takes is taken first (libxl_internal.c, libxl__ev_qmplock_init), one question is asked, and all is let go.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qapi::{ExecuteError, Qmp, Stream, qmp};

use crate::xenstore::Domid;

/// Where libxl has its sockets (XEN_RUN_DIR).
const RUN_DIR: &str = "/var/run/xen";
/// Where libxl has its lock files (XEN_LIB_DIR).
const LIB_DIR: &str = "/var/lib/xen";
/// How long libxl or QEMU may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Why a device model gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The lock file cannot be opened or locked.
    #[error("cannot lock {}: {problem}", .file.display())]
    Lock {
        /// The file.
        file: PathBuf,
        /// What the system says.
        problem: std::io::Error,
    },
    /// Somebody else keeps the lock.
    #[error("{}: libxl has kept this lock for {} seconds, it is busy with the guest", .file.display(), PATIENCE.as_secs())]
    Busy {
        /// The file.
        file: PathBuf,
    },
    /// The socket cannot be reached.
    #[error("cannot reach the guest's QEMU at {}: {problem}", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        problem: std::io::Error,
    },
    /// QEMU did not answer, or refused.
    #[error("the guest's QEMU at {}: {problem}", .socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What came instead.
        problem: ExecuteError,
    },
}

/// A connection on which QEMU has said hello.
type Session<'a> = Qmp<Stream<BufReader<&'a UnixStream>, &'a UnixStream>>;

/// What QEMU says of a guest's PCI buses and memory.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// `query-pci`.
    pub buses: Vec<qmp::PciInfo>,
    /// The machine's property of that name, bytes, if it was set.
    pub max_ram_below_4g: Option<u64>,
    /// `info ramblock`, as its monitor prints it.
    pub ram_blocks: String,
}

/// One guest's device model.
#[derive(Clone, Debug)]
pub struct DeviceModel {
    socket: PathBuf,
    /// libxl's lock, where the socket is libxl's.
    lock: Option<PathBuf>,
}

impl DeviceModel {
    /// The device model of a guest with that number and UUID (as libxl writes it, with hyphens).
    pub fn of(domid: Domid, uuid: &str) -> Self {
        Self {
            socket: Path::new(RUN_DIR).join(format!("qmp-libxl-{domid}")),
            lock: Some(Path::new(LIB_DIR).join(format!("userdata-l.{domid}.{uuid}.qmp-socket-lock"))),
        }
    }

    /// The QEMU behind a socket that is nobody else's.
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), lock: None }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The buses, every function on them and where its BARs are (`query-pci`).
    ///
    /// # Errors
    ///
    /// That the lock is not to be had, or that QEMU does not answer.
    pub fn query_pci(&self) -> Result<Vec<qmp::PciInfo>, QmpError> {
        self.ask(|session| session.execute(&qmp::query_pci {}))
    }

    /// The buses, where it was told to end RAM below 4 GiB, and the memory that it has, all in one visit.
    ///
    /// # Errors
    ///
    /// As [`query_pci`](Self::query_pci).
    pub fn inspect(&self) -> Result<Inspection, QmpError> {
        self.ask(|session| {
            let border =
                qmp::qom_get { path: "/machine".to_owned(), property: "max-ram-below-4g".to_owned() };
            let blocks =
                qmp::human_monitor_command { command_line: "info ramblock".to_owned(), cpu_index: None };
            Ok(Inspection {
                buses: session.execute(&qmp::query_pci {})?,
                // 0 where it was told nothing.
                max_ram_below_4g: session.execute(&border)?.as_u64().filter(|bytes| *bytes != 0),
                ram_blocks: session.execute(&blocks)?,
            })
        })
    }

    fn ask<T>(
        &self,
        questions: impl FnOnce(&mut Session<'_>) -> Result<T, ExecuteError>,
    ) -> Result<T, QmpError> {
        // Held until the connection below is closed: it is dropped last.
        let _lock = self.lock.as_deref().map(take_lock).transpose()?;
        let connect = |problem| QmpError::Connect { socket: self.socket.clone(), problem };
        let stream = UnixStream::connect(&self.socket).map_err(connect)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(connect)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(connect)?;
        let answer = |problem| QmpError::Answer { socket: self.socket.clone(), problem };
        // qapi takes a greeting for granted: a QEMU that has gone is noticed before.
        let mut reader = BufReader::new(&stream);
        if reader.fill_buf().map_err(|problem| answer(problem.into()))?.is_empty() {
            return Err(answer(std::io::Error::from(ErrorKind::UnexpectedEof).into()));
        }
        let mut session = Qmp::new(Stream::new(reader, &stream));
        session.handshake().map_err(answer)?;
        questions(&mut session).map_err(answer)
    }
}

/// Locks as libxl does: the file may be removed by whoever had the lock, and is then made anew.
fn take_lock(path: &Path) -> Result<File, QmpError> {
    let problem = |problem| QmpError::Lock { file: path.to_owned(), problem };
    let until = Instant::now().checked_add(PATIENCE);
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(problem)?;
        match file.try_lock() {
            Ok(()) if is_current(path, &file) => return Ok(file),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(problem(error)),
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            return Err(QmpError::Busy { file: path.to_owned() });
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

/// Whether an open file is still the one at the lock's path.
fn is_current(path: &Path, file: &File) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, named) = (file.metadata(), std::fs::metadata(path));
    open.ok().zip(named.ok()).is_some_and(|(open, named)| identity(open) == identity(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_and_lock_are_where_libxl_has_them() {
        let model = DeviceModel::of(Domid::new(7).unwrap(), "c079bbf0-e4c8-11f1-b121-0538544e0f35");
        assert_eq!(model.socket, Path::new("/var/run/xen/qmp-libxl-7"));
        assert_eq!(
            model.lock.as_deref(),
            Some(Path::new("/var/lib/xen/userdata-l.7.c079bbf0-e4c8-11f1-b121-0538544e0f35.qmp-socket-lock"))
        );
    }

    #[test]
    fn a_device_model_that_is_gone_before_it_greets_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let gone = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let error = DeviceModel::at(&socket).query_pci().unwrap_err().to_string();
        gone.join().unwrap();
        assert!(error.starts_with("the guest's QEMU at"), "{error}");
    }

    #[test]
    fn a_lock_that_was_removed_under_us_is_taken_anew() {
        let directory = tempfile::tempdir().unwrap();
        let lock = directory.path().join("lock");
        let old = take_lock(&lock).unwrap();
        std::fs::remove_file(&lock).unwrap();
        assert!(!is_current(&lock, &old));
        let new = take_lock(&lock).unwrap();
        assert!(is_current(&lock, &new));
        drop(new);
        let model = DeviceModel { socket: directory.path().join("socket"), lock: Some(lock) };
        let error = model.query_pci().unwrap_err().to_string();
        assert!(error.contains("cannot reach the guest's QEMU"), "{error}");
    }
}
