// SPDX-License-Identifier: LGPL-2.1-or-later
//! A recording of a real guest: a directory with its configuration and what its loader logged.
//!
//! | file | what it is |
//! |---|---|
//! | `xl.cfg` or `domain.json` | the configuration, as xl takes it or as libxl's JSON |
//! | `hvmloader.log` | the loader's lines of `xl dmesg`, those of other guests and of Xen may be among them |
//! | `guest.log` | where known, the guest's own kernel log: its first look at its BARs is compared |
//! | `query-pci.json` | where known, the device model's view (QMP `query-pci`) when it was recorded |
//! | `xenstore-hvmloader.txt` | where known, the keys that the loader was given, as `xenstore-ls` shows them |
//! | `host/` | where devices were passed through, the host's as under `/sys` |
//! | `NOTE` | where there is something to say of the recording: what of it was made up afterwards, and from what |

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::hvmloader::Release;
use crate::source::hvmloader_log::{self, Run};

/// The configuration as xl takes it.
pub const XL_CFG: &str = "xl.cfg";
/// The configuration as libxl's JSON.
pub const DOMAIN_JSON: &str = "domain.json";
/// The loader's log.
pub const LOADER_LOG: &str = "hvmloader.log";
/// The guest's kernel log.
pub const GUEST_LOG: &str = "guest.log";
/// The device model's view.
pub const QUERY_PCI: &str = "query-pci.json";
/// The loader's keys.
pub const LOADER_KEYS: &str = "xenstore-hvmloader.txt";
/// The host's devices.
pub const HOST: &str = "host";
/// What is to be said of it.
pub const NOTE: &str = "NOTE";

/// A recording, read.
#[derive(Debug)]
pub struct Recording {
    /// The configuration's file.
    pub configuration: PathBuf,
    /// The host's tree, if devices were passed through.
    pub host: Option<PathBuf>,
    /// The loader's run: the last of its log.
    pub run: Run,
    /// The guest's kernel log.
    pub guest_log: Option<String>,
    /// The keys below `hvmloader/` that the loader was given, by their name below it.
    pub loader_keys: BTreeMap<String, String>,
    /// What is to be said of it.
    pub note: Option<String>,
}

/// A directory that is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// A file cannot be read.
    #[error("{}: {problem}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        problem: std::io::Error,
    },
    /// There is no configuration.
    #[error("{}: a recording has the guest's configuration: {XL_CFG} or {DOMAIN_JSON}", .0.display())]
    NoConfiguration(PathBuf),
    /// The log has no BARs.
    #[error("{}: {problem}", .file.display())]
    Log {
        /// The log.
        file: PathBuf,
        /// What is missing.
        problem: String,
    },
}

impl Recording {
    /// Reads a recording.
    ///
    /// # Errors
    ///
    /// What is missing from it.
    pub fn read(directory: &Path) -> Result<Self, RecordingError> {
        let present = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
        let configuration = present(XL_CFG)
            .or_else(|| present(DOMAIN_JSON))
            .ok_or_else(|| RecordingError::NoConfiguration(directory.to_owned()))?;
        let log = directory.join(LOADER_LOG);
        let run = loader_run(&log, &text(&log)?)?;
        let keys = optional(&directory.join(LOADER_KEYS))?;
        Ok(Self {
            configuration,
            host: present(HOST),
            run,
            guest_log: optional(&directory.join(GUEST_LOG))?,
            loader_keys: keys.map(|text| loader_keys(&text)).unwrap_or_default(),
            note: optional(&directory.join(NOTE))?,
        })
    }

    /// The known release whose loader ran, or is nearest to it; `None` where the log does not name one.
    pub fn release(&self) -> Option<Release> {
        let (major, minor, patch, _) = self.run.xen_version()?;
        Some(Release::nearest(major, minor, patch))
    }
}

/// The last run of a log that placed BARs.
///
/// # Errors
///
/// There is none, or its beginning is cut off.
pub fn loader_run(file: &Path, log: &str) -> Result<Run, RecordingError> {
    let problem = |problem: &str| RecordingError::Log { file: file.to_owned(), problem: problem.to_owned() };
    let runs = hvmloader_log::runs(log);
    let run = runs.into_iter().rfind(|run| run.bars().next().is_some());
    let run = run.ok_or_else(|| problem("no line of it says where a BAR is (\"pci dev ... bar ...\")"))?;
    if !run.has_all_bars() {
        return Err(problem(
            "its beginning is cut off: \"setting high_mem resource base\" comes before the first BAR",
        ));
    }
    Ok(run)
}

fn text(file: &Path) -> Result<String, RecordingError> {
    let bytes =
        fs::read(file).map_err(|problem| RecordingError::Unreadable { file: file.to_owned(), problem })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn optional(file: &Path) -> Result<Option<String>, RecordingError> {
    match text(file) {
        Err(RecordingError::Unreadable { problem, .. }) if problem.kind() == ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    }
}

/// `xenstore-ls`' lines: a space of indentation a level, a name, and a value in quotes; the children of what is listed
/// have no path of their own.
fn loader_keys(text: &str) -> BTreeMap<String, String> {
    let mut path: Vec<&str> = Vec::new();
    let mut keys = BTreeMap::new();
    for line in text.lines() {
        let name = line.trim_start_matches(' ');
        let Some((name, value)) = name.split_once(" = \"") else { continue };
        let Some((value, _)) = value.rsplit_once('"') else { continue };
        path.truncate(line.len().saturating_sub(line.trim_start_matches(' ').len()));
        path.push(name);
        keys.insert(path.join("/"), value.to_owned());
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_keys_get_their_path() {
        let text = "bios = \"seabios\" . . .  (n0,r1)\nallow-memory-relocate = \"1\"\npci = \"\"\n xen-platform-pci-bar-uc = \"0\"\nacpi = \"\"\n";
        let keys = loader_keys(text);
        let key = |name: &str| keys.get(name).map(String::as_str);
        assert_eq!(key("allow-memory-relocate"), Some("1"));
        assert_eq!(key("pci/xen-platform-pci-bar-uc"), Some("0"));
        assert_eq!(key("acpi"), Some(""));
    }

    #[test]
    fn a_log_that_is_cut_or_has_no_bars_is_refused_with_the_reason() {
        let error = |log: &str| loader_run(Path::new("x.log"), log).unwrap_err().to_string();
        assert!(error("(d1) HVM Loader\n").contains("no line of it"));
        assert!(error("(d1) pci dev 05:0 bar 10 size 000004000: 0f0000004\n").contains("cut off"));
    }
}
