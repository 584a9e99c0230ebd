// SPDX-License-Identifier: LGPL-2.1-or-later
//! A copy of a host's sysfs, its cpuinfo and its ACPI tables with it.
//!
//! The input is an archive: a line `@@ PATH` begins a file whose content runs to the next such line; `@@ PATH -> TARGET`
//! is a symbolic link. `run` packs the examples' trees so.
#![no_main]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use xen_pci_layout::source::host::Host;
use xen_pci_layout_fuzz::audited;

const HEADER: &[u8] = b"\n@@ ";

fuzz_target!(|bytes: &[u8]| {
    let tree = tempfile::tempdir_in("/dev/shm").expect("there is shared memory");
    let mut rest = bytes.strip_prefix(&HEADER[1..]).unwrap_or(bytes);
    loop {
        let end = rest.windows(HEADER.len()).position(|window| window == HEADER);
        unpack(tree.path(), &rest[..end.unwrap_or(rest.len())]);
        let Some(end) = end else { break };
        rest = &rest[end + HEADER.len()..];
    }
    if let Ok(host) = Host::copied(tree.path()) {
        audited(&host);
    }
});

/// One file or link; what would lie outside the tree, or stand in another's way, is left out.
fn unpack(tree: &Path, entry: &[u8]) {
    let end = entry.iter().position(|byte| *byte == b'\n').unwrap_or(entry.len());
    let (name, content) = (&entry[..end], entry.get(end + 1..).unwrap_or_default());
    let Ok(name) = std::str::from_utf8(name) else { return };
    let (name, target) = name.split_once(" -> ").map_or((name, None), |(name, target)| (name, Some(target)));
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) || name.contains('\0') {
        return;
    }
    let path = tree.join(name);
    if path.parent().is_none_or(|parent| fs::create_dir_all(parent).is_err()) {
        return;
    }
    match target {
        // A link is only ever asked for its name, so it points at nothing.
        Some(target) if !target.contains(['/', '\0']) && !target.is_empty() => {
            drop(symlink(format!("../../x/{target}"), path))
        }
        Some(_) => {}
        None => drop(fs::write(path, content)),
    }
}
