// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libxl and QEMU would build of a domain configuration: RAM, reserved memory, slots, passed-through devices.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::path::Path;

use xen_pci_layout::address::{Address, Range, Size};
use xen_pci_layout::guest::Guest;
use xen_pci_layout::source::domain::{self, DomainError, Surroundings};
use xen_pci_layout::source::host::Host;
use xen_pci_layout::source::xl_cfg;

fn alone() -> Surroundings {
    Surroundings { phys_bits: 46, cpu: None, rdm: Vec::new(), host: None, ask_qemu: None, shows_sriov: false }
}

fn on_host(example: &str) -> Surroundings {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example).join("host");
    Surroundings { host: Some(Host::copied(&tree).unwrap()), ..alone() }
}

fn with_rdm(start: u64, size: u64) -> Surroundings {
    let range = Range::sized(Address::new(start), Size::new(size)).unwrap();
    Surroundings { rdm: vec![range], ..alone() }
}

fn try_build(cfg: &str, surroundings: &Surroundings) -> Result<(Guest, Vec<String>), DomainError> {
    let (config, mut warnings) = xl_cfg::parse(format!("name='g'\ntype='hvm'\n{cfg}\n").as_bytes()).unwrap();
    let guest = domain::guest(&config, surroundings, &mut warnings)?;
    Ok((guest, warnings.into_iter().map(|warning| warning.code).collect()))
}

fn build(cfg: &str, surroundings: &Surroundings) -> Guest {
    let (guest, warnings) = try_build(cfg, surroundings).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    guest
}

fn error(cfg: &str, surroundings: &Surroundings) -> String {
    try_build(cfg, surroundings).unwrap_err().to_string()
}

/// Low and high end of RAM in MiB.
fn ram(guest: &Guest) -> (u64, u64) {
    (guest.low_mem_pgend >> 8, guest.high_mem_pgend >> 8)
}

