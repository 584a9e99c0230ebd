// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where the store is, in the order that libxenstore itself uses (`tools/libs/store/xs.c`, `xs_open`).
//!
//! `XENSTORED_PATH`, else `XENSTORED_RUNDIR` with `/socket`, else the built-in directory's socket, else the kernel's
//! device. libxenstore goes on to the device when `XENSTORED_RUNDIR` leads nowhere, which on a domain 0 is another
//! store, and opens whatever file `XENSTORED_PATH` names as if it were the device. So a variable that is set is
//! checked here: it leads to a store or it is an error.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const PATH: &str = "XENSTORED_PATH";
const RUNDIR: &str = "XENSTORED_RUNDIR";

/// Where the device is; the kernel's older name is the second.
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// Where libxenstore's packages build the socket's directory in.
const DIRECTORIES: [&str; 2] = ["/run/xenstored", "/var/run/xenstored"];

/// The directory of the socket that is going to be used, if there is one: a place that all clients of the
/// store share.
pub fn store_directory() -> Option<PathBuf> {
    match Place::of_environment() {
        Place::Named { path, .. } => path.parent().map(Path::to_path_buf),
        Place::BuiltIn => DIRECTORIES.iter().map(PathBuf::from).find(|directory| directory.exists()),
    }
}

/// A variable of the environment leads to no store.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Nothing is there, or it may not be looked at.
    #[error("{variable} leads to {}, which cannot be used: {source}", .path.display())]
    Unreachable {
        /// The variable.
        variable: &'static str,
        /// Where it leads.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Neither a socket nor a device.
    #[error("{variable} leads to {}, which is neither xenstored's socket nor a device", .path.display())]
    NoStore {
        /// The variable.
        variable: &'static str,
        /// Where it leads.
        path: PathBuf,
    },
    /// A socket on which nobody listens.
    #[error("{variable} leads to {}, where no xenstored listens: {source}", .path.display())]
    NobodyListens {
        /// The variable.
        variable: &'static str,
        /// Where it leads.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Where the environment sends libxenstore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A variable names it: that place or none.
    Named { variable: &'static str, path: PathBuf },
    /// No variable: the built-in socket, else the device.
    BuiltIn,
}

impl Place {
    /// Reads the environment.
    pub(crate) fn of_environment() -> Place {
        Place::of(std::env::var_os(PATH).map(PathBuf::from), std::env::var_os(RUNDIR).map(PathBuf::from))
    }

    /// A variable that is set but empty counts as set, as it does for libxenstore.
    fn of(path: Option<PathBuf>, rundir: Option<PathBuf>) -> Place {
        match (path, rundir) {
            (Some(path), _) => Place::Named { variable: PATH, path },
            (None, Some(rundir)) => {
                // The text is joined, as libxenstore does it: an empty directory makes "/socket".
                let mut path = rundir.into_os_string();
                path.push("/socket");
                Place::Named { variable: RUNDIR, path: path.into() }
            }
            (None, None) => Place::BuiltIn,
        }
    }

    /// Fails if a variable leads to no store. Asked before and after opening: before, so that nothing is
    /// opened that is no store; after, because a daemon that died in between made libxenstore fall back to
    /// the device.
    pub(crate) fn check(&self) -> Result<(), PlaceError> {
        let Place::Named { variable, path } = self else { return Ok(()) };
        let kind = match std::fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(source) => return Err(PlaceError::Unreachable { variable, path: path.clone(), source }),
        };
        if kind.is_char_device() {
            return Ok(());
        }
        if !kind.is_socket() {
            return Err(PlaceError::NoStore { variable, path: path.clone() });
        }
        match UnixStream::connect(path) {
            Ok(_) => Ok(()),
            Err(source) => Err(PlaceError::NobodyListens { variable, path: path.clone(), source }),
        }
    }

    /// For the message when opening failed: what was tried.
    pub(crate) fn described(&self) -> String {
        match self {
            Place::Named { variable, path } => format!("{} ({variable})", path.display()),
            Place::BuiltIn => {
                let device = DEVICES.iter().find(|device| Path::new(device).exists());
                match device {
                    Some(device) => format!("xenstored's default socket, nor to {device}"),
                    None => {
                        "xenstored's default socket, and there is no /dev/xen/xenbus (is this a Xen host, \
                         and is xenstored running?)"
                            .to_owned()
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_libxenstores() {
        let both = Place::of(Some("/a/socket".into()), Some("/b".into()));
        assert_eq!(both, Place::Named { variable: PATH, path: "/a/socket".into() });
        let rundir = Place::of(None, Some("/b".into()));
        assert_eq!(rundir, Place::Named { variable: RUNDIR, path: "/b/socket".into() });
        assert_eq!(
            Place::of(None, Some("".into())),
            Place::Named { variable: RUNDIR, path: "/socket".into() }
        );
        assert_eq!(Place::of(None, None), Place::BuiltIn);
    }

    #[test]
    fn a_variable_that_leads_nowhere_is_an_error_that_names_it() {
        let error = Place::of(Some("/nonexistent/socket".into()), None).check().unwrap_err();
        assert!(matches!(error, PlaceError::Unreachable { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("XENSTORED_PATH") && text.contains("/nonexistent/socket"), "{text}");
        assert!(Place::of(Some("".into()), None).check().is_err());
    }

    #[test]
    fn an_ordinary_file_is_never_opened_as_a_store() {
        let file = std::env::temp_dir().join(format!("xen-sys-file-{}", std::process::id()));
        std::fs::write(&file, "precious").unwrap();
        let error = Place::of(Some(file.clone()), None).check().unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(error, PlaceError::NoStore { .. }), "{error}");
    }

    #[test]
    fn a_socket_on_which_nobody_listens_is_an_error() {
        let directory = std::env::temp_dir().join(format!("xen-sys-dead-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap();
        let place = Place::of(None, Some(directory.clone()));
        place.check().unwrap();
        drop(listener);
        let error = place.check().unwrap_err();
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(matches!(error, PlaceError::NobodyListens { .. }), "{error}");
    }
}
