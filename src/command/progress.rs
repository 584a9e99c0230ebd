// SPDX-License-Identifier: LGPL-2.1-or-later
//! How far a long run has come, on standard error, for whoever sits before it.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// What takes no longer than this says nothing; and how often it is said anew.
const PATIENCE: Duration = Duration::from_secs(1);

/// A count that is shown now and then: only on a terminal, and only if the run takes over a second.
pub struct Progress {
    what: &'static str,
    done: u64,
    started: Instant,
    shown: Instant,
    terminal: bool,
    is_shown: bool,
}

impl Progress {
    /// Counts `what` from now on.
    pub fn of(what: &'static str) -> Self {
        let now = Instant::now();
        Self {
            what,
            done: 0,
            started: now,
            shown: now,
            terminal: io::stderr().is_terminal(),
            is_shown: false,
        }
    }

    /// So many more are done.
    pub fn add(&mut self, count: u64) {
        self.done = self.done.saturating_add(count);
        if !self.terminal || self.shown.elapsed() < PATIENCE {
            return;
        }
        self.shown = Instant::now();
        self.is_shown = true;
        let seconds = self.started.elapsed().as_secs().max(1);
        let rate = self.done.checked_div(seconds).unwrap_or_default();
        // If the terminal is gone there is nobody to tell.
        let _ = write!(io::stderr(), "\r{} {} in {seconds} s, {rate} a second ", self.done, self.what);
    }
}

/// The line is taken away, however the run ends.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
