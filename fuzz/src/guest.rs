// SPDX-License-Identifier: LGPL-2.1-or-later
//! Guests that a machine can have, made of whatever bytes the fuzzer gives.

use arbitrary::Arbitrary;
use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::guest::{
    Guest, HostCpu, MMIO_HOLE_SIZE, MemoryMapEntry, MemoryRange, PLATFORM_BAR_UC, RESERVED_TYPE, Reserve,
};
use xen_pci_layout::pci::{Bar, BarKind, Bdf, Device, Sbdf, VirtualBar, VirtualFunctions};
use xen_pci_layout::planner::Options;

const M: u64 = 1 << 20;

/// A guest and what the caller asks for.
#[derive(Arbitrary, Debug)]
pub struct Request {
    ram: u32,
    phys_bits: u8,
    page: u8,
    passthrough: bool,
    platform_above: bool,
    reserve: Option<(u16, u32)>,
    hole: Option<u16>,
    cpu: Option<(bool, u8, u8)>,
    high_above: Option<u8>,
    resize_hole: bool,
    maps_containing_page: bool,
    accept_unaligned: bool,
    explain: bool,
    device_model: Vec<u16>,
    reserved: Vec<Reserved>,
    relaxed: Vec<Reserved>,
    bars: Vec<Wish>,
}

#[derive(Arbitrary, Debug)]
struct Reserved {
    above: bool,
    page: u32,
    pages: u16,
}

#[derive(Arbitrary, Debug)]
struct Wish {
    kind: u8,
    exponent: u8,
    prefetch: bool,
    /// Whether the BAR belongs to the function before, where that has a register left.
    same: bool,
    bus: u8,
    /// The host's address, in units of 256 bytes, for a passed-through function.
    host: Option<u16>,
    /// The function's virtual functions: how many, and each one's BAR.
    sriov: Option<(u8, bool, u8)>,
}

impl Request {
    /// The guest and the options.
    pub fn build(&self) -> (Guest, Options) {
        // Up to 16 TiB, what hvmloader can count; most guests are small.
        let ram = if self.ram & 1 == 0 { u64::from(self.ram >> 16) } else { u64::from(self.ram >> 9) } * M;
        let low = ram.min(0xf000_0000);
        let high = if ram > low { (1 << 32) + ram - low } else { 0 };
        let mut guest = Guest::new(low >> 12, high >> 12, 32 + self.phys_bits % 21);
        guest.page_size = Size::new([4096, 16384, 65536][usize::from(self.page) % 3]);
        guest.passthrough = self.passthrough;
        guest.reserve = self.reserve.map_or(Reserve::default(), |(low, high)| Reserve {
            low: Size::new(u64::from(low) << 16),
            high: Size::new(u64::from(high) << 16),
        });
        if let Some(hole) = self.hole {
            guest.xenstore.insert(MMIO_HOLE_SIZE.to_owned(), (u64::from(hole) << 17).to_string());
        }
        if self.platform_above {
            guest.xenstore.insert(PLATFORM_BAR_UC.to_owned(), "0".to_owned());
        }
        guest.cpu = self.cpu.map(|(amd, family, bits)| HostCpu {
            vendor: if amd { "AMD" } else { "Intel" }.to_owned(),
            family: family.into(),
            phys_bits: 32 + bits % 21,
        });
        guest.device_model_memory =
            self.device_model.iter().take(6).map(|pages| Size::new(u64::from(*pages) << 12)).collect();
        guest.memory_map = self.reserved.iter().take(8).map(Reserved::entry).collect();
        guest.relaxed_memory = self.relaxed.iter().take(4).map(Reserved::range).collect();
        guest.devices = devices(&self.bars);
        let options = Options {
            resize_hole: self.resize_hole,
            high_above: self.high_above.map(|exponent| Size::new(1 << (exponent % 48))),
            maps_containing_page: self.maps_containing_page,
            accept_unaligned: self.accept_unaligned,
            explain: self.explain,
            ..Options::default()
        };
        (guest, options)
    }
}

impl Reserved {
    fn entry(&self) -> MemoryMapEntry {
        let MemoryRange { addr, size } = self.range();
        MemoryMapEntry { addr, size, kind: RESERVED_TYPE }
    }

    fn range(&self) -> MemoryRange {
        let page = u64::from(self.page) << 12;
        // From 1 MiB on below 4 GiB, or somewhere in the first 64 TiB.
        let addr = if self.above { (1 << 32) + (page << 2) } else { M + page % ((1 << 32) - M) };
        MemoryRange { addr: Address::new(addr), size: Size::new(u64::from(self.pages) << 12) }
    }
}

