// SPDX-License-Identifier: LGPL-2.1-or-later
//! A real QEMU as the judge of the table of its devices, of the slots they get and of the memory it populates for them.
//! The stage of the tests that runs this says in `QEMU` which.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use xen_pci_layout::guest::Guest;
use xen_pci_layout::pci::{Bdf, Device};
use xen_pci_layout::source::domain::{self, Surroundings};
use xen_pci_layout::source::qemu_devices::arguments::Requested;
use xen_pci_layout::source::qemu_devices::ask::ask;
use xen_pci_layout::source::qemu_devices::{Emulated, MODELS, Machine, Model};
use xen_pci_layout::source::qmp::{DeviceModel, Inspection};
use xen_pci_layout::source::{present, ram_blocks, xl_cfg};

fn qemu() -> PathBuf {
    std::env::var_os("QEMU").expect("QEMU is not set: run tests/run qemu-devices").into()
}

/// What a device needs beside it to be made at all.
fn needs(name: &str) -> (&'static [(&'static str, &'static str)], &'static str) {
    match name {
        "nvme" => (&[("-blockdev", "null-co,node-name=d0,size=1048576")], "drive=d0,serial=1"),
        name if name.starts_with("virtio-blk") => {
            (&[("-blockdev", "null-co,node-name=d0,size=1048576")], "drive=d0")
        }
        name if name.starts_with("virtio-9p") => {
            (&[("-fsdev", "local,id=f0,path=/tmp,security_model=none")], "fsdev=f0,mount_tag=t")
        }
        "ivshmem-plain" => {
            (&[("-object", "memory-backend-ram,id=m0,size=4M,share=on")], "memdev=m0,memdev-size=4M")
        }
        "virtio-crypto-pci" => (&[("-object", "cryptodev-backend-builtin,id=c0")], "cryptodev=c0"),
        "pci-serial" => (&[("-chardev", "null,id=c0")], "chardev=c0"),
        "pci-serial-2x" => {
            (&[("-chardev", "null,id=c0"), ("-chardev", "null,id=c1")], "chardev1=c0,chardev2=c1")
        }
        "pci-serial-4x" => (
            &[
                ("-chardev", "null,id=c0"),
                ("-chardev", "null,id=c1"),
                ("-chardev", "null,id=c2"),
                ("-chardev", "null,id=c3"),
            ],
            "chardev1=c0,chardev2=c1,chardev3=c2,chardev4=c3",
        ),
        "pci-bridge" => (&[], "chassis_nr=1"),
        "pcie-root-port" | "ioh3420" => (&[], "chassis=1"),
        "rocker" => (&[], "name=r0"),
        _ => (&[], ""),
    }
}

/// The models that only a QEMU under Xen makes, or that come with the machine alone.
const NOT_BY_DEVICE: [&str; 5] = ["xen-platform", "xen-pvdevice", "i440FX", "PIIX3", "PIIX4_PM"];

/// More forms of some models: what their properties change.
const FORMS: [(&str, &str); 28] = [
    ("VGA", "vgamem_mb=32"),
    ("VGA", "vgamem_mb=24"),
    ("VGA", "mmio=off"),
    ("VGA", "romfile="),
    ("cirrus-vga", "vgamem_mb=8"),
    ("bochs-display", "vgamem=32M"),
    ("qxl-vga", "vram_size_mb=64,ram_size_mb=64"),
    ("qxl-vga", "vram_size_mb=256,ram_size_mb=128"),
    ("qxl", "vram64_size_mb=512"),
    ("pci-testdev", "membar=256M"),
    ("pci-testdev", "membar=4G"),
    ("e1000", "romfile="),
    ("e1000", "rombar=0"),
    ("rtl8139", "multifunction=on"),
    ("virtio-net-pci", "vectors=0"),
    ("virtio-net-pci", "disable-modern=on"),
    ("virtio-net-pci", "disable-legacy=on"),
    ("virtio-net-pci", "modern-pio-notify=on"),
    ("virtio-scsi-pci", "vectors=200"),
    ("virtio-serial-pci", "vectors=0"),
    ("nvme", "max_ioqpairs=8,msix_qsize=9"),
    ("nvme", "max_ioqpairs=640,msix_qsize=641"),
    ("nvme", "cmb_size_mb=16"),
    ("nvme", "msix-exclusive-bar=on"),
    ("nvme", "use-intel-id=off"),
    ("pci-bridge", "shpc=off"),
    ("virtio-blk-pci", "disable-legacy=on"),
    ("virtio-rng-pci", "disable-legacy=on"),
];

