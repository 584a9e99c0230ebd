// SPDX-License-Identifier: GPL-2.0-only
//! An hvmloader binary: a 32-bit ELF file, linked at its physical address, most often without symbols.

use std::path::{Path, PathBuf};

use object::read::elf::ElfFile32;
use object::{Object, ObjectSegment};

/// The last address (exclusive) that a loader may reach. Xen loads it at 1 MiB; nothing that the PCI phase touches
/// lies between its end and this.
pub const LOADER_LIMIT: u64 = 0x40_0000;

/// Why a file is no loader.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// It cannot be read.
    #[error("cannot read the loader {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not a 32-bit ELF file.
    #[error("{path} is not a 32-bit ELF file, as an hvmloader is: {source}", path = path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What the ELF reader said.
        source: object::Error,
    },
    /// Its parts do not lie where a loader's do.
    #[error("{path} has nothing to load between 1 MiB and {LOADER_LIMIT:#x}, or something beyond", path = path.display())]
    Place {
        /// The file.
        path: PathBuf,
    },
}

/// A loader as it lies in the guest's memory before it runs.
#[derive(Debug)]
pub struct Loader {
    /// Where it starts.
    pub entry: u64,
    /// Its first byte's address.
    pub start: u64,
    /// Its bytes from `start` to the end of its uninitialised data.
    pub image: Vec<u8>,
}

impl Loader {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// When it cannot be read, is no 32-bit ELF file, or would not lie between 1 MiB and [`LOADER_LIMIT`].
    pub fn read(path: &Path) -> Result<Self, LoaderError> {
        let bytes =
            std::fs::read(path).map_err(|source| LoaderError::Read { path: path.to_owned(), source })?;
        let not_elf = |source| LoaderError::NotElf { path: path.to_owned(), source };
        let elf = ElfFile32::<object::Endianness>::parse(&*bytes).map_err(not_elf)?;
        let misplaced = || LoaderError::Place { path: path.to_owned() };
        let mut memory = vec![0; usize::try_from(LOADER_LIMIT).map_err(|_| misplaced())?];
        let (mut start, mut end) = (LOADER_LIMIT, 0);
        for segment in elf.segments().filter(|segment| segment.size() != 0) {
            let (first, past) = (segment.address(), segment.address().saturating_add(segment.size()));
            if first < 0x10_0000 || past > LOADER_LIMIT {
                return Err(misplaced());
            }
            let data = segment.data().map_err(not_elf)?;
            let offset = usize::try_from(first).map_err(|_| misplaced())?;
            memory.iter_mut().skip(offset).zip(data).for_each(|(place, byte)| *place = *byte);
            (start, end) = (start.min(first), end.max(past));
        }
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let image = range.and_then(|(start, end)| memory.get(start..end)).ok_or_else(misplaced)?;
        Ok(Self { entry: elf.entry(), start, image: image.to_owned() })
    }

    /// The addresses at which these bytes occur. Some may be data that only looks like the instruction.
    pub fn occurrences<'a>(&'a self, instruction: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
        let windows = self.image.windows(instruction.len());
        (self.start..)
            .zip(windows)
            .filter(move |(_, bytes)| *bytes == instruction)
            .map(|(address, _)| address)
    }
}
