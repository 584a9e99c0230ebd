// SPDX-License-Identifier: LGPL-2.1-or-later
//! Typed access to a function's configuration space, as an image of 64, 256 or 4096 bytes.
//!
//! An unprivileged reader of sysfs gets the first 64 bytes, and where PCI Express's extended space cannot be reached
//! the first 256: what lies past the end is `None`, never zero. Capability lists are followed with a bound, since a
//! broken device's may run in a circle. Offsets are those of the PCI Local Bus Specification 3.0, chapter 6, the
//! PCI-to-PCI Bridge Architecture 1.2, chapter 3, and PCI Express, chapters 7 and 9.

use byteorder::{ByteOrder, LittleEndian};

use super::{BarKind, BridgeRegisters, MsiX, ResizableBar, SrIov, VfBar};
use crate::address::{Address, Size};

/// An image of configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace(Vec<u8>);

/// An image of a length that no configuration space has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes: a configuration space has at least 64 and at most 4096")]
pub struct ImageLength(usize);

const CAPABILITY_MSIX: u8 = 0x11;
const EXTENDED_SRIOV: u16 = 0x10;
const EXTENDED_RESIZABLE_BAR: u16 = 0x15;

impl ConfigSpace {
    /// Takes the image, whatever it says.
    ///
    /// # Errors
    ///
    /// If it is shorter than a header or longer than the whole space.
    pub fn new(image: Vec<u8>) -> Result<Self, ImageLength> {
        match image.len() {
            64..=4096 => Ok(Self(image)),
            length => Err(ImageLength(length)),
        }
    }

    /// Whether the capabilities (from byte 64 on) are part of the image.
    pub fn has_capabilities(&self) -> bool {
        self.0.len() >= 256
    }

    /// The byte at `offset`.
    pub fn u8(&self, offset: u16) -> Option<u8> {
        self.0.get(usize::from(offset)).copied()
    }

    /// The 16 bits at `offset`.
    pub fn u16(&self, offset: u16) -> Option<u16> {
        let start = usize::from(offset);
        self.0.get(start..start.checked_add(2)?).map(LittleEndian::read_u16)
    }

    /// The 32 bits at `offset`.
    pub fn u32(&self, offset: u16) -> Option<u32> {
        let start = usize::from(offset);
        self.0.get(start..start.checked_add(4)?).map(LittleEndian::read_u32)
    }

    /// The address that the BAR register at `offset` holds, and whether it is one of 64 bits.
    ///
    /// Zero is what a BAR without an address and a BAR that is not there both read as.
    pub fn bar(&self, offset: u16) -> Option<(BarKind, bool, Address)> {
        let low = self.u32(offset)?;
        if low & 1 != 0 {
            return Some((BarKind::Io, false, Address::new(u64::from(low & !3))));
        }
        let kind = match (low >> 1) & 3 {
            1 => BarKind::Mem1m,
            2 => BarKind::Mem64,
            _ => BarKind::Mem32,
        };
        let high = if kind == BarKind::Mem64 { self.u32(offset.checked_add(4)?)? } else { 0 };
        let address = (u64::from(high) << 32) | u64::from(low & !0xf);
        Some((kind, low & 8 != 0, Address::new(address)))
    }

