// SPDX-License-Identifier: LGPL-2.1-or-later
//! Hosts read from lspci's text.
#![allow(clippy::unwrap_used, reason = "a test that cannot make its input has failed")]

use std::path::{Path, PathBuf};

use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::pci::{BarKind, Sbdf};
use xen_pci_layout::source::host::{Capabilities, Host, HostDevice};

fn host(name: &str) -> Host {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hosts").join(name);
    Host::lspci(&file).unwrap()
}

fn sbdf(text: &str) -> Sbdf {
    text.parse().unwrap()
}

fn bars(device: &HostDevice) -> Vec<String> {
    let shown = |bar: &xen_pci_layout::pci::Bar| {
        let address = bar.host_address.map_or("nowhere".to_owned(), |address| address.to_string());
        let prefetch = if bar.prefetch { " prefetch" } else { "" };
        format!("{:02x} {} {}{prefetch} {address}", bar.reg, bar.kind, bar.size)
    };
    device.device.bars.iter().map(shown).collect()
}

fn error(text: &str) -> String {
    Host::lspci_text(Path::new("host.lspci"), text).unwrap_err().to_string()
}

#[test]
fn the_endpoint_test_device_is_read_with_its_capabilities() {
    let host = host("endpoint-test.lspci");
    let device = host.device(sbdf("01:00.0")).unwrap();
    assert_eq!((device.device.vendor, device.device.device, device.device.class), (0x104c, 0xb500, 0xff00));
    assert_eq!(
        bars(device),
        [
            "10 mem32 256 0xe0124600",
            "14 mem32 512 0xe0124400",
            "18 mem32 1K 0xe0124000",
            "1c mem32 16K 0xe0120000",
            "20 mem32 128K 0xe0100000",
            "24 mem32 1M 0xe0000000",
        ]
    );
    let msix = device.msix.unwrap();
    assert_eq!((msix.vectors, msix.table_bar, msix.table_offset), (1, 0, 0x80));
    assert_eq!((msix.pba_bar, msix.pba_offset), (0, 0x90));
    let sriov = device.sriov.as_ref().unwrap();
    assert_eq!((sriov.total_vfs, sriov.num_vfs, sriov.first_offset, sriov.stride), (4, 0, 6, 1));
    assert_eq!((sriov.vf_device, sriov.supported_page_sizes), (0xb500, Some(0x553)));
    assert_eq!(device.driver.as_deref(), Some("pciback"), "after all capabilities");
    assert_eq!((device.device.int_pin, device.numa_node), (1, Some(0)));

    let bridge = host.bridge_of(device).unwrap();
    assert_eq!(bridge.sbdf, sbdf("00:1c.0"));
    let windows = bridge.bridge.unwrap();
    assert_eq!((windows.io, windows.prefetchable), (None, None));
    assert_eq!(windows.memory, Some((Address::new(0xe000_0000), Address::new(0xe01f_ffff))));
}

#[test]
fn names_with_brackets_sizes_and_kinds_are_read() {
    let host = host("workstation.lspci");
    let gpu = host.device(sbdf("01:00.0")).unwrap();
    assert_eq!((gpu.device.vendor, gpu.device.device), (0x1002, 0x73bf));
    let name = "Advanced Micro Devices, Inc. [AMD/ATI] Navi 21 [Radeon RX 6800/6800 XT / 6900 XT]";
    assert_eq!(gpu.device.model.as_deref(), Some(name));
    assert_eq!(
        bars(gpu),
        [
            "10 mem64 256M prefetch 0x6000000000",
            "18 mem64 2M prefetch 0x6010000000",
            "20 io 256 0x4000",
            "24 mem32 1M 0x82000000",
            "30 rom 128K 0x82100000",
        ]
    );
    let sizes: Vec<_> =
        gpu.resizable.iter().map(|bar| (bar.index, bar.current, bar.supported.last())).collect();
    let (quarter, largest, small) = (Size::new(256 << 20), Size::new(16 << 30), Size::new(2 << 20));
    assert_eq!(sizes, [(0, Some(quarter), Some(&largest)), (2, Some(small), Some(&quarter))]);
    assert_eq!(gpu.capabilities, Capabilities::Whole);
    assert_eq!(gpu.for_guest(sbdf("00:05.0").bdf).unwrap().header, 0x80);
}

#[test]
fn bars_without_address_or_size_are_kept_apart() {
    let host = host("workstation.lspci");
    let nic = host.device(sbdf("03:00.0")).unwrap();
    assert_eq!(bars(nic), ["10 mem32 128K nowhere", "1c mem32 16K nowhere"]);
    let unsized_bars: Vec<_> = nic.unsized_bars.iter().map(|bar| (bar.reg, bar.kind)).collect();
    assert_eq!(unsized_bars, [(0x18, BarKind::Io), (0x30, BarKind::Rom)]);
    assert_eq!(nic.capabilities, Capabilities::Unreadable);
    let refused = nic.for_guest(sbdf("00:05.0").bdf).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("0000:03:00.0: BAR 0x18 (io): its size is not told: lspci prints none"),
        "{refused}"
    );
    assert!(!refused.is_environment());
}

