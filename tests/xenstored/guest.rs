// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's end of its xenstore ring (docs/misc/xenstore-ring.txt): a page that the daemon has mapped, and
//! its event channel.
//!
//! The page is a file; what is written to it the daemon sees in its mapping.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::wire::{Line, Message};

const RING_SIZE: u32 = 1024;
const REQUESTS: u64 = 0;
const RESPONSES: u64 = 1024;
const REQUESTS_CONSUMED: u64 = 2048;
const REQUESTS_PRODUCED: u64 = 2052;
const RESPONSES_CONSUMED: u64 = 2056;
const RESPONSES_PRODUCED: u64 = 2060;

/// The stand-in's local ports: one for "a domain's state has changed", then one a domain.
const DOMAIN_STATE_PORT: u32 = 1;
const FIRST_DOMAIN_PORT: u32 = 100;

pub struct Guest {
    ring: File,
    events: File,
    domid: u32,
}

impl Guest {
    /// The guest of a domain that was made.
    pub fn new(directory: &Path, domid: u32) -> Self {
        let path = directory.join(format!("ring-{domid}"));
        let open = |path| OpenOptions::new().read(true).write(true).open(path).unwrap();
        Self { ring: open(path), events: open(directory.join("events")), domid }
    }

    /// Lets the hypervisor's stand-in say that the domain is dying, and the daemon notice.
    pub fn die(&mut self, directory: &Path) {
        std::fs::write(directory.join(format!("dying-{}", self.domid)), "").unwrap();
        self.notify(DOMAIN_STATE_PORT);
    }

    fn notify(&mut self, port: u32) {
        self.events.write_all(&port.to_ne_bytes()).unwrap();
    }

    fn index(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.ring.read_exact_at(&mut bytes, at).unwrap();
        u32::from_ne_bytes(bytes)
    }

    fn set_index(&self, at: u64, value: u32) {
        self.ring.write_all_at(&value.to_ne_bytes(), at).unwrap();
    }

    fn wait(&self, what: &str, mut ready: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !ready(self) {
            assert!(started.elapsed() < Duration::from_secs(20), "domain {}: no {what}", self.domid);
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(512) {
            let size = u32::try_from(chunk.len()).unwrap();
            self.wait("room for a request", |guest| {
                let used = guest.index(REQUESTS_PRODUCED).wrapping_sub(guest.index(REQUESTS_CONSUMED));
                used + size <= RING_SIZE
            });
            let produced = self.index(REQUESTS_PRODUCED);
            for (offset, byte) in (0..size).zip(chunk) {
                let at = REQUESTS + u64::from(produced.wrapping_add(offset) % RING_SIZE);
                self.ring.write_all_at(&[*byte], at).unwrap();
            }
            self.set_index(REQUESTS_PRODUCED, produced.wrapping_add(size));
            self.notify(FIRST_DOMAIN_PORT + self.domid);
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            self.wait("answer", |guest| guest.index(RESPONSES_PRODUCED) != guest.index(RESPONSES_CONSUMED));
            let consumed = self.index(RESPONSES_CONSUMED);
            let at = RESPONSES + u64::from(consumed % RING_SIZE);
            self.ring.read_exact_at(&mut buffer[filled..=filled], at).unwrap();
            self.set_index(RESPONSES_CONSUMED, consumed.wrapping_add(1));
            filled += 1;
        }
        self.notify(FIRST_DOMAIN_PORT + self.domid);
    }
}

impl std::io::Read for &mut Guest {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.receive(buffer);
        Ok(buffer.len())
    }
}

impl Line for Guest {
    fn exchange(&mut self, message: &Message) -> Message {
        self.send(&message.bytes());
        Message::read(&mut &mut *self).unwrap()
    }
}
