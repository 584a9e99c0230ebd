// SPDX-License-Identifier: LGPL-2.1-or-later
//! The text that `lspci -D -vv -nn` prints (pciutils: lspci.c, ls-caps.c, ls-ecaps.c).
//!
//! People paste it into mails and bug reports, so indentation is not relied on, what is not understood is passed
//! over, and text before the first device is too. A line that starts like one of those that matter and then goes on
//! differently is an error that names it: half a BAR list is worse than none.

use winnow::Parser as _;
use winnow::Result as Parsed;
use winnow::ascii::{dec_uint, hex_uint};
use winnow::combinator::{alt, delimited, opt, preceded, repeat, separated_pair, terminated};
use winnow::token::{rest, take_until, take_while};

use crate::address::{Address, Size};
use crate::pci::{Bar, BarKind, BridgeRegisters, MsiX, ResizableBar, Sbdf, SrIov, VfBar};
use crate::source::host::{Capabilities, HostDevice, UnsizedBar, register};

/// What is wrong with the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LspciError {
    pub(super) line: Option<usize>,
    pub(super) problem: String,
}

/// Which capability the lines being read belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Function,
    MsiX,
    SrIov { enabled: bool },
    ResizableBar,
    Other,
}

/// Reads all functions of the text.
///
/// # Errors
///
/// The first line that makes no sense, or that there is no device in the text.
pub(super) fn parse(text: &str) -> Result<Vec<HostDevice>, LspciError> {
    let mut devices: Vec<HostDevice> = Vec::new();
    let mut section = Section::Function;
    for (index, line) in text.lines().enumerate() {
        let line_number = index.saturating_add(1);
        let content = line.trim();
        let failed = |problem: String| LspciError { line: Some(line_number), problem };
        if let Some((sbdf, identity)) = slot(content) {
            if devices.iter().any(|device| device.sbdf == sbdf) {
                return Err(failed(format!("{sbdf} is there twice")));
            }
            devices.push(parse_identity(sbdf, identity).ok_or_else(|| {
                failed(format!("{sbdf}: no class, vendor and device numbers; let lspci print them with -nn"))
            })?);
            section = Section::Function;
        } else if let Some(device) = devices.last_mut() {
            let known = detail(device, &mut section, content);
            known.map_err(|problem| failed(format!("{}: {problem}: \"{content}\"", device.sbdf)))?;
        }
    }
    if devices.is_empty() {
        let problem = "no PCI function in it (\"0000:3b:00.0 Class [0302]: ...\"): is this lspci -D -vv -nn?";
        return Err(LspciError { line: None, problem: problem.to_owned() });
    }
    Ok(devices)
}

/// The address that starts a function's first line, and what follows.
fn slot(line: &str) -> Option<(Sbdf, &str)> {
    let (address, rest) = line.split_once(' ')?;
    Some((address.parse().ok()?, rest))
}

/// `Class name [0302]: Vendor Device [10de:20f1] (rev a1)`, or with -n alone `0302: 10de:20f1 (rev a1)`.
fn parse_identity(sbdf: Sbdf, text: &str) -> Option<HostDevice> {
    let (class, rest) = class.parse_peek(text).ok().map(|(rest, class)| (class, rest))?;
    // The numbers stand last; a device's name may have brackets of its own, and so has the programming interface.
    let numbered = |(at, _): (usize, &str)| {
        let (vendor, device) = bracketed_ids.parse_peek(rest.get(at..)?).ok()?.1;
        Some((vendor, device, rest.get(..at)?.trim()))
    };
    let plain = || bare_ids.parse_peek(rest).ok().map(|(_, (vendor, device))| (vendor, device, ""));
    let (vendor, device, name) = rest.rmatch_indices('[').find_map(numbered).or_else(plain)?;
    let mut found = HostDevice::new(sbdf, vendor, device, class);
    found.interface =
        rest.rsplit_once("(prog-if ").and_then(|(_, text)| u8::from_str_radix(text.get(..2)?, 16).ok());
    found.device.model = (!name.is_empty()).then(|| name.to_owned());
    Some(found)
}

fn hex16(input: &mut &str) -> Parsed<u16> {
    take_while(4, |c: char| c.is_ascii_hexdigit()).and_then(hex_uint).parse_next(input)
}

fn class(input: &mut &str) -> Parsed<u16> {
    let named = preceded((take_until(0.., " ["), " ["), terminated(hex16, "]: "));
    alt((terminated(hex16, ": "), named)).parse_next(input)
}

fn bare_ids(input: &mut &str) -> Parsed<(u16, u16)> {
    separated_pair(hex16, ':', hex16).parse_next(input)
}

