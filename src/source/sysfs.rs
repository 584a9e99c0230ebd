// SPDX-License-Identifier: LGPL-2.1-or-later
//! The PCI part of Linux's sysfs, live or copied.
//!
//! Of a device's directory, `config` and `resource` are needed; both are world-readable, though an unprivileged
//! reader gets only the first 64 bytes of `config`. `resource` (kernel: pci-sysfs.c, resource_show) has a line of
//! start, end and flags for each of the six BARs, the ROM, and, where the kernel knows SR-IOV, the six BARs of all
//! virtual functions together; a bridge's windows follow. The flags are those of the kernel's ioport.h.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::address::{Address, Size};
use crate::pci::config_space::ConfigSpace;
use crate::pci::{Bar, BarKind, ResizableBar, Sbdf, SrIov, VfBar};
use crate::source::host::{Capabilities, Host, HostDevice, HostError, UnsizedBar, register};
use crate::source::platform;

const IO: u64 = 0x100;
const MEMORY: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const MEMORY_64: u64 = 0x10_0000;
const ROM_SHADOW: u64 = 0x2;
const PCI_FIXED: u64 = 0x10;
const UNSET: u64 = 0x2000_0000;

const HEADER_TYPE: u16 = 0x0e;

const ROM_LINE: usize = 6;
const VF_LINES: usize = 7;

/// Reads `root` (`/sys`, or a copy of it) and `cpuinfo`.
///
/// # Errors
///
/// What cannot be read, or makes no sense.
pub(super) fn read(root: &Path, cpuinfo: &Path, live: bool) -> Result<Host, HostError> {
    let dir = root.join("bus/pci/devices");
    let unreadable = |file: &Path, problem| HostError::Unreadable { file: file.to_owned(), problem, live };
    let mut devices = Vec::new();
    for entry in fs::read_dir(&dir).map_err(|problem| unreadable(&dir, problem))? {
        let entry = entry.map_err(|problem| unreadable(&dir, problem))?;
        let name = entry.file_name();
        let parsed = name.to_str().and_then(|name| name.parse::<Sbdf>().ok());
        let Some(sbdf) = parsed else {
            return Err(HostError::Malformed {
                file: entry.path(),
                line: None,
                problem: "is not named like a PCI function (SSSS:BB:SS.F)".to_owned(),
            });
        };
        let folder = Folder { path: entry.path(), sbdf, live };
        match folder.device() {
            Ok(device) => devices.push(device),
            // Unplugged between the listing and the look.
            Err(_) if live && !folder.path.exists() => {}
            Err(error) => return Err(error),
        }
    }
    let host = Host::new(root.display().to_string(), live, devices);
    let platform = platform::read(cpuinfo, &root.join("firmware/acpi/tables"), live)?;
    Ok(host.with_platform(platform.cpu, platform.iommu_bits, platform.reserved_memory))
}

/// One device's directory.
struct Folder {
    path: PathBuf,
    sbdf: Sbdf,
    live: bool,
}

/// One line of `resource`.
#[derive(Clone, Copy)]
struct Resource {
    line: usize,
    start: u64,
    end: u64,
    flags: u64,
}

impl Resource {
    /// How many bytes; 0 for a resource that is not there.
    fn size(&self) -> u64 {
        if self.start == 0 && self.end == 0 {
            0
        } else {
            self.end.saturating_sub(self.start).saturating_add(1)
        }
    }

    fn kind(&self) -> Option<BarKind> {
        match self.flags {
            flags if flags & IO != 0 => Some(BarKind::Io),
            flags if flags & MEMORY == 0 => None,
            flags if flags & MEMORY_64 != 0 => Some(BarKind::Mem64),
            _ => Some(BarKind::Mem32),
        }
    }

    /// Its address, if the kernel gave it one.
    fn address(&self) -> Option<Address> {
        (self.start != 0 && self.flags & UNSET == 0).then(|| Address::new(self.start))
    }
}

impl Folder {
    fn device(&self) -> Result<HostDevice, HostError> {
        let config = self.config()?;
        let resources = self.resources()?;
        let mut device = self.identity(config.as_ref())?;
        device.capabilities = match &config {
            Some(config) if config.has_capabilities() => match config.u32(0x100) {
                Some(_) => Capabilities::Whole,
                None => Capabilities::Conventional,
            },
            _ => Capabilities::Unreadable,
        };
        if let Some(config) = &config {
            device.device.header = config.u8(HEADER_TYPE).unwrap_or_default();
            device.device.command = config.u16(0x04).unwrap_or_default();
            device.device.int_line = config.u8(0x3c).unwrap_or_default();
            device.device.int_pin = config.u8(0x3d).unwrap_or_default();
            // A virtual function has no identity of its own (PCI Express, section 9.3.4.1.1): the kernel lends it one.
            device.is_virtual_function = config.u32(0) == Some(u32::MAX);
            device.msix = config.msix();
            device.sriov = config.sriov();
            device.resizable = config.resizable_bars();
            device.bridge = config.bridge();
        }
        device.physfn = self.link("physfn").and_then(|name| name.parse().ok());
        self.bars(&mut device, config.as_ref(), &resources)?;
        if device.sriov.is_none() {
            device.sriov = self.sriov_from_files()?;
        }
        if let Some(sriov) = &mut device.sriov {
            self.vf_bars(sriov, &resources)?;
        }
        if device.resizable.is_empty() {
            self.resizable_from_files(&mut device)?;
        }
        device.driver = self.link("driver");
        device.numa_node = self.read("numa_node")?.and_then(|text| text.trim().parse().ok());
        Ok(device)
    }

