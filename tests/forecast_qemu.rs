// SPDX-License-Identifier: LGPL-2.1-or-later
//! The forecast against a Linux kernel in QEMU: devices are hot-added and removed, and each BAR's address in the
//! guest's sysfs is compared with the one predicted; QEMU's own answer, where `attach` takes present addresses from,
//! with both.
//!
//! tests/stages/70-forecast makes the initramfs and runs this, with FORECAST_KERNEL and FORECAST_INITRD in the
//! environment.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

use std::collections::BTreeMap;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qapi::{Qmp, qmp};
use xen_pci_layout::address::Address;
use xen_pci_layout::hotplug::{Present, forecast, observe};
use xen_pci_layout::layout::{BridgeWindows, Layout, LayoutDevice, PlacedBar, Window, WindowKind};
use xen_pci_layout::pci::{Bar, Bdf, Device, PresentFunction};
use xen_pci_layout::source::present;

/// How long the guest may take for one step.
const PATIENCE: Duration = Duration::from_secs(180);

/// Attach what follows a plus at that slot, several functions with `&` between them; detach what sits at the slot that
/// follows a minus. `b` before the slot: on the bus behind the bridge.
const SEQUENCES: &[&[&str]] = &[
    &["+5 edu & pci-testdev,membar=256M", "+6 edu", "-5", "+7 pci-testdev,membar=64M"],
    &[
        "+5 rtl8139,romfile= & nvme,serial=a & pci-testdev,membar=2M & rtl8139,romfile=",
        "+6 sdhci-pci & e1000",
        "-5",
        "+7 edu & edu",
    ],
    &["+b5 edu", "+b6 rtl8139,romfile=", "+b7 nvme,serial=a", "-b6", "+b8 sdhci-pci & rtl8139,romfile="],
    &["+b5 pci-testdev,membar=8M", "+b6 pci-testdev,membar=256M", "+5 pci-testdev,membar=8M", "+b7 e1000"],
    &["+5 pci-testdev,membar=64M"],
    &["+5 nvme,serial=a"],
    &["+5 edu"],
    &["+5 edu", "+6 edu", "-5", "+5 edu"],
    &["+5 edu", "+6 nvme,serial=a", "+7 pci-testdev,membar=256M", "-6", "+6 edu"],
    &["+5 pci-testdev,membar=1G", "+6 pci-testdev,membar=1G", "+7 pci-testdev,membar=1G"],
    &["+5 pci-testdev,membar=2G", "+6 pci-testdev,membar=512M", "+7 pci-testdev,membar=512M"],
    &["+5 pci-testdev,membar=4G"],
    &[
        "+5 pci-testdev,membar=16M",
        "+6 pci-testdev,membar=1G",
        "+7 pci-testdev,membar=32M",
        "-5",
        "+8 pci-testdev,membar=8M",
    ],
    &["+5 rtl8139,romfile=", "+6 rtl8139,romfile=", "+7 rtl8139,romfile="],
    &["+5 rtl8139,romfile=", "+6 edu", "-5", "+7 sdhci-pci", "+8 rtl8139,romfile="],
    &["+5 lsi53c895a", "+6 sdhci-pci", "+7 lsi53c895a", "-6", "+8 pci-testdev,membar=64K"],
    &["+5 e1000,romfile=", "+6 nvme,serial=a", "+7 e1000,romfile=", "-5", "+8 edu", "+9 e1000,romfile="],
    &["+5 qemu-xhci", "+6 intel-hda", "+7 virtio-rng-pci", "+8 nvme,serial=a"],
    &[
        "+5 virtio-net-pci,romfile=",
        "+6 virtio-balloon-pci",
        "-5",
        "+7 virtio-rng-pci",
        "+5 pci-testdev,membar=16K",
    ],
    &["+5 i82550,romfile=", "+6 ne2k_pci,romfile=", "+7 AC97,audiodev=none", "-6", "+8 ES1370,audiodev=none"],
    &[
        "+5 nvme,serial=a",
        "+6 nvme,serial=b",
        "+7 nvme,serial=c",
        "-6",
        "+6 pci-testdev,membar=16K",
        "+8 nvme,serial=d",
    ],
    &["+5 e1000", "+6 pci-testdev,membar=128M"],
    &["+5 vmxnet3,romfile=", "+6 pvscsi", "+7 megasas", "-5", "+8 sdhci-pci"],
    &["+5 nec-usb-xhci", "+6 piix3-usb-uhci", "+7 usb-ehci", "-5", "+8 ich9-ahci", "+9 sdhci-pci"],
    &[
        "+5 pci-testdev,membar=512M",
        "+6 pci-testdev,membar=1G",
        "-5",
        "+7 pci-testdev,membar=256M",
        "+8 nvme,serial=a",
    ],
    &["+5 pci-serial-2x", "+6 pci-serial-4x", "-5", "+7 rtl8139,romfile=", "+8 pci-serial-2x"],
    &["+5 am53c974", "+6 mptsas1068", "+7 i6300esb", "-6", "+8 sdhci-pci", "+9 edu"],
    &["+5 bochs-display", "+6 secondary-vga", "-5", "+7 nvme,serial=a", "+8 bochs-display"],
];

