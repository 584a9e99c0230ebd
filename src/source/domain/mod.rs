// SPDX-License-Identifier: LGPL-2.1-or-later
//! A libxl domain configuration made into a guest: what libxl and QEMU would build from it on this host.
//!
//! Three rooms: [`memory`] lays out RAM as libxl does, [`board`] is QEMU's PCI bus with its slots, and here libxl's
//! command line is repeated device by device, in its order, because slots and memory blocks follow from the order.

mod board;
mod memory;

use std::path::PathBuf;

use self::board::Board;
use super::domain_config::{
    DomainConfig, DomainKind, HostDeviceName, HostPci, Passthrough, UsbControllerKind, Vga,
};
use super::host::{Host, HostError, ReservedMemory};
use super::qemu_devices::arguments::{Arguments, Requested};
use super::qemu_devices::ask::AskError;
use super::qemu_devices::{Machine, Properties};
use crate::address::{Range, Size};
use crate::guest::{ALLOW_MEMORY_RELOCATE, Guest, HostCpu, MMIO_HOLE_SIZE, PLATFORM_BAR_UC, Reserve};
use crate::layout::Warning;
use crate::pci::{Bdf, Sbdf};

/// What a configuration does not say about the machine that the guest runs on.
#[derive(Debug)]
pub struct Surroundings {
    /// The guest's physical address width.
    pub phys_bits: u8,
    /// The host's processor, where known.
    pub cpu: Option<HostCpu>,
    /// Reserved device memory that the guest is to see whatever its configuration says.
    pub rdm: Vec<Range>,
    /// The host, if it was needed or asked for.
    pub host: Option<Host>,
    /// A QEMU to ask about devices that are not known here.
    pub ask_qemu: Option<PathBuf>,
    /// Whether the device model shows physical functions' SR-IOV capability to the guest.
    pub shows_sriov: bool,
}

