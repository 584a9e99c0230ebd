// SPDX-License-Identifier: LGPL-2.1-or-later
//! The table itself: one row a model.

use super::{BarRow, Model, Quirk};
use crate::pci::BarKind::{Io, Mem32, Mem64};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;

// Base class and subclass, PCI Code and ID Assignment Specification.
const SCSI: u16 = 0x0100;
const RAID: u16 = 0x0104;
const SATA: u16 = 0x0106;
const NVM: u16 = 0x0108;
const ETHERNET: u16 = 0x0200;
const OTHER_NETWORK: u16 = 0x0280;
const VGA: u16 = 0x0300;
const OTHER_DISPLAY: u16 = 0x0380;
const AUDIO: u16 = 0x0401;
const HD_AUDIO: u16 = 0x0403;
const RAM: u16 = 0x0500;
const BRIDGE: u16 = 0x0604;
const SERIAL: u16 = 0x0700;
const OTHER_COMMUNICATION: u16 = 0x0780;
const SD_HOST: u16 = 0x0805;
const OTHER_SYSTEM: u16 = 0x0880;
const USB: u16 = 0x0c03;
const UNKNOWN: u16 = 0x00ff;
const NO_CLASS: u16 = 0x0002;

const fn model(
    names: &'static [&'static str],
    id: (u16, u16),
    class: u16,
    int_pin: u8,
    bars: &'static [BarRow],
) -> Model {
    Model { names, id, class, int_pin, bars, rom: 0, quirk: Quirk::None }
}

impl Model {
    const fn rom(self, rom: u64) -> Self {
        Self { rom, ..self }
    }

    const fn quirk(self, quirk: Quirk) -> Self {
        Self { quirk, ..self }
    }
}

/// A virtio function: legacy I/O of `io` bytes (`old_io` on machines of 3.1), MSI-X, the modern BAR.
macro_rules! virtio {
    ([$($name:literal),+], $device:literal, $modern:literal, $class:expr, io $io:literal, old $old:literal) => {
        model(
            &[$($name),+], (0x1af4, $device), $class, 1,
            &[(0x10, Io, $io, false), (0x14, Mem32, 4 * K, false), (0x20, Mem64, 16 * K, true)],
        )
        .quirk(Quirk::Virtio { old_io: $old, modern: $modern })
    };
    ([$($name:literal),+], $modern:literal, $class:expr) => {
        model(
            &[$($name),+], (0x1af4, $modern), $class, 1,
            &[(0x14, Mem32, 4 * K, false), (0x20, Mem64, 16 * K, true)],
        )
        .quirk(Quirk::Virtio { old_io: 0, modern: $modern })
    };
}

/// A virtio function without MSI-X.
macro_rules! virtio_without_msix {
    ([$($name:literal),+], $device:literal, $modern:literal, $class:expr, io $io:literal, old $old:literal) => {
        model(
            &[$($name),+], (0x1af4, $device), $class, 1,
            &[(0x10, Io, $io, false), (0x20, Mem64, 16 * K, true)],
        )
        .quirk(Quirk::Virtio { old_io: $old, modern: $modern })
    };
    ([$($name:literal),+], $modern:literal, $class:expr) => {
        model(&[$($name),+], (0x1af4, $modern), $class, 1, &[(0x20, Mem64, 16 * K, true)])
            .quirk(Quirk::Virtio { old_io: 0, modern: $modern })
    };
}

