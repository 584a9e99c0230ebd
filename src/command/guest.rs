// SPDX-License-Identifier: LGPL-2.1-or-later
//! The GUEST argument: which guest, and what the file does not say about its host.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, HostArguments};
use crate::address::{Address, Range, Size};
use crate::guest::{Guest, HostCpu, MemoryMapEntry, RESERVED_TYPE};
use crate::layout::Warning;
use crate::pci::Sbdf;
use crate::source::domain::{self, DomainError, Surroundings};
use crate::source::domain_config::{DomainConfig, HostDeviceName, RdmStrategy};
use crate::source::host::Host;
use crate::source::{description, libxl_json, running_xen, xl_cfg};

/// The width that is assumed where nobody says one: every 64-bit desktop processor since 2008 has it.
const ASSUMED_PHYS_BITS: u8 = 39;
/// Without hardware-assisted paging Xen's shadow page tables reach no further.
const SHADOW_PHYS_BITS: u8 = 44;

/// Which guest, and where to look for what its configuration leaves open.
#[derive(Debug, Args)]
pub struct GuestArguments {
    /// The guest: an xl.cfg, libxl's domain configuration in JSON, or a guest description; `-` for standard input
    pub guest: PathBuf,
    #[command(flatten)]
    host: HostArguments,
    /// The guest's physical address width in bits, where its configuration does not say
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(32..=52))]
    phys_bits: Option<u8>,
    /// Reserved device memory (RMRR) that the guest must see, such as 0x7d800000:40M; may be repeated
    #[arg(long, value_name = "START:SIZE", value_parser = range_argument)]
    rdm: Vec<Range>,
    /// The host's processor, such as AMD:0x19:48 or Intel:6:46
    #[arg(long, value_name = "VENDOR:FAMILY:BITS", value_parser = cpu_argument)]
    cpu: Option<HostCpu>,
    /// Ask this QEMU about emulated devices that this program does not know
    #[arg(long, value_name = "PATH")]
    ask_qemu: Option<PathBuf>,
    /// State that the device model shows the guest the SR-IOV capability of physical functions (stock QEMU hides it):
    /// their virtual functions' BARs then get room
    #[arg(long)]
    shows_sriov: bool,
}

/// A guest and what had to be assumed about it.
#[derive(Debug)]
pub struct LoadedGuest {
    /// The guest.
    pub guest: Guest,
    /// What the owner should know about how it was read.
    pub warnings: Vec<Warning>,
    /// Where what the configuration leaves open comes from, a sentence each.
    pub origins: Vec<String>,
    /// The host that its devices come from, if one was read.
    pub host: Option<Host>,
}

impl GuestArguments {
    /// A guest of that width, where it is known, on the host whose tree is in `host`, with nothing more said about either.
    pub fn on(guest: PathBuf, host: Option<PathBuf>, phys_bits: Option<u8>) -> Self {
        let host = HostArguments { host, lspci: None };
        Self { guest, host, phys_bits, rdm: Vec::new(), cpu: None, ask_qemu: None, shows_sriov: false }
    }

    /// Which host is meant.
    pub fn host(&self) -> &HostArguments {
        &self.host
    }

    /// Reads the guest; its kind is told from its content.
    pub fn load(&self) -> Result<LoadedGuest, Failure> {
        let bytes = read_bytes(&self.guest)?;
        let wrong = |problem: &dyn std::fmt::Display| {
            let name = if self.guest.as_os_str() == "-" {
                "standard input".into()
            } else {
                self.guest.display().to_string()
            };
            Failure::Input(format!("{name}: {problem}"))
        };
        let start = bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        if start.is_none() {
            return Err(wrong(&"is empty: no guest is in it"));
        }
        if !matches!(start, Some(b'{' | b'[')) {
            let (config, warnings) = xl_cfg::parse(&bytes).map_err(|error| wrong(&error))?;
            return self.build(&config, warnings, wrong);
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| wrong(&error))?;
        if libxl_json::is_domain(text) {
            let (config, warnings) = libxl_json::parse(text).map_err(|error| wrong(&error))?;
            return self.build(&config, warnings, wrong);
        }
        let guest = description::parse(text).map_err(|error| wrong(&error))?;
        self.complete(guest)
    }

