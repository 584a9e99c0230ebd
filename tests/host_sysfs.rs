// SPDX-License-Identifier: LGPL-2.1-or-later
//! Hosts read from copies of sysfs.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    reason = "a test that cannot make its input has failed"
)]

mod common;

use std::path::PathBuf;

use common::sysfs::{Config, IO, MEM32, MEM64, MEM64_PREFETCH, ROM, Tree};
use xen_pci_layout::address::{Address, Size};
use xen_pci_layout::pci::{BarKind, Sbdf};
use xen_pci_layout::source::host::{Capabilities, Host};

const NIC: (u16, u16, u32) = (0x8086, 0x1521, 0x02_0000);
const NIC_AT: &str = "0000:03:00.0";

fn sbdf(text: &str) -> Sbdf {
    text.parse().unwrap()
}

fn read(tree: &Tree) -> Host {
    Host::copied(tree.path()).unwrap()
}

fn error(tree: &Tree) -> String {
    let error = Host::copied(tree.path()).unwrap_err();
    assert!(!error.is_environment(), "a copy is input: {error}");
    error.to_string()
}

#[test]
fn both_sources_tell_the_same_of_the_same_host() {
    let hosts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    for (tree, text) in [
        (common::sysfs::endpoint_test(), "endpoint-test.lspci"),
        (common::sysfs::pci_testdev(), "pci-testdev.lspci"),
    ] {
        let (tree, text) = (read(&tree), Host::lspci(&hosts.join(text)).unwrap());
        assert_eq!(tree.devices().count(), text.devices().count());
        for (tree, text) in tree.devices().zip(text.devices()) {
            let same = |bars: &[xen_pci_layout::pci::Bar]| bars.to_vec();
            assert_eq!(same(&tree.device.bars), same(&text.device.bars), "{}", tree.sbdf);
            assert_eq!((tree.device.vendor, tree.device.device), (text.device.vendor, text.device.device));
            assert_eq!((tree.device.class, tree.msix), (text.device.class, text.msix), "{}", tree.sbdf);
            assert_eq!((&tree.sriov, tree.bridge), (&text.sriov, text.bridge), "{}", tree.sbdf);
            assert_eq!((&tree.unsized_bars, tree.shadow_rom), (&text.unsized_bars, text.shadow_rom));
        }
    }
}

#[test]
fn kinds_sizes_and_addresses_come_from_resource() {
    let tree = Tree::new();
    let none = (0, 0, 0);
    let bars = [
        (0x60_0000_0000, 256 << 20, MEM64_PREFETCH),
        none,
        (0x60_1000_0000, 2 << 20, MEM64),
        none,
        (0x4000, 256, IO),
        (0, 1 << 20, MEM32),
        (0x8210_0000, 128 << 10, ROM),
    ];
    tree.add(NIC_AT, NIC, &Config::of(4096), &bars);
    tree.link(NIC_AT, "driver", "../../../bus/pci/drivers/pciback");
    tree.write(NIC_AT, "numa_node", "-1\n");
    let host = read(&tree);
    let device = host.device(sbdf(NIC_AT)).unwrap();
    let shown: Vec<String> = device
        .device
        .bars
        .iter()
        .map(|bar| {
            format!("{:02x} {} {} {} {:?}", bar.reg, bar.kind, bar.size, bar.prefetch, bar.host_address)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "10 mem64 256M true Some(Address(412316860416))",
            "18 mem64 2M false Some(Address(412585295872))",
            "20 io 256 false Some(Address(16384))",
            "24 mem32 1M false None",
            "30 rom 128K false Some(Address(2182086656))",
        ]
    );
    assert_eq!((device.driver.as_deref(), device.numa_node), (Some("pciback"), None));
}

#[test]
fn an_unprivileged_copy_still_tells_sizes_and_vfs() {
    let tree = Tree::new();
    let mut bars = vec![(0xf000_0000, 1 << 20, MEM32)];
    bars.resize(7, (0, 0, 0));
    bars.push((0xf010_0000, 8 * (16 << 10), MEM64));
    tree.add(NIC_AT, NIC, &Config::of(64), &bars);
    for (file, text) in [
        ("sriov_totalvfs", "8\n"),
        ("sriov_numvfs", "2\n"),
        ("sriov_offset", "128\n"),
        ("sriov_stride", "4\n"),
    ] {
        tree.write(NIC_AT, file, text);
    }
    tree.write(NIC_AT, "sriov_vf_device", "1520\n");
    let vf = (0x8086, 0x1520, 0x02_0000);
    // A virtual function's own registers have no identity, and no BARs.
    let own = || Config::of(64).virtual_function().clone();
    tree.add("0000:03:10.0", vf, &own(), &[(0xf010_0000, 16 << 10, MEM64)]);
    tree.add("0000:03:10.4", vf, &own(), &[(0xf010_4000, 16 << 10, MEM64)]);
    let host = read(&tree);
    let device = host.device(sbdf(NIC_AT)).unwrap();
    assert_eq!(device.capabilities, Capabilities::Unreadable);
    let sriov = device.sriov.as_ref().unwrap();
    assert_eq!((sriov.total_vfs, sriov.num_vfs, sriov.vf_device), (8, 2, 0x1520));
    let bar = sriov.bars[0];
    assert_eq!((bar.index, bar.kind, bar.size), (0, BarKind::Mem64, Some(Size::new(16 << 10))));
    let vf = host.device(sbdf("0000:03:10.4")).unwrap();
    assert_eq!((vf.physfn, vf.device.bars.len()), (Some(sbdf(NIC_AT)), 1));
}

