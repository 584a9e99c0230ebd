// SPDX-License-Identifier: LGPL-2.1-or-later
//! The memory that a guest's QEMU has, out of `info ramblock`.
//!
//! Under Xen a block's offset is a guest-physical address: xen_ram_alloc populates the guest there. All RAM is one block,
//! `xen.ram`; the others are QEMU's own, such as video RAM and option ROMs.

use crate::address::{Address, Range, Size};

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamBlock {
    /// QEMU's name for it, such as `0000:00:02.0/cirrus_vga.rom`.
    pub name: String,
    /// Where the guest has it.
    pub range: Range,
}

impl RamBlock {
    /// Whether it is the guest's RAM (xen_ram_init).
    pub fn is_ram(&self) -> bool {
        self.name == "xen.ram"
    }
}

/// The blocks of `info ramblock`'s answer: a heading, then lines of name, page size, offset, bytes used, bytes in all.
///
/// # Errors
///
/// The line that is no block.
pub fn parse(text: &str) -> Result<Vec<RamBlock>, String> {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Block Name"));
    lines.map(|line| block(line).ok_or_else(|| format!("\"{line}\" is no block of memory"))).collect()
}

fn block(line: &str) -> Option<RamBlock> {
    // The page size is a number and its unit.
    let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("0x"));
    let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let (offset, _used, total) = (number()?, number()?, number()?);
    Some(RamBlock {
        name: line.split_whitespace().next()?.to_owned(),
        range: Range::sized(Address::new(offset), Size::new(total))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_qemu_7_2_and_8_2_print_them() {
        let old = "              Block Name    PSize              Offset               Used              Total\n\
                   \x20                xen.ram    4 KiB  0x0000000000000000 0x0000000140000000 0x0000000140000000\n\
                   \x200000:00:03.0/vga.vram    4 KiB  0x0000000140000000 0x0000000000800000 0x0000000000800000\n";
        let new = "              Block Name    PSize              Offset               Used              Total                HVA  RO\n\
                   \x200000:00:03.0/vga.rom    4 KiB  0x0000000140800000 0x0000000000010000 0x0000000000010000 0x00007f0000000000  ro\n";
        let blocks = parse(old).unwrap();
        assert!(blocks[0].is_ram() && !blocks[1].is_ram());
        assert_eq!(blocks[1].name, "0000:00:03.0/vga.vram");
        assert_eq!(blocks[1].range.to_string(), "0x140000000-0x1407fffff");
        assert_eq!(parse(new).unwrap()[0].range.to_string(), "0x140800000-0x14080ffff");
        assert!(parse("unknown command: 'info ramblock'").is_err());
    }
}
