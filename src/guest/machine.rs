// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the machine fixes: the hole's limits, the platform's own regions, AMD's HyperTransport hole.

use serde::{Deserialize, Serialize};

use super::Guest;
use crate::address::{Address, Range, Size};

/// The hole that libxl leaves where nobody asks for another: 4 GiB - 0xf0000000 (HVM_BELOW_4G_MMIO_LENGTH).
pub const DEFAULT_HOLE: Size = Size::new(256 << 20);
/// The smallest hole that xl and hvmloader take.
pub const SMALLEST_HOLE: Size = DEFAULT_HOLE;
/// The largest hole that xl takes: `mmio_hole=3840`.
pub const LARGEST_HOLE: Size = Size::new(3840 << 20);
/// RAM's border moves in superpages, so the hole does too.
pub const HOLE_GRANULARITY: Size = Size::new(2 << 20);

/// The platform's own regions below 4 GiB: from 0xfc000000 on (hvmloader's config.h, PCI_MEM_END: special pages,
/// ACPI data, I/O APIC, HPET, LAPIC, firmware).
pub const FIXED_REGIONS: Address = Address::new(0xfc00_0000);

/// The page sizes that a guest or its host may have.
pub const PAGE_SIZES: [Size; 3] = [Size::new(4 << 10), Size::new(16 << 10), Size::new(64 << 10)];

/// The widest physical addresses that a processor has, bits.
pub const WIDEST: u8 = 52;

/// The ports that hvmloader gives to BARs: 0xc000 to 0xffff (pci.c, io_resource).
pub const IO_WINDOW: (Address, Address) = (Address::new(0xc000), Address::new(0x1_0000));

/// The host's processor, as far as it decides which addresses a device can reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostCpu {
    /// "AMD", "Intel", or CPUID's own "AuthenticAMD", "GenuineIntel".
    pub vendor: String,
    /// The family, the extended one added (0x17 is 23).
    pub family: u32,
    /// The host's physical address width in bits.
    pub phys_bits: u8,
}

impl HostCpu {
    /// The HyperTransport hole: addresses that never reach memory or a device on AMD hosts.
    ///
    /// As Xen's dom0_build.c treats it: the top 12 GiB below 1 << 40 before family 17h, and from 17h the top 12 GiB
    /// below the host's physical width. Hygon's processors are AMD's family 17h.
    pub fn hypertransport_hole(&self) -> Option<Range> {
        let vendor = self.vendor.to_ascii_lowercase();
        if !(vendor.contains("amd") || vendor.contains("hygon")) {
            return None;
        }
        let bits = if self.family < 0x17 { 40 } else { u32::from(self.phys_bits) };
        let end = Address::new(1_u64.checked_shl(bits)?);
        Range::new(end.checked_sub(Size::new(12 << 30))?, end)
    }
}

impl Guest {
    /// What no BAR may touch because the host's processor swallows it.
    pub fn hypertransport_hole(&self) -> Option<Range> {
        self.cpu.as_ref().and_then(HostCpu::hypertransport_hole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(vendor: &str, family: u32, phys_bits: u8) -> Option<(u64, u64)> {
        let cpu = HostCpu { vendor: vendor.to_owned(), family, phys_bits };
        cpu.hypertransport_hole().map(|range| (range.start().get(), range.end().get()))
    }

    #[test]
    fn hypertransport_hole_follows_the_family() {
        assert_eq!(hole("AMD", 0x15, 48), Some((0xfd_0000_0000, 0x100_0000_0000)));
        assert_eq!(hole("AuthenticAMD", 0x17, 48), Some((0xfffd_0000_0000, 0x1_0000_0000_0000)));
        assert_eq!(hole("AMD", 0x19, 43), Some((0x7fd_0000_0000, 0x800_0000_0000)));
        assert_eq!(hole("Intel", 6, 46), None);
    }

    #[test]
    fn a_width_that_cannot_be_is_no_hole() {
        assert_eq!(hole("AMD", 0x17, 32), None, "12 GiB do not fit below 4 GiB");
        assert_eq!(hole("AMD", 0x17, 200), None);
    }
}