fn bracketed_ids(input: &mut &str) -> Parsed<(u16, u16)> {
    delimited('[', bare_ids, ']').parse_next(input)
}

/// Reads one line of a function's details; the error says what it should have been.
fn detail(device: &mut HostDevice, section: &mut Section, line: &str) -> Result<(), &'static str> {
    let whole = |understood: bool, expected| if understood { Ok(()) } else { Err(expected) };
    if let Some(text) = line.strip_prefix("Capabilities: ") {
        *section = start_capability(device, text);
        return Ok(());
    }
    // What the kernel adds stands below all capabilities.
    if line.starts_with("Kernel ") {
        *section = Section::Function;
    }
    match *section {
        Section::MsiX if line.starts_with("Vector table:") || line.starts_with("PBA:") => {
            return whole(msix_place(device, line).is_some(), "a BAR's number and an offset expected");
        }
        Section::SrIov { ref mut enabled } => {
            let understood = sriov_line(device, enabled, line);
            return whole(understood.is_some(), "a line of an SR-IOV capability expected");
        }
        Section::ResizableBar if line.starts_with("BAR ") => {
            return match resizable.parse(line) {
                Ok(bar) => {
                    device.resizable.push(bar);
                    Ok(())
                }
                Err(_) => Err("a resizable BAR's sizes expected"),
            };
        }
        _ => {}
    }
    if line.starts_with("Region ") {
        let region = region.parse(line).map_err(|_| "a region's kind, address and size expected")?;
        add_region(device, &region)
            .ok_or("a region has a number from 0 to 5 and a size that is a power of two")
    } else if let Some(text) = line.strip_prefix("Expansion ROM at ") {
        let place = place.parse(text).map_err(|_| "a ROM's address and size expected")?;
        add_rom(device, &place).ok_or("a ROM's size is a power of two")
    } else if let Some(text) = line.strip_prefix("Bus: ") {
        let numbers =
            bus_numbers.parse_peek(text).map_err(|_| "primary, secondary and subordinate expected")?.1;
        device.bridge = Some(BridgeRegisters {
            secondary: numbers.0,
            subordinate: numbers.1,
            io: None,
            memory: None,
            prefetchable: None,
        });
        device.device.header = 1;
        Ok(())
    } else if let Some((name, text)) = line.split_once(" behind bridge:") {
        let window = window.parse_peek(text.trim()).map_err(|_| "a bridge's window expected")?.1;
        let Some(bridge) = &mut device.bridge else { return Err("a window without bus numbers before it") };
        match name {
            "I/O" => bridge.io = window,
            "Memory" => bridge.memory = window,
            "Prefetchable memory" => bridge.prefetchable = window,
            _ => {}
        }
        Ok(())
    } else {
        other_line(device, line);
        Ok(())
    }
}

fn start_capability(device: &mut HostDevice, text: &str) -> Section {
    if text.starts_with("<access denied>") {
        device.capabilities = Capabilities::Unreadable;
        return Section::Other;
    }
    let name = text.split_once("] ").map_or(text, |(_, name)| name);
    if let Some(text) = name.strip_prefix("MSI-X:") {
        let vectors = text.split_whitespace().find_map(|word| word.strip_prefix("Count=")?.parse().ok());
        device.msix =
            vectors.map(|vectors| MsiX { vectors, table_bar: 0, table_offset: 0, pba_bar: 0, pba_offset: 0 });
        Section::MsiX
    } else if name.starts_with("Single Root I/O Virtualization") {
        device.sriov = Some(SrIov {
            total_vfs: 0,
            num_vfs: 0,
            first_offset: 0,
            stride: 0,
            vf_device: 0,
            supported_page_sizes: None,
            system_page_size: None,
            bars: Vec::new(),
        });
        Section::SrIov { enabled: false }
    } else if name.starts_with("Physical Resizable BAR") || name.starts_with("Resizable BAR") {
        Section::ResizableBar
    } else {
        Section::Other
    }
}

/// `Vector table: BAR=0 offset=00002000`, `PBA: BAR=0 offset=00003000`.
fn msix_place(device: &mut HostDevice, line: &str) -> Option<()> {
    let msix = device.msix.as_mut()?;
    let (name, text) = line.split_once(": ")?;
    let mut place = separated_pair(
        preceded::<_, _, u8, winnow::error::ContextError, _, _>("BAR=", dec_uint),
        ' ',
        preceded("offset=", hex_uint::<_, u32, _>),
    );
    let (bar, offset) = place.parse(text).ok()?;
    match name {
        "PBA" => (msix.pba_bar, msix.pba_offset) = (bar, offset),
        _ => (msix.table_bar, msix.table_offset) = (bar, offset),
    }
    Some(())
}

