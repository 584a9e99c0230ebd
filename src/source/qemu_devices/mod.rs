// SPDX-License-Identifier: LGPL-2.1-or-later
//! The PCI devices that QEMU emulates: their identities, their BARs, the memory they make QEMU populate.
//!
//! The rows of [`table`] are what QMP's `query-pci` and HMP's `info ramblock` say of QEMU 7.2 (Debian's), and a
//! stage of the tests asks a QEMU again. `xenfv`, the machine that xl starts, is a machine of QEMU 3.1 in what it
//! promises to guests, `pc` (xl's `xen_platform_pci=0`) is the newest: a few devices differ. A device that is not in the
//! table can be asked of a QEMU ([`ask`]).

pub mod arguments;
pub mod ask;
mod properties;
mod table;

pub use properties::Properties;
pub use table::MODELS;

use crate::address::Size;
use crate::pci::{Bar, BarKind, Bdf, Device, RawRegister};

/// The machine that xl starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// `xenfv`: with the Xen platform device, and with QEMU 3.1's promises.
    XenFv,
    /// `pc`: without it, and with the newest ones.
    Pc,
}

/// One BAR as a row of the table gives it: register, kind, size in bytes, prefetchable.
pub(crate) type BarRow = (u8, BarKind, u64, bool);

/// One model that QEMU emulates.
#[derive(Debug)]
pub struct Model {
    /// Its name in `-device`, then its aliases.
    pub names: &'static [&'static str],
    /// Vendor and device ID.
    pub id: (u16, u16),
    /// Base class and subclass.
    pub class: u16,
    /// The interrupt pin, 0 for none.
    pub int_pin: u8,
    bars: &'static [BarRow],
    rom: u64,
    quirk: Quirk,
}

/// What of a model its properties, or its machine, change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quirk {
    /// Nothing but the option ROM.
    None,
    /// Video RAM of `vgamem_mb`, that many MiB where nothing is said, behind the first BAR, which has its size unless
    /// the card is a Cirrus.
    VideoRam { default_mib: u64 },
    /// bochs-display: video RAM of `vgamem`.
    BochsDisplay,
    /// QXL: RAM, VRAM and a ROM of its own.
    Qxl,
    /// virtio-vga: 8 MiB of video RAM.
    VirtioVga,
    /// pci-testdev: `membar`.
    TestDevice,
    /// nvme: an older machine has Intel's ID and the MSI-X table in a BAR of its own.
    Nvme,
    /// virtio, with the legacy I/O BAR's size on machines of 3.1 where that differs, and its modern ID.
    Virtio { old_io: u64, modern: u16 },
    /// virtio-rng: no MSI-X on machines of 3.1.
    VirtioRng,
    /// ivshmem-plain: the size of the memory behind `memdev`.
    SharedMemory,
    /// A PCI-to-PCI bridge; `shpc` is whether it has a hot-plug controller, with a BAR, unless told otherwise.
    Bridge { shpc: bool, root_port: bool },
}

/// What one `-device` becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulated {
    /// The function.
    pub device: Device,
    /// What QEMU populates for it past the end of RAM, in order.
    pub memory: Vec<Size>,
}

