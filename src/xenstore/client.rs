// SPDX-License-Identifier: LGPL-2.1-or-later
//! The connection to the store: libxenstore behind xenstore-rs's traits, on a thread of its own.
//!
//! [`Connection`] and [`Span`] implement the traits; [`Toolstack`] is what those lack. libxenstore waits for
//! an answer as long as it takes, also from a daemon that is stopped, so [`Client`] runs the requests on a
//! second thread and gives up when none was answered for a while. That thread is then left behind: the
//! process is about to end, and the handle it holds is of no use to anybody.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use xen_sys::{OpenError, Permission, Transaction};
use xenstore_rs::{Xs, XsTransaction, XsTransactionSpan};

use crate::xenstore::StoreError;

/// How long a daemon may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a toolstack needs of a store and xenstore-rs's traits do not have.
pub trait Toolstack: Xs {
    /// A node's permissions, the owner first.
    fn permissions(&self, path: &str) -> io::Result<Vec<Permission>>;

    /// Sets a node's permissions; what is made below it later inherits them.
    fn set_permissions(&self, path: &str, permissions: &[Permission]) -> io::Result<()>;

    /// Whether the daemon serves this domain (never part of a transaction).
    fn is_domain_introduced(&self, domid: u32) -> bool;
}

/// A connection; each request takes effect by itself.
pub struct Connection {
    handle: Rc<Handle>,
}

/// A transaction on a connection; discarded when dropped.
pub struct Span {
    handle: Rc<Handle>,
    transaction: Transaction,
    ended: bool,
}

/// libxenstore's handle, and the count of answers by which the other thread sees that it is not stuck.
struct Handle {
    xs: xen_sys::Xs,
    answers: Arc<AtomicU64>,
}

impl Handle {
    fn request<T>(&self, ask: impl FnOnce(&xen_sys::Xs) -> T) -> T {
        let answer = ask(&self.xs);
        self.answers.fetch_add(1, Ordering::Relaxed);
        answer
    }
}

/// The same requests in and outside of a transaction.
trait Requests {
    fn place(&self) -> (&Handle, Transaction);
}

impl Requests for Connection {
    fn place(&self) -> (&Handle, Transaction) {
        (&self.handle, Transaction::NONE)
    }
}

impl Requests for Span {
    fn place(&self) -> (&Handle, Transaction) {
        (&self.handle, self.transaction)
    }
}

/// The traits for one of the two; a blanket implementation of a foreign trait is not allowed.
macro_rules! requests {
    ($type:ty) => {
        impl Xs for $type {
            fn directory(&self, path: &str) -> io::Result<Vec<Box<str>>> {
                let (handle, transaction) = self.place();
                let names = handle.request(|xs| xs.directory(transaction, path))?;
                Ok(names.into_iter().map(String::into_boxed_str).collect())
            }

            fn read(&self, path: &str) -> io::Result<Box<str>> {
                let (handle, transaction) = self.place();
                let value = handle.request(|xs| xs.read(transaction, path))?;
                let text = String::from_utf8(value);
                text.map(String::into_boxed_str).map_err(|_| io::ErrorKind::InvalidData.into())
            }

            fn write(&self, path: &str, data: &str) -> io::Result<()> {
                let (handle, transaction) = self.place();
                handle.request(|xs| xs.write(transaction, path, data.as_bytes()))
            }

            fn rm(&self, path: &str) -> io::Result<()> {
                let (handle, transaction) = self.place();
                handle.request(|xs| xs.rm(transaction, path))
            }
        }

        impl Toolstack for $type {
            fn permissions(&self, path: &str) -> io::Result<Vec<Permission>> {
                let (handle, transaction) = self.place();
                handle.request(|xs| xs.permissions(transaction, path))
            }

            fn set_permissions(&self, path: &str, permissions: &[Permission]) -> io::Result<()> {
                let (handle, transaction) = self.place();
                handle.request(|xs| xs.set_permissions(transaction, path, permissions))
            }

            fn is_domain_introduced(&self, domid: u32) -> bool {
                let (handle, _) = self.place();
                handle.request(|xs| xs.is_domain_introduced(domid))
            }
        }
    };
}

requests!(Connection);
requests!(Span);

impl XsTransaction for Connection {
    type Span = Span;

    fn transaction(&self) -> io::Result<Span> {
        let transaction = self.handle.request(xen_sys::Xs::transaction_start)?;
        Ok(Span { handle: Rc::clone(&self.handle), transaction, ended: false })
    }
}

impl XsTransactionSpan for Span {
    fn commit(mut self) -> io::Result<()> {
        // Whatever the answer, the daemon does not know the number any more.
        self.ended = true;
        self.handle.request(|xs| xs.transaction_end(self.transaction, true))
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if !self.ended {
            // Who drops a transaction is on the way out with an error of his own; the daemon forgets it with
            // the connection.
            let _ = self.handle.request(|xs| xs.transaction_end(self.transaction, false));
        }
    }
}

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The way to the thread that holds the connection.
pub struct Client {
    jobs: Sender<Job>,
    answers: Arc<AtomicU64>,
}

impl Client {
    /// Connects to the store that the environment names, else to the host's.
    ///
    /// # Errors
    /// libxenstore is missing, a variable is wrong, there is no daemon, or it does not answer.
    pub fn open() -> Result<Self, StoreError> {
        let answers = Arc::new(AtomicU64::new(0));
        let (jobs, waiting) = channel::<Job>();
        let (opened, opening) = channel::<Result<(), OpenError>>();
        let counter = Arc::clone(&answers);
        let connection = move || match xen_sys::Xs::open() {
            Ok(xs) => {
                let connection = Connection { handle: Rc::new(Handle { xs, answers: counter }) };
                if opened.send(Ok(())).is_ok() {
                    waiting.into_iter().for_each(|job: Job| job(&connection));
                }
            }
            Err(error) => {
                // If nobody waits any more, nobody wants to know.
                let _ = opened.send(Err(error));
            }
        };
        std::thread::Builder::new().spawn(connection).map_err(StoreError::Thread)?;
        let client = Self { jobs, answers };
        client.wait(&opening)??;
        Ok(client)
    }

    /// Runs `job` on the connection's thread and waits for it as long as answers keep coming.
    ///
    /// # Errors
    /// [`StoreError::NoAnswer`].
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, result) = channel();
        let job: Job = Box::new(move |connection| {
            // If nobody waits any more, nobody wants to know.
            let _ = done.send(job(connection));
        });
        // A thread that is gone drops the job, and with it the sender that the wait below looks at.
        let _ = self.jobs.send(job);
        self.wait(&result)
    }

    fn wait<T>(&self, result: &Receiver<T>) -> Result<T, StoreError> {
        loop {
            let before = self.answers.load(Ordering::Relaxed);
            match result.recv_timeout(PATIENCE) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Timeout) if self.answers.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(StoreError::NoAnswer { seconds: PATIENCE.as_secs() }),
            }
        }
    }
}