/// What the table and the answer must agree on.
fn comparable(emulated: Emulated) -> Emulated {
    let device =
        Device { raw: Vec::new(), model: None, header: emulated.device.header & 0x7f, ..emulated.device };
    Emulated { device, memory: emulated.memory }
}

fn compare(name: &str, form: &str, machine: Machine) {
    let (options, own) = needs(name);
    let options: Vec<(String, Option<String>)> =
        options.iter().map(|(option, value)| ((*option).to_owned(), Some((*value).to_owned()))).collect();
    let bdf = Bdf::new(0, 2, 0).unwrap();
    let text = [own, form].join(",");
    let text = text.trim_matches(',');
    let request = Requested::new(name, text);
    // The size of the memory that a device refers to is what we add; QEMU does not know it.
    let asked = Requested::new(name, &text.replace(",memdev-size=4M", ""));
    let table = Model::find(name).unwrap().instantiate(bdf, &request.properties, machine);
    let table = table.unwrap_or_else(|problem| panic!("{name},{text}: {problem}"));
    let mut answer = ask(&qemu(), bdf, &asked, &options, machine)
        .unwrap_or_else(|error| panic!("{name},{text} on {machine:?}: {error}"));
    answer.device.bars.sort_by_key(|bar| bar.reg);
    let mut table = comparable(table);
    table.device.bars.sort_by_key(|bar| bar.reg);
    assert_eq!(table, comparable(answer), "{name},{text} on {machine:?}");
}

#[test]
fn every_row_is_what_query_pci_says() {
    let mut rows = 0;
    for model in MODELS {
        for name in model.names.iter().filter(|name| !NOT_BY_DEVICE.contains(name)) {
            compare(name, "", Machine::XenFv);
            compare(name, "", Machine::Pc);
            rows += 1;
        }
    }
    for (name, form) in FORMS {
        compare(name, form, Machine::XenFv);
        compare(name, form, Machine::Pc);
    }
    println!("{rows} names and {} forms on two machines", FORMS.len());
}

#[test]
fn a_device_that_the_table_lacks_is_asked_for() {
    let bdf = Bdf::new(0, 9, 0).unwrap();
    for name in ["vmware-svga", "tpci200", "ati-vga"] {
        assert!(Model::find(name).is_none(), "{name} is in the table by now");
        let answer = ask(&qemu(), bdf, &Requested::new(name, ""), &[], Machine::XenFv).unwrap();
        assert!(answer.device.bars.len() > 2 && answer.device.bdf == bdf, "{answer:?}");
    }
    let error = ask(&qemu(), bdf, &Requested::new("no-such-device", ""), &[], Machine::Pc).unwrap_err();
    assert!(error.to_string().contains("is not a valid device model name"), "{error}");
    let error = ask(&PathBuf::from("/nonexistent/qemu"), bdf, &Requested::new("edu", ""), &[], Machine::Pc);
    assert!(error.unwrap_err().to_string().starts_with("/nonexistent/qemu: "));
}