    /// A description says all about its guest but what the command line, or the host that it names, knows better.
    fn complete(&self, mut guest: Guest) -> Result<LoadedGuest, Failure> {
        let mut origins = Vec::new();
        let host = if self.host.is_named() { Some(self.host.load()?) } else { None };
        if let Some(bits) = self.phys_bits {
            guest.phys_bits = bits;
            origins.push(format!("width {bits} bits: --phys-bits"));
        }
        for range in &self.rdm {
            let (addr, size) = (range.start(), range.size());
            guest.memory_map.push(MemoryMapEntry { addr, size, kind: RESERVED_TYPE });
            origins.push(format!("reserved memory {range}: --rdm"));
        }
        if let Some(cpu) = &self.cpu {
            guest.cpu = Some(cpu.clone());
            origins.push(format!("processor {}: --cpu", shown(cpu)));
        } else if guest.cpu.is_none()
            && let Some(host) = &host
            && let Some(cpu) = host.cpu()
        {
            origins.push(format!("processor {}: {}", shown(cpu), host.origin()));
            guest.cpu = Some(cpu.clone());
        }
        description::validate(&guest).map_err(|error| Failure::Input(error.to_string()))?;
        Ok(LoadedGuest { guest, warnings: Vec::new(), origins, host })
    }

    /// The guest that libxl would build of a configuration, on the host that the arguments say.
    fn build(
        &self,
        config: &DomainConfig,
        mut warnings: Vec<Warning>,
        wrong: impl Fn(&dyn std::fmt::Display) -> Failure,
    ) -> Result<LoadedGuest, Failure> {
        let mut origins = Vec::new();
        let host = if self.needs_host(config) { Some(self.host.load()?) } else { None };
        let surroundings = self.surroundings(config, host, &mut warnings, &mut origins);
        let guest = domain::guest(config, &surroundings, &mut warnings).map_err(|error| match error {
            error if error.is_environment() => Failure::Environment(error.to_string()),
            DomainError::Host(error) => Failure::Input(error.to_string()),
            error => wrong(&error),
        })?;
        description::validate(&guest).map_err(|error| wrong(&error))?;
        Ok(LoadedGuest { guest, warnings, origins, host: surroundings.host })
    }

    /// Whether the host is read: it is named, the guest has some of its devices, or it runs Xen.
    fn needs_host(&self, config: &DomainConfig) -> bool {
        let running = || running_xen::version(Path::new(running_xen::SYSFS)).is_some();
        self.host.is_named() || !config.pci.is_empty() || running()
    }

    /// What the configuration leaves open: from the command line, else from the host, else assumed, which is said.
    fn surroundings(
        &self,
        config: &DomainConfig,
        host: Option<Host>,
        warnings: &mut Vec<Warning>,
        origins: &mut Vec<String>,
    ) -> Surroundings {
        let origin = |host: &Host| {
            if host.is_live() { "the running system".to_owned() } else { host.origin().to_owned() }
        };
        let from_host = |host: &Host| host.cpu().map(|cpu| (cpu.clone(), origin(host)));
        let cpu = match &self.cpu {
            Some(cpu) => Some((cpu.clone(), "--cpu".to_owned())),
            None => host.as_ref().and_then(from_host),
        };
        match &cpu {
            Some((cpu, origin)) => origins.push(format!("processor {}: {origin}", shown(cpu))),
            None => warnings.push(Warning::new(
                "assumed-cpu",
                "the host's processor is not known (--cpu, or a cpuinfo in the tree of --host): it is taken for one \
                 without AMD's HyperTransport hole",
            )),
        }
        let mut phys_bits = match (self.phys_bits, &cpu) {
            (Some(bits), _) => {
                origins.push(format!("width {bits} bits: --phys-bits"));
                bits
            }
            (None, Some((cpu, origin))) if (32..=52).contains(&cpu.phys_bits) => {
                origins.push(format!("width {} bits: {origin}", cpu.phys_bits));
                cpu.phys_bits
            }
            _ => {
                let message = format!(
                    "the guest's physical address width is not known (--phys-bits, --cpu, or a cpuinfo in the tree of \
                     --host): {ASSUMED_PHYS_BITS} bits are assumed"
                );
                warnings.push(Warning::new("assumed-width", message));
                ASSUMED_PHYS_BITS
            }
        };
        if config.hap == Some(false) && self.phys_bits.is_none() && phys_bits > SHADOW_PHYS_BITS {
            phys_bits = SHADOW_PHYS_BITS;
            origins.push(format!("width {phys_bits} bits: hap=0"));
        }
        let concerned = !config.pci.is_empty() || config.rdm_strategy == RdmStrategy::Host;
        let mut host = host;
        let asked = host.as_mut().filter(|_| self.rdm.is_empty()).and_then(|host| ask_xen(config, host));
        let tables = host.as_ref().filter(|host| host.iommu_bits().is_some());
        match (self.rdm.is_empty(), asked, tables) {
            (false, ..) => origins.push("reserved device memory: --rdm".to_owned()),
            (true, Some(Ok(())), _) => origins.push("reserved device memory: the running Xen".to_owned()),
            (true, _, Some(host)) => origins.push(format!("reserved device memory: {}", origin(host))),
            (true, asked, None) if concerned && config.rdm_found.is_empty() => {
                let why = match asked {
                    Some(Err(error)) => error.to_string(),
                    _ => "--rdm, or ACPI's DMAR or IVRS in the tree of --host".to_owned(),
                };
                let message = format!(
                    "what memory the host's firmware reserves for devices is not known ({why}): none is assumed"
                );
                warnings.push(Warning::new("assumed-no-rdm", message));
            }
            (true, _, None) => {}
        }
        Surroundings {
            phys_bits,
            cpu: cpu.map(|(cpu, _)| cpu),
            rdm: self.rdm.clone(),
            host,
            ask_qemu: self.ask_qemu.clone(),
            shows_sriov: self.shows_sriov,
        }
    }
}

