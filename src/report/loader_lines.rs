// SPDX-License-Identifier: LGPL-2.1-or-later
//! A layout as hvmloader's own log lines and as the keys that a loader reads.

use std::io::{self, Write};

use crate::layout::{Layout, PlacedBar};
use crate::pci::BarKind;
use crate::xenstore::schema::Key;

/// Writes a `pci dev SS:F bar RR size SIZE: VALUE` line for each BAR on bus 0, as `xl dmesg` shows them after a loader
/// has programmed the layout: the largest first, ties by function and register.
pub fn pci_dev(out: &mut dyn Write, layout: &Layout) -> io::Result<()> {
    let mut bars: Vec<&PlacedBar> = layout.bars.iter().filter(|bar| bar.bdf.bus() == 0).collect();
    bars.sort_by(|a, b| b.size.cmp(&a.size).then(a.bdf.cmp(&b.bdf)).then(a.reg.cmp(&b.reg)));
    for bar in bars {
        let (slot, function) = (bar.bdf.slot(), bar.bdf.function());
        let (size, value) = (bar.size.get(), bar.address.get() | type_bits(bar));
        // hvmloader prints 64 bits as the upper half without, the lower with leading zeros: at least nine digits.
        writeln!(out, "pci dev {slot:02x}:{function:x} bar {:02x} size {size:09x}: {value:09x}", bar.reg)?;
    }
    Ok(())
}

/// The low bits of the register: what kind of BAR it is (PCI Local Bus Specification 3.0, section 6.2.5.1).
fn type_bits(bar: &PlacedBar) -> u64 {
    let prefetch = if bar.prefetch { 8 } else { 0 };
    match bar.kind {
        BarKind::Io => 1,
        BarKind::Rom => 0,
        BarKind::Mem32 => prefetch,
        BarKind::Mem1m => prefetch | 2,
        BarKind::Mem64 => prefetch | 4,
    }
}

/// Writes the loader's keys, named from the domain's own directory.
pub fn keys(out: &mut dyn Write, keys: &[Key]) -> io::Result<()> {
    keys.iter().try_for_each(|key| writeln!(out, "hvmloader/pci/layout/{} = \"{}\"", key.name, key.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Address, Size};

    #[test]
    fn lines_are_those_of_a_recorded_loader() {
        let bar = |bdf: &str, reg, kind, size, prefetch, address| PlacedBar {
            caching: crate::pci::Caching::Unknown,
            bdf: bdf.parse().unwrap(),
            reg,
            kind,
            size: Size::new(size),
            prefetch,
            address: Address::new(address),
            host: None,
        };
        let mut layout = Layout::default();
        layout.bars = vec![
            bar("00:02.0", 0x10, BarKind::Io, 256, false, 0xc000),
            bar("00:02.0", 0x14, BarKind::Mem32, 16 << 20, true, 0xf200_0000),
            bar("00:04.0", 0x18, BarKind::Mem64, 1 << 30, true, 1 << 32),
        ];
        let mut out = Vec::new();
        pci_dev(&mut out, &layout).unwrap();
        // From Xen 4.17.7's log of a guest with pci-testdev,membar=1G.
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "pci dev 04:0 bar 18 size 040000000: 10000000c\n\
             pci dev 02:0 bar 14 size 001000000: 0f2000008\n\
             pci dev 02:0 bar 10 size 000000100: 00000c001\n"
        );
    }
}
