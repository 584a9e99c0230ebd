// SPDX-License-Identifier: LGPL-2.1-or-later
//! Writers take turns.
//!
//! Transactions keep a layout whole whoever writes at the same time, but of several writers each commit sends
//! all the others back to their start, and the unlucky starve. So they queue for a lock on the directory of
//! the store's socket. It spares retries and nothing else: where there is no directory, or the queue does not
//! move, a writer goes ahead.

use std::fs::File;
use std::time::{Duration, Instant};

/// How long a writer queues.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A writer's turn, until it is dropped.
pub struct Turn {
    /// Unlocked when closed; `None` where there is no queue.
    _lock: Option<File>,
}

impl Turn {
    /// Waits for the turn, but not for ever.
    pub fn take() -> Self {
        let Some(lock) = xen_sys::store_directory().and_then(|path| File::open(path).ok()) else {
            return Self { _lock: None };
        };
        let started = Instant::now();
        while lock.try_lock().is_err() && started.elapsed() < LONGEST_WAIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { _lock: Some(lock) }
    }
}
