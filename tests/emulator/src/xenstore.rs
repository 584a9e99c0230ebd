// SPDX-License-Identifier: GPL-2.0-only
//! The other end of the guest's xenstore ring: answers reads from the guest's map.
//!
//! The wire format is that of Xen's public header io/xs_wire.h: two rings of 1024 bytes with free-running indices on
//! one page, messages of a 16-byte header and a payload.

use std::collections::{BTreeMap, VecDeque};

/// Offsets in the shared page.
pub mod page {
    /// Requests, [`RING`] bytes.
    pub const REQUESTS: u64 = 0;
    /// Replies, [`RING`] bytes.
    pub const REPLIES: u64 = 1024;
    /// The four indices: requests consumed, produced, replies consumed, produced; 32 bits each.
    pub const INDICES: u64 = 2048;
    /// A ring's length.
    pub const RING: usize = 1024;
}

const XS_READ: u32 = 2;
const XS_ERROR: u32 = 16;
const HEADER: usize = 16;

/// The server: what has come in of a request, what has still to go out of replies.
#[derive(Debug, Default)]
pub struct Server {
    keys: BTreeMap<String, String>,
    incoming: VecDeque<u8>,
    outgoing: VecDeque<u8>,
}

impl Server {
    /// A server that knows these keys.
    pub fn new(keys: BTreeMap<String, String>) -> Self {
        Self { keys, ..Self::default() }
    }

    /// Takes bytes off the request ring and answers each message that is complete.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.incoming.extend(bytes);
        while let Some((header, length)) = self.header() {
            if self.incoming.len() < length + HEADER {
                break;
            }
            let payload: Vec<u8> = self.incoming.drain(..length + HEADER).skip(HEADER).collect();
            self.answer(header, &payload);
        }
    }

    /// The message's type, request and transaction, and its payload's length, once they are there.
    fn header(&self) -> Option<([u32; 3], usize)> {
        let word = |at: usize| {
            let bytes = [at, at + 1, at + 2, at + 3].map(|at| self.incoming.get(at).copied());
            let [Some(a), Some(b), Some(c), Some(d)] = bytes else { return None };
            Some(u32::from_le_bytes([a, b, c, d]))
        };
        Some(([word(0)?, word(4)?, word(8)?], usize::try_from(word(12)?).ok()?))
    }

    fn answer(&mut self, [kind, request, transaction]: [u32; 3], payload: &[u8]) {
        let path = payload.split(|byte| *byte == 0).next().unwrap_or_default();
        let value = std::str::from_utf8(path).ok().and_then(|path| self.keys.get(path));
        let (kind, reply) = match value {
            _ if kind != XS_READ => (XS_ERROR, &b"ENOSYS\0"[..]),
            None => (XS_ERROR, &b"ENOENT\0"[..]),
            Some(value) => (XS_READ, value.as_bytes()),
        };
        let length = u32::try_from(reply.len()).unwrap_or(u32::MAX);
        for word in [kind, request, transaction, length] {
            self.outgoing.extend(word.to_le_bytes());
        }
        self.outgoing.extend(reply);
    }

    /// Up to `room` bytes of the replies that wait.
    pub fn send(&mut self, room: usize) -> Vec<u8> {
        let count = room.min(self.outgoing.len());
        self.outgoing.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &mut Server, kind: u32, path: &str) -> (u32, Vec<u8>) {
        let length = u32::try_from(path.len() + 1).unwrap();
        let mut message: Vec<u8> = [kind, 7, 0, length].into_iter().flat_map(u32::to_le_bytes).collect();
        message.extend(path.bytes().chain([0]));
        // In two pieces, as a request that wraps round the ring's end arrives.
        server.receive(&message[..5]);
        server.receive(&message[5..]);
        let reply = server.send(4096);
        assert_eq!(reply[4], 7, "the request's own number comes back");
        (u32::from_le_bytes(reply[..4].try_into().unwrap()), reply[HEADER..].to_owned())
    }

    #[test]
    fn a_known_key_is_read_an_unknown_one_is_enoent_and_nothing_else_is_served() {
        let mut server = Server::new([("a/b".to_owned(), "1".to_owned())].into());
        assert_eq!(ask(&mut server, XS_READ, "a/b"), (XS_READ, b"1".to_vec()));
        assert_eq!(ask(&mut server, XS_READ, "a/c"), (XS_ERROR, b"ENOENT\0".to_vec()));
        assert_eq!(ask(&mut server, 11, "a/b"), (XS_ERROR, b"ENOSYS\0".to_vec()));
    }

    #[test]
    fn a_long_reply_goes_out_in_pieces() {
        let mut server = Server::new([("k".to_owned(), "x".repeat(2000))].into());
        server.receive(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, b'k', 0]);
        assert_eq!(
            [server.send(1024).len(), server.send(1024).len(), server.send(1024).len()],
            [1024, 992, 0]
        );
    }
}
