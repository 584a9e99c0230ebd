// SPDX-License-Identifier: LGPL-2.1-or-later
//! One entry of `disk=[...]`, as far as it decides about controllers: which disk the guest sees, and whether it is a
//! CD-ROM (xl-disk-configuration(5); libxlu_disk_l.l).

use crate::source::domain_config::Disk;

/// Parameters that xl takes and that say nothing about controllers.
const FLAGS: [&str; 10] = [
    "direct-io-safe",
    "discard",
    "no-discard",
    "colo",
    "no-colo",
    "trusted",
    "untrusted",
    "grant_usage=0",
    "grant_usage=1",
    "",
];
const KEYS: [&str; 10] = [
    "format=",
    "access=",
    "backend=",
    "backendtype=",
    "specification=",
    "script=",
    "colo-host=",
    "colo-port=",
    "colo-export=",
    "active-disk=",
];
const FORMATS: [&str; 7] = ["", "raw", "qcow", "qcow2", "vhd", "empty", "qed"];
const ACCESSES: [&str; 5] = ["", "r", "ro", "w", "rw"];
/// Prefixes of a target that xl still takes, from before formats and backends had parameters.
const OLD_PREFIXES: [&str; 14] = [
    "raw:", "qcow:", "qcow2:", "vhd:", "iscsi:", "nbd:", "enbd:", "drbd:", "tap:", "tap2:", "aio:", "ioemu:",
    "file:", "phy:",
];

/// Reads an entry.
pub(super) fn parse(text: &str) -> Result<Disk, String> {
    let mut reader = Reader::default();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n']);
        if rest.is_empty() {
            break;
        }
        if let Some(target) = rest.strip_prefix("target=") {
            reader.set_target(target)?;
            break;
        }
        if let Some(prefix) = OLD_PREFIXES.iter().find(|prefix| rest.starts_with(**prefix)) {
            reader.old_prefix = true;
            reader.has_format |= matches!(*prefix, "raw:" | "qcow:" | "qcow2:" | "vhd:");
            rest = rest.get(prefix.len()..).unwrap_or_default();
            continue;
        }
        if let Some(prefix) = unknown_prefix(rest) {
            return Err(format!("unknown prefix \"{prefix}:\""));
        }
        let (parameter, after) = rest.split_once(',').unwrap_or((rest, ""));
        reader.parameter(parameter)?;
        rest = after;
    }
    let vdev = reader.vdev.ok_or("no vdev: which disk of the guest it is to be")?;
    if reader.target.is_none() && !reader.cdrom {
        return Err("no target, and no CD-ROM".to_owned());
    }
    Ok(Disk { vdev, cdrom: reader.cdrom })
}

/// A word and a colon before the target that are none of the old prefixes.
fn unknown_prefix(text: &str) -> Option<&str> {
    let (word, after) = text.split_once(':')?;
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(lower)
        && !after.starts_with(lower))
    .then_some(word)
}

#[derive(Default)]
struct Reader {
    target: Option<String>,
    vdev: Option<String>,
    cdrom: bool,
    has_format: bool,
    has_access: bool,
    old_prefix: bool,
}

impl Reader {
    fn set_target(&mut self, target: &str) -> Result<(), String> {
        match &self.target {
            Some(before) if !before.is_empty() => Err(format!("target respecified: \"{target}\"")),
            _ => {
                self.target = Some(target.to_owned());
                Ok(())
            }
        }
    }

    fn set_vdev(&mut self, vdev: &str) -> Result<(), String> {
        match &self.vdev {
            Some(before) if !before.is_empty() => Err(format!("vdev respecified: \"{vdev}\"")),
            _ => {
                self.vdev = Some(vdev.to_owned());
                Ok(())
            }
        }
    }

    fn parameter(&mut self, text: &str) -> Result<(), String> {
        if let Some(vdev) = text.strip_prefix("vdev=") {
            return self.set_vdev(vdev);
        }
        if let Some(format) = text.strip_prefix("format=") {
            return self.set_format(format);
        }
        match text {
            "cdrom" | "devtype=cdrom" => self.cdrom = true,
            "devtype=disk" => self.cdrom = false,
            _ if !text.is_empty() && FLAGS.contains(&text) => {}
            _ if KEYS.iter().any(|key| text.starts_with(key)) || text.starts_with("hidden-disk=") => {}
            _ if text.contains('=') => return Err(format!("unknown parameter \"{text}\"")),
            _ => return self.positional(text),
        }
        Ok(())
    }

    fn set_format(&mut self, text: &str) -> Result<(), String> {
        if !FORMATS.contains(&text) {
            return Err(format!("unknown format \"{text}\""));
        }
        self.has_format = true;
        Ok(())
    }

    /// Target, format, vdev, access, in that order; the format may be left out by an old prefix or an empty target.
    fn positional(&mut self, text: &str) -> Result<(), String> {
        if self.target.is_none() {
            self.target = Some(text.to_owned());
        } else if !self.old_prefix && !self.has_format {
            let empty = self.target.as_deref() == Some("");
            if empty && self.vdev_and_type(text)? {
                self.has_format = true;
            } else {
                return self.set_format(text);
            }
        } else if self.vdev.is_none() {
            if !self.vdev_and_type(text)? {
                self.set_vdev(text)?;
            }
        } else if !self.has_access {
            if !ACCESSES.contains(&text) {
                return Err(format!("unknown access \"{text}\""));
            }
            self.has_access = true;
        } else {
            return Err(format!("too many positional parameters: \"{text}\""));
        }
        Ok(())
    }

    /// `VDEV:cdrom`, as it was written before `devtype=`.
    fn vdev_and_type(&mut self, text: &str) -> Result<bool, String> {
        let Some((vdev, kind)) = text.rsplit_once(':') else { return Ok(false) };
        self.set_vdev(vdev)?;
        self.cdrom = match kind {
            "cdrom" => true,
            "disk" => false,
            _ => return Err(format!("unknown device type \"{kind}\"")),
        };
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, bool) {
        let disk = parse(text).unwrap();
        (disk.vdev, disk.cdrom)
    }

    #[test]
    fn disks_are_read_in_every_form() {
        let hda = ("hda".to_owned(), false);
        assert_eq!(read("/dev/vg/guest,raw,hda,rw"), hda);
        assert_eq!(read("/dev/vg/guest,,hda"), hda);
        assert_eq!(read("phy:/dev/vg/guest,hda,w"), hda);
        assert_eq!(read("tap2:qcow2:/img,hda,w"), hda);
        assert_eq!(read("vdev=hda, format=qcow2, target=/img, with a comma"), hda);
        assert_eq!(read("/img, qcow2, hda, backendtype=qdisk"), hda);
        let hdc = ("hdc".to_owned(), true);
        assert_eq!(read("file:/install.iso,hdc:cdrom,r"), hdc);
        assert_eq!(read(",hdc:cdrom,r"), hdc);
        assert_eq!(read("devtype=cdrom,vdev=hdc"), hdc);
        assert_eq!(read("/install.iso,,hdc,cdrom"), hdc);
    }

    #[test]
    fn disks_that_xl_refuses_are_refused() {
        for (text, reason) in [
            ("/img", "no vdev"),
            ("vdev=hda", "no target"),
            ("/img,bmp,hda", "unknown format"),
            ("/img,raw,hda,x", "unknown access"),
            ("/img,raw,hda,w,w", "too many"),
            ("floppy:/img,hda,w", "unknown prefix"),
            ("/img,raw,hda,colour=red", "unknown parameter"),
            ("/img,raw,hda:tape", "unknown device type"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
