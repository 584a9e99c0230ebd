// SPDX-License-Identifier: LGPL-2.1-or-later
//! What of a libxl domain configuration decides about a guest's PCI layout.
//!
//! Two front ends make a [`DomainConfig`]: xl.cfg ([`super::xl_cfg`]) and libxl's JSON ([`super::libxl_json`]). The same
//! guest gives the same configuration from either. What libxl adds by itself (defaults, devices, the memory layout) is
//! the work of [`super::domain`].

use crate::address::{Range, Size};
use crate::guest::AnyOf;
use crate::pci::{BarSetting, Caching, PlannedSize, Sbdf};

/// A domain's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainKind {
    /// A guest with hvmloader and a device model: the one that has a PCI layout.
    Hvm,
    /// Paravirtual.
    Pv,
    /// Paravirtual in a hardware container.
    Pvh,
    /// An Arm guest, whatever it calls itself.
    Arm,
}

/// The emulated video card (`vga=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vga {
    /// libxl's default: Cirrus.
    #[default]
    Default,
    /// A Cirrus CLGD 5446.
    Cirrus,
    /// QEMU's standard VGA.
    Std,
    /// None.
    None,
    /// QXL.
    Qxl,
}

/// Whether devices may be passed through (`passthrough=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passthrough {
    /// Enabled exactly where the configuration names a device.
    #[default]
    Default,
    /// Never.
    Disabled,
    /// Yes, now or later; `sync_pt` and `share_pt` are this too.
    Enabled,
}

/// Which reserved device memory is shown to the guest (`rdm=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RdmStrategy {
    /// That of the devices it has.
    #[default]
    Ignore,
    /// All of the host's.
    Host,
}

/// What happens where reserved device memory and RAM meet (`rdm_policy=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RdmPolicy {
    /// The domain is not built.
    Strict,
    /// The reserved memory is left out of the guest's map.
    Relaxed,
}

/// Which device of the host is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostDeviceName {
    /// By its address.
    Address(Sbdf),
    /// By the name that `xl pci-assignable-add` gave it.
    Name(String),
}

/// One entry of `pci=[...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPci {
    /// The device.
    pub device: HostDeviceName,
    /// `.*`: every function of it, at the same function numbers.
    pub all_functions: bool,
    /// The slot that the guest is to see it at; slot 0 is the host bridge's and means none.
    pub virtual_slot: Option<u8>,
    /// MSI emulated by INTx.
    pub msitranslate: bool,
    /// The guest may change its power state.
    pub power_mgmt: bool,
    /// All of configuration space may be written.
    pub permissive: bool,
    /// Taken from its driver if need be.
    pub seize: bool,
    /// Its own policy for reserved memory; libxl's default is strict.
    pub rdm_policy: Option<RdmPolicy>,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// Whether it is paravirtual alone (`type=vif`), with no emulated card.
    pub paravirtual: bool,
    /// QEMU's name of the emulated card; libxl's default is rtl8139.
    pub model: Option<String>,
}

/// One disk, as far as it decides about controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The guest's name of it: `hda`, `sda`, `xvda`.
    pub vdev: String,
    /// Whether it is a CD-ROM.
    pub cdrom: bool,
}

/// What kind of USB controller is added for `usbctrl=` or `usbdev=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsbControllerKind {
    /// libxl chooses: for an HVM guest an emulated one.
    #[default]
    Auto,
    /// An emulated one: a PCI function.
    DeviceModel,
    /// A paravirtual one.
    Paravirtual,
}

/// One entry of `usbctrl=[...]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsbController {
    /// Its kind.
    pub kind: UsbControllerKind,
    /// 1 (UHCI), 2 (EHCI) or 3 (xHCI); 0 for libxl's default, 2.
    pub version: i64,
    /// How many ports it is to have.
    pub ports: Option<usize>,
}

