// SPDX-License-Identifier: LGPL-2.1-or-later
//! A layout in a file: read, and replaced whole.
//!
//! Whoever changes the file holds a lock on it from the reading to the replacing, so that two attaches at once cannot
//! take the same space; whoever only reads finds the old file or the new one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use super::Failure;
use crate::guest::PAGE_SIZES;
use crate::layout::Layout;

/// Reads a layout; `-` is standard input.
pub fn read(path: &Path) -> Result<Layout, Failure> {
    parse(path, &super::guest::read(path)?)
}

fn parse(path: &Path, text: &str) -> Result<Layout, Failure> {
    let wrong = |problem: String| Failure::Input(format!("{}: {problem}", path.display()));
    let mut json = serde_json::Deserializer::from_str(text);
    let layout: Layout = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = match error.path().to_string() {
            path if path == "." => String::new(),
            path => format!("{path}: "),
        };
        wrong(format!("no layout (as plan --format json writes it): {place}{}", error.into_inner()))
    })?;
    json.end().map_err(|error| wrong(format!("after the layout: {error}")))?;
    if !PAGE_SIZES.contains(&layout.page_size) {
        return Err(wrong(format!("page_size {}: must be 4096, 16384 or 65536", layout.page_size.get())));
    }
    Ok(layout)
}

/// A layout's file, locked against other changes until this is dropped.
pub struct LockedLayout {
    path: PathBuf,
    /// Closing it unlocks it.
    file: File,
    layout: Layout,
}

impl LockedLayout {
    /// Waits for the lock and reads the layout.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Err(Failure::Input("--commit needs a layout's file, not standard input".to_owned()));
        }
        let failed = |error: io::Error| Failure::Input(format!("{}: {error}", path.display()));
        // A link stays a link: what it points to is replaced.
        let target = fs::canonicalize(path).map_err(failed)?;
        loop {
            let mut file = File::open(&target).map_err(failed)?;
            file.lock().map_err(failed)?;
            let (locked, there) = (file.metadata().map_err(failed)?, fs::metadata(&target).map_err(failed)?);
            // Somebody may have put another file in its place while we waited.
            if (locked.dev(), locked.ino()) != (there.dev(), there.ino()) {
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed)?;
            let layout = parse(path, &text)?;
            return Ok(Self { path: target, file, layout });
        }
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Puts another layout in its place: a new file beside it, on the disk before it takes the old one's name.
    pub fn replace(self, layout: &Layout) -> Result<(), Failure> {
        self.write(layout).map_err(|error| {
            Failure::Environment(format!("{}: cannot be replaced: {error}", self.path.display()))
        })
    }

    fn write(&self, layout: &Layout) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let old = self.file.metadata()?;
        let new = tempfile::Builder::new().prefix(".layout-").tempfile_in(directory)?;
        let mut out = BufWriter::new(new.as_file());
        super::write_json(&mut out, layout)?;
        out.flush()?;
        drop(out);
        let (mine, file) = (new.as_file().metadata()?, new.as_file());
        if (mine.uid(), mine.gid()) != (old.uid(), old.gid()) {
            fchown(file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(old.permissions())?;
        file.sync_all()?;
        new.persist(&self.path)?;
        // The rename is on the disk when the directory is.
        File::open(directory)?.sync_all()
    }
}