#[test]
fn legacy_ide_ports_are_no_bars_and_a_shadow_rom_is_told_apart() {
    let host = host("pci-testdev.lspci");
    assert_eq!(bars(host.device(sbdf("00:01.1")).unwrap()), ["20 io 16 0xc4c0"]);
    let vga = host.device(sbdf("00:02.0")).unwrap();
    assert!(vga.shadow_rom);
    assert_eq!(bars(vga).last().unwrap(), "30 rom 128K 0xc0000");
}

#[test]
fn a_device_that_is_not_there_is_refused_with_its_neighbours() {
    let error = host("pci-testdev.lspci").device(sbdf("00:06.0")).unwrap_err().to_string();
    assert!(error.starts_with("0000:00:06.0: no such device on this host ("), "{error}");
    assert!(error.contains("on that bus: 0000:00:00.0, 0000:00:01.1"), "{error}");
}

#[test]
fn virtual_functions_are_found_by_the_physical_ones_numbers() {
    let text = "\
0000:01:00.0 Ethernet controller [0200]: Intel Corporation I350 [8086:1521]
	Region 0: Memory at f0000000 (32-bit, non-prefetchable) [size=1M]
	Capabilities: [160 v1] Single Root I/O Virtualization (SR-IOV)
		IOVCtl:	Enable+ Migration- Interrupt- MSE+ ARIHierarchy+
		Initial VFs: 8, Total VFs: 8, Number of VFs: 2, Function Dependency Link: 00
		VF offset: 128, stride: 4, Device ID: 1520
		Supported Page Size: 00000553, System Page Size: 00000001
		Region 0: Memory at 00000000f0100000 (64-bit, non-prefetchable)
0000:01:10.0 Ethernet controller [0200]: Intel Corporation I350 VF [8086:1520]
	Region 0: Memory at f0100000 (64-bit, non-prefetchable) [virtual] [size=16K]
0000:01:10.4 Ethernet controller [0200]: Intel Corporation I350 VF [8086:1520]
	Region 0: Memory at f0104000 (64-bit, non-prefetchable) [virtual] [size=16K]
";
    let host = Host::lspci_text(Path::new("host.lspci"), text).unwrap();
    for vf in ["01:10.0", "01:10.4"] {
        assert_eq!(host.device(sbdf(vf)).unwrap().physfn, Some(sbdf("01:00.0")), "{vf}");
    }
    let physical = host.device(sbdf("01:00.0")).unwrap();
    assert_eq!(physical.physfn, None);
    let bar = physical.sriov.as_ref().unwrap().bars[0];
    assert_eq!(
        (bar.address, bar.size),
        (Some(Address::new(0xf010_0000)), None),
        "lspci does not tell the size"
    );
}

#[test]
fn text_that_lost_its_indentation_reads_the_same() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/endpoint-test.lspci");
    let text = std::fs::read_to_string(file).unwrap();
    let flat: String = text.lines().map(|line| format!("{}\n", line.trim())).collect();
    let flat = Host::lspci_text(Path::new("flat"), &flat).unwrap();
    assert!(host("endpoint-test.lspci").devices().eq(flat.devices()));
}

#[test]
fn what_makes_no_sense_is_named_by_its_line() {
    assert!(error("hello\n").starts_with("host.lspci: no PCI function in it"));
    assert!(
        error("00:01.0 VGA compatible controller: Intel Corporation Device (rev 02)\n")
            .starts_with("host.lspci line 1: 0000:00:01.0: no class, vendor and device numbers")
    );
    let region = |line: &str| error(&format!("00:01.0 0300: 8086:0042\n{line}\n"));
    for line in [
        "Region 0: Memory at ",
        "Region 0: Memory at f0000000",
        "Region 0: Memory at f0000000 (64-bit, prefetchable",
        "Region 0: Memory at f0000000 (64-bit, prefetchable) [size=",
        "Region 0: Memory at g0000000 (64-bit, prefetchable) [size=16M]",
        "Region 9: Memory at f0000000 (64-bit, prefetchable) [size=16M]",
        "Region 0: Memory at f0000000 (64-bit, prefetchable) [size=3M]",
        "Region 0: Memory at f0000000 (64-bit, prefetchable) [size=99999999999T]",
        "Expansion ROM at f0000000 [disabled] [size=3K]",
        "Memory behind bridge: f0000000-f00fffff",
        "Bus: primary=00",
    ] {
        assert!(region(line).starts_with("host.lspci line 2: 0000:00:01.0: "), "{line}: {}", region(line));
    }
    let twice = error("00:01.0 0300: 8086:0042\n00:01.0 0300: 8086:0042\n");
    assert_eq!(twice, "host.lspci line 2: 0000:00:01.0 is there twice");
}

#[test]
fn no_cut_and_no_garbled_byte_is_worse_than_an_error() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    for name in ["endpoint-test.lspci", "pci-testdev.lspci", "workstation.lspci"] {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        for (at, _) in text.char_indices().step_by(7) {
            let (before, after) = text.split_at(at);
            let _ = Host::lspci_text(Path::new("cut"), before);
            for garbage in ["9", "]", "(", "\u{e9}", "f", " "] {
                let _ = Host::lspci_text(
                    Path::new("garbled"),
                    &format!("{before}{garbage}{}", after.get(1..).unwrap_or_default()),
                );
            }
        }
    }
}