/// Where the bridge is, and the number of the bus behind it.
const BRIDGE: &str = "00:03.0";
const BEHIND: u8 = 1;

/// A slot on the root bus or behind the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    behind: bool,
    number: u8,
}

impl Slot {
    fn parse(text: &str) -> Self {
        let number = text.trim_start_matches('b').parse().unwrap();
        Self { behind: text.starts_with('b'), number }
    }

    fn function(self, function: u8) -> Bdf {
        Bdf::new(if self.behind { BEHIND } else { 0 }, self.number, function).unwrap()
    }

    fn has(self, bdf: Bdf) -> bool {
        (bdf.bus(), bdf.slot()) == (self.function(0).bus(), self.number)
    }

    fn id(self, function: u8) -> String {
        format!("{}{}f{function}", if self.behind { "b" } else { "d" }, self.number)
    }

    fn bridge(self) -> Option<Bdf> {
        self.behind.then(|| BRIDGE.parse().unwrap())
    }
}

/// A running guest.
struct Guest {
    qemu: Child,
    console: PathBuf,
    /// What its init says on the second serial port.
    lists: PathBuf,
    socket: PathBuf,
    /// How much of that was read.
    read: usize,
    windows: Vec<Window>,
    bridge: BridgeWindows,
    _directory: tempfile::TempDir,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
    }
}

/// Start, size and flags of each resource, by function; as sysfs shows them.
type Resources = BTreeMap<Bdf, Vec<(u64, u64, u64)>>;