    /// Where the capability with that ID is (PCI 3.0, section 6.7).
    fn capability(&self, id: u8) -> Option<u16> {
        const STATUS_HAS_LIST: u16 = 0x10;
        if self.u16(0x06)? & STATUS_HAS_LIST == 0 {
            return None;
        }
        let mut at = u16::from(self.u8(0x34)? & !3);
        // 48 capabilities fill the space: a longer list runs in a circle.
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            if self.u8(at)? == id {
                return Some(at);
            }
            at = u16::from(self.u8(at.checked_add(1)?)? & !3);
        }
        None
    }

    /// Where the extended capability with that ID is (PCI Express, section 7.6.3).
    fn extended_capability(&self, id: u16) -> Option<u16> {
        let mut at = 0x100_u16;
        for _ in 0..960 {
            let header = self.u32(at)?;
            if header == 0 || header == u32::MAX {
                return None;
            }
            if header & 0xffff == u32::from(id) {
                return Some(at);
            }
            at = u16::try_from((header >> 20) & 0xffc).ok()?;
            if at < 0x100 {
                return None;
            }
        }
        None
    }

    /// The MSI-X capability.
    pub fn msix(&self) -> Option<MsiX> {
        let at = self.capability(CAPABILITY_MSIX)?;
        let table = self.u32(at.checked_add(4)?)?;
        let pba = self.u32(at.checked_add(8)?)?;
        let number = |register: u32| u8::try_from(register & 7).ok();
        Some(MsiX {
            vectors: (self.u16(at.checked_add(2)?)? & 0x7ff).checked_add(1)?,
            table_bar: number(table)?,
            table_offset: table & !7,
            pba_bar: number(pba)?,
            pba_offset: pba & !7,
        })
    }

    /// The SR-IOV capability; the sizes of its BARs cannot be read, only probed, and stay unknown.
    pub fn sriov(&self) -> Option<SrIov> {
        let at = self.extended_capability(EXTENDED_SRIOV)?;
        let word = |offset| self.u16(at.checked_add(offset)?);
        let long = |offset| self.u32(at.checked_add(offset)?);
        const VF_ENABLE: u16 = 1;
        let enabled = word(0x08)? & VF_ENABLE != 0;
        let mut bars = Vec::new();
        let mut index = 0_u8;
        while index < 6 {
            let offset = at.checked_add(0x24)?.checked_add(u16::from(index).checked_mul(4)?)?;
            let register = self.u32(offset)?;
            let Some((kind, prefetch, address)) = self.bar(offset) else { break };
            let there = register != 0 && register != u32::MAX;
            if there {
                let address = (address != Address::ZERO).then_some(address);
                bars.push(VfBar { index, kind, prefetch, address, size: None });
            }
            index = index.saturating_add(if there && kind == BarKind::Mem64 { 2 } else { 1 });
        }
        Some(SrIov {
            total_vfs: word(0x0e)?,
            num_vfs: if enabled { word(0x10)? } else { 0 },
            first_offset: word(0x14)?,
            stride: word(0x16)?,
            vf_device: word(0x1a)?,
            supported_page_sizes: Some(long(0x1c)?),
            system_page_size: Some(long(0x20)?),
            bars,
        })
    }

    /// The BARs that can be resized; empty where there are none.
    pub fn resizable_bars(&self) -> Vec<ResizableBar> {
        self.read_resizable_bars().unwrap_or_default()
    }

    fn read_resizable_bars(&self) -> Option<Vec<ResizableBar>> {
        let at = self.extended_capability(EXTENDED_RESIZABLE_BAR)?;
        let count = (self.u32(at.checked_add(8)?)? >> 5) & 7;
        let mut found = Vec::new();
        for number in 0..u16::try_from(count.min(6)).ok()? {
            let entry = at.checked_add(4)?.checked_add(number.checked_mul(8)?)?;
            let (capability, control) = (self.u32(entry)?, self.u32(entry.checked_add(4)?)?);
            // Bits 4 to 31 of the first register are 1M to 128T, bits 16 to 31 of the second 256T and more.
            let mask = u64::from(capability >> 4) | (u64::from(control >> 16) << 28);
            let size = |exponent: u32| Some(Size::new(1_u64.checked_shl(exponent.checked_add(20)?)?));
            found.push(ResizableBar {
                index: u8::try_from(control & 7).ok()?,
                current: size((control >> 8) & 0x3f),
                supported: (0..44).filter(|bit| mask & (1 << bit) != 0).filter_map(size).collect(),
            });
        }
        Some(found)
    }

    /// What a bridge (header type 1) forwards; `None` for anything else.
    pub fn bridge(&self) -> Option<BridgeRegisters> {
        if self.u8(0x0e)? & 0x7f != 1 {
            return None;
        }
        let window = |base: u64, last: u64| (base < last).then(|| (Address::new(base), Address::new(last)));

        let (io_base, io_limit) = (self.u8(0x1c)?, self.u8(0x1d)?);
        let io_upper = |offset| Some(if io_base & 0xf == 1 { u64::from(self.u16(offset)?) << 16 } else { 0 });
        let io = window(
            (u64::from(io_base & 0xf0) << 8) | io_upper(0x30)?,
            (u64::from(io_limit & 0xf0) << 8) | io_upper(0x32)? | 0xfff,
        );
        let megabytes = |offset| Some(u64::from(self.u16(offset)? & 0xfff0) << 16);
        let memory = window(megabytes(0x20)?, megabytes(0x22)? | 0xf_ffff);
        let wide = self.u16(0x24)? & 0xf == 1;
        let upper = |offset| Some(if wide { u64::from(self.u32(offset)?) << 32 } else { 0 });
        let prefetchable =
            window(megabytes(0x24)? | upper(0x28)?, megabytes(0x26)? | upper(0x2c)? | 0xf_ffff);
        // All zeros is what a bridge without the window reads as, not a window from zero.
        let real = |range: Option<(Address, Address)>| range.filter(|(start, _)| *start != Address::ZERO);
        Some(BridgeRegisters {
            secondary: self.u8(0x19)?,
            subordinate: self.u8(0x1a)?,
            io: real(io),
            memory: real(memory),
            prefetchable: real(prefetchable),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Bdf;

    fn image(length: usize, bytes: &[(usize, &[u8])]) -> ConfigSpace {
        let mut image = vec![0; length];
        for (offset, bytes) in bytes {
            image[*offset..][..bytes.len()].copy_from_slice(bytes);
        }
        ConfigSpace::new(image).unwrap()
    }

    #[test]
    fn an_image_shorter_than_a_header_is_refused() {
        assert!(ConfigSpace::new(vec![0; 63]).is_err());
        assert!(ConfigSpace::new(vec![0; 4097]).is_err());
    }

    #[test]
    fn msix_is_found_behind_another_capability() {
        let config = image(
            256,
            &[
                (0x06, &[0x10]),
                (0x34, &[0x40]),
                (0x40, &[0x01, 0x50]),
                (0x50, &[0x11, 0x00, 0x00, 0x80, 0x80, 0, 0, 0, 0x90, 0, 0, 0]),
            ],
        );
        let expected = MsiX { vectors: 1, table_bar: 0, table_offset: 0x80, pba_bar: 0, pba_offset: 0x90 };
        assert_eq!(config.msix(), Some(expected));
        assert_eq!((expected.table_size(), expected.pba_size()), (Size::new(16), Size::new(8)));
    }

    #[test]
    fn a_capability_list_that_runs_in_a_circle_ends() {
        let config = image(256, &[(0x06, &[0x10]), (0x34, &[0x40]), (0x40, &[0x01, 0x40])]);
        assert_eq!(config.msix(), None);
        let config = image(4096, &[(0x100, &[0x01, 0, 0x01, 0x10])]);
        assert_eq!(config.sriov(), None);
    }

    #[test]
    fn what_was_not_readable_is_unknown() {
        let config = image(64, &[(0x06, &[0x10]), (0x34, &[0x40])]);
        assert!(!config.has_capabilities());
        assert_eq!(config.msix(), None);
        assert_eq!(config.sriov(), None);
    }

    #[test]
    fn sriov_tells_its_functions_and_bars() {
        let config = image(
            4096,
            &[
                (0x100, &[0x10, 0, 0x01, 0]),
                (0x108, &[1, 0]),
                (0x10e, &[4, 0, 2, 0]),
                (0x114, &[6, 0, 1, 0]),
                (0x11a, &[0x20, 0x15, 0x53, 0x05, 0, 0, 1, 0, 0, 0]),
                (0x124, &[0, 0, 0x20, 0xf0]),
                (0x128, &[0x0c, 0, 0, 0, 1, 0, 0, 0]),
            ],
        );
        let sriov = config.sriov().unwrap();
        assert_eq!((sriov.total_vfs, sriov.num_vfs, sriov.first_offset, sriov.stride), (4, 2, 6, 1));
        assert_eq!((sriov.supported_page_sizes, sriov.system_page_size), (Some(0x553), Some(1)));
        assert_eq!(sriov.bars.len(), 2);
        assert_eq!((sriov.bars[0].index, sriov.bars[0].address), (0, Some(Address::new(0xf020_0000))));
        let wide = sriov.bars[1];
        assert_eq!((wide.index, wide.kind, wide.prefetch), (1, BarKind::Mem64, true));
        assert_eq!(wide.address, Some(Address::new(1 << 32)));
    }

    #[test]
    fn a_resizable_bar_tells_its_sizes() {
        let config = image(4096, &[(0x100, &[0x15, 0, 1, 0]), (0x104, &[0, 0xf0, 1, 0, 0x20, 8, 0, 0])]);
        let bars = config.resizable_bars();
        let gib = |count: u64| Size::new(count << 30);
        assert_eq!(bars.len(), 1);
        assert_eq!(bars[0].current, Some(Size::new(256 << 20)));
        assert_eq!(bars[0].supported, [Size::new(256 << 20), Size::new(512 << 20), gib(1), gib(2), gib(4)]);
    }

    #[test]
    fn a_bridge_forwards_what_its_windows_say() {
        let config = image(
            64,
            &[
                (0x0e, &[1]),
                (0x18, &[0, 1, 2]),
                (0x1c, &[0xf1, 0x01]),
                (0x20, &[0x00, 0xf8, 0xf0, 0xf9]),
                (0x24, &[0x01, 0, 0xf1, 0x0f, 0x40, 0, 0, 0, 0x41, 0, 0, 0]),
            ],
        );
        let bridge = config.bridge().unwrap();
        assert_eq!((bridge.secondary, bridge.subordinate), (1, 2));
        assert_eq!(bridge.io, None, "base above limit forwards nothing");
        assert_eq!(bridge.memory, Some((Address::new(0xf800_0000), Address::new(0xf9ff_ffff))));
        let prefetchable = (Address::new(0x40_0000_0000), Address::new(0x41_0fff_ffff));
        assert_eq!(bridge.prefetchable, Some(prefetchable));
        assert_eq!(image(64, &[]).bridge(), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_an_image_says_it_is_read_to_an_end(
            image in proptest::collection::vec(proptest::prelude::any::<u8>(), 64..=4096),
            capability in 0x40_u8..0xff,
            extended in proptest::sample::select(vec![0x10_u8, 0x15, 0x01]),
        ) {
            // Random bytes alone hardly ever name a capability that is looked for.
            let mut image = image;
            image[0x06] |= 0x10;
            image[0x34] = capability;
            image[0x0e] &= 1;
            for (offset, byte) in [(0x100, extended), (0x101, 0), (usize::from(capability & !3), 0x11)] {
                if let Some(place) = image.get_mut(offset) {
                    *place = byte;
                }
            }
            let config = ConfigSpace::new(image).unwrap();
            let msix = config.msix();
            proptest::prop_assert!(msix.is_none_or(|msix| msix.table_bar < 8 && msix.vectors <= 2048));
            let physical = Bdf::new(255, 31, 7).unwrap();
            let functions = config.sriov().map(|sriov| sriov.virtual_functions(physical).count());
            proptest::prop_assert!(functions.is_none_or(|count| count <= 65535));
            proptest::prop_assert!(config.resizable_bars().len() <= 6);
            let _ = config.bridge();
            for register in (0x10..0x28).step_by(4) {
                let _ = config.bar(register);
            }
        }
    }
}
