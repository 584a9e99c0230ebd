// SPDX-License-Identifier: LGPL-2.1-or-later
//! The capabilities that decide how a function can be passed through: MSI-X, SR-IOV, resizable BARs.

use serde::{Deserialize, Serialize};

use super::{BarKind, Bdf};
use crate::address::{Address, Size};

/// MSI-X: where the vector table and the pending bits lie (PCI Local Bus Specification 3.0, section 6.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiX {
    /// How many vectors, 1 to 2048.
    pub vectors: u16,
    /// The number (0 to 5) of the BAR that holds the table.
    pub table_bar: u8,
    /// The table's offset in that BAR, bytes.
    pub table_offset: u32,
    /// The number (0 to 5) of the BAR that holds the pending bits.
    pub pba_bar: u8,
    /// Their offset in that BAR, bytes.
    pub pba_offset: u32,
}

impl MsiX {
    /// The table's size: 16 bytes a vector.
    pub fn table_size(&self) -> Size {
        Size::new(u64::from(self.vectors).saturating_mul(16))
    }

    /// The pending bits' size: one bit a vector, in words of 8 bytes.
    pub fn pba_size(&self) -> Size {
        Size::new(u64::from(self.vectors).div_ceil(64).saturating_mul(8))
    }
}

/// A physical function's SR-IOV capability (PCI Express, section 9.3.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrIov {
    /// How many virtual functions it can have.
    pub total_vfs: u16,
    /// How many it has now; 0 while they are disabled.
    pub num_vfs: u16,
    /// The first virtual function's routing ID, less the physical one's.
    pub first_offset: u16,
    /// From one virtual function's routing ID to the next's.
    pub stride: u16,
    /// The virtual functions' device ID.
    pub vf_device: u16,
    /// Bit n: pages of 2^(n + 12) bytes are supported; `None` where the source does not tell.
    pub supported_page_sizes: Option<u32>,
    /// The page size in use, in the same bits.
    pub system_page_size: Option<u32>,
    /// The BARs that every virtual function has.
    pub bars: Vec<VfBar>,
}

/// One of the BARs that every virtual function of a physical one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfBar {
    /// Its number, 0 to 5.
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Whether it is prefetchable.
    pub prefetch: bool,
    /// Where the first virtual function's is; `None` while it has no address.
    pub address: Option<Address>,
    /// One virtual function's share; `None` where the source does not tell, since the register itself does not.
    pub size: Option<Size>,
}

impl SrIov {
    /// Where the virtual functions that are enabled now sit, for a physical function at `physical`.
    ///
    /// Those past bus 255 are left out: the capability of a sane device names none.
    pub fn virtual_functions(&self, physical: Bdf) -> impl Iterator<Item = Bdf> {
        let base = (u32::from(physical.bus()) << 8) | u32::from(physical.devfn());
        let (first, stride) = (u32::from(self.first_offset), u32::from(self.stride));
        (0..u32::from(self.num_vfs.min(self.total_vfs))).filter_map(move |number| {
            let routing_id = number.checked_mul(stride)?.checked_add(first)?.checked_add(base)?;
            let bus = u8::try_from(routing_id >> 8).ok()?;
            Bdf::new(bus, u8::try_from((routing_id >> 3) & 0x1f).ok()?, u8::try_from(routing_id & 7).ok()?)
        })
    }
}

/// A BAR that can have other sizes than it has (PCI Express, section 7.8.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizableBar {
    /// Its number, 0 to 5.
    pub index: u8,
    /// Its size now; `None` where the source does not tell.
    pub current: Option<Size>,
    /// The sizes it can have, ascending.
    pub supported: Vec<Size>,
}

/// What a PCI-to-PCI bridge forwards, and to which buses (PCI-to-PCI Bridge Architecture 1.2, section 3.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeRegisters {
    /// The bus right behind it.
    pub secondary: u8,
    /// The highest bus behind it.
    pub subordinate: u8,
    /// Its I/O window, first and last port; `None` while it forwards none.
    pub io: Option<(Address, Address)>,
    /// Its memory window, first and last byte.
    pub memory: Option<(Address, Address)>,
    /// Its prefetchable memory window, first and last byte.
    pub prefetchable: Option<(Address, Address)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sriov(num_vfs: u16, first_offset: u16, stride: u16) -> SrIov {
        SrIov {
            total_vfs: 4,
            num_vfs,
            first_offset,
            stride,
            vf_device: 0,
            supported_page_sizes: None,
            system_page_size: None,
            bars: Vec::new(),
        }
    }

    #[test]
    fn virtual_functions_are_counted_from_the_physical_one() {
        let shown = |sriov: SrIov, physical: &str| -> Vec<String> {
            sriov.virtual_functions(physical.parse().unwrap()).map(|bdf| bdf.to_string()).collect()
        };
        assert_eq!(shown(sriov(4, 6, 1), "01:00.0"), ["01:00.6", "01:00.7", "01:01.0", "01:01.1"]);
        assert_eq!(shown(sriov(2, 128, 2), "03:00.1"), ["03:10.1", "03:10.3"]);
        assert_eq!(shown(sriov(2, 0x100, 1), "ff:00.0"), [""; 0], "no bus past ff");
        assert_eq!(shown(sriov(9, 6, 1), "01:00.0").len(), 4, "never more than there can be");
    }
}