/// A line of an SR-IOV capability; its regions are the VFs', without sizes.
fn sriov_line(device: &mut HostDevice, enabled: &mut bool, line: &str) -> Option<()> {
    let sriov = device.sriov.as_mut()?;
    if line.starts_with("Region ") {
        let region = region.parse(line).ok()?;
        let address = region.place.address.filter(|address| *address != Address::ZERO);
        let (kind, prefetch, size) = (region.kind, region.prefetch, region.place.size);
        sriov.bars.push(VfBar { index: region.index, kind, prefetch, address, size });
        return Some(());
    }
    if let Some(control) = line.strip_prefix("IOVCtl:") {
        *enabled = control.trim().starts_with("Enable+");
    }
    let hex = |value| u32::from_str_radix(value, 16).ok();
    for (name, value) in line.split(", ").filter_map(|part| part.split_once(": ")) {
        match name {
            "Total VFs" => sriov.total_vfs = value.parse().ok()?,
            "Number of VFs" if *enabled => sriov.num_vfs = value.parse().ok()?,
            "VF offset" => sriov.first_offset = value.parse().ok()?,
            "stride" => sriov.stride = value.parse().ok()?,
            "Device ID" => sriov.vf_device = u16::try_from(hex(value)?).ok()?,
            "Supported Page Size" => sriov.supported_page_sizes = Some(hex(value)?),
            "System Page Size" => sriov.system_page_size = Some(hex(value)?),
            _ => {}
        }
    }
    Some(())
}

/// What is said on the remaining lines, as far as it matters.
fn other_line(device: &mut HostDevice, line: &str) {
    let Some((name, text)) = line.split_once(':') else { return };
    let text = text.trim();
    match name {
        "NUMA node" => device.numa_node = text.parse().ok(),
        "Kernel driver in use" => device.driver = Some(text.to_owned()),
        "Control" => {
            let set = |flag: &str, bit: u16| if text.split(' ').any(|word| word == flag) { bit } else { 0 };
            device.device.command = set("I/O+", 1) | set("Mem+", 2) | set("BusMaster+", 4);
        }
        "Interrupt" => {
            let mut letters = text.strip_prefix("pin ").unwrap_or_default().bytes();
            if let Some(letter @ b'A'..=b'D') = letters.next() {
                device.device.int_pin = (letter & 0x1f).min(4);
            }
        }
        _ => {}
    }
}

/// Where something is, as lspci says it after "at".
struct Place {
    address: Option<Address>,
    /// The operating system knows it, the device's register does not show it.
    is_virtual: bool,
    size: Option<Size>,
}

/// A line that starts with "Region".
struct Region {
    index: u8,
    kind: BarKind,
    prefetch: bool,
    place: Place,
}

fn region(input: &mut &str) -> Parsed<Region> {
    let index = delimited("Region ", dec_uint, ": ").parse_next(input)?;
    let is_io = alt(("I/O ports at ".value(true), "Memory at ".value(false))).parse_next(input)?;
    let address = address.parse_next(input)?;
    let (kind, prefetch) =
        if is_io { (BarKind::Io, false) } else { preceded(' ', memory_kind).parse_next(input)? };
    let (is_virtual, size) = attributes.parse_next(input)?;
    Ok(Region { index, kind, prefetch, place: Place { address, is_virtual, size } })
}

fn place(input: &mut &str) -> Parsed<Place> {
    let address = address.parse_next(input)?;
    let (is_virtual, size) = attributes.parse_next(input)?;
    Ok(Place { address, is_virtual, size })
}

/// `f7c00000`, or `<unassigned>`, `<ignored>`, `<broken-64-bit-slot>`.
fn address(input: &mut &str) -> Parsed<Option<Address>> {
    let none = ('<', take_while(1.., |c: char| c.is_ascii_alphanumeric() || c == '-'), '>').value(None);
    alt((none, hex_uint.map(|address| Some(Address::new(address))))).parse_next(input)
}

/// `(64-bit, prefetchable)`; of the reserved type 3 Linux makes a 32-bit BAR.
fn memory_kind(input: &mut &str) -> Parsed<(BarKind, bool)> {
    let kind = alt((
        "64-bit".value(BarKind::Mem64),
        "low-1M".value(BarKind::Mem1m),
        alt(("32-bit", "type 3")).value(BarKind::Mem32),
    ));
    let prefetch = alt(("non-prefetchable".value(false), "prefetchable".value(true)));
    delimited('(', separated_pair(kind, ", ", prefetch), ')').parse_next(input)
}

