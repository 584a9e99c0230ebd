// SPDX-License-Identifier: LGPL-2.1-or-later
//! The Xen that this machine runs under: its version from `/sys/hypervisor`, and what only itself knows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use xen_sys::PciFunction;

use crate::address::{Address, Range};
use crate::pci::Sbdf;
use crate::source::host::ReservedMemory;

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

/// The host's reserved device memory (RMRR, IVMD) that a guest may be shown: what is for each of `devices`, as libxl asks
/// (libxl__domain_device_construct_rdm), and with `all` the rest, too.
///
/// As Xen took it from the firmware's tables, which it hides from domain 0, and from its own command line.
///
/// # Errors
///
/// There is no Xen here, or it does not answer this domain.
pub fn reserved_device_memory(
    devices: &[Sbdf],
    all: bool,
) -> Result<Vec<ReservedMemory>, xen_sys::HypervisorError> {
    reserved_memory_by(devices, all, xen_sys::reserved_device_memory)
}

fn reserved_memory_by<E>(
    devices: &[Sbdf],
    all: bool,
    ask: impl Fn(Option<PciFunction>) -> Result<Vec<xen_sys::ReservedMemory>, E>,
) -> Result<Vec<ReservedMemory>, E> {
    let mut known: BTreeMap<Range, Vec<Sbdf>> = BTreeMap::new();
    for device in devices {
        // Segments past 16 bits are Linux's own (VMD): Xen knows nothing of them.
        let Ok(segment) = u16::try_from(device.segment) else { continue };
        let function = PciFunction { segment, bus: device.bdf.bus(), devfn: device.bdf.devfn() };
        for range in ask(Some(function))?.into_iter().filter_map(range) {
            known.entry(range).or_default().push(*device);
        }
    }
    // Asked for in any case: whether Xen answers at all does not depend on the guest.
    let host = ask(None)?;
    if all {
        for range in host.into_iter().filter_map(range) {
            known.entry(range).or_default();
        }
    }
    Ok(known.into_iter().map(|(range, devices)| ReservedMemory { range, devices }).collect())
}

fn range(memory: xen_sys::ReservedMemory) -> Option<Range> {
    let end = memory.start_frame.checked_add(memory.frames)?;
    Range::new(Address::from_frame(memory.start_frame)?, Address::from_frame(end)?)
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
    fn each_range_has_the_guests_devices_that_it_is_for() {
        let memory = |start_frame, frames| xen_sys::ReservedMemory { start_frame, frames };
        // One range for the first device, one for both, one for neither.
        let ask = |function: Option<PciFunction>| {
            let of_first = [memory(0x7d800, 1), memory(0x7e000, 16)];
            Ok::<_, ()>(match function {
                Some(PciFunction { segment: 0, bus: 0x3b, devfn: 0 }) => of_first.to_vec(),
                Some(PciFunction { segment: 1, bus: 0, devfn: 0xff }) => of_first[1..].to_vec(),
                Some(_) => Vec::new(),
                None => [of_first.as_slice(), &[memory(0x10_0000, 1)]].concat(),
            })
        };
        let devices: Vec<Sbdf> =
            ["0000:3b:00.0", "0001:00:1f.7", "0000:3c:00.0"].map(|text| text.parse().unwrap()).to_vec();
        let shown = |all| {
            let found = reserved_memory_by(&devices, all, ask).unwrap();
            found.iter().map(|memory| (memory.range.to_string(), memory.devices.len())).collect::<Vec<_>>()
        };
        let first = ("0x7d800000-0x7d800fff".to_owned(), 1);
        let both = ("0x7e000000-0x7e00ffff".to_owned(), 2);
        assert_eq!(shown(false), [first.clone(), both.clone()]);
        assert_eq!(shown(true), [first, both, ("0x100000000-0x100000fff".to_owned(), 0)]);
        assert_eq!(reserved_memory_by(&devices, false, |_| Err(())), Err(()));
    }

    #[test]
    fn another_hypervisor_is_no_xen() {
        assert_eq!(shown("kvm", ".7"), None);
        assert_eq!(version(Path::new("/nonexistent")), None);
    }
}
