// SPDX-License-Identifier: LGPL-2.1-or-later
//! Xen's constants and structures, and its libraries loaded at run time.
//!
//! `src/bindings` is bindgen's work over Xen's public headers, written by `xen-sys/generate` and committed, so
//! that building needs neither Xen nor libclang. Nothing of Xen is linked: libxenstore is opened when the first
//! [`Xs`] is, and libxencall when the hypervisor is asked something, so one binary serves every Xen, and a host
//! that has none gets an error instead of a loader's complaint.
//!
//! This crate holds all the unsafe code of the project; what it exports is safe.
//!
//! ```
//! match xen_sys::Xs::open() {
//!     Ok(store) => println!("{:?}", store.directory(xen_sys::Transaction::NONE, "/local/domain")),
//!     Err(error) => println!("{error}"),
//! }
//! ```

mod hypervisor;
mod library;
mod place;
mod store;

pub use hypervisor::{HypervisorError, PciFunction, ReservedMemory, reserved_device_memory};
pub use library::LibraryError;
pub use place::{PlaceError, store_directory};
pub use store::{Access, OpenError, Permission, Transaction, Xs, connection_lost};

/// bindgen's output; its layout checks are constant expressions, so a wrong structure does not compile.
#[allow(dead_code, missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]
#[allow(unused_qualifications, clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod bindings {
    pub mod xen;
    pub mod xencall;
    pub mod xenstore;
}

/// A guest's memory and loader as Xen's public headers define them.
pub mod hvm {
    pub use crate::bindings::xen::{
        HVM_BELOW_4G_MMIO_START, HVM_BELOW_4G_RAM_END, HVM_E820_NR_OFFSET, HVM_E820_OFFSET, HVM_E820_PAGE,
        HVM_INFO_OFFSET, HVM_INFO_PFN, HVM_MAX_VCPUS, hvm_info_table,
    };

    /// The node of `/local/domain/N` below which hvmloader looks (`xen/hvm/hvm_xs_strings.h`).
    pub const HVMLOADER: &str = text(crate::bindings::xen::HVM_XS_HVMLOADER);

    /// A header's string constant without its terminator; anything else does not compile.
    const fn text(constant: &'static [u8]) -> &'static str {
        match std::ffi::CStr::from_bytes_with_nul(constant) {
            Ok(text) => match text.to_str() {
                Ok(text) => text,
                Err(_) => "",
            },
            Err(_) => "",
        }
    }

    const _: () = assert!(!HVMLOADER.is_empty());
}

/// What one xenstore message and path can hold (`xen/io/xs_wire.h`), in bytes.
pub mod limits {
    pub use crate::bindings::xen::{XENSTORE_ABS_PATH_MAX, XENSTORE_PAYLOAD_MAX};
}
