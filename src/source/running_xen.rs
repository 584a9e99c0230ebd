// SPDX-License-Identifier: LGPL-2.1-or-later
//! The Xen that this machine runs under: its version from `/sys/hypervisor`, and what only itself knows.

use std::fs;
use std::path::Path;

use crate::address::{Address, Range};

/// Where Linux shows the hypervisor (Documentation/ABI/stable/sysfs-hypervisor-xen).
pub const SYSFS: &str = "/sys/hypervisor";

/// A Xen version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Before the first dot.
    pub major: u32,
    /// Between the dots.
    pub minor: u32,
    /// After the second dot; 0 where the rest names none.
    pub patch: u32,
    /// As Xen writes it: `4.17.7`, `4.22-unstable`.
    pub text: String,
}

/// The version that `directory` ([`SYSFS`]) shows; `None` where there is no Xen.
pub fn version(directory: &Path) -> Option<Version> {
    let read = |name: &str| Some(fs::read_to_string(directory.join(name)).ok()?.trim().to_owned());
    if read("type")? != "xen" {
        return None;
    }
    let (major, minor) = (read("version/major")?, read("version/minor")?);
    let extra = read("version/extra").unwrap_or_default();
    let digits = extra.strip_prefix('.').unwrap_or_default();
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    Some(Version {
        patch: digits.parse().unwrap_or_default(),
        text: format!("{major}.{minor}{extra}"),
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// The host's reserved device memory (RMRR, IVMD), as Xen took it from the firmware's tables, which it hides from
/// domain 0, and from its own command line. Sorted.
///
/// # Errors
///
/// There is no Xen here, or it does not answer this domain.
pub fn reserved_device_memory() -> Result<Vec<Range>, xen_sys::HypervisorError> {
    let mut ranges: Vec<Range> = xen_sys::reserved_device_memory()?
        .into_iter()
        .filter_map(|memory| {
            let end = memory.start_frame.checked_add(memory.frames)?;
            Range::new(Address::from_frame(memory.start_frame)?, Address::from_frame(end)?)
        })
        .collect();
    ranges.sort_unstable();
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: &str, extra: &str) -> Option<Version> {
        let directory =
            std::env::temp_dir().join(format!("running-xen-{}-{kind}{extra}", std::process::id()));
        fs::create_dir_all(directory.join("version")).unwrap();
        for (name, text) in
            [("type", kind), ("version/major", "4"), ("version/minor", "17"), ("version/extra", extra)]
        {
            fs::write(directory.join(name), format!("{text}\n")).unwrap();
        }
        let version = version(&directory);
        fs::remove_dir_all(&directory).unwrap();
        version
    }

    #[test]
    fn the_patch_release_is_the_number_after_the_dot() {
        let patch = |extra| shown("xen", extra).map(|version| (version.patch, version.text));
        assert_eq!(patch(".7"), Some((7, "4.17.7".to_owned())));
        assert_eq!(patch(".4-pre"), Some((4, "4.17.4-pre".to_owned())));
        assert_eq!(patch("-unstable"), Some((0, "4.17-unstable".to_owned())));
    }

    #[test]
    fn another_hypervisor_is_no_xen() {
        assert_eq!(shown("kvm", ".7"), None);
        assert_eq!(version(Path::new("/nonexistent")), None);
    }
}
