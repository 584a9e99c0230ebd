// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an audit finds about hosts, whichever way they were read.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot make its input has failed"
)]

mod common;

use std::path::{Path, PathBuf};

use common::sysfs::{Config, MEM32, MEM64, MEM64_PREFETCH, ROM, Tree};
use xen_pci_layout::address::Size;
use xen_pci_layout::audit::{
    Code, Finding, Options, Report, Severity, audit, changes, device_findings, guest_findings, read_saved,
    security_findings,
};
use xen_pci_layout::pci::Sbdf;
use xen_pci_layout::source::host::Host;

const NIC: (u16, u16, u32) = (0x8086, 0x1521, 0x02_0000);

fn sbdf(text: &str) -> Sbdf {
    text.parse().unwrap()
}

fn lspci(name: &str) -> Host {
    Host::lspci(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hosts").join(name)).unwrap()
}

fn copied(tree: &Tree) -> Host {
    Host::copied(tree.path()).unwrap()
}

fn of(host: &Host, asked: &[&str]) -> Report {
    let asked: Vec<Sbdf> = asked.iter().map(|text| sbdf(text)).collect();
    audit(host, &asked, &Options::default()).unwrap()
}

fn codes(report: &Report) -> Vec<(Code, Severity)> {
    report.findings.iter().map(|finding| (finding.code, finding.severity)).collect()
}

fn one(report: &Report, code: Code) -> &Finding {
    let mut all = report.findings.iter().filter(|finding| finding.code == code);
    let found = all.next();
    assert!(found.is_some(), "no {code}: {:?}", codes(report));
    assert!(all.next().is_none(), "{code} twice");
    found.unwrap()
}

/// What a finding says, without the host's name.
fn argument(finding: &Finding) -> &str {
    finding.remedy.kernel_argument.as_deref().unwrap()
}

#[test]
fn the_endpoint_test_device_is_told_to_align_its_small_bars() {
    for host in [lspci("endpoint-test.lspci"), copied(&common::sysfs::endpoint_test())] {
        let report = of(&host, &["01:00.0"]);
        assert_eq!(
            codes(&report),
            [
                (Code::UnalignedBar, Severity::Security),
                (Code::SharedPageWithin, Severity::Functional),
                (Code::MsixPage, Severity::Functional),
            ]
        );
        assert!(!report.is_safe());
        let unaligned = one(&report, Code::UnalignedBar);
        assert_eq!(
            unaligned.bars.iter().map(|bar| bar.reg).collect::<Vec<_>>(),
            [0x10, 0x14],
            "256 and 512 bytes"
        );
        assert_eq!(argument(unaligned), "pci=resource_alignment=12@0000:01:00.0");
        let cost = unaligned.remedy.cost.as_deref().unwrap();
        assert!(cost.contains("(0000:01:00.0: BAR 0 from 256, BAR 1 from 512 and BAR 2 from 1K)"), "{cost}");
        let shared = one(&report, Code::SharedPageWithin);
        assert_eq!(shared.bars.len(), 3);
        assert_eq!(shared.page.unwrap().start.get(), 0xe012_4000);
        let msix = &one(&report, Code::MsixPage).consequence;
        assert!(msix.contains("the 128 bytes before in BAR 0"), "{msix}");
        assert!(msix.contains("BAR 1 (512 at 0xe0124400) and BAR 2") || msix.contains("BAR 2 (1K"), "{msix}");
        assert_eq!(report.devices[0].page_sizes, []);
        assert!(report.groups.is_empty(), "one function shares with no other");
    }
}

#[test]
fn four_functions_on_one_page_go_together_or_nowhere() {
    for host in [lspci("pci-testdev.lspci"), copied(&common::sysfs::pci_testdev())] {
        let report = of(&host, &["00:05.2"]);
        let shared = one(&report, Code::SharedPage);
        assert_eq!(shared.severity, Severity::Security);
        let four: Vec<Sbdf> = (0..4).map(|function| sbdf(&format!("00:05.{function}"))).collect();
        assert_eq!(shared.devices, four);
        assert_eq!(report.groups, std::slice::from_ref(&four));
        assert_eq!(
            argument(shared),
            "pci=resource_alignment=12@0000:00:05.0;12@0000:00:05.1;12@0000:00:05.2;12@0000:00:05.3"
        );
        assert!(shared.remedy.advice.contains("in quotes"), "{}", shared.remedy.advice);
        assert!(!shared.remedy.advice.contains("slot behind another bridge"), "one card has one slot");
        // One argument alone is heard: the whole one, not the function's own.
        assert_eq!(report.kernel_argument.as_deref(), Some(argument(shared)));
        assert_eq!(report.devices.len(), 1, "only what was asked for");
        assert!(!report.devices[0].safe);
    }
}

#[test]
fn both_sources_lead_to_the_same_findings() {
    for (tree, text) in [
        (common::sysfs::endpoint_test(), "endpoint-test.lspci"),
        (common::sysfs::pci_testdev(), "pci-testdev.lspci"),
    ] {
        let (tree, text) = (of(&copied(&tree), &[]), of(&lspci(text), &[]));
        assert_eq!(tree.findings, text.findings);
        assert_eq!(tree.groups, text.groups);
    }
}

#[test]
fn functions_that_share_are_no_danger_in_one_guest_but_still_unaligned() {
    let host = copied(&common::sysfs::pci_testdev());
    let four: Vec<Sbdf> = (0..4).map(|function| sbdf(&format!("00:05.{function}"))).collect();
    let found = |taken: &[Sbdf]| -> Vec<Code> {
        security_findings(&host, taken, Size::FRAME).iter().map(|finding| finding.code).collect()
    };
    assert_eq!(found(&four[..1]), [Code::SharedPage], "the first starts its page");
    assert_eq!(found(&four[..2]), [Code::SharedPage, Code::UnalignedBar]);
    assert_eq!(found(&four), [Code::UnalignedBar; 3]);
    assert_eq!(found(&[sbdf("00:02.0")]), []);
}

#[test]
fn a_full_bridge_is_named_in_the_argument() {
    let tree = Tree::new();
    tree.add(
        "0000:00:1c.0",
        (0x1b36, 0xc, 0x06_0400),
        Config::of(4096).bridge(1, (0xe000_0000, 0xe00f_ffff)),
        &[],
    );
    // One MiB filled to the last byte: each of the two small BARs wants 2 KiB more than there is.
    let kib = |at: u64, size: u64| (0xe000_0000 + (at << 10), size << 10, MEM32);
    let first = [kib(0, 512), kib(512, 256), kib(768, 128), kib(896, 64), kib(1020, 2)];
    let second = [kib(960, 32), kib(992, 16), kib(1008, 8), kib(1016, 4), kib(1022, 2)];
    tree.add("0000:01:00.0", NIC, &Config::of(256), &first);
    tree.add("0000:01:01.0", NIC, &Config::of(256), &second);
    let report = of(&copied(&tree), &["01:00.0"]);
    let shared = one(&report, Code::SharedPage);
    assert_eq!(argument(shared), "pci=resource_alignment=12@0000:01:00.0;12@0000:01:01.0;20@0000:00:1c.0");
    assert!(shared.remedy.advice.contains("0000:00:1c.0 is named because its window has no room"));
    assert!(shared.remedy.advice.contains("a slot behind another bridge"), "two cards can be parted");
}

#[test]
fn a_bridge_on_the_page_bars_all_guests() {
    let tree = Tree::new();
    let port = Config::of(256).bridge(1, (0xe000_0000, 0xe00f_ffff)).clone();
    tree.add("0000:00:1c.0", (0x1b36, 0xc, 0x06_0400), &port, &[(0xf000_0800, 256, MEM32)]);
    tree.add("0000:00:05.0", NIC, &Config::of(256), &[(0xf000_0000, 256, MEM32)]);
    let report = of(&copied(&tree), &[]);
    let shared = one(&report, Code::SharedPage);
    assert!(
        shared.consequence.contains("0000:00:1c.0 stays with the host as a bridge"),
        "{}",
        shared.consequence
    );
    assert_eq!(report.devices.len(), 1, "a bridge is not asked about");
}

#[test]
fn larger_pages_are_shared_by_more() {
    let tree = Tree::new();
    tree.add("0000:00:05.0", NIC, &Config::of(256), &[(0xf000_0000, 16 << 10, MEM32)]);
    tree.add("0000:00:06.0", NIC, &Config::of(256), &[(0xf000_4000, 16 << 10, MEM32)]);
    let host = copied(&tree);
    assert!(of(&host, &[]).findings.is_empty());
    let sizes: Vec<_> = of(&host, &[]).devices.into_iter().map(|device| device.page_sizes).collect();
    let two = vec![Size::new(4 << 10), Size::new(16 << 10)];
    assert_eq!(sizes, [two.clone(), two]);
    let options = Options { page_size: Size::new(64 << 10), guest_phys_bits: None };
    let report = audit(&host, &[], &options).unwrap();
    assert_eq!(
        argument(one(&report, Code::SharedPage)),
        "pci=resource_alignment=16@0000:00:05.0;16@0000:00:06.0"
    );
    assert_eq!(one(&report, Code::UnalignedBar).devices, [sbdf("00:06.0")]);
}

#[test]
fn msix_structures_on_pages_of_their_own_are_no_finding() {
    let tree = Tree::new();
    let bars = [(0xf000_0000, 16 << 10, MEM64), (0, 0, 0), (0xf000_4000, 4096, MEM32)];
    // Table at 0x2000, pending bits in the same page behind it; and NVMe's, in a BAR of their own.
    tree.add("0000:00:05.0", NIC, Config::of(256).msix(17, 0x2000, 0x2800), &bars);
    tree.add(
        "0000:00:06.0",
        NIC,
        Config::of(256).msix(17, 0x2000, 2),
        &bars.map(|(at, size, flags)| (if size == 0 { 0 } else { at + 0x10_0000 }, size, flags)),
    );
    assert!(of(&copied(&tree), &[]).findings.is_empty());
    let mixed = Tree::new();
    mixed.add("0000:00:05.0", NIC, Config::of(256).msix(4, 0x2010, 0x3000), &bars);
    let report = of(&copied(&mixed), &[]);
    let finding = one(&report, Code::MsixPage);
    assert!(finding.consequence.starts_with("MSI-X table of 0000:00:05.0 lies"), "{}", finding.consequence);
    assert!(finding.consequence.contains("the 16 bytes before in BAR 0"), "{}", finding.consequence);
    assert_eq!(finding.remedy.kernel_argument, None, "nothing moves registers within a BAR");
}

#[test]
fn overlapping_bars_are_named_as_such() {
    let tree = Tree::new();
    tree.add("0000:00:05.0", NIC, &Config::of(256), &[(0xf000_0000, 64 << 10, MEM32)]);
    tree.add("0000:00:06.0", NIC, &Config::of(256), &[(0xf000_8000, 16 << 10, MEM32)]);
    let report = of(&copied(&tree), &["00:06.0"]);
    assert_eq!(codes(&report), [(Code::OverlappingBars, Severity::Security)]);
    assert_eq!(argument(one(&report, Code::OverlappingBars)), "pci=realloc");
}

#[test]
fn bars_without_a_place_or_outside_their_bridge_are_found() {
    let tree = Tree::new();
    tree.add(
        "0000:00:1c.0",
        (0x1b36, 0xc, 0x06_0400),
        Config::of(4096).bridge(1, (0xe000_0000, 0xe00f_ffff)),
        &[],
    );
    let bars = [(0, 16 << 30, MEM64_PREFETCH), (0, 0, 0), (0xf000_0000, 4096, MEM32)];
    tree.add("0000:01:00.0", NIC, &Config::of(256), &bars);
    let report = of(&copied(&tree), &["01:00.0"]);
    assert_eq!(
        codes(&report),
        [(Code::UnassignedBar, Severity::Functional), (Code::OutsideWindow, Severity::Functional)]
    );
    assert!(report.is_safe());
    let unassigned = one(&report, Code::UnassignedBar);
    assert!(unassigned.remedy.advice.contains("Above 4G Decoding"), "16G does not fit below 4 GiB");
    let outside = one(&report, Code::OutsideWindow);
    assert!(outside.consequence.contains("BAR 2 (4K at 0xf0000000)"), "{}", outside.consequence);
    assert!(
        outside.consequence.contains("0000:00:1c.0 forwards (0xe0000000-0xe00fffff)"),
        "{}",
        outside.consequence
    );
    assert_eq!(report.devices[0].page_sizes, [], "not with a BAR that is nowhere");
    assert_eq!(report.kernel_argument.as_deref(), Some("pci=realloc"));
}

#[test]
fn what_processor_iommu_and_guest_cannot_reach_is_found() {
    let tree = Tree::new();
    tree.add("0000:00:05.0", NIC, &Config::of(256), &[(1 << 46, 128 << 30, MEM64_PREFETCH)]);
    let cpuinfo =
        "vendor_id\t: GenuineIntel\ncpu family\t: 6\naddress sizes\t: 46 bits physical, 48 bits virtual\n";
    std::fs::write(tree.path().join("cpuinfo"), cpuinfo).unwrap();
    let tables = tree.path().join("firmware/acpi/tables");
    std::fs::create_dir_all(&tables).unwrap();
    let mut dmar = b"DMAR\x30\0\0\0".to_vec();
    dmar.extend([0; 28]);
    dmar.extend([38, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    std::fs::write(tables.join("DMAR"), dmar).unwrap();
    let host = copied(&tree);
    let consequences = |bits| -> Vec<String> {
        let options = Options { guest_phys_bits: Some(bits), ..Options::default() };
        audit(&host, &[], &options).unwrap().findings.into_iter().map(|finding| finding.consequence).collect()
    };
    let wide = consequences(40);
    assert_eq!(wide.len(), 2, "{wide:?}");
    assert!(wide[0].contains("46 address bits of the host's processor"), "{wide:?}");
    assert!(wide[1].contains("39 address bits of the host's IOMMU"), "{wide:?}");
    assert!(
        consequences(37).iter().any(|text| text.contains("cannot be placed in a guest of 37 address bits"))
    );
}

#[test]
fn sriov_findings_tell_small_absent_and_lost_functions() {
    let tree = Tree::new();
    let mut bars = vec![(0xf000_0000, 1 << 20, MEM32)];
    bars.resize(7, (0, 0, 0));
    bars.push((0xf010_0000, 4 * 2048, MEM32));
    bars.push((0, 4 * (16 << 10), MEM32));
    tree.add("0000:03:00.0", NIC, Config::of(4096).sriov(4, 1, 6, 1), &bars);
    let vf = (0x8086, 0x1520, 0x02_0000);
    let own = Config::of(4096).virtual_function().clone();
    tree.add("0000:03:00.6", vf, &own, &[(0xf010_0000, 4096, MEM32)]);
    tree.add("0000:04:00.0", vf, &own, &[(0xf020_0000, 4096, MEM32)]);
    tree.link("0000:04:00.0", "physfn", "../0000:05:00.0");
    let host = copied(&tree);
    let physical = of(&host, &["03:00.0"]);
    assert_eq!(
        codes(&physical),
        [
            (Code::VfBarsSmall, Severity::Security),
            (Code::VfBarsUnassigned, Severity::Functional),
            (Code::PfWithVfs, Severity::Functional),
        ]
    );
    assert!(one(&physical, Code::VfBarsSmall).consequence.starts_with("VF BAR 0 (2K) of 0000:03:00.0's"));
    assert!(one(&physical, Code::VfBarsUnassigned).consequence.contains("VF BAR 1 (16K for each of 4)"));
    assert_eq!(codes(&of(&host, &["03:00.6"])), [(Code::VfMemoryEnable, Severity::Note)]);
    let lost = of(&host, &["04:00.0"]);
    assert!(
        one(&lost, Code::VfWithoutPf).consequence.contains("of 0000:05:00.0, which this host does not show")
    );
    let found = |taken| security_findings(&host, &[sbdf(taken)], Size::FRAME).len();
    assert_eq!(
        (found("03:00.6"), found("03:00.0")),
        (1, 0),
        "small VF BARs are the virtual functions' affair"
    );
}

#[test]
fn notes_tell_of_small_windows_and_missing_roms() {
    let report = of(&lspci("workstation.lspci"), &["01:00.0"]);
    assert_eq!(codes(&report), [(Code::ResizableSmall, Severity::Note); 2]);
    let advice = &report.findings[0].remedy.advice;
    assert!(
        advice.ends_with("echo 14 > /sys/bus/pci/devices/0000:01:00.0/resource0_resize"),
        "16G is 2^14 MiB: {advice}"
    );
    let nic = of(&lspci("workstation.lspci"), &["03:00.0"]);
    assert_eq!(
        codes(&nic),
        [(Code::UnassignedBar, Severity::Functional), (Code::RomUnreadable, Severity::Note)]
    );
    assert_eq!(nic.kernel_argument.as_deref(), Some("pci=realloc,rom"));
}

#[test]
fn an_unreadable_configuration_space_is_said_not_guessed() {
    let tree = Tree::new();
    tree.add("0000:00:05.0", NIC, &Config::of(64), &[(0xf000_0000, 4096, MEM32)]);
    let report = of(&copied(&tree), &[]);
    assert_eq!(codes(&report), [(Code::CapabilitiesUnreadable, Severity::Note)]);
    let text = "00:05.0 0200: 8086:1521\n\tRegion 0: Memory at f0000000 (32-bit, non-prefetchable)\n";
    let report = of(&Host::lspci_text(Path::new("x"), text).unwrap(), &[]);
    assert_eq!(codes(&report), [(Code::SizeUnknown, Severity::Note)]);
}

#[test]
fn a_saved_audit_tells_what_has_changed() {
    let tree = |at, size, vendor| {
        let tree = Tree::new();
        tree.add("0000:00:05.0", (vendor, 1, 0), &Config::of(256), &[(at, size, MEM32)]);
        let rom = [
            (0xf100_0000, 4096, MEM32),
            (0, 0, 0),
            (0, 0, 0),
            (0, 0, 0),
            (0, 0, 0),
            (0, 0, 0),
            (0xf110_0000, 2048, ROM),
        ];
        tree.add("0000:00:06.0", (7, 7, 0), &Config::of(256), &rom);
        of(&copied(&tree), &[])
    };
    let saved = serde_json::to_string(&tree(0xf000_0000, 4096, 1)).unwrap();
    let since = |mut report: Report, all| {
        changes(&mut report, &read_saved(&saved).unwrap(), all);
        let changed = report.findings.into_iter().filter(|finding| finding.code == Code::Changed);
        changed.map(|finding| finding.consequence).collect::<Vec<_>>()
    };
    assert!(since(tree(0xf000_0000, 4096, 1), true).is_empty());
    let grown = since(tree(0xf001_0000, 8192, 1), true);
    assert_eq!(grown.len(), 1);
    assert!(
        grown[0].starts_with("0000:00:05.0 has changed: BAR 0 is mem32 of 8K at 0xf0010000 where it was mem32 of 4K at 0xf0000000:"),
        "{grown:?}"
    );
    assert!(
        since(tree(0xf000_0000, 4096, 2), true)[0]
            .starts_with("0000:00:05.0 is 0002:0001 where it was 0001:0001")
    );
    let mut gone = tree(0xf000_0000, 4096, 1);
    gone.devices.remove(0);
    assert!(since(gone.clone(), true)[0].starts_with("0000:00:05.0 is not on this host any more"));
    assert!(since(gone, false).is_empty(), "not asked about");
    assert!(read_saved("{}").unwrap_err().to_string().starts_with("is no saved audit"));
    let other = saved.replace("audit/1", "audit/9");
    assert_eq!(
        read_saved(&other).unwrap_err().to_string(),
        "schema \"audit/9\" is not known here, only \"audit/1\""
    );
}

#[test]
fn a_description_is_enough_to_refuse_a_bar_that_starts_no_page() {
    let guest = |page_size: u64, host: &str| {
        let text = format!(
            r#"{{"phys_bits": 39, "low_mem_pgend": 131072, "page_size": {page_size}, "devices": [{{"bdf": "00:05.0", {host}
                "vendor": 1, "device": 1, "class": 0, "bars": [
                {{"reg": 16, "kind": "mem32", "size": 256, "host_address": 4276949504}},
                {{"reg": 20, "kind": "io", "size": 256, "host_address": 49408}},
                {{"reg": 24, "kind": "mem32", "size": 4096, "host_address": 4276953088}}]}}]}}"#
        );
        xen_pci_layout::source::description::parse(&text).unwrap()
    };
    let found = guest_findings(&guest(4096, r#""host": "0000:3b:00.0","#), None);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].code, argument(&found[0])),
        (Code::UnalignedBar, "pci=resource_alignment=12@0000:3b:00.0")
    );
    assert!(
        found[0]
            .consequence
            .starts_with("BAR 0 (256 at 0xfeed1200) of 0000:3b:00.0 does not start a 4K page")
    );
    assert_eq!(
        argument(&guest_findings(&guest(65536, r#""host": "0000:3b:00.0","#), None)[0]),
        "pci=resource_alignment=16@0000:3b:00.0"
    );
    let nowhere = guest_findings(&guest(4096, ""), None);
    assert_eq!(nowhere[0].remedy.kernel_argument, None, "its place on the host is not known");
    assert!(nowhere[0].remedy.advice.contains("pci=resource_alignment=12@ and the device's address"));
}

#[test]
fn a_guest_is_refused_for_its_devices_neighbours() {
    let host = copied(&common::sysfs::pci_testdev());
    let mut guest = xen_pci_layout::guest::Guest::new(131_072, 0, 39);
    let taken = |function: u8| {
        let device = host.device(sbdf(&format!("00:05.{function}"))).unwrap();
        device.for_guest(sbdf(&format!("00:0{}.0", function + 5)).bdf).unwrap()
    };
    guest.devices.push(taken(0));
    let found: Vec<Code> = guest_findings(&guest, Some(&host)).iter().map(|finding| finding.code).collect();
    assert_eq!(found, [Code::SharedPage]);
    guest.devices.extend([1, 2, 3].map(taken));
    let found: Vec<Code> = guest_findings(&guest, Some(&host)).iter().map(|finding| finding.code).collect();
    assert_eq!(found, [Code::UnalignedBar; 3], "together they endanger nobody, but three are mapped wrongly");

    let joins = |function: u8, beside: &[Sbdf]| -> Vec<Code> {
        let found = device_findings(&[taken(function)], beside, Size::FRAME, Some(&host));
        found.iter().map(|finding| finding.code).collect()
    };
    let others = [1, 2, 3].map(|function| sbdf(&format!("00:05.{function}")));
    assert_eq!(joins(0, &[]), [Code::SharedPage]);
    assert_eq!(joins(0, &others[..2]), [Code::SharedPage], "one of the sharers is elsewhere");
    assert_eq!(joins(0, &others), [], "all that share are in the same guest");
}