/// What of a libxl domain configuration decides about a guest's PCI layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// The domain's name.
    pub name: Option<String>,
    /// Its type.
    pub kind: DomainKind,
    /// The RAM it starts with (`memory=`).
    pub memory: Option<Size>,
    /// The RAM it can ever have (`maxmem=`): what the memory layout is made for.
    pub maxmem: Option<Size>,
    /// The video RAM (`videoram=`), which is taken from RAM.
    pub video_memory: Option<Size>,
    /// The demanded hole below 4 GiB (`mmio_hole=`).
    pub mmio_hole: Option<Size>,
    /// Whether hardware-assisted paging is to be used; libxl's default is yes where the host can.
    pub hap: Option<bool>,
    /// Whether the guest has ACPI; libxl's default is yes.
    pub acpi: Option<bool>,
    /// Whether devices may be passed through.
    pub passthrough: Passthrough,
    /// The host's devices that it gets.
    pub pci: Vec<HostPci>,
    /// Which reserved device memory it is shown.
    pub rdm_strategy: RdmStrategy,
    /// What happens where that meets RAM; libxl's default is relaxed.
    pub rdm_policy: Option<RdmPolicy>,
    /// The reserved memory that libxl has found for it already: a running domain's configuration holds it.
    pub rdm_found: Vec<(Range, RdmPolicy)>,
    /// RAM gives way to reserved memory above this address (`rdm_mem_boundary=`); libxl's default is 2 GiB.
    pub rdm_boundary: Option<Size>,
    /// The video card.
    pub vga: Vga,
    /// The network interfaces.
    pub nics: Vec<Nic>,
    /// The disks.
    pub disks: Vec<Disk>,
    /// Whether disks sit on an AHCI controller (`hdtype="ahci"`), not on IDE.
    pub ahci: bool,
    /// The chipset's own USB controller (`usb=`).
    pub usb: Option<bool>,
    /// QEMU's names of emulated USB devices (`usbdevice=`); one is enough for that controller.
    pub usb_devices: Vec<String>,
    /// A USB controller of that version (`usbversion=`); 0 for none.
    pub usb_version: i64,
    /// Controllers for the host's USB devices.
    pub usb_controllers: Vec<UsbController>,
    /// How many of the host's USB devices name no controller of theirs.
    pub usb_host_devices: usize,
    /// The sound card (`soundhw=`).
    pub sound: Option<String>,
    /// Whether SPICE is on, with an agent channel: a virtio-serial card.
    pub spice_agent: bool,
    /// How many USB devices SPICE redirects; any needs a USB controller.
    pub usb_redirection: i64,
    /// Graphics passthrough (`gfx_passthru=`).
    pub graphics_passthrough: bool,
    /// Whether the Xen platform device is there; libxl's default is yes.
    pub xen_platform: Option<bool>,
    /// Whether that device's memory BAR is to be uncached (`xen_platform_pci_bar_uc=`, Xen 4.21); the default is yes.
    pub platform_bar_uncached: Option<bool>,
    /// Whether there is XenServer's device for Windows updates (`vendor_device=`).
    pub vendor_device: bool,
    /// The firmware after hvmloader: "seabios", "ovmf", "rombios"; libxl's default is seabios.
    pub bios: Option<String>,
    /// The device model, where named: "qemu-xen" or "qemu-xen-traditional", spelled as xl.cfg does.
    pub device_model: Option<String>,
    /// Whether the device model runs in a domain of its own.
    pub stub_domain: bool,
    /// More arguments for QEMU (`device_model_args=`).
    pub arguments: Vec<String>,
    /// More arguments for QEMU (`device_model_args_hvm=`), which follow its machine.
    pub hvm_arguments: Vec<String>,
    /// Sizes of resizable BARs (`pci_bar_size=`, a key of ours).
    pub bar_sizes: Vec<BarSetting<PlannedSize>>,
    /// How BARs are to be mapped (`pci_caching=`, a key of ours).
    pub caching: Vec<BarSetting<Caching>>,
    /// Hot-plug space wanted, below and above 4 GiB together (`pci_reserve=`, a key of ours).
    pub reserve: Option<Size>,
    /// Hot-plug space wanted below 4 GiB (`pci_reserve_low=`, a key of ours).
    pub reserve_low: Option<Size>,
    /// Hot-plug space wanted above 4 GiB (`pci_reserve_high=`, a key of ours).
    pub reserve_high: Option<Size>,
    /// Devices of the host that there is to be room for, all of them (`pci_reserve_for=`, a key of ours).
    pub reserve_for: Vec<Sbdf>,
    /// The same for any so many of some at a time (`pci_reserve_any=`, a key of ours).
    pub reserve_any: Vec<AnyOf>,
}

impl DomainConfig {
    /// A configuration in which nothing is set.
    pub fn new(kind: DomainKind) -> Self {
        Self {
            name: None,
            kind,
            memory: None,
            maxmem: None,
            video_memory: None,
            mmio_hole: None,
            hap: None,
            acpi: None,
            passthrough: Passthrough::default(),
            pci: Vec::new(),
            rdm_strategy: RdmStrategy::default(),
            rdm_policy: None,
            rdm_found: Vec::new(),
            rdm_boundary: None,
            vga: Vga::default(),
            nics: Vec::new(),
            disks: Vec::new(),
            ahci: false,
            usb: None,
            usb_devices: Vec::new(),
            usb_version: 0,
            usb_controllers: Vec::new(),
            usb_host_devices: 0,
            sound: None,
            spice_agent: false,
            usb_redirection: 0,
            graphics_passthrough: false,
            xen_platform: None,
            platform_bar_uncached: None,
            vendor_device: false,
            bios: None,
            device_model: None,
            stub_domain: false,
            arguments: Vec::new(),
            hvm_arguments: Vec::new(),
            bar_sizes: Vec::new(),
            caching: Vec::new(),
            reserve: None,
            reserve_low: None,
            reserve_high: None,
            reserve_for: Vec::new(),
            reserve_any: Vec::new(),
        }
    }
}