#[test]
fn a_virtual_function_names_its_physical_one_by_link_or_copied_directory() {
    let tree = Tree::new();
    let bar = [(0xf010_0000, 16 << 10, MEM64)];
    for at in ["0000:03:10.0", "0000:03:10.1"] {
        // Its own registers read zero: the kernel alone knows its BARs.
        tree.add(at, (0x8086, 0x1520, 0x02_0000), Config::of(4096).virtual_function(), &bar);
    }
    tree.link("0000:03:10.0", "physfn", "../0000:03:00.0");
    std::fs::create_dir(tree.devices().join("0000:03:10.1/physfn")).unwrap();
    tree.write("0000:03:10.1", "physfn/uevent", "DRIVER=igb\nPCI_SLOT_NAME=0000:03:00.0\n");
    let host = read(&tree);
    for device in host.devices() {
        assert_eq!(device.physfn, Some(sbdf(NIC_AT)), "{}", device.sbdf);
        assert_eq!(device.device.bars[0].host_address, Some(Address::new(0xf010_0000)));
    }
}

#[test]
fn a_bar_that_the_kernel_gave_up_is_there_without_a_size() {
    let tree = Tree::new();
    let mut config = Config::of(256);
    config.put(0x10, &[0x0c, 0, 0, 0, 0x60, 0, 0, 0]).put(0x18, &[0, 0, 0, 0xf0]);
    tree.add(NIC_AT, NIC, &config, &[]);
    let host = read(&tree);
    let device = host.device(sbdf(NIC_AT)).unwrap();
    let shown: Vec<_> = device.unsized_bars.iter().map(|bar| (bar.reg, bar.kind)).collect();
    assert_eq!(shown, [(0x10, BarKind::Mem64), (0x18, BarKind::Mem32)]);
}

#[test]
fn processor_and_firmware_are_read_where_they_are_there() {
    let tree = common::sysfs::pci_testdev();
    assert_eq!((read(&tree).cpu(), read(&tree).iommu_bits()), (None, None));
    let cpuinfo =
        "vendor_id\t: GenuineIntel\ncpu family\t: 6\naddress sizes\t: 46 bits physical, 48 bits virtual\n";
    std::fs::write(tree.path().join("cpuinfo"), cpuinfo).unwrap();
    assert_eq!(read(&tree).cpu().unwrap().phys_bits, 46);
    let tables = tree.path().join("firmware/acpi/tables");
    std::fs::create_dir_all(&tables).unwrap();
    std::fs::write(tables.join("DMAR"), b"DMARxx").unwrap();
    let error = error(&tree);
    assert!(error.ends_with("firmware/acpi/tables/DMAR: is no ACPI table DMAR, or is cut off"), "{error}");
}

#[test]
fn what_makes_no_sense_is_named_by_file_and_line() {
    let with = |change: &dyn Fn(&Tree)| {
        let tree = Tree::new();
        tree.add(NIC_AT, NIC, &Config::of(256), &[(0xf000_0000, 4096, MEM32)]);
        change(&tree);
        let message = error(&tree);
        let place = format!("{}/{NIC_AT}/", tree.devices().display());
        assert!(message.starts_with(&place), "{message}");
        message[place.len()..].to_owned()
    };
    let resource = |text: &'static str| with(&move |tree: &Tree| tree.write(NIC_AT, "resource", text));
    assert_eq!(
        resource("0x0 0x0 0x0\nfoo\n"),
        "resource line 2: three hexadecimal numbers expected: \"foo\""
    );
    assert_eq!(resource("0x10 0x0 0x200\n"), "resource line 1: ends before it starts: \"0x10 0x0 0x200\"");
    assert_eq!(
        resource("0x1000 0x1bff 0x200\n"),
        "resource line 1: BAR 0x10 has 3072 bytes, which is no power of two"
    );
    assert!(resource("0x0 0xffffffffffffffff 0x200\n").contains("no power of two"));
    let short = with(&|tree| tree.write(NIC_AT, "config", "short"));
    assert_eq!(short, "config: 5 bytes: a configuration space has at least 64 and at most 4096");
    let vendor = with(&|tree| tree.write(NIC_AT, "vendor", "0x12345\n"));
    assert_eq!(vendor, "vendor line 1: \"0x12345\" is not the number expected here");
    let gone = with(&|tree| std::fs::remove_file(tree.devices().join(NIC_AT).join("resource")).unwrap());
    assert!(gone.starts_with("resource: is missing"), "{gone}");
}

#[test]
fn a_directory_that_is_no_copy_is_refused() {
    let error = Host::copied(std::path::Path::new("/nonexistent")).unwrap_err();
    assert!(!error.is_environment());
    assert!(error.to_string().starts_with("/nonexistent/bus/pci/devices: "), "{error}");
    assert!(error.to_string().ends_with("(is this a copy of a host's /sys?)"), "{error}");
}