fn slots(guest: &Guest) -> String {
    let shown = guest.devices.iter().map(|device| {
        let name = device.host.map(|host| host.to_string()).or(device.model.clone()).unwrap();
        format!("{}.{}={name}", device.bdf.slot(), device.bdf.function())
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn map(guest: &Guest) -> Vec<(u64, u64, u32)> {
    guest.memory_map.iter().map(|entry| (entry.addr.get(), entry.size.get(), entry.kind)).collect()
}

#[test]
fn video_memory_is_taken_from_ram() {
    assert_eq!(ram(&build("memory=512", &alone())), (504, 0));
    assert_eq!(ram(&build("memory=512\nvga='stdvga'", &alone())), (496, 0));
    assert_eq!(ram(&build("memory=512\nvga='stdvga'\nvideoram=64", &alone())), (448, 0));
    assert_eq!(ram(&build("memory=512\nvga='qxl'", &alone())), (384, 0));
    assert_eq!(ram(&build("memory=512\nvga='none'", &alone())), (512, 0));
    assert!(error("memory=512\nvga='stdvga'\nvideoram=8", &alone()).contains("at least 16M, not 8M"));
}

#[test]
fn ram_is_laid_out_for_maxmem_around_the_hole() {
    assert_eq!(ram(&build("memory=512\nmaxmem=8192\nvga='none'", &alone())), (3840, 8192 + 256));
    assert_eq!(ram(&build("memory=3072\nmmio_hole=2048", &alone())), (2048, 4096 + 1016));
    let guest = build("memory=3072\nmmio_hole=2048", &alone());
    assert_eq!(map(&guest), [(1 << 20, 2047 << 20, 1), (1 << 32, 1016 << 20, 1)]);
    assert_eq!(guest.xenstore["platform/mmio_hole_size"], "2147483648");
    let (plain, warnings) = try_build("memory=512\nfirmware='uefi'", &alone()).unwrap();
    assert_eq!(warnings, ["uefi-firmware"]);
    assert_eq!(plain.xenstore["hvmloader/bios"], "ovmf");
    assert_eq!(plain.xenstore["hvmloader/allow-memory-relocate"], "0");
    assert!(!plain.xenstore.contains_key("platform/mmio_hole_size"));
    let uncached = build("memory=512\nxen_platform_pci_bar_uc=0", &alone());
    assert_eq!(uncached.xenstore["hvmloader/pci/xen-platform-pci-bar-uc"], "0");
}

#[test]
fn ram_gives_way_to_reserved_memory_above_the_boundary() {
    let (guest, warnings) = try_build("memory=4096\nvga='none'", &with_rdm(0xcd70_0000, 16 << 20)).unwrap();
    assert_eq!(guest.low_mem_pgend, 0xcd600, "down to a superpage, for hardware-assisted paging");
    assert_eq!(guest.high_mem_pgend, 0x10_0000 + 0x10_0000 - 0xcd600, "and the rest above 4 GiB");
    assert_eq!(map(&guest)[1], (0xcd70_0000, 16 << 20, 2));
    assert_eq!(warnings, ["ram-border-disagrees"], "QEMU is not told");
    let (guest, _) = try_build("memory=4096\nvga='none'\nhap=0", &with_rdm(0xcd70_0000, 16 << 20)).unwrap();
    assert_eq!(guest.low_mem_pgend, 0xcd700);
}

#[test]
fn reserved_memory_below_the_boundary_meets_ram_and_the_policy_decides() {
    let low = with_rdm(0x4000_0000, 1 << 20);
    let (guest, warnings) = try_build("memory=4096\nvga='none'", &low).unwrap();
    assert_eq!((map(&guest).len(), ram(&guest)), (2, (3840, 4096 + 256)), "relaxed: left out of the map");
    assert_eq!(warnings, ["reserved-memory-conflict"]);
    let (guest, warnings) = try_build("memory=4096\nvga='none'\nrdm_mem_boundary=512", &low).unwrap();
    assert_eq!((map(&guest).len(), ram(&guest).0), (3, 1024));
    assert_eq!(warnings, ["ram-border-disagrees"]);
    let strict = "memory=4096\nvga='none'\npci=['01:00.0']";
    let host = on_host("consumer-gpu");
    let (guest, warnings) = try_build(strict, &Surroundings { rdm: low.rdm, ..host }).unwrap();
    assert_eq!(map(&guest).len(), 3, "strict: kept, for the plan to keep clear of");
    assert_eq!(warnings, ["reserved-memory-conflict"]);
}

#[test]
fn a_plain_guest_has_what_qemu_gives_it() {
    let chipset = "0.0=i440FX 1.0=PIIX3 1.1=piix3-ide 1.3=PIIX4_PM";
    let guest = build("memory=512", &alone());
    assert_eq!(slots(&guest), format!("{chipset} 2.0=xen-platform 3.0=cirrus-vga"));
    assert_eq!(guest.device_model_memory, [Size::new(8 << 20), Size::new(64 << 10)]);
    let bare = build("memory=512\nvga='none'\nxen_platform_pci=0", &alone());
    assert_eq!((slots(&bare), bare.device_model_memory.len()), (chipset.to_owned(), 0));
    let no_acpi = build("memory=512\nvga='none'\nacpi=0\nusb=1", &alone());
    assert_eq!(slots(&no_acpi), "0.0=i440FX 1.0=PIIX3 1.1=piix3-ide 1.2=piix3-usb-uhci 2.0=xen-platform");
}

#[test]
fn devices_follow_the_order_of_libxls_command_line() {
    let guest = build(
        "memory=512\ndisk=['/x,raw,sda,w']\nspice=1\nspicevdagent=1\nsoundhw='ac97'\nvif=['','type=vif','model=e1000']\n\
         device_model_args_hvm=['-device','edu']\ndevice_model_args=['-device','i6300esb','-device','usb-tablet']\n\
         hdtype='ahci'\nvendor_device='xenserver'\nusbctrl=['version=3','type=pv']\nusbdev=['hostbus=1,hostaddr=1']",
        &alone(),
    );
    assert!(
        slots(&guest).ends_with(
            "2.0=xen-platform 3.0=lsi53c895a 4.0=virtio-serial-pci 5.0=cirrus-vga 6.0=AC97 7.0=rtl8139 8.0=e1000 \
             9.0=i6300esb 10.0=edu 11.0=ich9-ahci 12.0=xen-pvdevice 13.0=nec-usb-xhci"
        ),
        "{}",
        slots(&guest)
    );
    let roms = [8 << 20, 64 << 10, 256 << 10, 256 << 10].map(Size::new);
    assert_eq!(guest.device_model_memory, roms, "video RAM, its ROM, the ROMs of the network cards");
}

#[test]
fn passed_through_devices_get_the_slot_they_ask_for_or_the_first_free_one() {
    let host = on_host("consumer-gpu");
    let taken = error("memory=512\npci=['01:00.1','01:00.0@4']", &host);
    assert!(taken.contains("taken by the host's 0000:01:00.1"), "{taken}");
    let taken = error("memory=512\npci=['01:00.0@3']", &host);
    assert!(
        taken.contains("taken by cirrus-vga") && taken.contains("wanted by the host's 0000:01:00.0"),
        "{taken}"
    );
    let guest = build("memory=512\npci=['01:00.0@6','01:00.1']", &host);
    assert!(slots(&guest).ends_with("6.0=0000:01:00.0 4.0=0000:01:00.1"), "{}", slots(&guest));
    let card = guest.devices.iter().find(|device| device.bdf.slot() == 6).unwrap();
    assert_eq!((card.vendor, card.header, card.bars.len()), (0x10de, 0x80, 5));
    let frame_buffer = card.bars.iter().find(|bar| bar.reg == 0x14).unwrap();
    assert_eq!((frame_buffer.size, frame_buffer.value), (Size::new(16 << 30), 0x7c_0000_0000));
    assert!(guest.passthrough);
}

#[test]
fn a_wildcard_keeps_the_functions_numbers_and_warns() {
    let (guest, warnings) = try_build("memory=512\npci=['01:00.*@5']", &on_host("consumer-gpu")).unwrap();
    assert!(slots(&guest).ends_with("5.0=0000:01:00.0 5.1=0000:01:00.1"), "{}", slots(&guest));
    assert_eq!(warnings, ["wildcard-functions"]);
    assert!(error("memory=512\npci=['01:00.*']", &on_host("consumer-gpu")).contains("needs a slot"));
}

#[test]
fn what_cannot_be_built_says_why() {
    let refused = |kind: &str| {
        let text = format!("name='g'\n{kind}\nkernel='/k'\nmemory=512\n");
        let (config, mut warnings) = xl_cfg::parse(text.as_bytes()).unwrap();
        domain::guest(&config, &alone(), &mut warnings).unwrap_err().to_string()
    };
    assert!(refused("type='pv'").starts_with("a PV guest has no hvmloader"));
    assert!(refused("").starts_with("a PV guest"), "xl's default");
    assert!(refused("type='pvh'").starts_with("a PVH guest"));
    assert!(refused("type='pvh'\ngic_version='v2'").starts_with("an Arm guest"));
    assert!(refused("type='hvm'\ndevice_model_version='qemu-xen-traditional'").contains("traditional"));
    assert!(
        error("memory=512\npci=['09:00.0']", &on_host("consumer-gpu"))
            .contains("0000:09:00.0: no such device")
    );
    assert!(error("memory=512\npci=['09:00.0']", &alone()).contains("which host?"));
    assert!(error("memory=512\npci=['name=card']", &alone()).contains("name=card"));
    let membar = "memory=512\ndevice_model_args=['-device','pci-testdev,membar=100M']";
    assert!(error(membar, &alone()).contains("-device pci-testdev: membar=100M: no power of two"));
    assert!(error("memory=512\nvga='cirrus'\nvideoram=24", &alone()).contains("4, 8 or 16 MiB"));
    assert!(error("memory=8", &alone()).contains("no RAM for a guest"));
    assert!(
        error("memory=512\ndevice_model_args=['-device','edu,bus=nowhere']", &alone())
            .contains("bus=nowhere")
    );
}

#[test]
fn what_is_not_understood_is_named() {
    let (guest, warnings) = try_build(
        "memory=512\ndevice_model_args=['-device','vmware-svga','-device','edu','-colour','red']\ncolour=1",
        &alone(),
    )
    .unwrap();
    assert_eq!(warnings, ["unknown-key", "unknown-argument", "unknown-device"]);
    assert!(slots(&guest).ends_with("4.0=vmware-svga 5.0=edu"), "{}", slots(&guest));
}

#[test]
fn devices_behind_a_bridge_say_so() {
    let guest = build(
        "memory=512\ndevice_model_args=['-device','pci-bridge,id=b1,chassis_nr=1','-device','edu,bus=b1','-device',\
         'pcie-root-port,id=p,chassis=2','-device','nvme,bus=p,serial=1']",
        &alone(),
    );
    let at =
        |model: &str| guest.devices.iter().find(|device| device.model.as_deref() == Some(model)).unwrap();
    let place = |model: &str| (at(model).bdf.to_string(), at(model).bridge.map(|bdf| bdf.to_string()));
    assert_eq!(
        place("edu"),
        ("01:01.0".to_owned(), Some("00:04.0".to_owned())),
        "slot 0 is the hot-plug controller's"
    );
    assert_eq!(place("nvme"), ("02:00.0".to_owned(), Some("00:05.0".to_owned())));
}

#[test]
fn the_examples_are_guests() {
    for example in ["endpoint-test", "consumer-gpu", "hyperscale"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example).join("guest.cfg");
        let (config, warnings) = xl_cfg::parse(&std::fs::read(path).unwrap()).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let mut warnings = Vec::new();
        let guest = domain::guest(&config, &on_host(example), &mut warnings).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let passed = guest.devices.iter().filter(|device| device.host.is_some()).count();
        assert_eq!(passed, config.pci.len());
    }
}
