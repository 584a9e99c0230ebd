// SPDX-License-Identifier: LGPL-2.1-or-later
//! Making a recording of a running guest.
//!
//! Everything is gathered next to the place where it is to be and moved there at the end, so that a recording is whole
//! or not there. What is asked: xl (its configuration, Xen's log), `xenstore-ls`, the guest's QEMU, and sysfs for the
//! devices that the host has given it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::directory::{DOMAIN_JSON, HOST, LOADER_KEYS, LOADER_LOG, QUERY_PCI};
use crate::pci::Sbdf;
use crate::source::domain_config::HostDeviceName;
use crate::source::qmp::{DeviceModel, QmpError};
use crate::source::tool::{ToolError, run};
use crate::source::{hvmloader_log, libxl_json};
use crate::xenstore::Domid;

/// The files of a device's directory in sysfs that say what it is; others have side effects when they are read.
const DEVICE_FILES: [&str; 13] = [
    "config",
    "resource",
    "vendor",
    "device",
    "class",
    "revision",
    "subsystem_vendor",
    "subsystem_device",
    "numa_node",
    "uevent",
    "sriov_totalvfs",
    "sriov_numvfs",
    "sriov_vf_device",
];
/// The links of a device's directory that name a neighbour.
const DEVICE_LINKS: [&str; 2] = ["physfn", "driver"];
/// The ACPI tables that tell of reserved device memory.
const TABLES: [&str; 2] = ["DMAR", "IVRS"];

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory is there already.
    #[error("{}: is there already; a recording is made anew", .0.display())]
    Exists(PathBuf),
    /// A program gives no answer.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// xl lists no such domain, or something that is no domain.
    #[error("xl list -l {domid}: {problem}")]
    Domain {
        /// The domain's number.
        domid: Domid,
        /// What is wrong.
        problem: String,
    },
    /// The loader's lines are no longer in Xen's log.
    #[error(
        "xl dmesg has no line of domain {0}'s hvmloader about a BAR: the log is a ring, boot Xen with conring_size=1M and \
         guest_loglvl=all, and record soon after the guest's start"
    )]
    NoLog(Domid),
    /// The guest's QEMU does not answer.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// A file cannot be read or written.
    #[error("{}: {problem}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        problem: std::io::Error,
    },
}

