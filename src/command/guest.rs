// SPDX-License-Identifier: LGPL-2.1-or-later
//! The GUEST argument: which guest, and what the file does not say about its host.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::guest::Guest;
use crate::layout::Warning;
use crate::source::description;
use crate::source::host::Host;

/// Which guest, and where to look for what its configuration leaves open.
#[derive(Debug, Args)]
pub struct GuestArguments {
    /// The guest: an xl.cfg, libxl's domain configuration in JSON, or a guest description; `-` for standard input.
    pub guest: PathBuf,
}

/// A guest and what had to be assumed about it.
#[derive(Debug)]
pub struct LoadedGuest {
    /// The guest.
    pub guest: Guest,
    /// What the owner should know about how it was read.
    pub warnings: Vec<Warning>,
    /// The host that its devices come from, if one was read.
    pub host: Option<Host>,
}

impl GuestArguments {
    /// Reads the guest; its kind is told from its content.
    pub fn load(&self) -> Result<LoadedGuest, Failure> {
        let text = read(&self.guest)?;
        let guest = description::parse(&text)
            .map_err(|error| Failure::Input(format!("{}: {error}", self.guest.display())))?;
        Ok(LoadedGuest { guest, warnings: Vec::new(), host: None })
    }
}

impl GuestArguments {
    /// The file, or standard input, to be read line by line.
    pub fn open(&self) -> Result<Box<dyn BufRead>, Failure> {
        if self.guest.as_os_str() == "-" {
            return Ok(Box::new(BufReader::new(std::io::stdin())));
        }
        let file = std::fs::File::open(&self.guest).map_err(|error| self.unreadable(&error))?;
        Ok(Box::new(BufReader::new(file)))
    }

    /// The failure of reading it.
    pub fn unreadable(&self, error: &std::io::Error) -> Failure {
        Failure::Input(format!("{}: {error}", self.guest.display()))
    }
}

/// The whole of a file, or of standard input for `-`.
pub fn read(path: &std::path::Path) -> Result<String, Failure> {
    let mut text = String::new();
    let result = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    match result {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::Input(format!("{}: {error}", path.display()))),
    }
}
