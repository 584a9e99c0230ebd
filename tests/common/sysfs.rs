// SPDX-License-Identifier: LGPL-2.1-or-later
//! Copies of a host's sysfs, made as the kernel would show that host.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot make its input has failed"
)]
#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs;
use std::path::{Path, PathBuf};

/// Flags of a resource (ioport.h), as the kernel shows them.
pub const MEM32: u64 = 0x40200;
/// The same of a 64-bit BAR.
pub const MEM64: u64 = 0x140204;
/// The same of a prefetchable one.
pub const MEM64_PREFETCH: u64 = 0x14220c;
/// I/O ports.
pub const IO: u64 = 0x40101;
/// A ROM.
pub const ROM: u64 = 0x46200;

/// A tree in a directory that goes with it.
pub struct Tree(tempfile::TempDir);

impl Tree {
    pub fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.devices()).unwrap();
        tree
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn devices(&self) -> PathBuf {
        self.path().join("bus/pci/devices")
    }

    /// Adds a function: identity (vendor, device, class with interface), configuration space, and `resource`'s lines.
    pub fn add(&self, sbdf: &str, identity: (u16, u16, u32), config: &Config, resources: &[(u64, u64, u64)]) {
        let dir = self.devices().join(sbdf);
        fs::create_dir(&dir).unwrap();
        let (vendor, device, class) = identity;
        self.write(sbdf, "vendor", &format!("0x{vendor:04x}\n"));
        self.write(sbdf, "device", &format!("0x{device:04x}\n"));
        self.write(sbdf, "class", &format!("0x{class:06x}\n"));
        let mut image = config.clone();
        if !image.0.starts_with(&[0xff; 4]) {
            image.put(0, &vendor.to_le_bytes()).put(2, &device.to_le_bytes());
        }
        image.put(9, &class.to_le_bytes()[..3]);
        fs::write(dir.join("config"), &image.0).unwrap();
        let line = |index: usize| {
            let (start, size, flags) = resources.get(index).copied().unwrap_or_default();
            let end = (start + size).saturating_sub(1);
            format!("0x{start:016x} 0x{end:016x} 0x{flags:016x}\n")
        };
        self.write(sbdf, "resource", &(0..13).map(line).collect::<String>());
    }

    pub fn write(&self, sbdf: &str, file: &str, text: &str) {
        fs::write(self.devices().join(sbdf).join(file), text).unwrap();
    }

    pub fn link(&self, sbdf: &str, name: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.devices().join(sbdf).join(name)).unwrap();
    }
}

/// Configuration space under construction.
#[derive(Clone)]
pub struct Config(pub Vec<u8>);

impl Config {
    pub fn of(length: usize) -> Self {
        Self(vec![0; length])
    }

    pub fn put(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A virtual function's, which has no identity of its own.
    pub fn virtual_function(&mut self) -> &mut Self {
        self.put(0, &[0xff; 4])
    }

    /// An MSI-X capability as the only one, at 0xb0.
    pub fn msix(&mut self, vectors: u16, table: u32, pba: u32) -> &mut Self {
        self.put(0x06, &[0x10]).put(0x34, &[0xb0]).put(0xb0, &[0x11, 0]);
        self.put(0xb2, &(vectors - 1).to_le_bytes());
        self.put(0xb4, &table.to_le_bytes()).put(0xb8, &pba.to_le_bytes())
    }

    /// An SR-IOV capability as the only extended one.
    pub fn sriov(&mut self, total: u16, enabled: u16, offset: u16, stride: u16) -> &mut Self {
        self.put(0x100, &[0x10, 0, 1, 0]).put(0x108, &[u8::from(enabled > 0)]);
        self.put(0x10c, &total.to_le_bytes()).put(0x10e, &total.to_le_bytes());
        self.put(0x110, &enabled.to_le_bytes()).put(0x114, &offset.to_le_bytes());
        self.put(0x116, &stride.to_le_bytes());
        self.put(0x11c, &0x553_u32.to_le_bytes()).put(0x120, &1_u32.to_le_bytes())
    }

    /// A bridge's bus numbers and memory window, first byte and last.
    pub fn bridge(&mut self, secondary: u8, memory: (u32, u32)) -> &mut Self {
        let part = |address: u32| [address.to_le_bytes()[2] & 0xf0, address.to_le_bytes()[3]];
        self.put(0x0e, &[1]).put(0x18, &[0, secondary, secondary]);
        self.put(0x20, &part(memory.0)).put(0x22, &part(memory.1));
        self.put(0x1c, &[0xf0, 0]).put(0x24, &[0xf1, 0xff, 1, 0])
    }
}

/// The host of tests/hosts/endpoint-test.lspci, as its sysfs.
pub fn endpoint_test() -> Tree {
    let tree = Tree::new();
    tree.add("0000:00:00.0", (0x8086, 0x29c0, 0x06_0000), &Config::of(256), &[]);
    let port = Config::of(4096).bridge(1, (0xe000_0000, 0xe01f_ffff)).clone();
    tree.add("0000:00:1c.0", (0x1b36, 0x000c, 0x06_0400), &port, &[(0xf040_0000, 0x1000, MEM32)]);
    let mut config = Config::of(4096);
    config.msix(1, 0x80, 0x90).sriov(4, 0, 6, 1).put(0x3d, &[1]).put(0x11a, &[0x00, 0xb5]);
    config.put(0x04, &[2]);
    let bars = [
        (0xe012_4600, 256, MEM32),
        (0xe012_4400, 512, MEM32),
        (0xe012_4000, 1 << 10, MEM32),
        (0xe012_0000, 16 << 10, MEM32),
        (0xe010_0000, 128 << 10, MEM32),
        (0xe000_0000, 1 << 20, MEM32),
    ];
    tree.add("0000:01:00.0", (0x104c, 0xb500, 0xff_0000), &config, &bars);
    tree
}

/// The host of tests/hosts/pci-testdev.lspci, as its sysfs.
pub fn pci_testdev() -> Tree {
    let tree = Tree::new();
    tree.add("0000:00:00.0", (0x8086, 0x1237, 0x06_0000), &Config::of(256), &[]);
    let fixed = |start, size| (start, size, 0x110);
    let ide = [fixed(0x1f0, 8), fixed(0x3f6, 1), fixed(0x170, 8), fixed(0x376, 1), (0xc4c0, 16, IO)];
    tree.add("0000:00:01.1", (0x8086, 0x7010, 0x01_0180), &Config::of(256), &ide);
    let shadow = (0xc_0000, 128 << 10, 0x212);
    let none = (0, 0, 0);
    let vga = [(0xfd00_0000, 16 << 20, 0x42208), none, (0xfebd_0000, 4096, MEM32), none, none, none, shadow];
    tree.add("0000:00:02.0", (0x1234, 0x1111, 0x03_0000), &Config::of(256), &vga);
    for function in 0..4 {
        let bars = [(0xfebd_1000 + function * 1024, 1024, MEM32), (0xc000 + function * 256, 256, IO)];
        let header = Config::of(256).put(0x0e, &[0x80]).clone();
        tree.add(&format!("0000:00:05.{function}"), (0x1b36, 0x0005, 0x00_ff00), &header, &bars);
    }
    tree
}
