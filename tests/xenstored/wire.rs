// SPDX-License-Identifier: LGPL-2.1-or-later
//! The xenstore protocol, spoken directly (xen/io/xs_wire.h): an independent look at the store, without
//! libxenstore.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const DIRECTORY: u32 = 1;
pub const READ: u32 = 2;
pub const GET_PERMS: u32 = 3;
pub const TRANSACTION_START: u32 = 6;
pub const TRANSACTION_END: u32 = 7;
pub const INTRODUCE: u32 = 8;
pub const WRITE: u32 = 11;
pub const MKDIR: u32 = 12;
pub const RM: u32 = 13;
pub const SET_PERMS: u32 = 14;
pub const ERROR: u32 = 16;
pub const IS_DOMAIN_INTRODUCED: u32 = 17;

/// A message: operation, request, transaction, and what is in it.
#[derive(Clone, Debug)]
pub struct Message {
    pub operation: u32,
    pub request: u32,
    pub transaction: u32,
    pub body: Vec<u8>,
}

impl Message {
    /// Reads one; `None` where the other side is gone.
    pub fn read(from: &mut impl Read) -> Option<Self> {
        let mut header = [0; 16];
        from.read_exact(&mut header).ok()?;
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; word(12) as usize];
        from.read_exact(&mut body).ok()?;
        Some(Self { operation: word(0), request: word(4), transaction: word(8), body })
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.body.len()).unwrap();
        let words = [self.operation, self.request, self.transaction, length];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(&self.body);
        bytes
    }

    /// The first string in it: a request's path.
    pub fn path(&self) -> String {
        String::from_utf8_lossy(self.body.split(|&byte| byte == 0).next().unwrap()).into_owned()
    }
}

/// Something that carries messages: the daemon's socket, or a guest's ring.
pub trait Line {
    fn exchange(&mut self, message: &Message) -> Message;
}

impl Line for UnixStream {
    fn exchange(&mut self, message: &Message) -> Message {
        self.write_all(&message.bytes()).unwrap();
        Message::read(self).expect("the daemon closed the connection")
    }
}

/// A client. Errors are the daemon's names for them, such as `EACCES`.
pub struct Client<L> {
    pub line: L,
    pub transaction: u32,
}

pub type Answer<T> = Result<T, String>;

impl Client<UnixStream> {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { line: stream, transaction: 0 }
    }
}

impl<L: Line> Client<L> {
    pub fn request(&mut self, operation: u32, body: &[u8]) -> Answer<Vec<u8>> {
        let transaction = self.transaction;
        let message = Message { operation, request: 7, transaction, body: body.to_vec() };
        let reply = self.line.exchange(&message);
        if reply.operation == ERROR {
            return Err(reply.path());
        }
        assert_eq!(reply.operation, operation);
        Ok(reply.body)
    }

    fn on(&mut self, operation: u32, path: &str, rest: &[u8]) -> Answer<Vec<u8>> {
        self.request(operation, &[path.as_bytes(), b"\0", rest].concat())
    }

    pub fn read(&mut self, path: &str) -> Answer<String> {
        self.on(READ, path, b"").map(|body| String::from_utf8_lossy(&body).into_owned())
    }

    pub fn write(&mut self, path: &str, value: &str) -> Answer<()> {
        self.write_bytes(path, value.as_bytes())
    }

    pub fn write_bytes(&mut self, path: &str, value: &[u8]) -> Answer<()> {
        self.on(WRITE, path, value).map(drop)
    }

    pub fn mkdir(&mut self, path: &str) -> Answer<()> {
        self.on(MKDIR, path, b"").map(drop)
    }

    pub fn rm(&mut self, path: &str) -> Answer<()> {
        self.on(RM, path, b"").map(drop)
    }

    pub fn directory(&mut self, path: &str) -> Answer<Vec<String>> {
        let body = self.on(DIRECTORY, path, b"")?;
        let names = body.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Such as `n0,r7`.
    pub fn permissions(&mut self, path: &str) -> Answer<String> {
        let body = self.on(GET_PERMS, path, b"")?;
        let text = String::from_utf8(body).unwrap();
        Ok(text.trim_end_matches('\0').replace('\0', ","))
    }

    pub fn set_permissions(&mut self, path: &str, permissions: &str) -> Answer<()> {
        let list = format!("{}\0", permissions.replace(',', "\0"));
        self.on(SET_PERMS, path, list.as_bytes()).map(drop)
    }

    pub fn is_introduced(&mut self, domid: u32) -> bool {
        self.request(IS_DOMAIN_INTRODUCED, format!("{domid}\0").as_bytes()).unwrap().starts_with(b"T")
    }

    pub fn start(&mut self) -> Answer<()> {
        let body = self.request(TRANSACTION_START, b"\0")?;
        self.transaction = String::from_utf8_lossy(&body).trim_end_matches('\0').parse().unwrap();
        Ok(())
    }

    pub fn commit(&mut self) -> Answer<()> {
        let result = self.request(TRANSACTION_END, b"T\0").map(drop);
        self.transaction = 0;
        result
    }

    /// Every node below `root` with its value and permissions, `root` included; empty where it is not there.
    pub fn dump(&mut self, root: &str) -> Vec<(String, String, String)> {
        let Ok(permissions) = self.permissions(root) else { return Vec::new() };
        let mut nodes = vec![(root.to_owned(), self.read(root).unwrap(), permissions)];
        for name in self.directory(root).unwrap() {
            nodes.extend(self.dump(&format!("{root}/{name}")));
        }
        nodes
    }
}
