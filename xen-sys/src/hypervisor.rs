// SPDX-License-Identifier: LGPL-2.1-or-later
//! What only the running hypervisor knows: the host's reserved device memory (RMRR, IVMD).
//!
//! The hypercall is one that Xen keeps stable and libxencall's soname is, too; the wrapper in libxenctrl,
//! which changes its soname with every release, is not needed (`tools/libs/ctrl/xc_domain.c`,
//! xc_reserved_device_memory_map).

use crate::bindings::xen as raw;
use crate::bindings::xencall::{LibXencall, xencall_handle};
use crate::library::{LibraryError, libxencall};
use std::ffi::c_uint;
use std::io;
use std::path::Path;
use std::ptr::NonNull;

/// The devices that libxencall opens; without either there is no hypervisor to ask, or nobody may.
const DEVICES: [&str; 2] = ["/dev/xen/privcmd", "/proc/xen/privcmd"];

/// How many entries are asked for first; the hypervisor says if there are more.
const FIRST_GUESS: c_uint = 64;

/// Why the hypervisor gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// This host does not run Xen, or this is not a domain that controls it.
    #[error("there is no running Xen that can be asked: neither {} exists", DEVICES.join(" nor "))]
    NoXen,
    /// No usable libxencall.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The device cannot be opened.
    #[error("cannot open Xen's privileged command device: {0}")]
    Open(io::Error),
    /// The hypervisor refused.
    #[error("Xen does not tell its reserved device memory: {0}")]
    Refused(io::Error),
}

/// A stretch of the host's memory that a device addresses as the host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservedMemory {
    /// The first 4 KiB frame.
    pub start_frame: u64,
    /// How many frames.
    pub frames: u64,
}

/// A function of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciFunction {
    /// The segment (PCI domain).
    pub segment: u16,
    /// The bus.
    pub bus: u8,
    /// Device and function: five bits and three.
    pub devfn: u8,
}

/// The host's reserved device memory that is for one function, as libxl asks for each device that it passes through; or
/// all of it, what libxl takes for `rdm="strategy=host"`.
///
/// # Errors
/// There is no Xen, or it does not answer this domain.
pub fn reserved_device_memory(function: Option<PciFunction>) -> Result<Vec<ReservedMemory>, HypervisorError> {
    if !DEVICES.iter().any(|device| Path::new(device).exists()) {
        return Err(HypervisorError::NoXen);
    }
    let hypervisor = Hypervisor::open()?;
    let mut room = FIRST_GUESS;
    loop {
        match hypervisor.reserved_device_memory(function, room) {
            Ok(entries) => return Ok(entries),
            Err((error, needed)) if error.raw_os_error() == Some(libc::ENOBUFS) && needed > room => {
                room = needed
            }
            Err((error, _)) => return Err(HypervisorError::Refused(error)),
        }
    }
}

/// libxencall's handle, closed when dropped.
struct Hypervisor {
    library: &'static LibXencall,
    /// From xencall_open, not yet given to xencall_close.
    handle: NonNull<xencall_handle>,
}

impl Hypervisor {
    fn open() -> Result<Self, HypervisorError> {
        let library = libxencall()?;
        // SAFETY: without a logger the library logs to standard error; flags 0 are the only ones.
        let handle = unsafe { library.xencall_open(std::ptr::null_mut(), 0) };
        let handle = NonNull::new(handle).ok_or_else(|| HypervisorError::Open(io::Error::last_os_error()))?;
        Ok(Self { library, handle })
    }

    /// The entries, if they are no more than `room`; else the error, and how many there are.
    fn reserved_device_memory(
        &self,
        function: Option<PciFunction>,
        room: c_uint,
    ) -> Result<Vec<ReservedMemory>, (io::Error, c_uint)> {
        let failed = |error| (error, 0);
        let count = usize::try_from(room).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        let entries: Buffer<raw::xen_reserved_device_memory> = Buffer::new(self, count).map_err(failed)?;
        let request: Buffer<raw::xen_reserved_device_memory_map> = Buffer::new(self, 1).map_err(failed)?;
        let flags = if function.is_none() { raw::XENMEM_RDM_ALL } else { 0 };
        let PciFunction { segment, bus, devfn } =
            function.unwrap_or(PciFunction { segment: 0, bus: 0, devfn: 0 });
        let device = raw::physdev_pci_device { seg: segment, bus, devfn };
        // SAFETY: the buffer is large and aligned enough for one request, and nobody else knows of it yet.
        unsafe {
            request.start.write(raw::xen_reserved_device_memory_map {
                flags,
                nr_entries: room,
                buffer: raw::__guest_handle_xen_reserved_device_memory_t { p: entries.start.as_ptr() },
                dev: raw::xen_reserved_device_memory_map__bindgen_ty_1 { pci: device },
            });
        }
        // SAFETY: Xen reads the request, writes at most `room` entries to the buffer it names and the number
        // to the request; both are memory of xencall_alloc_buffer, which the hypervisor can reach, and
        // outlive the call.
        let result = unsafe {
            let (operation, command) = (raw::__HYPERVISOR_memory_op, raw::XENMEM_reserved_device_memory_map);
            let address = request.start.as_ptr().expose_provenance();
            self.library.xencall2(self.handle.as_ptr(), operation, command.into(), address as u64)
        };
        let error = io::Error::last_os_error();
        // SAFETY: the request was initialised above; Xen has written a number over a number.
        let answered = unsafe { request.start.read() }.nr_entries;
        if result < 0 {
            return Err((error, answered));
        }
        let answered = usize::try_from(answered.min(room)).unwrap_or(0);
        // SAFETY: the buffer was zeroed when it was made and Xen has filled the first `answered` entries; any
        // bits are a valid entry.
        let entries = unsafe { std::slice::from_raw_parts(entries.start.as_ptr(), answered) };
        Ok(entries
            .iter()
            .map(|entry| ReservedMemory { start_frame: entry.start_pfn, frames: entry.nr_pages })
            .collect())
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nothing uses it after this.
        unsafe { self.library.xencall_close(self.handle.as_ptr()) };
    }
}

/// Memory that the hypervisor can reach while a hypercall runs.
struct Buffer<'hypervisor, T> {
    hypervisor: &'hypervisor Hypervisor,
    start: NonNull<T>,
}

impl<'hypervisor, T> Buffer<'hypervisor, T> {
    /// Room for `count` values, all bytes zero.
    fn new(hypervisor: &'hypervisor Hypervisor, count: usize) -> io::Result<Self> {
        let size = size_of::<T>().checked_mul(count).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the handle is open. The library rounds the size up to whole pages, so the memory is aligned
        // for T.
        let memory = unsafe { hypervisor.library.xencall_alloc_buffer(hypervisor.handle.as_ptr(), size) };
        let start = NonNull::new(memory.cast::<T>()).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the memory has `size` bytes; the library may hand out pages that were used before.
        unsafe { std::ptr::write_bytes(memory.cast::<u8>(), 0, size) };
        Ok(Self { hypervisor, start })
    }
}

impl<T> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        let (library, handle) = (self.hypervisor.library, self.hypervisor.handle.as_ptr());
        // SAFETY: from xencall_alloc_buffer with the same handle, freed once.
        unsafe { library.xencall_free_buffer(handle, self.start.as_ptr().cast()) };
    }
}
