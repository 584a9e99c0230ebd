// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a host's processor and firmware say about addresses: `cpuinfo`, and the ACPI tables of its IOMMUs.
//!
//! DMAR (Intel, VT-d specification, chapter 8) and IVRS (AMD, I/O Virtualization specification, chapter 5) carry the
//! IOMMU's address width and the reserved device memory. The tables are root's; where they cannot be read nothing is
//! known, which is no error: Xen, where it runs, is asked instead.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::address::{Address, Range};
use crate::guest::HostCpu;
use crate::pci::{Bdf, Sbdf};
use crate::source::host::{HostError, ReservedMemory};

/// What is known of the platform.
#[derive(Default)]
pub(super) struct Platform {
    pub(super) cpu: Option<HostCpu>,
    pub(super) iommu_bits: Option<u8>,
    pub(super) reserved_memory: Vec<ReservedMemory>,
}

/// Reads what is there of both.
///
/// # Errors
///
/// If what is there makes no sense.
pub(super) fn read(cpuinfo: &Path, tables: &Path, live: bool) -> Result<Platform, HostError> {
    let mut platform = Platform::default();
    if let Some(bytes) = bytes(cpuinfo, live)? {
        platform.cpu = parse_cpuinfo(&String::from_utf8_lossy(&bytes));
    }
    type Parser = fn(&[u8]) -> Option<(u8, Vec<ReservedMemory>)>;
    for (name, parse) in [("DMAR", parse_dmar as Parser), ("IVRS", parse_ivrs)] {
        let file = tables.join(name);
        let Some(bytes) = bytes(&file, live)? else { continue };
        let (bits, memory) = parse(&bytes).ok_or_else(|| HostError::Malformed {
            file,
            line: None,
            problem: format!("is no ACPI table {name}, or is cut off"),
        })?;
        platform.iommu_bits = Some(platform.iommu_bits.map_or(bits, |other| other.min(bits)));
        platform.reserved_memory.extend(memory);
    }
    Ok(platform)
}

/// A file's content; `None` if there is none, or if it is not for us.
fn bytes(file: &Path, live: bool) -> Result<Option<Vec<u8>>, HostError> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(problem) if matches!(problem.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            Ok(None)
        }
        Err(problem) => Err(HostError::Unreadable { file: file.to_owned(), problem, live }),
    }
}

/// The first processor of `/proc/cpuinfo`; `None` where it has not the lines of an x86 one.
fn parse_cpuinfo(text: &str) -> Option<HostCpu> {
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then_some(value.trim())
        })
    };
    Some(HostCpu {
        vendor: value("vendor_id")?.to_owned(),
        family: value("cpu family")?.parse().ok()?,
        phys_bits: value("address sizes")?.split_whitespace().next()?.parse().ok()?,
    })
}

fn number(table: &[u8], offset: usize, length: usize) -> Option<u64> {
    let bytes = table.get(offset..offset.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

/// The table without what follows its own length, if it has that signature and is whole.
fn table<'a>(bytes: &'a [u8], signature: &[u8; 4]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(bytes, 4, 4)?).ok()?;
    bytes.starts_with(signature).then(|| bytes.get(..length))?
}

/// The structures of a table from `offset` on; `length` says where a structure keeps its length, and in how many bytes.
fn structures(table: &[u8], offset: usize, length: (usize, usize)) -> impl Iterator<Item = Option<&[u8]>> {
    let mut at = offset;
    std::iter::from_fn(move || {
        let rest = table.get(at..).filter(|rest| !rest.is_empty())?;
        let size = number(rest, length.0, length.1).and_then(|size| usize::try_from(size).ok());
        let whole = size.filter(|size| *size >= 4).and_then(|size| rest.get(..size));
        at = match whole {
            Some(structure) => at.saturating_add(structure.len()),
            None => table.len(),
        };
        Some(whole)
    })
}

fn parse_dmar(bytes: &[u8]) -> Option<(u8, Vec<ReservedMemory>)> {
    let table = table(bytes, b"DMAR")?;
    let bits = u8::try_from(number(table, 36, 1)?.checked_add(1)?).ok()?;
    let mut memory = Vec::new();
    for structure in structures(table, 48, (2, 2)) {
        let structure = structure?;
        const RMRR: u64 = 1;
        if number(structure, 0, 2)? != RMRR {
            continue;
        }
        let segment = u32::try_from(number(structure, 6, 2)?).ok()?;
        let range = Range::new(
            Address::new(number(structure, 8, 8)?),
            Address::new(number(structure, 16, 8)?.checked_add(1)?),
        )?;
        let mut devices = Vec::new();
        let mut scopes = structure.get(24..)?;
        while let Some(size) = scopes.get(1).map(|size| usize::from(*size)).filter(|size| *size >= 6) {
            let scope = scopes.get(..size)?;
            // A longer path goes through bridges, whose bus numbers are not in the table.
            if let [1, 8, _, _, _, bus, slot, function] = *scope {
                devices.extend(Bdf::new(bus, slot, function).map(|bdf| Sbdf { segment, bdf }));
            }
            scopes = scopes.get(size..)?;
        }
        memory.push(ReservedMemory { range, devices });
    }
    Some((bits, memory))
}