impl Guest {
    fn boot() -> (Self, Resources) {
        let variable =
            |name| std::env::var(name).unwrap_or_else(|_| panic!("{name}: run tests/stages/70-forecast"));
        let directory = tempfile::tempdir().unwrap();
        let [console, lists, socket] = ["console", "lists", "qmp"].map(|name| directory.path().join(name));
        let qemu = Command::new("qemu-system-x86_64")
            .args([
                "-machine",
                "pc",
                "-accel",
                "tcg",
                "-m",
                "256",
                "-display",
                "none",
                "-no-reboot",
                "-nodefaults",
            ])
            .args(["-device", "VGA,addr=2", "-audiodev", "none,id=none"])
            .args(["-device", "pci-bridge,id=br,chassis_nr=1,addr=3"])
            .args(["-device", "pci-testdev,membar=32M,bus=br,addr=1f"])
            .args(["-kernel", &variable("FORECAST_KERNEL"), "-initrd", &variable("FORECAST_INITRD")])
            .args(["-append", "console=ttyS0 panic=-1 loglevel=7"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("file:{}", lists.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let windows = Vec::new();
        let bridge =
            BridgeWindows { bdf: BRIDGE.parse().unwrap(), memory: None, prefetchable: None, io: None };
        let mut guest =
            Self { qemu, console, lists, socket, read: 0, windows, bridge, _directory: directory };
        let resources = guest.settle();
        let log = std::fs::read_to_string(&guest.console).unwrap();
        let checked = |version: &&&str| log.contains(&format!("Linux version {version}."));
        let version = forecast::CHECKED_ON.iter().find(checked);
        assert!(version.is_some(), "no kernel of forecast::CHECKED_ON: {log}");
        println!("Linux {}", version.unwrap());
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        let bounds = |text: &str| {
            let range = text.split_whitespace().next().unwrap().trim_end_matches(']');
            let (first, last) = range.split_once('-').unwrap();
            (Address::new(number(first)), Address::new(number(last) + 1))
        };
        for line in log.lines() {
            // The last that is said of a window counts.
            if let Some((_, window)) = line.split_once("0000:00:03.0:   bridge window [") {
                let (kind, range) = window.split_once(' ').unwrap();
                let place = match kind {
                    "io" => &mut guest.bridge.io,
                    _ if range.contains("pref") => &mut guest.bridge.prefetchable,
                    _ => &mut guest.bridge.memory,
                };
                *place = Some(bounds(range.trim_start()));
            }
            let Some((_, window)) = line.split_once("pci_bus 0000:00: root bus resource [mem ") else {
                continue;
            };
            let (start, end) = bounds(window);
            if start.get() >= 1 << 20 {
                let kind = if start < Address::FOUR_GIB { WindowKind::Low } else { WindowKind::High };
                guest.windows.push(Window { kind, start, end });
            }
        }
        (guest, resources)
    }

    /// Waits for the guest's next list of functions.
    fn settle(&mut self) -> Resources {
        let started = Instant::now();
        loop {
            let bytes = std::fs::read(&self.lists).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes[self.read..]).into_owned();
            if let (Some(begin), Some(end)) = (text.rfind("LIST-BEGIN"), text.rfind("LIST-END"))
                && begin < end
            {
                self.read = bytes.len();
                return resources(&text[begin..end]);
            }
            assert!(
                started.elapsed() < PATIENCE,
                "the guest is silent; its console ends: {}",
                tail(&std::fs::read(&self.console).unwrap_or_default())
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for a list that is as it should be: one that comes early may have a part of the functions.
    fn settle_until(&mut self, complete: impl Fn(&Resources) -> bool) -> Resources {
        loop {
            let now = self.settle();
            if complete(&now) {
                return now;
            }
        }
    }

    /// Takes what sits in a slot out of the guest, and waits until QEMU has let go of it too.
    fn remove(&mut self, slot: Slot) -> Resources {
        self.command(&format!("device_del {}", slot.id(0)));
        let now = self.settle_until(|now| !now.keys().any(|bdf| slot.has(*bdf)));
        let started = Instant::now();
        while self.functions().iter().any(|function| slot.has(function.bdf)) {
            assert!(started.elapsed() < PATIENCE, "QEMU keeps what was in {slot:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        now
    }

    fn monitor(&self) -> Qmp<qapi::Stream<BufReader<UnixStream>, UnixStream>> {
        let stream = UnixStream::connect(&self.socket).unwrap();
        let mut monitor = Qmp::new(qapi::Stream::new(BufReader::new(stream.try_clone().unwrap()), stream));
        monitor.handshake().unwrap();
        monitor
    }

    fn command(&self, line: &str) {
        let command_line = line.to_owned();
        let said =
            self.monitor().execute(&qmp::human_monitor_command { command_line, cpu_index: None }).unwrap();
        assert_eq!(said.trim(), "", "{line}");
    }

    fn functions(&self) -> Vec<PresentFunction> {
        present::functions(&self.monitor().execute(&qmp::query_pci {}).unwrap()).unwrap()
    }
}

fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned()
}

/// `== 0000:00:05.0` and then the lines of its `resource`.
fn resources(text: &str) -> Resources {
    let mut found = Resources::new();
    let mut last = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("== 0000:") {
            last = Some(name.parse::<Bdf>().unwrap());
            found.insert(last.unwrap(), Vec::new());
        } else if let Some(bdf) = last
            && line.starts_with("0x")
        {
            let numbers: Vec<u64> =
                line.split_whitespace().map(|word| u64::from_str_radix(&word[2..], 16).unwrap()).collect();
            let size = if numbers[2] == 0 { 0 } else { numbers[1] - numbers[0] + 1 };
            found.get_mut(&bdf).unwrap().push((numbers[0], size, numbers[2]));
        }
    }
    found
}

/// IORESOURCE_IO, and IORESOURCE_UNSET: the kernel found no place.
const IO: u64 = 0x100;
const UNSET: u64 = 0x2000_0000;
/// IORESOURCE_ROM_SHADOW and the fixed ports of IDE are no BARs (IORESOURCE_PCI_FIXED).
const FIXED: u64 = 0x10;

fn register(index: usize) -> u8 {
    if index == 6 { 0x30 } else { 0x10 + 4 * index as u8 }
}

/// The layout that the guest has, by its own account.
fn layout(guest: &Guest, now: &Resources, functions: &[PresentFunction]) -> Layout {
    let mut layout = Layout::default();
    layout.phys_bits = 40;
    layout.windows = guest.windows.clone();
    layout.bridges = vec![guest.bridge];
    for (&bdf, resources) in now {
        let known = functions.iter().find(|function| function.bdf == bdf).unwrap();
        let class = if known.vendor == 0x1234 && known.device == 0x1111 { 0x0300 } else { 0 };
        let (vendor, device) = (known.vendor, known.device);
        let bridge = (bdf.bus() == BEHIND).then(|| BRIDGE.parse().unwrap());
        layout.devices.push(LayoutDevice { bridge, ..LayoutDevice::new(bdf, (vendor, device), class) });
        for (index, &(start, size, flags)) in resources.iter().enumerate().take(7) {
            if size == 0 || flags & (FIXED | UNSET) != 0 || start == 0 {
                continue;
            }
            let bar = known.bars.iter().find(|bar| bar.reg == register(index)).unwrap();
            assert_eq!(bar.size.get(), size, "{bdf} resource {index}");
            let bar = Bar::new(bar.reg, bar.kind, bar.size, false);
            layout.bars.push(PlacedBar::new(bdf, &bar, Address::new(start)));
        }
    }
    layout
}

/// The new function with its BARs, as QEMU has it.
fn device(function: &PresentFunction, resources: &[(u64, u64, u64)]) -> Device {
    let prefetch = |reg: u8| {
        let index = if reg == 0x30 { 6 } else { usize::from((reg - 0x10) / 4) };
        resources.get(index).is_some_and(|(_, _, flags)| flags & 0x2000 != 0)
    };
    let bars = function.bars.iter().map(|bar| Bar::new(bar.reg, bar.kind, bar.size, prefetch(bar.reg)));
    Device { bars: bars.collect(), ..Device::new(function.bdf, (function.vendor, function.device), 0) }
}

/// Where the kernel really has a function's BARs.
fn outcome(device: &Device, resources: &[(u64, u64, u64)]) -> Vec<(u8, Option<u64>)> {
    let real = |bar: &Bar| {
        let index = if bar.reg == 0x30 { 6 } else { usize::from((bar.reg - 0x10) / 4) };
        let (start, size, flags) = resources[index];
        (size != 0 && flags & UNSET == 0 && (start != 0 || flags & IO != 0)).then_some(start)
    };
    let mut outcome: Vec<_> = device.bars.iter().map(|bar| (bar.reg, real(bar))).collect();
    outcome.sort_unstable();
    outcome
}

#[test]
fn linux_puts_every_hot_added_bar_where_the_forecast_says() {
    let (mut guest, mut now) = Guest::boot();
    assert!(guest.windows.iter().any(|window| window.kind == WindowKind::High), "{:?}", guest.windows);
    println!("windows: {:x?}, {:x?}", guest.windows, guest.bridge);
    assert!(
        guest.bridge.memory.is_some() && guest.bridge.prefetchable.is_some() && guest.bridge.io.is_some()
    );
    let (mut bars, mut wrong) = (0, Vec::new());
    for (number, sequence) in SEQUENCES.iter().enumerate() {
        let mut there: Vec<Slot> = Vec::new();
        for step in *sequence {
            let before = layout(&guest, &now, &guest.functions());
            if let Some(slot) = step.strip_prefix('-') {
                let slot = Slot::parse(slot);
                now = guest.remove(slot);
                there.retain(|other| *other != slot);
                continue;
            }
            let (slot, drivers) = step[1..].split_once(' ').unwrap();
            let slot = Slot::parse(slot);
            let drivers: Vec<&str> = drivers.split(" & ").collect();
            let bus = if slot.behind { ",bus=br" } else { "" };
            // Function 0 comes last: QEMU tells the guest then.
            for (function, driver) in (0..).zip(&drivers).collect::<Vec<(u8, _)>>().into_iter().rev() {
                let (id, number) = (slot.id(function), slot.number);
                let several = if drivers.len() > 1 { ",multifunction=on" } else { "" };
                guest.command(&format!(
                    "device_add {driver}{several}{bus},addr=0x{number:x}.{function},id={id}"
                ));
            }
            let count = u8::try_from(drivers.len()).unwrap();
            let all = |now: &Resources| (0..count).all(|number| now.contains_key(&slot.function(number)));
            now = guest.settle_until(all);
            there.push(slot);
            let functions = guest.functions();
            let added: Vec<Device> = (0_u8..)
                .zip(&drivers)
                .map(|(number, _)| {
                    let bdf = slot.function(number);
                    let function = functions.iter().find(|function| function.bdf == bdf).unwrap();
                    Device { bridge: slot.bridge(), ..device(function, &now[&bdf]) }
                })
                .collect();
            for device in &added {
                // The others are attached on record and wait for their addresses.
                let mut layout = before.clone();
                for other in added.iter().filter(|other| other.bdf != device.bdf) {
                    let identity = (other.vendor, other.device);
                    layout.devices.push(LayoutDevice::new(other.bdf, identity, other.class));
                    layout.bars.extend(
                        other.bars.iter().map(|bar| PlacedBar::new(other.bdf, bar, Address::new(1 << 38))),
                    );
                    layout.hot_plugged.push(other.bdf);
                }
                let predicted: Vec<_> = forecast::linux(&layout, &Present::default(), device)
                    .bars
                    .iter()
                    .map(|bar| (bar.reg, bar.address.map(Address::get)))
                    .collect();
                let real = outcome(device, &now[&device.bdf]);
                bars += real.len();
                if predicted != real {
                    wrong.push(format!(
                        "sequence {number}, {step}, {}: predicted {predicted:x?}, real {real:x?}",
                        device.bdf
                    ));
                }
            }
            // The guest has enabled it: QEMU knows its addresses too, and they are no difference to the guest's own.
            let seen = observe(&layout(&guest, &now, &functions), &functions);
            let moved = |difference: &&xen_pci_layout::hotplug::Difference| {
                matches!(difference, xen_pci_layout::hotplug::Difference::Moved { .. })
            };
            let moved: Vec<_> = seen.differences.iter().filter(moved).collect();
            assert!(moved.is_empty(), "sequence {number}, {step}: {moved:?}");
        }
        for slot in there {
            now = guest.remove(slot);
        }
        println!("sequence {number}: {}", sequence.join(", "));
    }
    assert!(wrong.is_empty(), "{} of {bars} BARs' devices: {wrong:#?}", wrong.len());
    println!("{} sequences, {bars} BARs where the forecast said", SEQUENCES.len());
}