/// Why no guest can be made of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// It is no HVM guest.
    #[error(
        "{0} guest has no hvmloader and no emulated PCI bus: there is nothing to plan; only type=\"hvm\" has"
    )]
    NotHvm(&'static str),
    /// Its device model is the one of before 2011.
    #[error(
        "device_model_version=\"qemu-xen-traditional\": its devices and slots are not known here; qemu-xen's are"
    )]
    Traditional,
    /// Its memory makes no sense.
    #[error("{0}")]
    Memory(String),
    /// Two devices want one slot.
    #[error("slot {bdf}: wanted by {second}, and taken by {first}; QEMU would not take the second")]
    SlotTaken {
        /// The slot.
        bdf: Bdf,
        /// Who has it.
        first: String,
        /// Who wants it too.
        second: String,
    },
    /// No slot is left.
    #[error("{0}: no slot is left on its bus")]
    NoSlot(String),
    /// A device that QEMU would refuse to make.
    #[error("-device {driver}: {problem}")]
    Device {
        /// Its name.
        driver: String,
        /// What is wrong.
        problem: String,
    },
    /// A QEMU that was asked did not answer.
    #[error("--ask-qemu: {0}")]
    Ask(#[from] AskError),
    /// A device of the host that is named, not addressed.
    #[error(
        "pci: \"name={0}\": names are kept in the running host's xenstore; give the device's address here"
    )]
    Named(String),
    /// A device of the host that nothing is known about.
    #[error("pci: {0}")]
    Host(#[from] HostError),
    /// What a key of ours says of a BAR that the guest has not.
    #[error("{0}: {1}")]
    Setting(&'static str, String),
    /// Devices of the host, and no host.
    #[error("pci: {0}: which host? --host DIR, --lspci FILE, or run it there")]
    NoHost(Sbdf),
}

impl DomainError {
    /// Whether the surroundings failed (exit code 3), rather than that the input is wrong (exit code 2).
    pub fn is_environment(&self) -> bool {
        match self {
            Self::Host(error) => error.is_environment(),
            Self::Ask(AskError::Start { .. }) => true,
            _ => false,
        }
    }
}

/// Makes the guest that libxl and QEMU would build; what its owner should know is added to `warnings`.
///
/// # Errors
///
/// Why libxl or QEMU would not build it, or what is missing to say how.
pub fn guest(
    config: &DomainConfig,
    surroundings: &Surroundings,
    warnings: &mut Vec<Warning>,
) -> Result<Guest, DomainError> {
    match config.kind {
        DomainKind::Hvm => {}
        DomainKind::Pv => return Err(DomainError::NotHvm("a PV")),
        DomainKind::Pvh => return Err(DomainError::NotHvm("a PVH")),
        DomainKind::Arm => return Err(DomainError::NotHvm("an Arm")),
    }
    if config.device_model.as_deref() == Some("qemu-xen-traditional") {
        return Err(DomainError::Traditional);
    }
    let video_memory = memory::video_memory(config)?;
    let reserved = memory::reserved(config, surroundings, warnings);
    let mut guest = memory::layout(config, video_memory, reserved, surroundings.phys_bits, warnings)?;
    guest.name.clone_from(&config.name);
    guest.cpu.clone_from(&surroundings.cpu);
    guest.passthrough = match config.passthrough {
        Passthrough::Default => !config.pci.is_empty(),
        Passthrough::Disabled => false,
        Passthrough::Enabled => true,
    };
    if config.passthrough == Passthrough::Disabled && !config.pci.is_empty() {
        let message = "passthrough=\"disabled\", and devices in pci=[]: libxl refuses that";
        warnings.push(Warning::new("passthrough-disabled", message));
    }
    guest.reserve = reserve(config);
    guest.reserve_for.clone_from(&config.reserve_for);
    guest.reserve_any.clone_from(&config.reserve_any);
    loader_keys(config, &mut guest);
    let mut board = build_board(config, surroundings, video_memory, warnings)?;
    for entry in &config.pci {
        add_host_device(&mut board, entry, surroundings, warnings)?;
    }
    warnings.append(&mut board.warnings);
    guest.devices = board.devices;
    let sized = config.bar_sizes.iter().try_for_each(|setting| setting.apply(&mut guest.devices));
    sized.map_err(|problem| DomainError::Setting("pci_bar_size", problem))?;
    let mapped = config.caching.iter().try_for_each(|setting| setting.apply(&mut guest.devices));
    mapped.map_err(|problem| DomainError::Setting("pci_caching", problem))?;
    guest.device_model_memory = board.memory;
    Ok(guest)
}

/// What the keys of ours reserve.
fn reserve(config: &DomainConfig) -> Reserve {
    let split = Reserve::split(config.reserve.unwrap_or_default());
    Reserve {
        low: split.low.saturating_add(config.reserve_low.unwrap_or_default()),
        high: split.high.saturating_add(config.reserve_high.unwrap_or_default()),
    }
}

/// The keys that libxl writes for the loader (libxl_create.c, libxl_dm.c, libxl_dom.c).
fn loader_keys(config: &DomainConfig, guest: &mut Guest) {
    let mut set = |key: &str, value: String| guest.xenstore.insert(key.to_owned(), value);
    set("hvmloader/bios", config.bios.clone().unwrap_or_else(|| "seabios".to_owned()));
    set(ALLOW_MEMORY_RELOCATE, "0".to_owned());
    if let Some(hole) = config.mmio_hole {
        set(MMIO_HOLE_SIZE, hole.get().to_string());
    }
    if let Some(uncached) = config.platform_bar_uncached {
        set(PLATFORM_BAR_UC, u8::from(uncached).to_string());
    }
}

/// The bus as QEMU makes it, and every device of libxl's command line on it (libxl__build_device_model_args_new).
fn build_board(
    config: &DomainConfig,
    surroundings: &Surroundings,
    video_memory: Size,
    warnings: &mut Vec<Warning>,
) -> Result<Board, DomainError> {
    let mut arguments = Arguments::default();
    arguments.read(&config.arguments);
    arguments.read(&config.hvm_arguments);
    for problem in arguments.not_understood.drain(..) {
        warnings
            .push(Warning::new("unknown-argument", format!("device_model_args: {problem}; it is ignored")));
    }
    let platform = config.xen_platform.unwrap_or(true);
    let machine = if platform { Machine::XenFv } else { Machine::Pc };
    let usb = config.usb == Some(true) || !config.usb_devices.is_empty();
    let acpi = config.acpi.unwrap_or(true) && !arguments.no_acpi;
    let early = std::mem::take(&mut arguments.early);
    let asked = std::mem::take(&mut arguments.devices);
    let mut board =
        Board::new(machine, usb || arguments.usb, acpi, arguments, surroundings.ask_qemu.clone())?;
    for device in early {
        board.add(&device)?;
    }
    if platform {
        board.add(&Requested::new("xen-platform", ""))?;
    }
    if config.disks.iter().any(|disk| !disk.cdrom && disk.vdev.starts_with("sd")) {
        board.add(&Requested::new("lsi53c895a", ""))?;
    }
    if config.spice_agent {
        board.add(&Requested::new("virtio-serial", ""))?;
    }
    if let Some(card) = video_card(config.vga, video_memory) {
        board.add(&card)?;
    }
    if !usb {
        let redirected = config.usb_redirection > 0 && config.usb_version == 0;
        for controller in usb_by_version(if redirected { 2 } else { config.usb_version }) {
            board.add(&controller)?;
        }
    }
    if let Some(sound) = &config.sound {
        let sound = sound.to_ascii_lowercase();
        board.add(&Requested::new(if sound == "hda" { "intel-hda" } else { &sound }, ""))?;
    }
    for nic in config.nics.iter().filter(|nic| !nic.paravirtual) {
        board.add(&Requested::new(nic.model.as_deref().unwrap_or("rtl8139"), ""))?;
    }
    for device in asked {
        board.add(&device)?;
    }
    if config.ahci {
        board.add(&Requested::new("ahci", "id=ahci0"))?;
    }
    if config.vendor_device {
        board.add(&Requested::new("xen-pvdevice", "device-id=0xc000"))?;
    }
    for controller in hot_plugged_usb(config) {
        board.add(&Requested::new(controller, ""))?;
    }
    if config.bios.as_deref().is_some_and(|bios| bios.eq_ignore_ascii_case("ovmf")) {
        let message = "firmware=\"uefi\": EDK II's OVMF for Xen (OvmfXen.dsc) keeps BARs where the loader put them; \
                       Debian's ovmf of bookworm and of trixie gives every BAR another address: ask `verify` once the \
                       guest runs";
        warnings.push(Warning::new("uefi-firmware", message));
    }
    if config.graphics_passthrough {
        let message = "gfx_passthru: QEMU changes the host bridge, and keeps slot 2 for Intel's graphics from 8.0 on; \
                       neither is modelled here: give the device its slot, such as @2";
        warnings.push(Warning::new("graphics-passthrough", message));
    }
    Ok(board)
}

fn video_card(vga: Vga, video_memory: Size) -> Option<Requested> {
    let mib = video_memory.get().div_ceil(1 << 20);
    match vga {
        Vga::Default | Vga::Cirrus => Some(Requested::new("cirrus-vga", &format!("vgamem_mb={mib}"))),
        Vga::Std => Some(Requested::new("VGA", &format!("vgamem_mb={mib}"))),
        Vga::Qxl => {
            let half = mib >> 1;
            Some(Requested::new("qxl-vga", &format!("vram_size_mb={half},ram_size_mb={half}")))
        }
        Vga::None => None,
    }
}

/// The controllers of `usbversion=`.
fn usb_by_version(version: i64) -> Vec<Requested> {
    match version {
        1 => vec![Requested::new("piix3-usb-uhci", "")],
        2 => vec![
            Requested::new("ich9-usb-ehci1", "addr=0x1d.0x7,multifunction=on"),
            Requested::new("ich9-usb-uhci1", "addr=0x1d.0,multifunction=on"),
            Requested::new("ich9-usb-uhci2", "addr=0x1d.1,multifunction=on"),
            Requested::new("ich9-usb-uhci3", "addr=0x1d.2,multifunction=on"),
        ],
        3 => vec![Requested::new("nec-usb-xhci", "")],
        _ => Vec::new(),
    }
}

/// The controllers that libxl adds to the running QEMU for the host's USB devices: those asked for, and one more EHCI
/// as long as devices that name none have no port (libxl_usb.c).
fn hot_plugged_usb(config: &DomainConfig) -> Vec<&'static str> {
    let mut ports = 0_usize;
    let mut controllers = Vec::new();
    for controller in &config.usb_controllers {
        let (name, own) = match controller.version {
            1 => ("piix3-usb-uhci", 2),
            3 => ("nec-usb-xhci", controller.ports.unwrap_or(8)),
            _ => ("usb-ehci", 6),
        };
        match controller.kind {
            UsbControllerKind::Auto | UsbControllerKind::DeviceModel => {
                controllers.push(name);
                ports = ports.saturating_add(own);
            }
            UsbControllerKind::Paravirtual => ports = ports.saturating_add(controller.ports.unwrap_or(8)),
        }
    }
    while ports < config.usb_host_devices {
        controllers.push("usb-ehci");
        ports = ports.saturating_add(6);
    }
    controllers
}

