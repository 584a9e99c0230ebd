// SPDX-License-Identifier: LGPL-2.1-or-later
//! Finds Xen's libraries and loads them, once a process.
//!
//! The linker's own search comes first. Packages that install several Xen versions side by side keep the
//! libraries in directories of their own (Debian's `/usr/lib/xen-4.17/lib/x86_64-linux-gnu`), which the
//! linker does not search: those follow, newest version first.

use crate::bindings::xencall::LibXencall;
use crate::bindings::xenstore::LibXenstore;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One of Xen's libraries. Its functions that are called are the same under each of its names.
struct Library {
    /// What people call it.
    name: &'static str,
    /// Its file names, newest first.
    files: &'static [&'static str],
    /// Where distributions have it.
    packages: &'static str,
}

/// The names are those from Xen 4.16 on, and before.
const LIBXENSTORE: Library = Library {
    name: "libxenstore",
    files: &["libxenstore.so.4", "libxenstore.so.3.0"],
    packages: "Debian and Ubuntu: package libxenstore4; Fedora and openSUSE: package xen-libs",
};

const LIBXENCALL: Library = Library {
    name: "libxencall",
    files: &["libxencall.so.1"],
    packages: "Debian and Ubuntu: package libxencall1; Fedora and openSUSE: package xen-libs",
};

/// Where directories named `xen-VERSION` stand.
const PREFIXES: [&str; 3] = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// A library of Xen's cannot be used on this host.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LibraryError {
    /// No file of that name loads.
    #[error("{name} is not installed on this host: no {files} found ({packages})")]
    Missing {
        /// The library.
        name: &'static str,
        /// The file names that were looked for.
        files: String,
        /// Where distributions have it.
        packages: &'static str,
    },
    /// There is a file, but the dynamic linker refuses it or it lacks a function.
    #[error("{name} is there but cannot be used: {reason}")]
    Unusable {
        /// The library.
        name: &'static str,
        /// The dynamic linker's words, which name the file.
        reason: String,
    },
}

/// The library, loaded by the first call and kept until the process ends.
///
/// It is never unloaded: handles outlive whoever opened them when a request hangs (see the users of
/// [`crate::Xs`]).
pub(crate) fn libxenstore() -> Result<&'static LibXenstore, LibraryError> {
    static LIBRARY: OnceLock<Result<LibXenstore, LibraryError>> = OnceLock::new();
    // SAFETY: the functions are looked up by the names and used with the types of xenstore.h, which Xen keeps
    // for as long as the soname is the same; the soname is what was asked for.
    let bind = |library| unsafe { LibXenstore::from_library(library) };
    LIBRARY
        .get_or_init(|| load(&LIBXENSTORE, LIBXENSTORE.candidates(&PREFIXES), bind))
        .as_ref()
        .map_err(Clone::clone)
}

/// The same for libxencall.
pub(crate) fn libxencall() -> Result<&'static LibXencall, LibraryError> {
    static LIBRARY: OnceLock<Result<LibXencall, LibraryError>> = OnceLock::new();
    // SAFETY: as above, with xencall.h.
    let bind = |library| unsafe { LibXencall::from_library(library) };
    LIBRARY
        .get_or_init(|| load(&LIBXENCALL, LIBXENCALL.candidates(&PREFIXES), bind))
        .as_ref()
        .map_err(Clone::clone)
}