/// Records a running guest into `directory`, which must not be there yet.
///
/// # Errors
///
/// What cannot be had. Nothing is left behind then.
pub fn record(domid: Domid, directory: &Path) -> Result<(), RecordError> {
    if directory.exists() {
        return Err(RecordError::Exists(directory.to_owned()));
    }
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = directory.with_file_name(name);
    let result = gather(domid, &partial).and_then(|()| {
        let file = directory.to_owned();
        fs::rename(&partial, directory).map_err(|problem| RecordError::File { file, problem })
    });
    if result.is_err() {
        // The failure that is told is the first one.
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

fn gather(domid: Domid, directory: &Path) -> Result<(), RecordError> {
    let number = domid.to_string();
    create(directory)?;
    let domain = domain_of(domid, &run("xl", &["list", "-l", &number])?)?;
    let text = domain.to_string();
    write(&directory.join(DOMAIN_JSON), text.as_bytes())?;

    let log = run("xl", &["dmesg"])?;
    let prefix = format!("(d{domid}) ");
    let lines: String =
        log.lines().filter(|line| line.starts_with(&prefix)).flat_map(|line| [line, "\n"]).collect();
    if hvmloader_log::runs(&lines).iter().all(|run| run.bars().next().is_none()) {
        return Err(RecordError::NoLog(domid));
    }
    write(&directory.join(LOADER_LOG), lines.as_bytes())?;

    let keys = run("xenstore-ls", &[&format!("/local/domain/{domid}/hvmloader")])?;
    write(&directory.join(LOADER_KEYS), keys.as_bytes())?;

    let wrong = |problem: &dyn std::fmt::Display| RecordError::Domain { domid, problem: problem.to_string() };
    let uuid = uuid_of(&domain).ok_or_else(|| wrong(&"it has no c_info.uuid"))?;
    let answer = DeviceModel::of(domid, uuid).query_pci()?;
    let answer = serde_json::to_vec_pretty(&answer).map_err(|error| wrong(&error))?;
    write(&directory.join(QUERY_PCI), &answer)?;

    let (config, _) = libxl_json::parse(&text).map_err(|error| wrong(&error))?;
    let given: Vec<Sbdf> = config
        .pci
        .iter()
        .filter_map(|pci| match &pci.device {
            HostDeviceName::Address(sbdf) => Some(*sbdf),
            HostDeviceName::Name(_) => None,
        })
        .collect();
    if given.is_empty() { Ok(()) } else { host(Path::new("/"), &given, &directory.join(HOST)) }
}

/// The one domain of xl's list with that number.
fn domain_of(domid: Domid, list: &str) -> Result<serde_json::Value, RecordError> {
    let wrong = |problem: String| RecordError::Domain { domid, problem };
    let list: serde_json::Value = serde_json::from_str(list).map_err(|error| wrong(error.to_string()))?;
    let domains = match list {
        serde_json::Value::Array(domains) => domains,
        domain => vec![domain],
    };
    let number = |domain: &serde_json::Value| domain.get("domid").and_then(serde_json::Value::as_u64);
    let found = domains.into_iter().find(|domain| number(domain) == Some(u64::from(domid.get())));
    found.ok_or_else(|| wrong("it is not in the list".to_owned()))
}

fn uuid_of(domain: &serde_json::Value) -> Option<&str> {
    domain.pointer("/config/c_info/uuid").or_else(|| domain.pointer("/c_info/uuid"))?.as_str()
}

/// Copies what the host knows of devices, and of every function in their slots, as a tree that is read like `/sys`.
fn host(root: &Path, given: &[Sbdf], to: &Path) -> Result<(), RecordError> {
    let devices = root.join("sys/bus/pci/devices");
    let file = |file: &Path, problem| RecordError::File { file: file.to_owned(), problem };
    for entry in fs::read_dir(&devices).map_err(|problem| file(&devices, problem))? {
        let entry = entry.map_err(|problem| file(&devices, problem))?;
        let name = entry.file_name();
        let Some(sbdf) = name.to_str().and_then(|name| name.parse::<Sbdf>().ok()) else { continue };
        let slot = |sbdf: Sbdf| (sbdf.segment, sbdf.bdf.bus(), sbdf.bdf.slot());
        if given.iter().any(|other| slot(*other) == slot(sbdf)) {
            copy_device(&entry.path(), &to.join("bus/pci/devices").join(&name))?;
        }
    }
    for sbdf in given {
        if !to.join("bus/pci/devices").join(sbdf.to_string()).exists() {
            return Err(file(&devices.join(sbdf.to_string()), ErrorKind::NotFound.into()));
        }
    }
    copy(&root.join("proc/cpuinfo"), &to.join("cpuinfo"))?;
    create(&to.join("firmware/acpi/tables"))?;
    for table in TABLES {
        let path = Path::new("firmware/acpi/tables").join(table);
        copy(&root.join("sys").join(&path), &to.join(&path))?;
    }
    Ok(())
}

fn copy_device(from: &Path, to: &Path) -> Result<(), RecordError> {
    create(to)?;
    for name in DEVICE_FILES {
        copy(&from.join(name), &to.join(name))?;
    }
    for name in DEVICE_LINKS {
        let Ok(target) = fs::read_link(from.join(name)) else { continue };
        let link = to.join(name);
        let made = std::os::unix::fs::symlink(target, &link);
        made.map_err(|problem| RecordError::File { file: link, problem })?;
    }
    Ok(())
}

/// Copies a file if there is one; sysfs' files say nothing of their size, so they are read to their end.
fn copy(from: &Path, to: &Path) -> Result<(), RecordError> {
    match fs::read(from) {
        Ok(bytes) => write(to, &bytes),
        Err(problem) if problem.kind() == ErrorKind::NotFound => Ok(()),
        Err(problem) => Err(RecordError::File { file: from.to_owned(), problem }),
    }
}

fn create(directory: &Path) -> Result<(), RecordError> {
    fs::create_dir_all(directory).map_err(|problem| RecordError::File { file: directory.to_owned(), problem })
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    fs::write(file, bytes).map_err(|problem| RecordError::File { file: file.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_for_domain_is_taken_out_of_the_list() {
        let domid = Domid::new(7).unwrap();
        let list = r#"[{"domid": 0}, {"domid": 7, "config": {"c_info": {"uuid": "u"}}}]"#;
        assert_eq!(uuid_of(&domain_of(domid, list).unwrap()), Some("u"));
        let error = domain_of(domid, "[]").unwrap_err().to_string();
        assert_eq!(error, "xl list -l 7: it is not in the list");
    }

    #[test]
    fn a_copied_host_reads_as_the_host_did() {
        // This package's own copy of a host stands for /sys: the tree is the same, one level down.
        let root = tempfile::tempdir().unwrap();
        let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/pt-boot-2dev/host");
        std::os::unix::fs::symlink(&recorded, root.path().join("sys")).unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::copy(recorded.join("cpuinfo"), root.path().join("proc/cpuinfo")).unwrap();
        let copy = root.path().join("copy");
        let given: Vec<Sbdf> = vec!["0000:00:05.0".parse().unwrap()];
        host(root.path(), &given, &copy).unwrap();
        let names: Vec<_> = fs::read_dir(copy.join("bus/pci/devices")).unwrap().collect();
        assert_eq!(names.len(), 1, "the devices of other slots are not the guest's");
        let read = |dir: &Path| crate::source::host::Host::copied(dir).unwrap();
        let device = |dir: &Path| read(dir).device("0000:00:05.0".parse().unwrap()).unwrap().clone();
        assert_eq!(device(&copy), device(&recorded));
        let missing = host(root.path(), &["0000:00:1f.0".parse().unwrap()], &root.path().join("other"));
        assert!(missing.unwrap_err().to_string().contains("0000:00:1f.0"));
    }

    #[test]
    fn nothing_is_left_behind_where_a_recording_fails() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("recording");
        // No domain has this number where the tests run.
        assert!(record(Domid::new(32751).unwrap(), &to).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        fs::create_dir(&to).unwrap();
        assert!(matches!(record(Domid::new(32751).unwrap(), &to), Err(RecordError::Exists(_))));
    }
}