impl Model {
    /// The model of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.names.contains(&name))
    }

    /// Whether a device of that name is no PCI function: it sits on a controller's bus, on ISA, or nowhere.
    pub fn is_no_pci_function(name: &str) -> bool {
        let known = |entry: &str| if entry.ends_with('-') { name.starts_with(entry) } else { name == entry };
        table::NOT_PCI.iter().any(|entry| known(entry))
    }

    /// The name that QEMU's own lists use.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    /// The function that `-device NAME,PROPERTIES` makes.
    ///
    /// # Errors
    ///
    /// A property under which QEMU would not start, or whose effect is not known here.
    pub fn instantiate(
        &self,
        bdf: Bdf,
        properties: &Properties,
        machine: Machine,
    ) -> Result<Emulated, String> {
        let mut device = Device {
            model: Some(self.name().to_owned()),
            int_pin: self.int_pin,
            bars: self.bars.iter().map(bar).collect(),
            ..Device::new(bdf, self.id, self.class)
        };
        let mut memory = Vec::new();
        self.apply_quirk(&mut device, &mut memory, properties, machine)?;
        if properties.flag("multifunction")?.unwrap_or(false) {
            device.header |= 0x80;
        }
        if let Some(rom) = self.option_rom(properties)? {
            device.bars.push(bar(&(0x30, BarKind::Rom, rom.get(), false)));
            memory.push(rom);
        }
        Ok(Emulated { device, memory })
    }

    /// The option ROM's size, after `romfile=`, `romsize=` and `rombar=`.
    fn option_rom(&self, properties: &Properties) -> Result<Option<Size>, String> {
        if properties.number("rombar")? == Some(0) || properties.flag("rombar").ok().flatten() == Some(false)
        {
            return Ok(None);
        }
        let size = properties.number("romsize")?.filter(|size| *size != u64::from(u32::MAX));
        match properties.get("romfile") {
            Some("") => Ok(None),
            Some(file) if size.is_none() => match std::fs::metadata(file) {
                Ok(file) => Ok(Size::new(file.len().max(1)).next_power_of_two()),
                Err(error) => Err(format!("romfile={file}: its size decides about a BAR: {error}")),
            },
            _ if self.rom == 0 && properties.get("romfile").is_none() => Ok(None),
            _ => Ok(Some(Size::new(size.unwrap_or(self.rom)))),
        }
    }

    fn apply_quirk(
        &self,
        device: &mut Device,
        memory: &mut Vec<Size>,
        properties: &Properties,
        machine: Machine,
    ) -> Result<(), String> {
        match self.quirk {
            Quirk::None => {}
            Quirk::VideoRam { default_mib } => video_ram(device, memory, properties, default_mib)?,
            Quirk::BochsDisplay => {
                let size = properties.size("vgamem")?.unwrap_or(Size::new(16 << 20));
                let size = size.next_power_of_two().ok_or("vgamem: too much")?;
                set_size(device, 0x10, size);
                memory.push(size);
            }
            Quirk::Qxl => qxl(device, memory, properties)?,
            Quirk::VirtioVga => {
                memory.push(Size::new(8 << 20));
                without_msix(device, properties, 0x20)?;
            }
            Quirk::TestDevice => {
                if let Some(size) = properties.size("membar")?.filter(|size| !size.is_zero()) {
                    power_of_two("membar", size)?;
                    device.bars.push(bar(&(0x18, BarKind::Mem64, size.get(), true)));
                    if properties.flag("membar-backed")?.unwrap_or(false) {
                        memory.push(size);
                    }
                }
            }
            Quirk::Nvme => nvme(device, properties, machine)?,
            Quirk::Virtio { old_io, modern } => virtio(device, properties, machine, old_io, modern)?,
            Quirk::VirtioRng => {
                virtio(device, properties, machine, 0x20, 0x1044)?;
                if machine == Machine::XenFv {
                    device.bars.retain(|bar| bar.reg != 0x14);
                }
            }
            Quirk::SharedMemory => {
                let size =
                    properties.size("memdev-size")?.ok_or("memdev: names no -object memory-backend-*")?;
                power_of_two("memdev", size)?;
                device.bars.push(bar(&(0x18, BarKind::Mem64, size.get(), true)));
                memory.push(size);
            }
            Quirk::Bridge { shpc, root_port } => {
                bridge(device, properties, shpc, root_port)?;
            }
        }
        Ok(())
    }
}

/// One BAR of a row.
pub(crate) fn bar(&(reg, kind, size, prefetch): &BarRow) -> Bar {
    Bar { reg, kind, size: Size::new(size), prefetch, value: 0, io16: false, host_address: None }
}

fn set_size(device: &mut Device, reg: u8, size: Size) {
    device.bars.iter_mut().filter(|bar| bar.reg == reg).for_each(|bar| bar.size = size);
}

fn power_of_two(name: &str, size: Size) -> Result<(), String> {
    match size.is_power_of_two() {
        true => Ok(()),
        false => Err(format!("{name}={size}: no power of two; QEMU does not start with it")),
    }
}