fn parse_ivrs(bytes: &[u8]) -> Option<(u8, Vec<ReservedMemory>)> {
    let table = table(bytes, b"IVRS")?;
    let bits = u8::try_from((number(table, 36, 4)? >> 8) & 0x7f).ok()?;
    let mut memory = Vec::new();
    for structure in structures(table, 48, (2, 2)) {
        let structure = structure?;
        let kind = number(structure, 0, 1)?;
        const MEMORY_FOR_ALL: u64 = 0x20;
        const MEMORY_FOR_ONE: u64 = 0x21;
        const MEMORY_FOR_SOME: u64 = 0x22;
        if !matches!(kind, MEMORY_FOR_ALL | MEMORY_FOR_ONE | MEMORY_FOR_SOME) {
            continue;
        }
        let start = Address::new(number(structure, 16, 8)?);
        let range = Range::sized(start, crate::address::Size::new(number(structure, 24, 8)?))?;
        let one = || {
            let id = number(structure, 4, 2)?;
            let part = |shift: u32, mask: u64| u8::try_from((id >> shift) & mask).ok();
            let bdf = Bdf::new(part(8, 0xff)?, part(3, 0x1f)?, part(0, 7)?)?;
            Some(Sbdf { segment: 0, bdf })
        };
        let devices = if kind == MEMORY_FOR_ONE { one().into_iter().collect() } else { Vec::new() };
        memory.push(ReservedMemory { range, devices });
    }
    Some((bits, memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acpi(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut table = signature.to_vec();
        table.extend([0; 32]);
        table.extend(body);
        table[4] = u8::try_from(table.len()).unwrap();
        table
    }

    fn dmar() -> Vec<u8> {
        let mut body = vec![45, 1];
        body.extend([0; 10]);
        body.extend([1, 0, 32, 0, 0, 0, 0, 0]);
        body.extend(0x7d80_0000_u64.to_le_bytes());
        body.extend(0x7fff_ffff_u64.to_le_bytes());
        body.extend([1, 8, 0, 0, 0, 0, 2, 0]);
        acpi(b"DMAR", &body)
    }

    #[test]
    fn dmar_tells_width_and_reserved_memory() {
        let (bits, memory) = parse_dmar(&dmar()).unwrap();
        assert_eq!(bits, 46);
        let range = Range::new(Address::new(0x7d80_0000), Address::new(0x8000_0000)).unwrap();
        assert_eq!(memory, [ReservedMemory { range, devices: vec!["0000:00:02.0".parse().unwrap()] }]);
    }

    #[test]
    fn ivrs_tells_width_and_unity_mapped_memory() {
        let mut body = (48_u32 << 8).to_le_bytes().to_vec();
        body.extend([0; 8]);
        body.extend([0x21, 8, 32, 0, 0x08, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        body.extend(0xa000_0000_u64.to_le_bytes());
        body.extend(0x10_0000_u64.to_le_bytes());
        let (bits, memory) = parse_ivrs(&acpi(b"IVRS", &body)).unwrap();
        assert_eq!(bits, 48);
        assert_eq!(memory.len(), 1);
        assert_eq!(memory[0].range.to_string(), "0xa0000000-0xa00fffff");
        assert_eq!(memory[0].devices, ["0000:01:01.0".parse().unwrap()]);
    }

    #[test]
    fn a_table_cut_anywhere_is_malformed_not_misread() {
        let whole = dmar();
        for length in 0..whole.len() {
            assert!(parse_dmar(&whole[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn cpuinfo_tells_vendor_family_and_width() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n\
                    address sizes\t: 48 bits physical, 48 bits virtual\n";
        let cpu = HostCpu { vendor: "AuthenticAMD".to_owned(), family: 25, phys_bits: 48 };
        assert_eq!(parse_cpuinfo(text), Some(cpu));
        assert_eq!(parse_cpuinfo("Processor : ARMv8\n"), None);
    }
}