/// What a QEMU with these arguments has: `query-pci`, and its memory blocks with offset and size.
fn started(arguments: &[&str]) -> (Vec<Value>, BTreeMap<u64, (String, u64)>) {
    let mut child = Command::new(qemu())
        .args([
            "-machine",
            "pc,accel=tcg:qtest",
            "-m",
            "512",
            "-nodefaults",
            "-display",
            "none",
            "-S",
            "-qmp",
            "stdio",
        ])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut execute = |command: Value| {
        writeln!(input, "{command}").unwrap();
        for line in lines.by_ref() {
            let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
            assert!(answer.get("error").is_none(), "{answer}");
        }
        panic!("QEMU has gone: {arguments:?}");
    };
    execute(json!({"execute": "qmp_capabilities"}));
    let buses = execute(json!({"execute": "query-pci"}));
    let ramblock =
        json!({"execute": "human-monitor-command", "arguments": {"command-line": "info ramblock"}});
    let text = execute(ramblock);
    drop(input);
    child.kill().unwrap();
    child.wait().unwrap();
    let blocks = text.as_str().unwrap().lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let offset = number(fields.get(3)?)?;
        Some((offset, (fields[0].to_owned(), number(fields.get(5)?)?)))
    });
    (buses[0]["devices"].as_array().unwrap().clone(), blocks.collect())
}