fn mebibytes(properties: &Properties, name: &str, default: u64, most: u64) -> Result<Size, String> {
    let mib = properties.number(name)?.unwrap_or(default).clamp(1, most);
    Size::mib(mib).and_then(Size::next_power_of_two).ok_or_else(|| format!("{name}: too much"))
}

/// vga_common_init: the video RAM is a power of two of 1 to 512 MiB. Cirrus takes 4, 8 or 16 and its BAR stays 32 MiB.
fn video_ram(
    device: &mut Device,
    memory: &mut Vec<Size>,
    properties: &Properties,
    default_mib: u64,
) -> Result<(), String> {
    let size = mebibytes(properties, "vgamem_mb", default_mib, 512)?;
    let cirrus = device.vendor == 0x1013;
    if cirrus {
        let asked = properties.number("vgamem_mb")?.unwrap_or(default_mib);
        if ![4, 8, 16].contains(&asked) {
            return Err(format!(
                "vgamem_mb={asked}: a Cirrus has 4, 8 or 16 MiB; QEMU does not start with it"
            ));
        }
    } else {
        set_size(device, 0x10, size);
        if properties.flag("mmio")? == Some(false) {
            device.bars.retain(|bar| bar.reg != 0x18);
        }
    }
    memory.push(size);
    Ok(())
}

/// qxl_init_ramsize: RAM in the first BAR, VRAM in the second and, where it is larger than that, in a 64-bit one too.
fn qxl(device: &mut Device, memory: &mut Vec<Size>, properties: &Properties) -> Result<(), String> {
    let vga = properties.number("vgamem_mb")?.unwrap_or(16).clamp(8, 256);
    let bytes = |name: &str, fallback: u64| -> Result<u64, String> {
        Ok(properties.size(name)?.map_or(fallback, Size::get))
    };
    let in_mib = |name: &str, bytes: u64| -> Result<u64, String> {
        Ok(properties.number(name)?.and_then(Size::mib).map_or(bytes, Size::get))
    };
    let vga = Size::mib(vga).unwrap_or_default().get();
    let ram = in_mib("ram_size_mb", bytes("ram_size", 64 << 20)?)?.max(vga.saturating_mul(2));
    let vram32 = in_mib("vram_size_mb", bytes("vram_size", 64 << 20)?)?.max(4096);
    let vram = in_mib("vram64_size_mb", bytes("vram64_size", 0)?)?.max(vram32);
    let round = |bytes| Size::new(bytes).next_power_of_two().ok_or("its memory: too much");
    let (ram, vram32, vram) = (round(ram)?, round(vram32)?, round(vram)?);
    set_size(device, 0x10, ram);
    set_size(device, 0x14, vram32);
    if vram > vram32 {
        device.bars.push(bar(&(0x20, BarKind::Mem64, vram.get(), true)));
    }
    memory.extend([ram, Size::new(8 << 10), vram]);
    Ok(())
}

/// nvme_bar_size: doorbells of every queue, then the MSI-X table and its pending bits.
fn nvme(device: &mut Device, properties: &Properties, machine: Machine) -> Result<(), String> {
    if properties.get("pmrdev").is_some() || properties.number("sriov_max_vfs")?.unwrap_or(0) != 0 {
        return Err("pmrdev and sriov_max_vfs are not known here".to_owned());
    }
    let queues = properties.number("max_ioqpairs")?.unwrap_or(64).saturating_add(1);
    let vectors = properties.number("msix_qsize")?.unwrap_or(65);
    let page = Size::FRAME;
    let round = |bytes: u64| Size::new(bytes).round_up(page).map_or(u64::MAX, Size::get);
    let doorbells = round(queues.saturating_mul(8).saturating_add(0x1000));
    let table = vectors.saturating_mul(16);
    let pending = vectors.div_ceil(64).saturating_mul(8);
    let old = machine == Machine::XenFv;
    let own = properties.flag("msix-exclusive-bar")?.unwrap_or(old);
    let whole = if own { doorbells } else { round(doorbells.saturating_add(table)).saturating_add(pending) };
    let whole = Size::new(whole).next_power_of_two().ok_or("max_ioqpairs: too many")?;
    set_size(device, 0x10, whole);
    if own {
        device.bars.push(bar(&(0x20, BarKind::Mem32, msix_bar(vectors).get(), false)));
    }
    if properties.flag("use-intel-id")?.unwrap_or(old) {
        (device.vendor, device.device) = (0x8086, 0x5845);
    }
    if let Some(mib) = properties.number("cmb_size_mb")?.filter(|mib| *mib != 0) {
        let size = Size::mib(mib).and_then(Size::next_power_of_two).ok_or("cmb_size_mb: too much")?;
        device.bars.push(bar(&(0x18, BarKind::Mem64, size.get(), true)));
        device.bars.sort_by_key(|bar| bar.reg);
    }
    Ok(())
}

