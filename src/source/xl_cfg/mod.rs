// SPDX-License-Identifier: LGPL-2.1-or-later
//! xl.cfg, as xl reads it.
//!
//! The grammar is libxlutil's to the letter ([`parse_settings`]); the parameters are read as xl_parse.c's
//! parse_config_data reads them, with its odd corners: a number that is none leaves its parameter unset, the last of two
//! assignments counts, `type="h"` is an HVM guest. What xl ignores is ignored too, with a warning that names it.

mod disk_spec;
mod keys;
mod lexer;
mod pci_spec;
mod settings;
mod syntax;

pub use syntax::{Setting, SyntaxError, Value, parse as parse_settings};

use self::settings::{Settings, atoi};
use crate::address::Size;
use crate::layout::Warning;
use crate::source::domain_config::{
    DomainConfig, DomainKind, HostDeviceName, HostPci, Nic, Passthrough, RdmStrategy, UsbController,
    UsbControllerKind, Vga,
};

/// What is wrong with an xl.cfg.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XlCfgError {
    /// It does not follow the grammar.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A parameter has a value that xl refuses.
    #[error("line {line}: {name}: {problem}")]
    Value {
        /// The line of the value.
        line: usize,
        /// The parameter.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads an xl.cfg.
///
/// ```
/// let (config, warnings) = xen_pci_layout::source::xl_cfg::parse(
///     b"name = 'guest'\ntype = 'hvm'\nmemory = 4096\npci = ['01:00.0@7,permissive=1']\n",
/// )?;
/// assert_eq!(config.pci[0].virtual_slot, Some(7));
/// assert!(warnings.is_empty());
/// # Ok::<(), xen_pci_layout::source::xl_cfg::XlCfgError>(())
/// ```
///
/// # Errors
///
/// The first thing that xl would refuse the file for, and its line.
pub fn parse(text: &[u8]) -> Result<(DomainConfig, Vec<Warning>), XlCfgError> {
    let mut settings = Settings::new(parse_settings(text)?);
    let kind = kind(&mut settings)?;
    let mut config = DomainConfig::new(kind);
    config.name = settings.string("name");
    if config.name.is_none() {
        let message = "the configuration gives the domain no name; xl refuses it without one";
        settings.warn_as("no-name", "name", message);
    }
    memory(&mut settings, &mut config)?;
    passthrough(&mut settings, &mut config)?;
    emulated(&mut settings, &mut config)?;
    usb(&mut settings, &mut config)?;
    disks_and_nics(&mut settings, &mut config)?;
    device_model(&mut settings, &mut config)?;
    reservations(&mut settings, &mut config)?;
    Ok((config, settings.into_warnings(keys::WITHOUT_EFFECT)))
}

/// The domain's type, from `type=` or the older `builder=`; a beginning of the word is enough for xl.
fn kind(settings: &mut Settings) -> Result<DomainKind, XlCfgError> {
    let named = |settings: &mut Settings, name, choices: &[(&str, DomainKind)]| {
        let Some(text) = settings.string(name) else { return Ok(None) };
        match choices.iter().find(|(word, _)| word.starts_with(text.as_str())) {
            Some((_, kind)) => Ok(Some(*kind)),
            None => Err(settings.error(name, format!("\"{text}\" is no domain type"))),
        }
    };
    let types = [("hvm", DomainKind::Hvm), ("pv", DomainKind::Pv), ("pvh", DomainKind::Pvh)];
    let by_type = named(settings, "type", &types)?;
    let by_builder = named(settings, "builder", &[("hvm", DomainKind::Hvm), ("generic", DomainKind::Pv)])?;
    let kind = match (by_type, by_builder) {
        (Some(kind), Some(other)) if kind != other => {
            return Err(settings.error("builder", "contradicts type="));
        }
        (Some(kind), _) | (None, Some(kind)) => kind,
        (None, None) => DomainKind::Pv,
    };
    let arm = keys::ARM.iter().filter(|name| settings.has(name)).count() > 0;
    Ok(if arm && kind != DomainKind::Hvm { DomainKind::Arm } else { kind })
}

/// A parameter in MiB.
fn mebibytes(settings: &mut Settings, name: &'static str) -> Result<Option<Size>, XlCfgError> {
    let Some(number) = settings.number(name) else { return Ok(None) };
    let size = u64::try_from(number).ok().and_then(Size::mib);
    size.map(Some).ok_or_else(|| settings.error(name, format!("{number} MiB is no amount of memory")))
}

fn memory(settings: &mut Settings, config: &mut DomainConfig) -> Result<(), XlCfgError> {
    config.memory = mebibytes(settings, "memory")?;
    config.maxmem = mebibytes(settings, "maxmem")?;
    if let Some(sum) = vnuma_memory(settings)? {
        if config.maxmem.is_some_and(|maxmem| maxmem != sum) {
            return Err(settings.error("vnuma", format!("its nodes have {sum} together, maxmem is another")));
        }
        config.maxmem = Some(sum);
    }
    config.maxmem = config.maxmem.or(config.memory);
    config.video_memory = mebibytes(settings, "videoram")?;
    config.hap = settings.boolean("hap");
    config.acpi = settings.boolean("acpi");
    config.mmio_hole = mebibytes(settings, "mmio_hole")?;
    if let Some(hole) = config.mmio_hole
        && !(crate::guest::SMALLEST_HOLE..=crate::guest::LARGEST_HOLE).contains(&hole)
        && config.kind == DomainKind::Hvm
    {
        return Err(settings.error("mmio_hole", "must be 256 to 3840 MiB"));
    }
    Ok(())
}

/// The memory of the virtual NUMA nodes together, which is then the guest's `maxmem`.
fn vnuma_memory(settings: &mut Settings) -> Result<Option<Size>, XlCfgError> {
    let nodes: Vec<Value> = settings.values("vnuma").unwrap_or_default().to_vec();
    if nodes.is_empty() {
        return Ok(None);
    }
    let wrong = |settings: &Settings, problem: &str| settings.error("vnuma", problem);
    let mut sum = Size::ZERO;
    for node in &nodes {
        let Value::List(options) = node else {
            return Err(wrong(settings, "each node is a list of options"));
        };
        for option in options {
            let Value::Atom(option) = option else { continue };
            let Some((key, value)) = option.split_once('=') else {
                return Err(wrong(settings, &format!("\"{option}\" is no KEY=VALUE")));
            };
            if key.trim() == "size" {
                let size = settings::strtol(value.trim()).and_then(|mib| Size::mib(u64::try_from(mib).ok()?));
                sum = size.and_then(|size| sum.checked_add(size)).ok_or_else(|| {
                    wrong(settings, &format!("\"{}\" is no amount of memory", value.trim()))
                })?;
            }
        }
    }
    Ok(Some(sum))
}

fn passthrough(settings: &mut Settings, config: &mut DomainConfig) -> Result<(), XlCfgError> {
    if let Some(text) = settings.string("passthrough") {
        config.passthrough = match text.to_ascii_lowercase().as_str() {
            "default" => Passthrough::Default,
            "disabled" => Passthrough::Disabled,
            "enabled" | "sync_pt" | "share_pt" => Passthrough::Enabled,
            _ => return Err(settings.error("passthrough", format!("unknown mode \"{text}\""))),
        };
    }
    config.rdm_boundary = mebibytes(settings, "rdm_mem_boundary")?;
    if let Some(text) = settings.string("rdm") {
        rdm(settings, config, &text);
    }
    let defaults = HostPci {
        device: HostDeviceName::Name(String::new()),
        all_functions: false,
        virtual_slot: None,
        msitranslate: settings.boolean("pci_msitranslate").unwrap_or_default(),
        power_mgmt: settings.boolean("pci_power_mgmt").unwrap_or_default(),
        permissive: settings.boolean("pci_permissive").unwrap_or_default(),
        seize: settings.boolean("pci_seize").unwrap_or_default(),
        rdm_policy: config.rdm_policy,
    };
    for entry in settings.strings("pci") {
        let (device, notes) = pci_spec::parse(&entry, &defaults)
            .map_err(|problem| settings.error("pci", format!("\"{entry}\": {problem}")))?;
        for note in notes {
            settings.warn("pci", &format!("\"{entry}\": {note}"));
        }
        config.pci.push(device);
    }
    if let Some(text) = settings.atom("gfx_passthru") {
        config.graphics_passthrough = match settings::strtol(&text) {
            Some(number) => number != 0,
            None if ["default", "igd"].contains(&text.to_ascii_lowercase().as_str()) => true,
            None => return Err(settings.error("gfx_passthru", format!("invalid value \"{text}\""))),
        };
    }
    Ok(())
}

/// `rdm="strategy=host[,policy=...]"`.
///
/// xlu_rdm_parse (4.15 to the development branch) takes a known policy for an error and drops the whole parameter, and
/// lets an unknown one pass with whatever was on the stack. What xl does is what counts here; it is said.
fn rdm(settings: &mut Settings, config: &mut DomainConfig, text: &str) {
    let mut host = false;
    let mut known_policy = false;
    for option in text.split(',') {
        match option.split_once('=') {
            Some(("strategy", "host")) => host = true,
            Some(("policy", policy)) => known_policy |= pci_spec::rdm_policy(policy).is_ok(),
            _ => {
                settings
                    .warn("rdm", &format!("\"{option}\" is not understood; xl ignores the whole parameter"));
                return;
            }
        }
    }
    if known_policy {
        let message = "xl of Xen 4.15 and later drops an rdm= that names a policy, and says nothing: write \
                       rdm=\"strategy=host\" and give each device its rdm_policy=";
        settings.warn_as("rdm-dropped", "rdm", message);
    } else if host {
        let message = "xl of Xen 4.15 and later leaves the policy that goes with it to chance: give each device its \
                       rdm_policy=";
        settings.warn_as("rdm-policy-undefined", "rdm", message);
        config.rdm_strategy = RdmStrategy::Host;
    }
}

fn emulated(settings: &mut Settings, config: &mut DomainConfig) -> Result<(), XlCfgError> {
    if let Some(text) = settings.string("vga") {
        config.vga = match text.as_str() {
            "stdvga" => Vga::Std,
            "cirrus" => Vga::Cirrus,
            "none" => Vga::None,
            "qxl" => Vga::Qxl,
            _ => return Err(settings.error("vga", format!("unknown card \"{text}\""))),
        };
    }
    if let Some(std) = settings.boolean("stdvga")
        && config.vga == Vga::Default
    {
        config.vga = if std { Vga::Std } else { Vga::Cirrus };
    }
    if let Some(text) = settings.string("hdtype") {
        config.ahci = match text.to_ascii_lowercase().as_str() {
            "ahci" => true,
            "ide" => false,
            _ => return Err(settings.error("hdtype", format!("unknown type \"{text}\""))),
        };
    }
    config.sound = settings.string("soundhw");
    config.xen_platform = settings.boolean("xen_platform_pci");
    config.platform_bar_uncached = settings.boolean("xen_platform_pci_bar_uc");
    if let Some(text) = settings.string("vendor_device") {
        config.vendor_device = match text.to_ascii_lowercase().as_str() {
            "none" => false,
            "xenserver" => true,
            _ => return Err(settings.error("vendor_device", format!("unknown device \"{text}\""))),
        };
    }
    let spice = settings.boolean("spice").unwrap_or_default();
    let agent = settings.boolean("spicevdagent").unwrap_or_default();
    let redirection = settings.number("spiceusbredirection").unwrap_or_default();
    config.spice_agent = spice && agent;
    config.usb_redirection = if spice { redirection } else { 0 };
    Ok(())
}

/// The tokens of an entry such as a `vif`'s: between commas, spaces before them left out.
fn tokens(entry: &str) -> impl Iterator<Item = &str> {
    entry.split(',').filter(|token| !token.is_empty()).map(|token| token.trim_start_matches(' '))
}

fn usb(settings: &mut Settings, config: &mut DomainConfig) -> Result<(), XlCfgError> {
    config.usb = settings.boolean("usb");
    config.usb_version = settings.number("usbversion").unwrap_or_default();
    config.usb_devices = match settings.atom("usbdevice") {
        Some(device) => vec![device],
        None => settings.strings("usbdevice"),
    };
    for entry in settings.strings("usbctrl") {
        let mut controller = UsbController::default();
        for token in tokens(&entry) {
            match token.split_once('=') {
                Some(("type", kind)) => {
                    controller.kind = match kind.to_ascii_lowercase().as_str() {
                        "auto" => UsbControllerKind::Auto,
                        "devicemodel" => UsbControllerKind::DeviceModel,
                        "pv" | "qusb" => UsbControllerKind::Paravirtual,
                        _ => return Err(settings.error("usbctrl", format!("invalid type \"{kind}\""))),
                    }
                }
                Some(("version", version)) => controller.version = atoi(version),
                Some(("ports", ports)) => {
                    controller.ports = usize::try_from(atoi(ports)).ok().filter(|ports| *ports != 0);
                }
                _ => return Err(settings.error("usbctrl", format!("unknown option \"{token}\""))),
            }
        }
        config.usb_controllers.push(controller);
    }
    for entry in settings.strings("usbdev") {
        let mut controller = -1;
        for token in tokens(&entry) {
            match token.split_once('=') {
                Some(("controller", number)) => controller = atoi(number),
                Some(("type" | "hostbus" | "hostaddr" | "port", _)) => {}
                _ => return Err(settings.error("usbdev", format!("unknown option \"{token}\""))),
            }
        }
        config.usb_host_devices = config.usb_host_devices.saturating_add(usize::from(controller == -1));
    }
    Ok(())
}

fn disks_and_nics(settings: &mut Settings, config: &mut DomainConfig) -> Result<(), XlCfgError> {
    for entry in settings.strings("disk") {
        let disk = disk_spec::parse(&entry)
            .map_err(|problem| settings.error("disk", format!("\"{entry}\": {problem}")))?;
        config.disks.push(disk);
    }
    for entry in settings.strings("vif") {
        let mut nic = Nic::default();
        for token in tokens(&entry) {
            match token.split_once('=') {
                Some(("type", "vif")) => nic.paravirtual = true,
                Some(("type", "ioemu")) => nic.paravirtual = false,
                Some(("model", model)) => nic.model = Some(model.to_owned()),
                Some((key, _)) if VIF_KEYS.contains(&key) || key.starts_with("colo") => {}
                _ => settings.warn("vif", &format!("\"{token}\" is not understood; xl ignores it")),
            }
        }
        config.nics.push(nic);
    }
    Ok(())
}

/// The keys of a `vif` that say nothing about its card.
const VIF_KEYS: [&str; 14] = [
    "mac",
    "bridge",
    "netdev",
    "gatewaydev",
    "ip",
    "script",
    "backend",
    "vifname",
    "rate",
    "devid",
    "forwarddev",
    "mtu",
    "trusted",
    "accel",
];

fn device_model(settings: &mut Settings, config: &mut DomainConfig) -> Result<(), XlCfgError> {
    for (name, place) in
        [("device_model_args", &mut config.arguments), ("device_model_args_hvm", &mut config.hvm_arguments)]
    {
        if settings.atom(name).is_some() {
            return Err(settings.error(name, "must be a list"));
        }
        *place = settings.strings(name);
    }
    if let Some(text) = settings.string("device_model_version") {
        if !["qemu-xen", "qemu-xen-traditional"].contains(&text.as_str()) {
            return Err(settings.error("device_model_version", format!("unknown version \"{text}\"")));
        }
        config.device_model = Some(text);
    }
    if settings.has("device_model") {
        settings.warn("device_model", "xl ignores it; device_model_override= is what it reads");
    }
    config.stub_domain = settings.boolean("device_model_stubdomain_override").unwrap_or_default();
    let known = |text: &str| ["rombios", "seabios", "ovmf"].contains(&text.to_ascii_lowercase().as_str());
    if let Some(text) = settings.string("bios") {
        if !known(&text) {
            return Err(settings.error("bios", format!("unknown firmware \"{text}\"")));
        }
        config.bios = Some(text.to_ascii_lowercase());
    }
    if let Some(text) = settings.string("firmware") {
        if known(&text) {
            config.bios = Some(text.to_ascii_lowercase());
        } else if "uefi".starts_with(&text) {
            config.bios = Some("ovmf".to_owned());
        }
    }
    Ok(())
}

/// The keys of ours, which xl ignores.
fn reservations(settings: &mut Settings, config: &mut DomainConfig) -> Result<(), XlCfgError> {
    for (name, place) in [
        ("pci_reserve", &mut config.reserve),
        ("pci_reserve_low", &mut config.reserve_low),
        ("pci_reserve_high", &mut config.reserve_high),
    ] {
        let Some(text) = settings.string(name) else { continue };
        let size = Size::parse(&text);
        *place =
            Some(size.ok_or_else(|| settings.error(name, format!("\"{text}\" is no size, such as \"4G\"")))?);
    }
    let wrong = |settings: &Settings, name, text: &str, problem: &dyn std::fmt::Display| {
        settings.error(name, format!("\"{text}\": {problem}"))
    };
    let name = "pci_reserve_for";
    for text in one_or_several(settings, name) {
        for device in text.split(',').map(str::trim) {
            let device = device.parse().map_err(|error| wrong(settings, name, &text, &error))?;
            config.reserve_for.push(device);
        }
    }
    let name = "pci_reserve_any";
    for text in one_or_several(settings, name) {
        let any = text.parse().map_err(|error: String| wrong(settings, name, &text, &error))?;
        config.reserve_any.push(any);
    }
    let name = "pci_bar_size";
    for text in one_or_several(settings, name) {
        let setting = text.parse().map_err(|error: String| wrong(settings, name, &text, &error))?;
        config.bar_sizes.push(setting);
    }
    let name = "pci_caching";
    for text in one_or_several(settings, name) {
        let setting = text.parse().map_err(|error: String| wrong(settings, name, &text, &error))?;
        config.caching.push(setting);
    }
    Ok(())
}

/// A list of strings, or one string alone.
fn one_or_several(settings: &mut Settings, name: &'static str) -> Vec<String> {
    match settings.atom(name) {
        Some(text) => vec![text],
        None => settings.strings(name),
    }
}
