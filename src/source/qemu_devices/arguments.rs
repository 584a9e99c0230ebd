// SPDX-License-Identifier: LGPL-2.1-or-later
//! QEMU's command line, as far as it decides about PCI devices (`device_model_args` and `device_model_args_hvm`).

use std::collections::BTreeMap;

use super::Properties;
use crate::address::Size;

/// One device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// Its name in `-device`.
    pub driver: String,
    /// What is said about it.
    pub properties: Properties,
}

impl Requested {
    /// A device of that name, with properties as after the first comma of `-device`.
    pub fn new(driver: &str, properties: &str) -> Self {
        let (_, properties) = Properties::parse(&format!(",{properties}"));
        Self { driver: driver.to_owned(), properties }
    }

    /// The value of `-device` for it, under another name and on the root bus.
    pub(super) fn to_argument(&self, id: &str) -> String {
        let quoted = |text: &str| text.replace(',', ",,");
        let mut text = format!("{},id={id}", quoted(&self.driver));
        for (name, value) in self.properties.iter().filter(|(name, _)| !OWN_PLACE.contains(name)) {
            text.push_str(&format!(",{name}={}", quoted(value)));
        }
        text
    }
}

/// Properties that say what a device is called and where it sits.
const OWN_PLACE: [&str; 4] = ["driver", "id", "bus", "addr"];

/// What a list of arguments asks for.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// Devices that the machine makes before any other (`-vga`, `-net nic`, `-soundhw`).
    pub early: Vec<Requested>,
    /// The devices of `-device`, and of the options that are short for it, in order.
    pub devices: Vec<Requested>,
    /// Whether the chipset's USB controller is on.
    pub usb: bool,
    /// Whether ACPI is off.
    pub no_acpi: bool,
    /// Properties that every device of a name has (`-global`).
    pub globals: BTreeMap<String, Properties>,
    /// Memory objects by name (`-object memory-backend-*`).
    pub memory_objects: BTreeMap<String, Size>,
    /// What is not understood, said in sentences that name it.
    pub not_understood: Vec<String>,
    /// The arguments themselves, each option with its value.
    pub options: Vec<(String, Option<String>)>,
}

/// Options that make no PCI device, nor change one.
const WITHOUT_EFFECT: &[&str] = &[
    "D",
    "L",
    "S",
    "accel",
    "action",
    "add-fd",
    "append",
    "audio",
    "audiodev",
    "bios",
    "blockdev",
    "boot",
    "cdrom",
    "chardev",
    "chroot",
    "cpu",
    "d",
    "daemonize",
    "debugcon",
    "dfilter",
    "display",
    "dtb",
    "echr",
    "enable-kvm",
    "fda",
    "fdb",
    "fsdev",
    "full-screen",
    "fw_cfg",
    "g",
    "gdb",
    "hda",
    "hdb",
    "hdc",
    "hdd",
    "icount",
    "incoming",
    "initrd",
    "k",
    "kernel",
    "loadvm",
    "m",
    "mem-path",
    "mem-prealloc",
    "mon",
    "monitor",
    "msg",
    "mtdblock",
    "name",
    "netdev",
    "no-fd-bootchk",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "numa",
    "only-migratable",
    "option-rom",
    "overcommit",
    "parallel",
    "perfmap",
    "pflash",
    "pidfile",
    "plugin",
    "preconfig",
    "qmp",
    "qmp-pretty",
    "rtc",
    "run-with",
    "runas",
    "s",
    "sandbox",
    "sd",
    "sdl",
    "seed",
    "serial",
    "smbios",
    "smp",
    "snapshot",
    "spice",
    "tb-size",
    "tpmdev",
    "trace",
    "usbdevice",
    "uuid",
    "vnc",
    "watchdog-action",
    "win2k-hack",
    "xen-attach",
    "xen-domid",
    "xen-domid-restrict",
    "acpitable",
    "curses",
    "alt-grab",
    "ctrl-grab",
];

