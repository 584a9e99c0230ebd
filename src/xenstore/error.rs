// SPDX-License-Identifier: LGPL-2.1-or-later
//! What can go wrong with the store.

use std::io;

use crate::xenstore::Domid;
use crate::xenstore::schema::SchemaError;

/// The store, or the domain in it, is not as it must be: the surroundings failed, exit code 3.
///
/// A bad domain number is no error of the store: see [`DomidError`](crate::xenstore::DomidError), exit code
/// 2.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection to a store.
    #[error("no connection to xenstore: {0}")]
    Open(#[from] xen_sys::OpenError),
    /// There can be no thread to hold the connection.
    #[error("no thread to talk to xenstored: {0}")]
    Thread(#[source] io::Error),
    /// The daemon takes requests but does not answer.
    #[error("xenstored has not answered for {seconds} s: it is stopped or stuck")]
    NoAnswer {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the connection to xenstored broke at \"{doing}\" ({source}): is xenstored still running?")]
    Broken {
        /// The request.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
    /// The daemon refused a request.
    #[error("xenstored refused \"{doing}\": {source}{}", hint(source))]
    Refused {
        /// The request.
        doing: String,
        /// The daemon's error.
        source: io::Error,
    },
    /// There is no such domain.
    #[error("domain {0} does not exist: there is no /local/domain/{0} in xenstore")]
    NoDomain(Domid),
    /// The domain is on its way out.
    #[error("domain {0} is dying: xenstored does not serve it any more")]
    Dying(Domid),
    /// The domain's device model is in a domain that is gone.
    #[error(
        "the device model of domain {domid} runs in domain {device_model} \
         (image/device-model-domid), which does not exist"
    )]
    NoDeviceModel {
        /// The guest.
        domid: Domid,
        /// Its device model's domain.
        device_model: u64,
    },
    /// A guest could replace what is stored below this node.
    #[error(
        "{path} can be written by domain {writer}: a layout below it would not be safe from its guest \
         (the owner must be domain 0, and others may read at most)"
    )]
    GuestWritable {
        /// The node.
        path: String,
        /// Who can write there.
        writer: u32,
    },
    /// Another program's, or another version's, idea of a layout.
    #[error(
        "{root} holds version \"{version}\" of the schema, and this program knows only version 1: apply replaces it"
    )]
    UnknownVersion {
        /// The subtree.
        root: String,
        /// Its version.
        version: String,
    },
    /// No whole layout.
    #[error("{root} holds no whole layout ({problem}): apply replaces it")]
    Garbled {
        /// The subtree.
        root: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The layout's values do not fit.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Others kept writing at the same time.
    #[error(
        "the layout of domain {domid} could not be stored within {seconds} s: others kept changing the same keys, \
         the last of {attempts} attempts failed like the rest; nothing was written"
    )]
    Busy {
        /// The domain.
        domid: Domid,
        /// How long it was tried.
        seconds: u64,
        /// How often.
        attempts: u32,
    },
    /// The daemon said yes and has something else.
    #[error("{path} was written as {wrote:?} and is now {}: do not build this guest", found_text(found))]
    ReadBack {
        /// The key.
        path: String,
        /// What was written.
        wrote: String,
        /// What is there.
        found: Option<String>,
    },
    /// The domain's layout was removed as soon as it was written.
    #[error("the layout of domain {0} was removed right after it was stored: is the domain being destroyed?")]
    Vanished(Domid),
}

/// What usually helps.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (only domain 0 may do that)",
        io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull => " (a quota of the store is used up)",
        _ => "",
    }
}

fn found_text(found: &Option<String>) -> String {
    match found {
        Some(value) => format!("{value:?}"),
        None => "not there".to_owned(),
    }
}
