// SPDX-License-Identifier: LGPL-2.1-or-later
//! A connection to xenstored through libxenstore: its requests as safe functions.
//!
//! Each function makes one round trip and waits for the answer without a limit; who needs one runs the handle
//! on a thread of its own and stops waiting for it. Errors of requests are the daemon's (or the connection's)
//! error numbers as `io::Error`; a path or value that the protocol cannot carry is `InvalidInput`, without a
//! request.

use crate::bindings::xenstore::{self as raw, LibXenstore};
use crate::library::{LibraryError, libxenstore};
use crate::place::{Place, PlaceError};
use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::io;
use std::ptr::NonNull;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No usable libxenstore.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// `XENSTORED_PATH` or `XENSTORED_RUNDIR` is wrong.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// libxenstore found no store.
    #[error("cannot connect to {tried}: {source}")]
    NoDaemon {
        /// What was tried.
        tried: String,
        /// libxenstore's error number.
        source: io::Error,
    },
}

/// A transaction's number, [`Transaction::NONE`] outside of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction(raw::xs_transaction_t);

impl Transaction {
    /// No transaction: the request takes effect by itself.
    pub const NONE: Transaction = Transaction(0);
}

/// What a domain may do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Read and write.
    Both,
}

/// One entry of a node's permissions. The first names the owner, who may do everything, and what every domain
/// may that no later entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// The domain.
    pub domid: u32,
    /// What it may do.
    pub access: Access,
}

impl From<Permission> for raw::xs_permissions {
    fn from(permission: Permission) -> Self {
        let perms = match permission.access {
            Access::None => raw::XS_PERM_NONE,
            Access::Read => raw::XS_PERM_READ,
            Access::Write => raw::XS_PERM_WRITE,
            Access::Both => raw::XS_PERM_READ | raw::XS_PERM_WRITE,
        };
        raw::xs_permissions { id: permission.domid, perms }
    }
}

impl From<raw::xs_permissions> for Permission {
    fn from(permission: raw::xs_permissions) -> Self {
        let readable = permission.perms & raw::XS_PERM_READ != 0;
        let writable = permission.perms & raw::XS_PERM_WRITE != 0;
        let access = match (readable, writable) {
            (false, false) => Access::None,
            (true, false) => Access::Read,
            (false, true) => Access::Write,
            (true, true) => Access::Both,
        };
        Permission { domid: permission.id, access }
    }
}

/// A connection, closed when dropped; a transaction still open is then discarded by the daemon.
pub struct Xs {
    library: &'static LibXenstore,
    /// From xs_open, not yet given to xs_close: the invariant that every call below relies on.
    handle: NonNull<raw::xs_handle>,
}

// SAFETY: a handle is memory of the C heap, a file descriptor and mutexes; nothing in it belongs to the
// thread that opened it. It is not Sync: libxenstore would serialise the requests, but no user needs that.
unsafe impl Send for Xs {}

impl Xs {
    /// Connects to the store that the environment names, else to the host's (see the errors' words).
    pub fn open() -> Result<Xs, OpenError> {
        let library = libxenstore()?;
        let place = Place::of_environment();
        place.check()?;
        // SAFETY: xs_open has no preconditions; flags 0 is the only value that current libraries look at.
        let handle = unsafe { library.xs_open(0) };
        let Some(handle) = NonNull::new(handle) else {
            return Err(OpenError::NoDaemon { tried: place.described(), source: io::Error::last_os_error() });
        };
        let store = Xs { library, handle };
        place.check()?;
        Ok(store)
    }

    /// A node's value.
    pub fn read(&self, transaction: Transaction, path: &str) -> io::Result<Vec<u8>> {
        let path = c_string(path)?;
        let mut length: c_uint = 0;
        // SAFETY: the handle is open, the path is terminated, length is a valid place for the answer; all
        // outlive the call.
        let value =
            unsafe { self.library.xs_read(self.handle.as_ptr(), transaction.0, path.as_ptr(), &mut length) };
        let value = Allocated::new(value.cast::<u8>())?;
        // SAFETY: on success xs_read returns `length` bytes (and a terminator after them).
        Ok(unsafe { value.as_slice(length) }.to_vec())
    }

    /// The names of a node's children.
    pub fn directory(&self, transaction: Transaction, path: &str) -> io::Result<Vec<String>> {
        let path = c_string(path)?;
        let mut count: c_uint = 0;
        // SAFETY: as in `read`.
        let names = unsafe {
            self.library.xs_directory(self.handle.as_ptr(), transaction.0, path.as_ptr(), &mut count)
        };
        let names = Allocated::<*mut c_char>::new(names)?;
        // SAFETY: on success xs_directory returns `count` pointers; one allocation holds them and the
        // strings.
        let pointers = unsafe { names.as_slice(count) };
        Ok(pointers
            .iter()
            // SAFETY: each pointer is a terminated string within the allocation that `names` keeps until
            // after this.
            .map(|name| unsafe { CStr::from_ptr(*name) }.to_string_lossy().into_owned())
            .collect())
    }