/// ` [disabled] [size=256M]`, in whatever order; what else stands in brackets says nothing about place or size.
fn attributes(input: &mut &str) -> Parsed<(bool, Option<Size>)> {
    let one = delimited(" [", alt((size.map(|size| (false, Some(size))), flag)), ']');
    repeat(0.., one)
        .fold(
            || (false, None),
            |(is_virtual, size): (bool, Option<Size>), (flag, found)| (is_virtual || flag, size.or(found)),
        )
        .parse_next(input)
}

fn flag(input: &mut &str) -> Parsed<(bool, Option<Size>)> {
    take_until(1.., "]")
        .verify(|word: &str| !word.starts_with("size="))
        .map(|word: &str| (word == "virtual", None))
        .parse_next(input)
}

fn size(input: &mut &str) -> Parsed<Size> {
    preceded("size=", amount).parse_next(input)
}

/// A number and a binary unit: `256M`, `16G`, `128`, `256MB`.
fn amount(input: &mut &str) -> Parsed<Size> {
    let unit =
        alt(("K".value(10), "M".value(20), "G".value(30), "T".value(40), "P".value(50), "E".value(60)));
    let shift = terminated(opt(unit), opt("B")).map(|shift: Option<u32>| shift.unwrap_or(0));
    (dec_uint, shift)
        .verify_map(|(count, shift): (u64, u32)| Size::new(count).checked_mul(1_u64.checked_shl(shift)?))
        .parse_next(input)
}

/// `BAR 0: current size: 256MB, supported: 256MB 512MB 1GB`.
fn resizable(input: &mut &str) -> Parsed<ResizableBar> {
    let index = delimited("BAR ", dec_uint, ": current size: ").parse_next(input)?;
    let current = amount.parse_next(input)?;
    let supported = opt(preceded(", supported: ", rest)).parse_next(input)?.unwrap_or_default();
    let supported = supported.split_ascii_whitespace().filter_map(|text| amount.parse(text).ok()).collect();
    Ok(ResizableBar { index, current: Some(current), supported })
}

/// `primary=00, secondary=01, subordinate=02`.
fn bus_numbers(input: &mut &str) -> Parsed<(u8, u8)> {
    let _primary: u8 = preceded("primary=", hex_uint).parse_next(input)?;
    let secondary = preceded(", secondary=", hex_uint).parse_next(input)?;
    let subordinate = preceded(", subordinate=", hex_uint).parse_next(input)?;
    Ok((secondary, subordinate))
}

/// `f8000000-f9ffffff [size=32M]`, or `[disabled]`, `None`, with or without the numbers; from zero is none either.
fn window(input: &mut &str) -> Parsed<Option<(Address, Address)>> {
    let numbers = separated_pair(hex_uint::<_, u64, _>, '-', hex_uint::<_, u64, _>);
    let (numbers, text) = (opt(numbers), rest).parse_next(input)?;
    let disabled = text.contains("[disabled]") || text.contains("[empty]");
    Ok(numbers
        .filter(|(first, last)| !disabled && *first != 0 && first < last)
        .map(|(first, last)| (Address::new(first), Address::new(last))))
}

fn add_region(device: &mut HostDevice, region: &Region) -> Option<()> {
    let reg = register(region.index)?;
    // The ports of an IDE controller in compatibility mode are fixed, and no BARs; older lspci calls them memory.
    let compatibility = device.device.class == 0x0101 && region.place.is_virtual && region.index < 4;
    if compatibility {
        return Some(());
    }
    // What the kernel knows and no register shows is a virtual function's.
    device.is_virtual_function |= region.place.is_virtual && region.kind != BarKind::Io;
    let (kind, address) = (region.kind, region.place.address);
    match region.place.size {
        None => device.unsized_bars.push(UnsizedBar { reg, kind, address }),
        Some(size) if size.is_power_of_two() => device.device.bars.push(Bar {
            reg,
            kind,
            size,
            prefetch: region.prefetch,
            value: 0,
            io16: false,
            host_address: address,
        }),
        Some(_) => return None,
    }
    Some(())
}

fn add_rom(device: &mut HostDevice, place: &Place) -> Option<()> {
    if device.bridge.is_some() {
        return Some(());
    }
    let (reg, kind, address) = (0x30, BarKind::Rom, place.address);
    // The kernel shows the firmware's copy below 1 MiB where the device's own ROM has no address.
    device.shadow_rom = place.is_virtual && address.is_some_and(|address| address < Address::new(1 << 20));
    match place.size {
        None => device.unsized_bars.push(UnsizedBar { reg, kind, address }),
        Some(size) if size.is_power_of_two() => device.device.bars.push(Bar {
            reg,
            kind,
            size,
            prefetch: false,
            value: 0,
            io16: false,
            host_address: address,
        }),
        Some(_) => return None,
    }
    Some(())
}
