// SPDX-License-Identifier: LGPL-2.1-or-later
//! The arguments that say which host: the running one, a copy of its sysfs, or lspci's text.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::source::host::{Host, HostError};

/// Where the host's devices are read from; the running system where nothing is said.
#[derive(Debug, Default, Args)]
pub struct HostArguments {
    /// Read a copied tree: DIR/bus/pci/devices as under /sys, optionally DIR/cpuinfo and DIR/firmware/acpi/tables
    #[arg(long, value_name = "DIR")]
    pub host: Option<PathBuf>,
    /// Read what `lspci -D -vv -nn` printed
    #[arg(long, value_name = "FILE", conflicts_with = "host")]
    pub lspci: Option<PathBuf>,
}

impl HostArguments {
    /// Whether the command line says which host.
    pub fn is_named(&self) -> bool {
        self.host.is_some() || self.lspci.is_some()
    }

    /// Reads the host.
    pub fn load(&self) -> Result<Host, Failure> {
        match (&self.host, &self.lspci) {
            (Some(dir), _) => Ok(Host::copied(dir)?),
            (None, Some(file)) => Ok(Host::lspci(file)?),
            (None, None) => Ok(Host::live()?),
        }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        if error.is_environment() {
            Self::Environment(error.to_string())
        } else {
            Self::Input(error.to_string())
        }
    }
}