/// Intel's 8255x: QEMU has one for each stepping.
const I8255X: &[BarRow] = &[(0x10, Mem32, 4 * K, true), (0x14, Io, 64, false), (0x18, Mem32, 128 * K, false)];
const E1000: &[BarRow] = &[(0x10, Mem32, 128 * K, false), (0x14, Io, 64, false)];
const UHCI: &[BarRow] = &[(0x20, Io, 32, false)];
const EHCI: &[BarRow] = &[(0x10, Mem32, 4 * K, false)];
const XHCI: &[BarRow] = &[(0x10, Mem64, 16 * K, false)];
const LSI: &[BarRow] = &[(0x10, Io, 256, false), (0x14, Mem32, K, false), (0x18, Mem32, 8 * K, false)];
const PIIX_IDE: &[BarRow] = &[(0x20, Io, 16, false)];
const HDA: &[BarRow] = &[(0x10, Mem32, 16 * K, false)];
const STD_VGA: &[BarRow] = &[(0x10, Mem32, 16 * M, true), (0x18, Mem32, 4 * K, false)];
const QXL: &[BarRow] = &[
    (0x10, Mem32, 64 * M, false),
    (0x14, Mem32, 64 * M, false),
    (0x18, Mem32, 8 * K, false),
    (0x1c, Io, 32, false),
];