/// msix_init_exclusive_bar: the table, then the pending bits; half a page each where they fit.
fn msix_bar(vectors: u64) -> Size {
    let pending_at = vectors.saturating_mul(16).max(2048);
    let end = pending_at.saturating_add(vectors.div_ceil(64).saturating_mul(8));
    Size::new(end.max(4096)).next_power_of_two().unwrap_or(Size::FRAME)
}

/// A virtio function without MSI-X has no BAR for it.
fn without_msix(device: &mut Device, properties: &Properties, reg: u8) -> Result<(), String> {
    match properties.number("vectors")? {
        Some(0) => device.bars.retain(|bar| bar.reg != reg),
        Some(vectors) if vectors <= 2048 => set_size(device, reg, msix_bar(vectors)),
        Some(vectors) => return Err(format!("vectors={vectors}: at most 2048")),
        None => {}
    }
    Ok(())
}

/// virtio_pci_realize: the legacy I/O BAR, MSI-X, notifications by I/O, the modern BAR.
fn virtio(
    device: &mut Device,
    properties: &Properties,
    machine: Machine,
    old_io: u64,
    modern: u16,
) -> Result<(), String> {
    if old_io != 0 && machine == Machine::XenFv {
        set_size(device, 0x10, Size::new(old_io));
    }
    without_msix(device, properties, 0x14)?;
    // The registers for MSI-X are in the legacy BAR too: without them a serial device's fits in half of it.
    if device.device == 0x1003 && properties.number("vectors")? == Some(0) {
        set_size(device, 0x10, Size::new(32));
    }
    if properties.flag("disable-legacy").ok().flatten() == Some(true) {
        device.bars.retain(|bar| bar.reg != 0x10);
        device.device = modern;
    }
    if properties.flag("disable-modern")? == Some(true) {
        device.bars.retain(|bar| bar.reg != 0x20);
    } else if properties.flag("modern-pio-notify")? == Some(true) {
        device.bars.push(bar(&(0x18, BarKind::Io, 4, false)));
        device.bars.sort_by_key(|bar| bar.reg);
    }
    Ok(())
}

/// A bridge's bus numbers and windows are registers where a device has BARs; stock hvmloader takes them for some
/// (pci_init_mask_bridge; the values are those before anybody has written them).
fn bridge(device: &mut Device, properties: &Properties, shpc: bool, root_port: bool) -> Result<(), String> {
    device.header = 1;
    if shpc && properties.flag("shpc")? == Some(false) {
        device.bars.clear();
        device.int_pin = 0;
    }
    let closed = [(0x1c, 0xf0, 0xf0f0), (0x20, 0xfff0, 0xfff0_fff0), (0x24, 0x1_fff1, 0xfff0_fff0)];
    let open = [(0x1c, 0, 0xf0f0), (0x20, 0, 0xfff0_fff0), (0x24, 0x1_0001, 0xfff0_fff0)];
    let windows = if root_port { closed } else { open };
    let upper = [(0x28, 0, 0xffff_ffff), (0x2c, 0, 0xffff_ffff)];
    let buses = [(0x18, 0, 0xffff_ffff)];
    for (off, value, wmask) in buses.into_iter().chain(windows).chain(upper) {
        device.raw.push(RawRegister { off, value, wmask, len: 4 });
    }
    Ok(())
}