/// The first candidate that loads. One that exists but does not load is the error to report, not the absence
/// of the rest.
fn load<T>(
    wanted: &Library,
    candidates: Vec<PathBuf>,
    bind: impl Fn(libloading::Library) -> Result<T, libloading::Error>,
) -> Result<T, LibraryError> {
    let mut unusable = None;
    for candidate in candidates {
        // SAFETY: loading runs the library's initialisers. The candidates are file names of Xen's libraries
        // in the linker's and the distributions' directories, which only the administrator writes; their
        // initialisers have no preconditions (any program that links to one runs them).
        let library = match unsafe { libloading::Library::new(&candidate) } {
            Ok(library) => library,
            Err(error) => {
                let reason = linkers_words(&error);
                // A name without a directory that the linker does not find says so by naming itself first;
                // when it is a dependency that is missing, the dependency's name comes first.
                let absent = !candidate.exists()
                    && candidate.to_str().is_none_or(|name| reason.trim_start().starts_with(name));
                if !absent {
                    unusable.get_or_insert(reason);
                }
                continue;
            }
        };
        match bind(library) {
            Ok(library) => return Ok(library),
            Err(error) => {
                unusable.get_or_insert(format!("{}: {}", candidate.display(), linkers_words(&error)));
            }
        }
    }
    let name = wanted.name;
    Err(match unusable {
        Some(reason) => LibraryError::Unusable { name, reason },
        None => LibraryError::Missing { name, files: wanted.files.join(" or "), packages: wanted.packages },
    })
}

/// What the dynamic linker said; libloading's own words are only that the call failed.
fn linkers_words(error: &libloading::Error) -> String {
    let said = std::error::Error::source(error);
    said.map_or_else(|| error.to_string(), |said| said.to_string())
}

impl Library {
    /// What to try, in order.
    fn candidates(&self, prefixes: &[impl AsRef<Path>]) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = self.files.iter().map(PathBuf::from).collect();
        for prefix in prefixes {
            let mut versions: Vec<PathBuf> = entries(prefix.as_ref())
                .into_iter()
                .filter(|entry| {
                    entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with("xen-"))
                })
                .collect();
            versions.sort_by_key(|version| std::cmp::Reverse(version_number(version)));
            for version in versions {
                let lib = version.join("lib");
                for directory in std::iter::once(lib.clone()).chain(entries(&lib)) {
                    found.extend(
                        self.files.iter().map(|name| directory.join(name)).filter(|path| path.exists()),
                    );
                }
            }
        }
        found
    }
}

/// A directory's entries sorted by name; none where it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .map(|read| read.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    paths
}

/// `xen-4.17` as `[4, 17]`, so that 4.9 sorts before 4.17.
fn version_number(directory: &Path) -> Vec<u32> {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(file: &str) -> Result<(), LibraryError> {
        // SAFETY: as in `libxenstore`; nothing is called.
        let bind = |library| unsafe { LibXenstore::from_library(library) };
        load(&LIBXENSTORE, vec![file.into()], bind).map(drop)
    }

    #[test]
    fn the_newest_versions_directory_is_tried_first_and_the_linkers_own_search_before_it() {
        let top = std::env::temp_dir().join(format!("xen-sys-candidates-{}", std::process::id()));
        for version in ["xen-4.9", "xen-4.17", "xenomai-9"] {
            let directory = top.join(version).join("lib/x86_64-linux-gnu");
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("libxenstore.so.4"), "").unwrap();
        }
        let found = LIBXENSTORE.candidates(&[&top]);
        std::fs::remove_dir_all(&top).unwrap();
        let expected = [
            PathBuf::from("libxenstore.so.4"),
            PathBuf::from("libxenstore.so.3.0"),
            top.join("xen-4.17/lib/x86_64-linux-gnu/libxenstore.so.4"),
            top.join("xen-4.9/lib/x86_64-linux-gnu/libxenstore.so.4"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn without_the_library_the_error_says_which_package_has_it() {
        let error = loaded("libxenstore-that-nobody-has.so.4").unwrap_err();
        assert!(matches!(error, LibraryError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("package libxenstore4"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let path = std::env::temp_dir().join(format!("xen-sys-no-library-{}.so", std::process::id()));
        std::fs::write(&path, "not an ELF file").unwrap();
        let error = loaded(path.to_str().unwrap()).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_library_without_the_functions_is_refused_by_name() {
        let error = loaded("libc.so.6").unwrap_err();
        assert!(error.to_string().contains("libc.so.6") && error.to_string().contains("xs_open"), "{error}");
    }
}