/// Every model that is known here.
pub static MODELS: &[Model] = &[
    // The chipset
    model(&["i440FX"], (0x8086, 0x1237), 0x0600, 0, &[]),
    model(&["PIIX3"], (0x8086, 0x7000), 0x0601, 0, &[]),
    model(&["PIIX4_PM"], (0x8086, 0x7113), 0x0680, 1, &[]),
    // Xen's own
    model(
        &["xen-platform"],
        (0x5853, 0x0001),
        0xff80,
        1,
        &[(0x10, Io, 256, false), (0x14, Mem32, 16 * M, true)],
    ),
    model(&["xen-pvdevice"], (0x5853, 0xc000), OTHER_SYSTEM, 0, &[(0x14, Mem32, 4 * M, true)]),
    // Display
    model(
        &["cirrus-vga"],
        (0x1013, 0x00b8),
        VGA,
        0,
        &[(0x10, Mem32, 32 * M, true), (0x14, Mem32, 4 * K, false)],
    )
    .rom(64 * K)
    .quirk(Quirk::VideoRam { default_mib: 4 }),
    model(&["VGA"], (0x1234, 0x1111), VGA, 0, STD_VGA).rom(64 * K).quirk(Quirk::VideoRam { default_mib: 16 }),
    model(&["secondary-vga"], (0x1234, 0x1111), OTHER_DISPLAY, 0, STD_VGA)
        .quirk(Quirk::VideoRam { default_mib: 16 }),
    model(&["bochs-display"], (0x1234, 0x1111), OTHER_DISPLAY, 0, STD_VGA)
        .rom(32 * K)
        .quirk(Quirk::BochsDisplay),
    model(&["qxl-vga"], (0x1b36, 0x0100), VGA, 1, QXL).rom(64 * K).quirk(Quirk::Qxl),
    model(&["qxl"], (0x1b36, 0x0100), OTHER_DISPLAY, 1, QXL).quirk(Quirk::Qxl),
    model(
        &["virtio-vga"],
        (0x1af4, 0x1050),
        VGA,
        1,
        &[(0x10, Mem32, 8 * M, true), (0x18, Mem64, 16 * K, true), (0x20, Mem32, 4 * K, false)],
    )
    .rom(64 * K)
    .quirk(Quirk::VirtioVga),
    virtio!(["virtio-gpu-pci", "virtio-gpu"], 0x1050, OTHER_DISPLAY),
    // Network
    model(&["e1000", "e1000-82540em"], (0x8086, 0x100e), ETHERNET, 1, E1000).rom(256 * K),
    model(&["e1000-82544gc"], (0x8086, 0x100c), ETHERNET, 1, E1000).rom(256 * K),
    model(&["e1000-82545em"], (0x8086, 0x100f), ETHERNET, 1, E1000).rom(256 * K),
    model(
        &["e1000e"],
        (0x8086, 0x10d3),
        ETHERNET,
        1,
        &[
            (0x10, Mem32, 128 * K, false),
            (0x14, Mem32, 128 * K, false),
            (0x18, Io, 32, false),
            (0x1c, Mem32, 16 * K, false),
        ],
    )
    .rom(256 * K),
    model(&["rtl8139"], (0x10ec, 0x8139), ETHERNET, 1, &[(0x10, Io, 256, false), (0x14, Mem32, 256, false)])
        .rom(256 * K),
    model(&["ne2k_pci"], (0x10ec, 0x8029), ETHERNET, 1, &[(0x10, Io, 256, false)]).rom(256 * K),
    model(&["pcnet"], (0x1022, 0x2000), ETHERNET, 1, &[(0x10, Io, 32, false), (0x14, Mem32, 32, false)])
        .rom(256 * K),
    model(&["i82550", "i82551", "i82559er", "i82562"], (0x8086, 0x1209), ETHERNET, 1, I8255X).rom(128 * K),
    model(
        &["i82557a", "i82557b", "i82557c", "i82558a", "i82558b", "i82559a", "i82559b", "i82559c"],
        (0x8086, 0x1229),
        ETHERNET,
        1,
        I8255X,
    )
    .rom(128 * K),
    model(&["i82801"], (0x8086, 0x2449), ETHERNET, 1, I8255X).rom(128 * K),
    model(
        &["vmxnet3"],
        (0x15ad, 0x07b0),
        ETHERNET,
        1,
        &[(0x10, Mem32, 4 * K, false), (0x14, Mem32, 4 * K, false), (0x18, Mem32, 8 * K, false)],
    )
    .rom(256 * K),
    model(&["tulip"], (0x1011, 0x0019), ETHERNET, 1, &[(0x10, Io, 128, false), (0x14, Mem32, 128, false)]),
    model(
        &["rocker"],
        (0x1b36, 0x0006),
        OTHER_NETWORK,
        0,
        &[(0x10, Mem32, 8 * K, false), (0x14, Mem32, 8 * K, false)],
    ),
    virtio!(
        ["virtio-net-pci", "virtio-net", "virtio-net-pci-transitional"],
        0x1000, 0x1041, ETHERNET, io 32, old 32
    )
    .rom(256 * K),
    virtio!(["virtio-net-pci-non-transitional"], 0x1041, ETHERNET).rom(256 * K),
    // Storage
    model(&["piix3-ide"], (0x8086, 0x7010), 0x0101, 0, PIIX_IDE),
    model(&["piix4-ide"], (0x8086, 0x7111), 0x0101, 0, PIIX_IDE),
    model(
        &["ich9-ahci", "ahci"],
        (0x8086, 0x2922),
        SATA,
        1,
        &[(0x20, Io, 32, false), (0x24, Mem32, 4 * K, false)],
    ),
    model(&["nvme"], (0x1b36, 0x0010), NVM, 1, &[(0x10, Mem64, 16 * K, false)]).quirk(Quirk::Nvme),
    model(&["lsi53c895a", "lsi"], (0x1000, 0x0012), SCSI, 1, LSI),
    model(&["lsi53c810"], (0x1000, 0x0001), SCSI, 1, LSI),
    model(&["am53c974", "dc390"], (0x1022, 0x2020), SCSI, 1, &[(0x10, Io, 128, false)]),
    model(
        &["mptsas1068"],
        (0x1000, 0x0054),
        SCSI,
        1,
        &[(0x10, Io, 256, false), (0x14, Mem32, 16 * K, false), (0x18, Mem32, 64 * K, false)],
    ),
    model(
        &["megasas"],
        (0x1000, 0x0060),
        RAID,
        1,
        &[(0x10, Mem64, 16 * K, false), (0x18, Io, 256, false), (0x1c, Mem64, 256 * K, false)],
    ),
    model(
        &["megasas-gen2"],
        (0x1000, 0x0079),
        RAID,
        1,
        &[(0x10, Io, 256, false), (0x14, Mem64, 16 * K, false), (0x1c, Mem64, 256 * K, false)],
    ),
    model(&["pvscsi"], (0x15ad, 0x07c0), SCSI, 1, &[(0x10, Mem32, 32 * K, false)]),
    model(&["sdhci-pci"], (0x1b36, 0x0007), SD_HOST, 1, &[(0x10, Mem32, 256, false)]),
    virtio!(
        ["virtio-blk-pci", "virtio-blk", "virtio-blk-pci-transitional"],
        0x1001, 0x1042, SCSI, io 128, old 64
    ),
    virtio!(["virtio-blk-pci-non-transitional"], 0x1042, SCSI),
    virtio!(
        ["virtio-scsi-pci", "virtio-scsi", "virtio-scsi-pci-transitional"],
        0x1004, 0x1048, SCSI, io 64, old 64
    ),
    virtio!(["virtio-scsi-pci-non-transitional"], 0x1048, SCSI),
    virtio!(
        ["virtio-9p-pci", "virtio-9p", "virtio-9p-pci-transitional"],
        0x1009, 0x1049, NO_CLASS, io 32, old 32
    ),
    virtio!(["virtio-9p-pci-non-transitional"], 0x1049, NO_CLASS),
    // USB
    model(&["piix3-usb-uhci"], (0x8086, 0x7020), USB, 4, UHCI),
    model(&["piix4-usb-uhci"], (0x8086, 0x7112), USB, 4, UHCI),
    model(&["ich9-usb-uhci1"], (0x8086, 0x2934), USB, 1, UHCI),
    model(&["ich9-usb-uhci2"], (0x8086, 0x2935), USB, 2, UHCI),
    model(&["ich9-usb-uhci3"], (0x8086, 0x2936), USB, 3, UHCI),
    model(&["ich9-usb-uhci4"], (0x8086, 0x2937), USB, 1, UHCI),
    model(&["ich9-usb-uhci5"], (0x8086, 0x2938), USB, 2, UHCI),
    model(&["ich9-usb-uhci6"], (0x8086, 0x2939), USB, 3, UHCI),
    model(&["ich9-usb-ehci1"], (0x8086, 0x293a), USB, 4, EHCI),
    model(&["ich9-usb-ehci2"], (0x8086, 0x293c), USB, 4, EHCI),
    model(&["usb-ehci"], (0x8086, 0x24cd), USB, 4, EHCI),
    model(&["pci-ohci"], (0x106b, 0x003f), USB, 1, &[(0x10, Mem32, 256, false)]),
    model(&["nec-usb-xhci"], (0x1033, 0x0194), USB, 1, XHCI),
    model(&["qemu-xhci"], (0x1b36, 0x000d), USB, 1, XHCI),
    // Sound
    model(&["AC97", "ac97"], (0x8086, 0x2415), AUDIO, 1, &[(0x10, Io, K, false), (0x14, Io, 256, false)]),
    model(&["ES1370", "es1370"], (0x1274, 0x5000), AUDIO, 1, &[(0x10, Io, 256, false)]),
    model(&["intel-hda"], (0x8086, 0x2668), HD_AUDIO, 1, HDA),
    model(&["ich9-intel-hda"], (0x8086, 0x293e), HD_AUDIO, 1, HDA),
    // Serial lines, channels, input
    model(&["pci-serial"], (0x1b36, 0x0002), SERIAL, 1, &[(0x10, Io, 8, false)]),
    model(&["pci-serial-2x"], (0x1b36, 0x0003), SERIAL, 1, &[(0x10, Io, 16, false)]),
    model(&["pci-serial-4x"], (0x1b36, 0x0004), SERIAL, 1, &[(0x10, Io, 32, false)]),
    virtio!(
        ["virtio-serial-pci", "virtio-serial", "virtio-serial-pci-transitional"],
        0x1003, 0x1043, OTHER_COMMUNICATION, io 64, old 64
    ),
    virtio!(["virtio-serial-pci-non-transitional"], 0x1043, OTHER_COMMUNICATION),
    virtio!(["virtio-keyboard-pci", "virtio-keyboard"], 0x1052, 0x0900),
    virtio!(["virtio-mouse-pci", "virtio-mouse"], 0x1052, 0x0902),
    virtio!(["virtio-tablet-pci", "virtio-tablet"], 0x1052, 0x0980),
    // Memory, random numbers, watchdogs, devices for tests
    virtio_without_msix!(
        ["virtio-balloon-pci", "virtio-balloon", "virtio-balloon-pci-transitional"],
        0x1002, 0x1045, UNKNOWN, io 64, old 32
    ),
    virtio_without_msix!(["virtio-balloon-pci-non-transitional"], 0x1045, UNKNOWN),
    virtio_without_msix!(["virtio-iommu-pci", "virtio-iommu"], 0x1057, UNKNOWN),
    virtio!(
        ["virtio-rng-pci", "virtio-rng", "virtio-rng-pci-transitional"],
        0x1005, 0x1044, UNKNOWN, io 32, old 32
    )
    .quirk(Quirk::VirtioRng),
    virtio!(["virtio-rng-pci-non-transitional"], 0x1044, UNKNOWN).quirk(Quirk::VirtioRng),
    virtio!(["virtio-crypto-pci"], 0x1054, UNKNOWN),
    model(&["ivshmem-plain"], (0x1af4, 0x1110), RAM, 0, &[(0x10, Mem32, 256, false)])
        .quirk(Quirk::SharedMemory),
    model(&["i6300esb"], (0x8086, 0x25ab), OTHER_SYSTEM, 0, &[(0x10, Mem32, 16, false)]),
    model(&["edu"], (0x1234, 0x11e8), UNKNOWN, 1, &[(0x10, Mem32, M, false)]),
    model(
        &["pci-testdev"],
        (0x1b36, 0x0005),
        UNKNOWN,
        0,
        &[(0x10, Mem32, 4 * K, false), (0x14, Io, 256, false)],
    )
    .quirk(Quirk::TestDevice),
    // Bridges
    model(&["pci-bridge"], (0x1b36, 0x0001), BRIDGE, 1, &[(0x10, Mem64, 256, false)])
        .quirk(Quirk::Bridge { shpc: true, root_port: false }),
    model(&["pcie-pci-bridge"], (0x1b36, 0x000e), BRIDGE, 1, &[(0x10, Mem64, 256, false)])
        .quirk(Quirk::Bridge { shpc: true, root_port: false }),
    model(&["i82801b11-bridge"], (0x8086, 0x244e), BRIDGE, 0, &[])
        .quirk(Quirk::Bridge { shpc: false, root_port: false }),
    model(&["pcie-root-port"], (0x1b36, 0x000c), BRIDGE, 1, &[(0x10, Mem32, 4 * K, false)])
        .quirk(Quirk::Bridge { shpc: false, root_port: true }),
    model(&["ioh3420"], (0x8086, 0x3420), BRIDGE, 1, &[])
        .quirk(Quirk::Bridge { shpc: false, root_port: true }),
];

