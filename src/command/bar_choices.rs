// SPDX-License-Identifier: LGPL-2.1-or-later
//! The options about one BAR: its size, how it is to be mapped.

use clap::Args;

use super::Failure;
use crate::guest::Guest;
use crate::pci::{BarSetting, Caching, PlannedSize};

/// What is said of single BARs.
#[derive(Clone, Debug, Default, Args)]
pub struct BarChoices {
    /// Plan a resizable BAR with another size than it has: BAR=SIZE or BAR=largest, such as 3b:00.0:0x18=16G; the host
    /// has to resize it before the guest starts. May be repeated
    #[arg(long, value_name = "BAR=SIZE")]
    bar_size: Vec<BarSetting<PlannedSize>>,
    /// State how a BAR is to be mapped, such as 3b:00.0:0x18=write-combining (or uncached); the layout says unknown of
    /// all others. May be repeated
    #[arg(long, value_name = "BAR=HINT")]
    caching: Vec<BarSetting<Caching>>,
}

impl BarChoices {
    /// Does to the guest's devices what is said.
    pub fn apply(&self, guest: &mut Guest) -> Result<(), Failure> {
        let named = |option: &str, problem: String| Failure::Input(format!("{option}: {problem}"));
        for setting in &self.bar_size {
            setting.apply(&mut guest.devices).map_err(|problem| named("--bar-size", problem))?;
        }
        for setting in &self.caching {
            setting.apply(&mut guest.devices).map_err(|problem| named("--caching", problem))?;
        }
        Ok(())
    }
}