impl Arguments {
    /// Reads arguments and adds what they ask for.
    pub fn read(&mut self, arguments: &[String]) {
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            let Some(option) = argument.strip_prefix('-').map(|name| name.strip_prefix('-').unwrap_or(name))
            else {
                self.not_understood.push(format!("\"{argument}\" belongs to no option"));
                continue;
            };
            let value = rest.next_if(|next| !next.starts_with('-') || next.len() == 1);
            self.options.push((argument.clone(), value.cloned()));
            self.option(option, value.map(String::as_str));
        }
    }

    fn option(&mut self, option: &str, value: Option<&str>) {
        match (option, value) {
            ("usb", None) => self.usb = true,
            ("usbdevice", Some(_)) => self.usb = true,
            ("no-acpi", None) => self.no_acpi = true,
            ("device", Some(text)) => self.device(text),
            ("object", Some(text)) => self.object(text),
            ("global", Some(text)) => self.global(text),
            ("vga", Some(kind)) => self.vga(kind),
            ("net" | "nic", Some(text)) => self.network(option, text),
            ("soundhw", Some(names)) => {
                for name in names.split(',') {
                    let driver = if name == "hda" { "intel-hda" } else { name };
                    self.early.push(Requested::new(driver, ""));
                }
            }
            ("watchdog", Some(name)) => self.devices.push(Requested::new(name, "")),
            ("drive", Some(text)) => self.drive(text),
            ("virtfs", Some(_)) => self.devices.push(Requested::new("virtio-9p-pci", "")),
            ("machine" | "M", Some(text)) => self.machine(text),
            _ if WITHOUT_EFFECT.contains(&option) => {}
            _ => self.not_understood.push(format!("QEMU's option \"-{option}\" is not understood")),
        }
    }

    fn device(&mut self, text: &str) {
        let (driver, properties) = match json(text) {
            Some(Ok(properties)) => (String::new(), properties),
            Some(Err(problem)) => {
                self.not_understood.push(format!("-device {text}: {problem}"));
                return;
            }
            None => Properties::parse(text),
        };
        let driver = match properties.get("driver") {
            Some(named) => named.to_owned(),
            None => driver,
        };
        self.devices.push(Requested { driver, properties });
    }

    fn object(&mut self, text: &str) {
        let (kind, properties) = match json(text) {
            Some(Ok(properties)) => (properties.get("qom-type").unwrap_or_default().to_owned(), properties),
            Some(Err(_)) => return,
            None => Properties::parse(text),
        };
        let size = properties.get("size").and_then(Size::parse);
        if let (true, Some(name), Some(size)) =
            (kind.starts_with("memory-backend-"), properties.get("id"), size)
        {
            self.memory_objects.insert(name.to_owned(), size);
        }
    }

    /// `DRIVER.PROPERTY=VALUE`, or the three named.
    fn global(&mut self, text: &str) {
        let (_, named) = Properties::parse(&format!(",{text}"));
        let parts = match (named.get("driver"), named.get("property"), named.get("value")) {
            (Some(driver), Some(property), Some(value)) => Some((driver, property, value)),
            _ => text.split_once('=').and_then(|(name, value)| {
                let (driver, property) = name.split_once('.')?;
                Some((driver, property, value))
            }),
        };
        match parts {
            Some((driver, property, value)) => {
                self.globals.entry(driver.to_owned()).or_default().push(property, value);
            }
            None => self.not_understood.push(format!("-global {text}: no DRIVER.PROPERTY=VALUE")),
        }
    }

    fn vga(&mut self, kind: &str) {
        let driver = match kind {
            "none" => return,
            "std" => "VGA",
            "cirrus" => "cirrus-vga",
            "qxl" => "qxl-vga",
            "virtio" => "virtio-vga",
            "vmware" => "vmware-svga",
            _ => {
                self.not_understood.push(format!("-vga {kind}: no card that is known here"));
                return;
            }
        };
        self.early.push(Requested::new(driver, ""));
    }

    fn network(&mut self, option: &str, text: &str) {
        let (kind, properties) = Properties::parse(text);
        if kind == "none" || (option == "net" && kind != "nic") {
            return;
        }
        let model = match properties.get("model").unwrap_or("e1000") {
            "virtio" => "virtio-net-pci",
            model => model,
        };
        self.early.push(Requested::new(model, ""));
    }

    fn drive(&mut self, text: &str) {
        let (_, properties) = Properties::parse(&format!(",{text}"));
        match properties.get("if") {
            Some("virtio") => self.devices.push(Requested::new("virtio-blk-pci", "")),
            None | Some("none" | "ide" | "floppy" | "pflash" | "mtd" | "sd") => {}
            Some(kind) => self.not_understood.push(format!("-drive if={kind}: not understood")),
        }
    }

    fn machine(&mut self, text: &str) {
        let (kind, properties) = Properties::parse(text);
        if !(kind.is_empty() || kind.starts_with("xenfv") || kind == "pc" || kind.starts_with("pc-i440fx")) {
            self.not_understood.push(format!("-machine {kind}: only xenfv and pc are known here"));
        }
        if matches!(properties.get("usb"), Some("on" | "true" | "yes")) {
            self.usb = true;
        }
        if matches!(properties.get("acpi"), Some("off" | "false" | "no")) {
            self.no_acpi = true;
        }
    }
}