/// Devices that are no PCI functions, or whose names begin so: they sit on a controller's bus, on ISA, or nowhere.
pub static NOT_PCI: &[&str] = &[
    "adlib",
    "ccid-card-",
    "cs4231a",
    "floppy",
    "guest-loader",
    "gus",
    "hda-",
    "hv-",
    "hyperv-",
    "i2c-",
    "i8042",
    "ib700",
    "ide-",
    "ipmi-",
    "ipoctal232",
    "isa-",
    "loader",
    "mc146818rtc",
    "ne2k_isa",
    "nvdimm",
    "nvme-ns",
    "nvme-subsys",
    "pc-dimm",
    "pc-testdev",
    "pvpanic",
    "ramfb",
    "sb16",
    "scsi-",
    "sd-card",
    "sga",
    "smbus-",
    "tpm-",
    "u2f-",
    "usb-audio",
    "usb-bot",
    "usb-braille",
    "usb-ccid",
    "usb-host",
    "usb-hub",
    "usb-kbd",
    "usb-mouse",
    "usb-mtp",
    "usb-net",
    "usb-redir",
    "usb-serial",
    "usb-storage",
    "usb-tablet",
    "usb-uas",
    "usb-wacom-tablet",
    "virtconsole",
    "virtserialport",
    "vmbus-",
    "vmcoreinfo",
    "vmgenid",
    "vmmouse",
    "xen-backend",
    "xen-console",
    "xen-disk",
    "xen-cdrom",
];