    fn malformed(&self, file: &str, line: Option<usize>, problem: String) -> HostError {
        HostError::Malformed { file: self.path.join(file), line, problem }
    }

    /// A file's text; `None` if there is no such file.
    fn read(&self, file: &str) -> Result<Option<String>, HostError> {
        let path = self.path.join(file);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(problem) if problem.kind() == ErrorKind::NotFound => Ok(None),
            Err(problem) => Err(HostError::Unreadable { file: path, problem, live: self.live }),
        }
    }

    /// The number in a file, hexadecimal with `0x` or decimal; `None` if there is no such file.
    fn number<T: TryFrom<u64>>(&self, file: &str) -> Result<Option<T>, HostError> {
        let Some(text) = self.read(file)? else { return Ok(None) };
        let text = text.trim();
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        match parsed.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.malformed(file, Some(1), format!("\"{text}\" is not the number expected here"))),
        }
    }

    /// The last part of where a link points, or of the name that a copy's directory has inside.
    fn link(&self, name: &str) -> Option<String> {
        let path = self.path.join(name);
        if let Ok(target) = fs::read_link(&path) {
            return target.file_name()?.to_str().map(str::to_owned);
        }
        // A copy that followed links has a directory there; of a PCI function it says which one.
        let uevent = fs::read_to_string(path.join("uevent")).ok()?;
        uevent.lines().find_map(|line| line.strip_prefix("PCI_SLOT_NAME=")).map(str::to_owned)
    }

    fn config(&self) -> Result<Option<ConfigSpace>, HostError> {
        let path = self.path.join("config");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(problem) if problem.kind() == ErrorKind::NotFound && !self.live => return Ok(None),
            Err(problem) => return Err(HostError::Unreadable { file: path, problem, live: self.live }),
        };
        let config = ConfigSpace::new(bytes).map_err(|error| HostError::Malformed {
            file: path,
            line: None,
            problem: error.to_string(),
        })?;
        // A device that no longer answers reads as all ones.
        Ok((config.u8(HEADER_TYPE) != Some(0xff)).then_some(config))
    }

    /// Vendor, device and class: from the files, which also tell of a virtual function, whose configuration space
    /// has all ones there; from configuration space where a copy lacks them.
    fn identity(&self, config: Option<&ConfigSpace>) -> Result<HostDevice, HostError> {
        let read = |file: &str, offset: u16| {
            let from_file = self.number::<u16>(file)?;
            from_file.or_else(|| config?.u16(offset)).ok_or_else(|| {
                self.malformed(file, None, "is missing, and there is no config to read instead".to_owned())
            })
        };
        let code = self.number::<u32>("class")?;
        let class = match code {
            Some(code) => u16::try_from((code >> 8) & 0xffff).unwrap_or_default(),
            None => read("class", 0x0a)?,
        };
        let mut device = HostDevice::new(self.sbdf, read("vendor", 0x00)?, read("device", 0x02)?, class);
        let interface = code.and_then(|code| u8::try_from(code & 0xff).ok());
        device.interface = interface.or_else(|| config?.u8(0x09));
        Ok(device)
    }

    fn resources(&self) -> Result<Vec<Resource>, HostError> {
        let text = self.read("resource")?.ok_or_else(|| {
            self.malformed("resource", None, "is missing: it tells the BARs' sizes".to_owned())
        })?;
        let mut found = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let line = index.saturating_add(1);
            let malformed =
                |problem: &str| self.malformed("resource", Some(line), format!("{problem}: \"{text}\""));
            let mut numbers = text.split_ascii_whitespace().map(|word| {
                let digits = word.strip_prefix("0x").unwrap_or(word);
                u64::from_str_radix(digits, 16).ok()
            });
            let (Some(Some(start)), Some(Some(end)), Some(Some(flags)), None) =
                (numbers.next(), numbers.next(), numbers.next(), numbers.next())
            else {
                return Err(malformed("three hexadecimal numbers expected"));
            };
            if end < start {
                return Err(malformed("ends before it starts"));
            }
            found.push(Resource { line, start, end, flags });
        }
        Ok(found)
    }

    fn bars(
        &self,
        device: &mut HostDevice,
        config: Option<&ConfigSpace>,
        resources: &[Resource],
    ) -> Result<(), HostError> {
        let bridge = device.device.header & 0x7f != 0;
        let count = if bridge { 2 } else { 6 };
        let mut upper_half = false;
        for index in 0..count {
            let Some(reg) = register(index) else { continue };
            if std::mem::take(&mut upper_half) {
                continue;
            }
            let register = config.and_then(|config| config.bar(reg.into())).filter(|_| !device.is_virtual());
            let resource = resources.get(usize::from(index)).filter(|resource| resource.size() != 0);
            let Some((resource, kind)) = resource.and_then(|found| Some((found, found.kind()?))) else {
                // The kernel gave the BAR up, and forgot its size; the register still shows that it is there.
                if let Some((kind, prefetch, address)) = register
                    && (kind != BarKind::Mem32 || prefetch || address != Address::ZERO)
                {
                    let address = (address != Address::ZERO).then_some(address);
                    device.unsized_bars.push(UnsizedBar { reg, kind, address });
                    upper_half = kind == BarKind::Mem64;
                }
                continue;
            };
            // The ports of an IDE controller in compatibility mode are fixed, and no BARs.
            if kind == BarKind::Io && resource.flags & PCI_FIXED != 0 {
                continue;
            }
            let low = kind == BarKind::Mem32 && register.is_some_and(|(kind, ..)| kind == BarKind::Mem1m);
            let kind = if low { BarKind::Mem1m } else { kind };
            upper_half = kind == BarKind::Mem64;
            device.device.bars.push(self.bar(reg, kind, resource)?);
        }
        if let Some(rom) = resources.get(ROM_LINE).filter(|rom| !bridge && rom.size() != 0) {
            device.shadow_rom = rom.flags & ROM_SHADOW != 0;
            device.device.bars.push(self.bar(0x30, BarKind::Rom, rom)?);
        }
        Ok(())
    }

    fn bar(&self, reg: u8, kind: BarKind, resource: &Resource) -> Result<Bar, HostError> {
        let size = Size::new(resource.size());
        if !size.is_power_of_two() {
            let problem = format!("BAR 0x{reg:02x} has {} bytes, which is no power of two", size.get());
            return Err(self.malformed("resource", Some(resource.line), problem));
        }
        Ok(Bar {
            reg,
            kind,
            size,
            prefetch: kind != BarKind::Io && resource.flags & PREFETCH != 0 && reg != 0x30,
            value: 0,
            io16: false,
            host_address: resource.address(),
        })
    }

    /// What the kernel's own files tell of SR-IOV to those who cannot read the capability.
    fn sriov_from_files(&self) -> Result<Option<SrIov>, HostError> {
        let Some(total_vfs) = self.number("sriov_totalvfs")? else { return Ok(None) };
        Ok(Some(SrIov {
            total_vfs,
            num_vfs: self.number("sriov_numvfs")?.unwrap_or_default(),
            first_offset: self.number("sriov_offset")?.unwrap_or_default(),
            stride: self.number("sriov_stride")?.unwrap_or_default(),
            vf_device: match self.read("sriov_vf_device")? {
                Some(text) => u16::from_str_radix(text.trim(), 16).unwrap_or_default(),
                None => 0,
            },
            supported_page_sizes: None,
            system_page_size: None,
            bars: Vec::new(),
        }))
    }

    /// What the kernel's own files tell of resizable BARs to those who cannot read the capability: bit n of
    /// `resourceN_resize` stands for 2^n MiB (pci-sysfs.c, __resource_resize_show).
    fn resizable_from_files(&self, device: &mut HostDevice) -> Result<(), HostError> {
        for index in 0..6 {
            let file = format!("resource{index}_resize");
            let Some(text) = self.read(&file)? else { continue };
            let mask = u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).map_err(|_| {
                self.malformed(&file, Some(1), format!("\"{}\" is no hexadecimal number", text.trim()))
            })?;
            let supported =
                (0..44).filter(|bit| (mask >> bit) & 1 == 1).map(|bit| Size::new(Size::MIB.get() << bit));
            let current = device.bar(index).map(|bar| bar.size);
            device.resizable.push(ResizableBar { index, current, supported: supported.collect() });
        }
        Ok(())
    }

    /// The kernel keeps the virtual functions' BARs as one resource each, for all functions together.
    fn vf_bars(&self, sriov: &mut SrIov, resources: &[Resource]) -> Result<(), HostError> {
        let all = resources.get(VF_LINES..).unwrap_or_default();
        for (index, resource) in (0_u8..6).zip(all).filter(|(_, resource)| resource.size() != 0) {
            let Some(kind) = resource.kind() else { continue };
            let share = resource.size().checked_div(u64::from(sriov.total_vfs)).map(Size::new);
            let size = share.filter(|share| share.is_power_of_two()).ok_or_else(|| {
                let problem = format!(
                    "{} bytes for the VF BARs of {} functions give no power of two each",
                    resource.size(),
                    sriov.total_vfs
                );
                self.malformed("resource", Some(resource.line), problem)
            })?;
            sriov.bars.retain(|bar| bar.index != index);
            sriov.bars.push(VfBar {
                index,
                kind,
                prefetch: resource.flags & PREFETCH != 0,
                address: resource.address(),
                size: Some(size),
            });
        }
        sriov.bars.sort_by_key(|bar| bar.index);
        Ok(())
    }
}
