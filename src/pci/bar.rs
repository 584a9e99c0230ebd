// SPDX-License-Identifier: LGPL-2.1-or-later
//! A base address register (PCI Local Bus Specification 3.0, section 6.2.5).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::{Address, Size};

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BarKind {
    /// Memory anywhere below 4 GiB.
    Mem32,
    /// Memory anywhere in 64 bits; two registers.
    Mem64,
    /// Memory below 1 MiB (type 01, a relic of PCI 2.1); Linux and hvmloader treat it as `Mem32`.
    Mem1m,
    /// I/O ports.
    Io,
    /// An expansion ROM: memory below 4 GiB with an enable bit of its own.
    Rom,
}

impl BarKind {
    /// Whether it decodes memory, not ports.
    pub fn is_memory(self) -> bool {
        self != Self::Io
    }
}

impl fmt::Display for BarKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mem32 => "mem32",
            Self::Mem64 => "mem64",
            Self::Mem1m => "mem1m",
            Self::Io => "io",
            Self::Rom => "rom",
        })
    }
}

/// One BAR of a function, as the guest will find it before anybody has placed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    /// The register's offset in configuration space: 0x10 to 0x24, or 0x30.
    pub reg: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// How much: a power of two, bytes.
    pub size: Size,
    /// Whether reads have no side effects (the prefetchable bit).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prefetch: bool,
    /// The register's initial address bits; for a ROM bit 0 is the enable bit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub value: u64,
    /// For I/O: the upper 16 address bits are hard-wired to 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub io16: bool,
    /// Where the host has this BAR, for a passed-through device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<Address>,
}

impl Bar {
    /// A BAR at that register, with nothing in it yet.
    pub fn new(reg: u8, kind: BarKind, size: Size, prefetch: bool) -> Self {
        Self { reg, kind, size, prefetch, value: 0, io16: false, host_address: None }
    }

    /// How far into a page of that size the host has this BAR; zero for what is not passed through and for ports.
    pub fn offset_into(&self, page: Size) -> Size {
        match self.host_address {
            Some(address) if self.kind.is_memory() => address.distance_from(address.align_down(page)),
            _ => Size::ZERO,
        }
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}