    /// Sets a node's value, making the node and its parents where they are not there.
    pub fn write(&self, transaction: Transaction, path: &str, value: &[u8]) -> io::Result<()> {
        let path = c_string(path)?;
        let length =
            c_uint::try_from(value.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: as in `read`; value is valid for reading `length` bytes, and libxenstore only reads it.
        let done = unsafe {
            let data = value.as_ptr().cast::<c_void>();
            self.library.xs_write(self.handle.as_ptr(), transaction.0, path.as_ptr(), data, length)
        };
        answered(done)
    }

    /// Makes an empty node; one that is there already stays as it is.
    pub fn mkdir(&self, transaction: Transaction, path: &str) -> io::Result<()> {
        let path = c_string(path)?;
        // SAFETY: as in `read`.
        answered(unsafe { self.library.xs_mkdir(self.handle.as_ptr(), transaction.0, path.as_ptr()) })
    }

    /// Removes a node and everything below it. Where it is not there the daemons differ: nothing or ENOENT.
    pub fn rm(&self, transaction: Transaction, path: &str) -> io::Result<()> {
        let path = c_string(path)?;
        // SAFETY: as in `read`.
        answered(unsafe { self.library.xs_rm(self.handle.as_ptr(), transaction.0, path.as_ptr()) })
    }

    /// A node's permissions, the owner first.
    pub fn permissions(&self, transaction: Transaction, path: &str) -> io::Result<Vec<Permission>> {
        let path = c_string(path)?;
        let mut count: c_uint = 0;
        // SAFETY: as in `read`.
        let list = unsafe {
            self.library.xs_get_permissions(self.handle.as_ptr(), transaction.0, path.as_ptr(), &mut count)
        };
        let list = Allocated::new(list)?;
        // SAFETY: on success xs_get_permissions returns `count` entries.
        Ok(unsafe { list.as_slice(count) }.iter().map(|&entry| entry.into()).collect())
    }

    /// Sets a node's permissions. Nodes made below it later inherit them.
    pub fn set_permissions(
        &self,
        transaction: Transaction,
        path: &str,
        permissions: &[Permission],
    ) -> io::Result<()> {
        let path = c_string(path)?;
        let mut list: Vec<raw::xs_permissions> = permissions.iter().map(|&entry| entry.into()).collect();
        let count = c_uint::try_from(list.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: as in `read`; the list has `count` entries.
        answered(unsafe {
            let (handle, entries) = (self.handle.as_ptr(), list.as_mut_ptr());
            self.library.xs_set_permissions(handle, transaction.0, path.as_ptr(), entries, count)
        })
    }

    /// Starts a transaction.
    pub fn transaction_start(&self) -> io::Result<Transaction> {
        // SAFETY: the handle is open.
        let number = unsafe { self.library.xs_transaction_start(self.handle.as_ptr()) };
        answered(number != 0)?;
        Ok(Transaction(number))
    }

    /// Ends a transaction. EAGAIN from a commit means that nothing of it took effect and that it can be tried
    /// again.
    pub fn transaction_end(&self, transaction: Transaction, commit: bool) -> io::Result<()> {
        // SAFETY: the handle is open; a number that the daemon does not know is answered with an error.
        answered(unsafe { self.library.xs_transaction_end(self.handle.as_ptr(), transaction.0, !commit) })
    }

    /// Whether xenstored serves this domain: from the end of its building until it is gone. False, too, where
    /// the connection is broken, which the next request then says.
    pub fn is_domain_introduced(&self, domid: u32) -> bool {
        // SAFETY: the handle is open.
        unsafe { self.library.xs_is_domain_introduced(self.handle.as_ptr(), domid) }
    }
}

impl Drop for Xs {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nothing uses it after this.
        unsafe { self.library.xs_close(self.handle.as_ptr()) };
    }
}

impl std::fmt::Debug for Xs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Xs").finish_non_exhaustive()
    }
}

/// Memory that libxenstore allocated with malloc and left to its caller.
struct Allocated<T>(NonNull<T>);

impl<T> Allocated<T> {
    /// Null is libxenstore's failure, with the reason in errno: nothing may run between the request and this.
    fn new(pointer: *mut T) -> io::Result<Self> {
        NonNull::new(pointer).map(Allocated).ok_or_else(io::Error::last_os_error)
    }

    /// # Safety
    /// The allocation holds `count` initialised values of T.
    unsafe fn as_slice(&self, count: c_uint) -> &[T] {
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: the caller's promise; malloc's memory is aligned for every type that libxenstore returns,
        // and nobody else has this pointer.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), count) }
    }
}

impl<T> Drop for Allocated<T> {
    fn drop(&mut self) {
        // SAFETY: xenstore.h: a returned array or value is freed once with free().
        unsafe { libc::free(self.0.as_ptr().cast()) };
    }
}

/// Whether a request failed because the daemon is gone. libxenstore answers EBADF to the first request whose
/// answer does not come, and to all that follow.
pub fn connection_lost(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EPIPE | libc::ECONNRESET))
}

/// libxenstore's true, or errno.
fn answered(done: bool) -> io::Result<()> {
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A path for the protocol: NUL ends it there, so a path that holds one would be another path.
fn c_string(path: &str) -> io::Result<CString> {
    CString::new(path)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a xenstore path cannot hold a NUL byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_survive_the_way_to_c_and_back() {
        for access in [Access::None, Access::Read, Access::Write, Access::Both] {
            let permission = Permission { domid: 7, access };
            assert_eq!(Permission::from(raw::xs_permissions::from(permission)), permission);
        }
    }

    #[test]
    fn a_path_with_nul_never_becomes_a_shorter_path() {
        assert_eq!(c_string("/local\0/domain").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