/// An argument that is JSON, as properties.
fn json(text: &str) -> Option<Result<Properties, String>> {
    if !text.starts_with('{') {
        return None;
    }
    let object = match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
        Ok(object) => object,
        Err(error) => return Some(Err(error.to_string())),
    };
    let mut properties = Properties::default();
    for (name, value) in object {
        match value {
            serde_json::Value::String(text) => properties.push(&name, &text),
            other => properties.push(&name, &other.to_string()),
        }
    }
    Some(Ok(properties))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Arguments {
        let mut read = Arguments::default();
        read.read(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>());
        read
    }

    fn drivers(devices: &[Requested]) -> Vec<&str> {
        devices.iter().map(|device| device.driver.as_str()).collect()
    }

    #[test]
    fn devices_come_in_the_order_of_the_command_line() {
        let arguments = read(&[
            "-trace",
            "xen_ram_alloc",
            "-device",
            "pci-testdev,membar=1G",
            "--device",
            "driver=edu,id=e",
            "-usb",
            "-device",
            "{\"driver\":\"nvme\",\"serial\":\"a\",\"max_ioqpairs\":8}",
            "-drive",
            "if=virtio,file=x",
            "-watchdog",
            "i6300esb",
        ]);
        let expected = ["pci-testdev", "edu", "nvme", "virtio-blk-pci", "i6300esb"];
        assert_eq!(drivers(&arguments.devices), expected);
        assert_eq!(arguments.devices[2].properties.get("max_ioqpairs"), Some("8"));
        assert!(arguments.usb && arguments.not_understood.is_empty());
    }

    #[test]
    fn what_the_machine_makes_comes_first() {
        let arguments =
            read(&["-vga", "std", "-net", "nic,model=virtio", "-net", "user", "-soundhw", "hda,ac97"]);
        assert_eq!(drivers(&arguments.early), ["VGA", "virtio-net-pci", "intel-hda", "ac97"]);
    }

    #[test]
    fn globals_and_memory_objects_are_kept() {
        let arguments = read(&[
            "-global",
            "VGA.vgamem_mb=32",
            "-global",
            "driver=nvme,property=serial,value=x",
            "-object",
            "memory-backend-ram,id=m,size=4M",
            "-object",
            "iothread,id=t",
        ]);
        assert_eq!(arguments.globals["VGA"].get("vgamem_mb"), Some("32"));
        assert_eq!(arguments.globals["nvme"].get("serial"), Some("x"));
        assert_eq!(arguments.memory_objects, BTreeMap::from([("m".to_owned(), Size::new(4 << 20))]));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let arguments =
            read(&["-colour", "red", "stray", "-machine", "q35", "-device", "{oops}", "-global", "x"]);
        let text = arguments.not_understood.join("\n");
        for named in ["-colour", "stray", "q35", "{oops}", "-global x"] {
            assert!(text.contains(named), "{named}: {text}");
        }
    }
}