fn add_host_device(
    board: &mut Board,
    entry: &HostPci,
    surroundings: &Surroundings,
    warnings: &mut Vec<Warning>,
) -> Result<(), DomainError> {
    let sbdf = match &entry.device {
        HostDeviceName::Address(sbdf) => *sbdf,
        HostDeviceName::Name(name) => return Err(DomainError::Named(name.clone())),
    };
    let host = surroundings.host.as_ref().ok_or(DomainError::NoHost(sbdf))?;
    let slot = match entry.virtual_slot {
        Some(slot) => slot,
        None if entry.all_functions => {
            let problem =
                format!("pci: {sbdf}: \".*\" needs a slot of the guest's, such as @5: libxl refuses it so");
            return Err(DomainError::Memory(problem));
        }
        None => board.free_slot().ok_or_else(|| DomainError::NoSlot(sbdf.to_string()))?,
    };
    let same_slot = |other: Bdf| (other.bus(), other.slot()) == (sbdf.bdf.bus(), sbdf.bdf.slot());
    let mut functions: Vec<Sbdf> = if entry.all_functions {
        let all = host.devices().map(|device| device.sbdf);
        all.filter(|other| other.segment == sbdf.segment && same_slot(other.bdf)).collect()
    } else {
        vec![sbdf]
    };
    if functions.is_empty() {
        functions.push(sbdf);
    }
    if functions.len() > 1 {
        let message = format!(
            "pci: {sbdf}: of \".*\" libxl of Xen 4.14 and later attaches the last function alone; it is planned for all"
        );
        warnings.push(Warning::new("wildcard-functions", message));
    }
    for function in functions {
        let guests = if entry.all_functions { function.bdf.function() } else { 0 };
        let bdf = Bdf::new(0, slot, guests).ok_or_else(|| DomainError::NoSlot(sbdf.to_string()))?;
        let mut device = host.device(function)?.for_guest(bdf)?;
        if surroundings.shows_sriov {
            device.sriov = host.device(function)?.virtual_functions()?;
        }
        // xen_pt_bar_reg_init: the guest's register starts with the host's address in it.
        for bar in &mut device.bars {
            bar.value = bar.host_address.map_or(0, crate::address::Address::get);
        }
        board.place(device)?;
    }
    Ok(())
}

/// A device's properties with what `-global` says of its kind before them, and the size of the memory it names.
fn complete(request: &Requested, names: &[&str], arguments: &Arguments) -> Properties {
    let mut properties = request.properties.clone();
    for name in names {
        if let Some(defaults) = arguments.globals.get(*name) {
            properties = properties.with_defaults(defaults);
        }
    }
    let memory = properties.get("memdev").and_then(|name| arguments.memory_objects.get(name));
    if let Some(size) = memory {
        properties.push("memdev-size", &size.get().to_string());
    }
    properties
}

/// What is written where nothing is known of a device.
fn unknown_device(driver: &str) -> Warning {
    Warning::new(
        "unknown-device",
        format!(
            "-device {driver}: not among the devices known here; it is taken for a function without BARs at the next \
             slot. --ask-qemu PATH asks that QEMU"
        ),
    )
}

/// The reserved device memory of a host that is for a function.
fn is_for(reserved: &ReservedMemory, sbdf: Sbdf) -> bool {
    reserved.devices.contains(&sbdf)
}