/// Has the running Xen tell the host's reserved device memory; `None` where the host is a copy, or runs no Xen.
fn ask_xen(config: &DomainConfig, host: &mut Host) -> Option<Result<(), xen_sys::HypervisorError>> {
    if !host.is_live() || running_xen::version(Path::new(running_xen::SYSFS)).is_none() {
        return None;
    }
    let devices = config.pci.iter().filter_map(|pci| match &pci.device {
        HostDeviceName::Address(sbdf) => Some(*sbdf),
        HostDeviceName::Name(_) => None,
    });
    let devices: Vec<Sbdf> = devices.collect();
    let all = config.rdm_strategy == RdmStrategy::Host;
    let memory = running_xen::reserved_device_memory(&devices, all);
    Some(memory.map(|memory| host.set_reserved_memory(memory)))
}

fn shown(cpu: &HostCpu) -> String {
    format!("{} family 0x{:x} with {} bits", cpu.vendor, cpu.family, cpu.phys_bits)
}

/// A number, decimal or with `0x`, or a size with its unit.
fn number(text: &str) -> Option<u64> {
    Size::parse(text).map(Size::get)
}

fn range_argument(text: &str) -> Result<Range, String> {
    let range = || {
        let (start, size) = text.split_once(':')?;
        Range::sized(Address::new(number(start)?), Size::new(number(size)?)).filter(|range| !range.is_empty())
    };
    range().ok_or_else(|| format!("\"{text}\" is no START:SIZE, such as 0x7d800000:40M"))
}

fn cpu_argument(text: &str) -> Result<HostCpu, String> {
    let cpu = || {
        let mut parts = text.split(':');
        let vendor = parts.next().filter(|vendor| !vendor.is_empty())?.to_owned();
        let family = u32::try_from(number(parts.next()?)?).ok()?;
        let phys_bits = u8::try_from(number(parts.next()?)?).ok().filter(|bits| (32..=52).contains(bits))?;
        parts.next().is_none().then_some(HostCpu { vendor, family, phys_bits })
    };
    cpu().ok_or_else(|| format!("\"{text}\" is no VENDOR:FAMILY:BITS, such as AMD:0x19:48"))
}

impl GuestArguments {
    /// The file, or standard input, to be read line by line.
    pub fn open(&self) -> Result<Box<dyn BufRead>, Failure> {
        if self.guest.as_os_str() == "-" {
            return Ok(Box::new(BufReader::new(std::io::stdin())));
        }
        let file = std::fs::File::open(&self.guest).map_err(|error| self.unreadable(&error))?;
        Ok(Box::new(BufReader::new(file)))
    }

    /// The failure of reading it.
    pub fn unreadable(&self, error: &std::io::Error) -> Failure {
        Failure::Input(format!("{}: {error}", self.guest.display()))
    }
}

/// The whole of a file, or of standard input for `-`, which must be text.
pub fn read(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|error| Failure::Input(format!("{}: {}", path.display(), error.utf8_error())))
}

/// The whole of a file, or of standard input for `-`.
fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let result = if path.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    match result {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::Input(format!("{}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_processors_are_read_as_people_write_them() {
        let range = range_argument("0x7d800000:40M").unwrap();
        assert_eq!(range.to_string(), "0x7d800000-0x7fffffff");
        let cpu = cpu_argument("AMD:0x19:48").unwrap();
        assert_eq!((cpu.vendor.as_str(), cpu.family, cpu.phys_bits), ("AMD", 0x19, 48));
        for wrong in ["", "1", "1:", "1:0", ":1", "0xffffffffffffffff:2"] {
            assert!(range_argument(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "AMD", "AMD:25", "AMD:25:64", "AMD:x:48", ":25:48", "AMD:25:48:1"] {
            assert!(cpu_argument(wrong).is_err(), "{wrong}");
        }
    }
}