fn guest(cfg: &str) -> Guest {
    let (config, warnings) = xl_cfg::parse(cfg.as_bytes()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let surroundings = Surroundings {
        phys_bits: 46,
        cpu: None,
        rdm: Vec::new(),
        host: None,
        ask_qemu: None,
        shows_sriov: false,
    };
    let mut warnings = Vec::new();
    let guest = domain::guest(&config, &surroundings, &mut warnings).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    guest
}

/// A guest without the Xen platform device, whose machine is the plain `pc`, and libxl's arguments for it.
const GUESTS: [(&str, &[&str]); 4] = [
    ("vga='none'", &[]),
    (
        "usb=1\nvga='stdvga'\nsoundhw='hda'\nvif=['model=e1000','','type=vif']\nhdtype='ahci'\n\
         device_model_args=['-device','edu']\ndevice_model_args_hvm=['-device','pci-testdev,membar=1G']",
        &[
            "-usb",
            "-device",
            "VGA,vgamem_mb=16",
            "-device",
            "intel-hda",
            "-device",
            "e1000",
            "-device",
            "rtl8139",
            "-device",
            "edu",
            "-device",
            "pci-testdev,membar=1G",
            "-device",
            "ahci,id=ahci0",
        ],
    ),
    (
        "disk=['/x,raw,sda,w']\nusbversion=2\nvif=['model=virtio-net']\n\
         device_model_args=['-device','edu,addr=6','-device','pci-bridge,id=b,chassis_nr=1','-device','edu,bus=b',\
         '-device','e1000e,addr=0x9','-device','i6300esb','-net','nic,model=rtl8139']",
        &[
            "-net",
            "nic,model=rtl8139",
            "-device",
            "lsi53c895a",
            "-device",
            "cirrus-vga,vgamem_mb=8",
            "-device",
            "ich9-usb-ehci1,id=usb,addr=0x1d.0x7,multifunction=on",
            "-device",
            "ich9-usb-uhci1,masterbus=usb.0,firstport=0,addr=0x1d.0,multifunction=on",
            "-device",
            "ich9-usb-uhci2,masterbus=usb.0,firstport=2,addr=0x1d.1,multifunction=on",
            "-device",
            "ich9-usb-uhci3,masterbus=usb.0,firstport=4,addr=0x1d.2,multifunction=on",
            "-device",
            "virtio-net",
            "-device",
            "edu,addr=6",
            "-device",
            "pci-bridge,id=b,chassis_nr=1",
            "-device",
            "edu,bus=b",
            "-device",
            "e1000e,addr=0x9",
            "-device",
            "i6300esb",
        ],
    ),
    (
        "vga='qxl'\nvideoram=256\nspice=1\nspicevdagent=1\nacpi=1",
        &["-device", "virtio-serial", "-device", "qxl-vga,vram_size_mb=128,ram_size_mb=128"],
    ),
];

#[test]
fn slots_and_memory_blocks_are_qemus() {
    for (cfg, arguments) in GUESTS {
        let guest = guest(&format!("name='g'\ntype='hvm'\nmemory=1024\nxen_platform_pci=0\n{cfg}\n"));
        let (devices, blocks) = started(arguments);
        let theirs: BTreeMap<String, String> = devices
            .iter()
            .map(|device| {
                let number = |value: &Value| value.as_u64().unwrap();
                let at = format!("00:{:02x}.{}", number(&device["slot"]), number(&device["function"]));
                let id = &device["id"];
                (at, format!("{:04x}:{:04x}", number(&id["vendor"]), number(&id["device"])))
            })
            .collect();
        let ours: BTreeMap<String, String> = guest
            .devices
            .iter()
            .filter(|device| device.bdf.bus() == 0)
            .map(|device| (device.bdf.to_string(), format!("{:04x}:{:04x}", device.vendor, device.device)))
            .collect();
        assert_eq!(ours, theirs, "{cfg}");
        let mut end = None;
        let mut sizes = Vec::new();
        for (offset, (name, size)) in &blocks {
            if name.starts_with("0000:") {
                sizes.push(*size);
                if let Some(end) = end {
                    assert_eq!(
                        *offset,
                        u64::next_multiple_of(end, 256 << 10),
                        "{name} follows what is before it"
                    );
                }
                end = Some(offset + size);
            }
        }
        let ours: Vec<u64> = guest.device_model_memory.iter().map(|size| size.get()).collect();
        assert_eq!(ours, sizes, "{cfg}");
    }
    println!("{} guests", GUESTS.len());
}

/// A QEMU behind a socket, killed when dropped.
struct Served(std::process::Child, tempfile::TempDir);

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(qemu());
        command.args(["-machine", "pc,accel=tcg:qtest", "-m", "4G", "-nodefaults", "-display", "none", "-S"]);
        command.args(["-device", "VGA,vgamem_mb=16", "-device", "edu", "-qmp"]);
        command.arg(format!("unix:{}/qmp,server=on,wait=off", directory.path().display()));
        let mut child = command.args(arguments).stdin(Stdio::null()).spawn().unwrap();
        while !directory.path().join("qmp").exists() {
            assert!(child.try_wait().unwrap().is_none(), "QEMU has gone: {arguments:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self(child, directory)
    }

    fn inspect(&self) -> Inspection {
        DeviceModel::at(&self.1.path().join("qmp")).inspect().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn verify_s_questions_are_answered() {
    let told = Served::start(&["-machine", "max-ram-below-4g=1073741824"]);
    let seen = told.inspect();
    assert_eq!(seen.max_ram_below_4g, Some(1 << 30), "a second -machine, as dm-args prints it, is merged");
    let functions = present::functions(&seen.buses).unwrap();
    let edu =
        functions.iter().find(|function| (function.vendor, function.device) == (0x1234, 0x11e8)).unwrap();
    assert_eq!((edu.bars[0].size.get(), edu.bars[0].address), (1 << 20, None), "no firmware has run");
    let blocks = ram_blocks::parse(&seen.ram_blocks).unwrap();
    let size = |end: &str| {
        let block = blocks.iter().find(|block| block.name.ends_with(end));
        block.unwrap_or_else(|| panic!("no {end} in {}", seen.ram_blocks)).range.size().get()
    };
    assert_eq!((size("pc.ram"), size("vga.vram")), (4 << 30, 16 << 20));
    assert_eq!(told.inspect().max_ram_below_4g, Some(1 << 30), "a second visitor is served, too");
    // Without Xen QEMU fills in what it chose (pc_init1); under Xen the property stays 0.
    assert_eq!(Served::start(&[]).inspect().max_ram_below_4g, Some(0xe000_0000));
}