fn bdf(bus: u8, slot: u8, function: u8) -> Bdf {
    Bdf::new(bus, slot, function).expect("slots are below 32 and functions below 8")
}

/// Bus 1 hangs off 00:1e.0, bus 2 off 01:00.0; a function is where its first BAR says.
fn devices(wishes: &[Wish]) -> Vec<Device> {
    let bridge = |at, above| {
        let mut bridge = Device::new(at, (0x1b36, 1), 0x0604);
        (bridge.header, bridge.bridge) = (1, above);
        bridge
    };
    let behind = [None, Some(bdf(0, 0x1e, 0)), Some(bdf(1, 0, 0))];
    let mut devices: Vec<Device> = Vec::new();
    let mut used = [16_u8, 8, 8];
    for wish in wishes {
        let kind = [BarKind::Mem32, BarKind::Mem64, BarKind::Rom, BarKind::Io, BarKind::Mem1m]
            [usize::from(wish.kind) % 5];
        let bus = match wish.bus {
            0..0xc0 => 0,
            0xc0..0xe0 => 1,
            _ => 2,
        };
        let register = devices.last().filter(|_| wish.same).and_then(|device| free_register(device, kind));
        if let (Some(reg), Some(device)) = (register, devices.last_mut()) {
            let bar = wish.bar(reg, kind, device.host.is_some());
            device.bars.push(bar);
            continue;
        }
        let at = used[bus];
        if at >= 0xe8 {
            continue;
        }
        used[bus] += 1;
        let mut device = Device::new(
            bdf(u8::try_from(bus).expect("of three"), at >> 3, at & 7),
            (0x1234, u16::from(wish.bus)),
            0x0200,
        );
        if at & 7 == 3 {
            (device.vendor, device.device) = (0x5853, 1);
        }
        device.bridge = behind[bus];
        device.host =
            wish.host.and_then(|_| format!("0000:3b:{:02x}.{}", at >> 3, at & 7).parse::<Sbdf>().ok());
        device.sriov = wish.sriov.map(|(more, wide, exponent)| VirtualFunctions {
            total_vfs: 1 + u16::from(more),
            bars: vec![VirtualBar {
                reg: 0x10,
                kind: if wide { BarKind::Mem64 } else { BarKind::Mem32 },
                size: Size::new(1 << (4 + exponent % 28)),
                prefetch: wide && wish.prefetch,
            }],
        });
        let reg = if kind == BarKind::Rom { 0x30 } else { 0x10 };
        let bar = wish.bar(reg, kind, device.host.is_some());
        device.bars.push(bar);
        devices.push(device);
    }
    devices.push(bridge(bdf(0, 0x1e, 0), None));
    devices.push(bridge(bdf(1, 0, 0), Some(bdf(0, 0x1e, 0))));
    // The last is the one that is taken out and attached: one with BARs, where there is one.
    devices.reverse();
    devices
}

/// The next register of a function that a BAR of that kind can have.
fn free_register(device: &Device, kind: BarKind) -> Option<u8> {
    if kind == BarKind::Rom {
        return device.bars.iter().all(|bar| bar.reg != 0x30).then_some(0x30);
    }
    let after = |bar: &Bar| bar.reg + if bar.kind == BarKind::Mem64 { 8 } else { 4 };
    let next = device.bars.iter().filter(|bar| bar.reg != 0x30).map(after).max().unwrap_or(0x10);
    (next + if kind == BarKind::Mem64 { 8 } else { 4 } <= 0x28).then_some(next)
}

impl Wish {
    fn bar(&self, reg: u8, kind: BarKind, host: bool) -> Bar {
        let (least, most) = match kind {
            BarKind::Io => (2, 15),
            BarKind::Rom => (11, 31),
            BarKind::Mem32 | BarKind::Mem1m => (4, 31),
            BarKind::Mem64 => (4, 52),
        };
        let size = 1_u64 << (least + self.exponent % (most - least + 1));
        let address = Address::new(0x40_0000_0000 + (u64::from(self.host.unwrap_or(0)) << 8));
        Bar {
            reg,
            kind,
            size: Size::new(size),
            prefetch: self.prefetch && kind != BarKind::Io && kind != BarKind::Rom,
            value: 0,
            io16: false,
            host_address: (host && kind.is_memory()).then(|| address.align_down(Size::new(size))),
        }
    }
}
