// SPDX-License-Identifier: LGPL-2.1-or-later
//! libxl's domain configuration in JSON: what `xl create -n` prints, an element of what `xl list -l` prints, or a list
//! of one such element.
//!
//! libxl leaves out what is at its default, device 0 and function 0 among it (libxl_types.idl says which values those
//! are), and prints `null` for an enumeration that holds no known value. Fields that this program does not know are
//! named in a warning.

mod fields;

use serde::de::DeserializeOwned;

use self::fields::{Domain, PciFields, Word};
use super::domain_config::{
    Disk, DomainConfig, DomainKind, HostDeviceName, HostPci, Nic, Passthrough, RdmPolicy, RdmStrategy,
    UsbController, UsbControllerKind, Vga,
};
use crate::address::{Address, Range, Size};
use crate::layout::Warning;
use crate::pci::{Bdf, Sbdf};

/// What is wrong with a domain configuration in JSON.
#[derive(Debug, thiserror::Error)]
pub enum LibxlJsonError {
    /// It is no JSON, or not of the right shape.
    #[error("{place}: {problem}")]
    Shape {
        /// The path to the value.
        place: String,
        /// What serde says, with line and column.
        problem: serde_json::Error,
    },
    /// A list of domains, as `xl list -l` prints it, that does not hold one.
    #[error("holds {0} domains: give one element of it, or the list of one that `xl list -l DOMAIN` prints")]
    Domains(usize),
    /// A value that libxl refuses.
    #[error("{place}: {problem}")]
    Value {
        /// The path to the value.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Whether a JSON text is a domain configuration, a list of domains, or was meant to be: what is cut off or malformed is
/// told by its keys.
pub fn is_domain(text: &str) -> bool {
    let has = |value: &serde_json::Value| {
        value.get("c_info").or(value.get("b_info")).or(value.get("config")).is_some()
    };
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => value.is_array() || has(&value),
        Err(_) => text.contains("\"c_info\"") || text.contains("\"b_info\""),
    }
}

/// Reads a domain configuration.
///
/// ```
/// let (config, _) = xen_pci_layout::source::libxl_json::parse(
///     r#"{"c_info": {"type": "hvm"}, "b_info": {"max_memkb": 4194304, "type.hvm": {}}, "pcidevs": [{"bus": 1}]}"#,
/// )?;
/// assert_eq!(config.pci.len(), 1);
/// # Ok::<(), xen_pci_layout::source::libxl_json::LibxlJsonError>(())
/// ```
///
/// # Errors
///
/// What is wrong, and where.
pub fn parse(text: &str) -> Result<(DomainConfig, Vec<Warning>), LibxlJsonError> {
    let mut unknown = Vec::new();
    let domain = if text.trim_start().starts_with('[') {
        let mut domains: Vec<Domain> = read(text, &mut unknown)?;
        match (domains.pop(), domains.is_empty()) {
            (Some(domain), true) => domain,
            (last, _) => {
                let count = domains.len().saturating_add(usize::from(last.is_some()));
                return Err(LibxlJsonError::Domains(count));
            }
        }
    } else {
        read(text, &mut unknown)?
    };
    let config = match domain.config {
        Some(config) => *config,
        None => domain,
    };
    let mut warnings: Vec<Warning> = unknown
        .into_iter()
        .filter(|path| !fields::without_effect(&pattern(path)))
        .map(|path| {
            Warning::new("unknown-key", format!("{path}: a field this program does not know; ignored"))
        })
        .collect();
    let config = convert(config, &mut warnings)?;
    Ok((config, warnings))
}

fn read<T: DeserializeOwned>(text: &str, unknown: &mut Vec<String>) -> Result<T, LibxlJsonError> {
    let shape = |place: String, problem| LibxlJsonError::Shape { place, problem };
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
    let value = result.map_err(|problem| {
        let place = match track.path().to_string() {
            path if path == "." => "domain configuration".to_owned(),
            path => path,
        };
        shape(place, problem)
    })?;
    json.end().map_err(|problem| shape("after the domain configuration".to_owned(), problem))?;
    Ok(value)
}

/// A field's path without list indices and without what `xl list -l` puts around a configuration.
fn pattern(path: &str) -> String {
    let named = |part: &&str| *part != "?" && part.parse::<usize>().is_err();
    let parts: Vec<&str> = path.split('.').filter(named).skip_while(|part| *part == "config").collect();
    parts.join(".")
}

/// A word of an enumeration as one of ours; absent, or one that libxl would not know itself, is its default.
fn choose<T: Copy>(place: &str, word: &Word, choices: &[(&str, T)], default: T) -> Result<T, LibxlJsonError> {
    let Some(word) = &word.0 else { return Ok(default) };
    match choices.iter().find(|(name, _)| name == word) {
        Some((_, choice)) => Ok(*choice),
        None => Err(wrong(place, format!("unknown value \"{word}\""))),
    }
}

fn wrong(place: &str, problem: impl Into<String>) -> LibxlJsonError {
    LibxlJsonError::Value { place: place.to_owned(), problem: problem.into() }
}

fn kibibytes(place: &str, number: Option<u64>) -> Result<Option<Size>, LibxlJsonError> {
    let Some(number) = number else { return Ok(None) };
    Size::KIB.checked_mul(number).map(Some).ok_or_else(|| wrong(place, format!("{number} KiB: too much")))
}

const POLICIES: [(&str, Option<RdmPolicy>); 3] =
    [("strict", Some(RdmPolicy::Strict)), ("relaxed", Some(RdmPolicy::Relaxed)), ("invalid", None)];

fn convert(domain: Domain, warnings: &mut Vec<Warning>) -> Result<DomainConfig, LibxlJsonError> {
    let Domain { c_info, b_info, disks, nics, pcidevs, rdms, usbctrls, usbdevs, .. } = domain;
    let hvm = b_info.hvm;
    let kinds = [("hvm", DomainKind::Hvm), ("pv", DomainKind::Pv), ("pvh", DomainKind::Pvh)];
    let from_b_info = choose("b_info.type", &b_info.r#type, &kinds, DomainKind::Pv)?;
    let mut kind = choose("c_info.type", &c_info.r#type, &kinds, from_b_info)?;
    if kind != DomainKind::Hvm && !b_info.arch_arm.is_empty() {
        kind = DomainKind::Arm;
    }
    let mut config = DomainConfig::new(kind);
    config.name = c_info.name;
    config.memory = kibibytes("b_info.target_memkb", b_info.target_memkb)?;
    config.maxmem = kibibytes("b_info.max_memkb", b_info.max_memkb)?.or(config.memory);
    config.video_memory = kibibytes("b_info.video_memkb", b_info.video_memkb)?;
    // 0 is what libxl makes of no hole (libxl__domain_build_info_setdefault), before its helper gets the configuration.
    let hole = hvm.mmio_hole_memkb.filter(|hole| *hole != 0 && !hvm.mmio_hole_computed);
    config.mmio_hole = kibibytes("b_info.type.hvm.mmio_hole_memkb", hole)?;
    config.rdm_boundary = kibibytes("b_info.type.hvm.rdm_mem_boundary_memkb", hvm.rdm_mem_boundary_memkb)?;
    config.hap = c_info.hap.get();
    config.acpi = b_info.acpi.get().or(hvm.acpi.get());
    let modes = [
        ("default", Passthrough::Default),
        ("disabled", Passthrough::Disabled),
        ("enabled", Passthrough::Enabled),
        ("sync_pt", Passthrough::Enabled),
        ("share_pt", Passthrough::Enabled),
    ];
    config.passthrough = choose("c_info.passthrough", &c_info.passthrough, &modes, Passthrough::Default)?;
    let strategies = [("ignore", RdmStrategy::Ignore), ("host", RdmStrategy::Host)];
    let rdm = "b_info.type.hvm.rdm";
    config.rdm_strategy = choose(rdm, &hvm.rdm.strategy, &strategies, RdmStrategy::Ignore)?;
    config.rdm_policy = choose(rdm, &hvm.rdm.policy, &POLICIES, None)?;
    let cards = [
        ("unknown", Vga::Default),
        ("cirrus", Vga::Cirrus),
        ("std", Vga::Std),
        ("none", Vga::None),
        ("qxl", Vga::Qxl),
    ];
    config.vga = choose("b_info.type.hvm.vga.kind", &hvm.vga.kind, &cards, Vga::Default)?;
    config.ahci = choose("b_info.type.hvm.hdtype", &hvm.hdtype, &[("ide", false), ("ahci", true)], false)?;
    config.usb = hvm.usb.get();
    config.usb_devices = hvm.usbdevice.into_iter().chain(hvm.usbdevice_list).collect();
    config.usb_version = hvm.usbversion;
    config.sound = hvm.soundhw;
    let spice = hvm.spice.enable.get() == Some(true);
    config.spice_agent = spice && hvm.spice.vdagent.get() == Some(true);
    config.usb_redirection = if spice { hvm.spice.usbredirection } else { 0 };
    config.graphics_passthrough = hvm.gfx_passthru.get() == Some(true);
    config.xen_platform = hvm.xen_platform_pci.get();
    config.platform_bar_uncached = hvm.xen_platform_pci_bar_uc.get();
    let vendors = [("none", false), ("xenserver", true)];
    config.vendor_device = choose("b_info.type.hvm.vendor_device", &hvm.vendor_device, &vendors, false)?;
    config.bios = hvm.bios.0.filter(|bios| bios != "unknown");
    config.device_model = match b_info.device_model_version.get() {
        "" | "unknown" => None,
        version => Some(version.replace('_', "-")),
    };
    config.stub_domain = b_info.device_model_stubdomain.get() == Some(true);
    config.arguments = b_info.extra;
    config.hvm_arguments = b_info.extra_hvm;
    config.disks =
        disks.into_iter().map(|disk| Disk { vdev: disk.vdev, cdrom: disk.is_cdrom != 0 }).collect();
    for (index, nic) in nics.into_iter().enumerate() {
        let kinds = [("unknown", false), ("vif_ioemu", false), ("vif", true)];
        let paravirtual = choose(&format!("nics[{index}].nictype"), &nic.nictype, &kinds, false)?;
        config.nics.push(Nic { paravirtual, model: nic.model });
    }
    for (index, device) in pcidevs.into_iter().enumerate() {
        config.pci.push(host_device(&format!("pcidevs[{index}]"), device, warnings)?);
    }
    for (index, found) in rdms.into_iter().enumerate() {
        let place = format!("rdms[{index}]");
        let range = Range::sized(Address::new(found.start), Size::new(found.size))
            .ok_or_else(|| wrong(&place, "ends above 64 bits"))?;
        // "invalid" is what libxl marks a range with that it has dropped.
        if let Some(policy) = choose(&place, &found.policy, &POLICIES, None)? {
            config.rdm_found.push((range, policy));
        }
    }
    for (index, controller) in usbctrls.into_iter().enumerate() {
        let kinds = [
            ("auto", UsbControllerKind::Auto),
            ("devicemodel", UsbControllerKind::DeviceModel),
            ("pv", UsbControllerKind::Paravirtual),
            ("qusb", UsbControllerKind::Paravirtual),
        ];
        let place = format!("usbctrls[{index}].type");
        let kind = choose(&place, &controller.r#type, &kinds, UsbControllerKind::Auto)?;
        config.usb_controllers.push(UsbController {
            kind,
            version: controller.version,
            ports: (controller.ports != 0).then_some(controller.ports),
        });
    }
    config.usb_host_devices = usbdevs.iter().filter(|device| device.ctrl == -1).count();
    Ok(config)
}

fn host_device(
    place: &str,
    device: PciFields,
    warnings: &mut Vec<Warning>,
) -> Result<HostPci, LibxlJsonError> {
    let all_functions = device.vfunc_mask == u32::MAX;
    let slot = device.vdevfn >> 3;
    let function = device.vdevfn & 7;
    if !all_functions && function != 0 {
        let message = format!(
            "{place}.vdevfn: asks for virtual function {function}; libxl puts a single function at function 0"
        );
        warnings.push(Warning::new("ignored-value", message));
    }
    let bdf = Bdf::new(device.bus, device.dev, device.func).ok_or_else(|| {
        wrong(place, format!("device {}, function {}: no such address", device.dev, device.func))
    })?;
    // Address 0 is the host bridge's: libxl fills in the true one as soon as it has looked the name up.
    let named = (device.domain, device.bus, device.dev, device.func) == (0, 0, 0, 0);
    Ok(HostPci {
        device: match device.name.filter(|_| named) {
            Some(name) => HostDeviceName::Name(name),
            None => HostDeviceName::Address(Sbdf { segment: device.domain, bdf }),
        },
        all_functions,
        virtual_slot: match u8::try_from(slot) {
            Ok(0) => None,
            Ok(slot) if slot < 32 => Some(slot),
            _ => return Err(wrong(place, format!("vdevfn {}: no such slot", device.vdevfn))),
        },
        msitranslate: device.msitranslate,
        power_mgmt: device.power_mgmt,
        permissive: device.permissive,
        seize: device.seize,
        rdm_policy: choose(&format!("{place}.rdm_policy"), &device.rdm_policy, &POLICIES, None)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_one_domain_and_its_element_are_the_same() {
        let config = r#"{"c_info":{"type":"hvm","name":"g"},"b_info":{"target_memkb":1048576}}"#;
        let (plain, warnings) = parse(config).unwrap();
        assert_eq!((plain.kind, plain.maxmem, warnings.len()), (DomainKind::Hvm, Some(Size::GIB), 0));
        let element = format!(r#"{{"domid":3,"config":{config}}}"#);
        assert_eq!(parse(&element).unwrap().0, plain);
        assert_eq!(parse(&format!("[{element}]")).unwrap().0, plain);
        assert_eq!(parse("[]").unwrap_err().to_string().split(':').next(), Some("holds 0 domains"));
        assert!(
            parse(&format!("[{element},{element}]")).unwrap_err().to_string().starts_with("holds 2 domains")
        );
    }

    #[test]
    fn what_libxl_fills_in_itself_is_told_from_what_the_administrator_wrote() {
        let parsed = |hvm: &str, pci: &str| {
            let text = format!(
                r#"{{"c_info":{{"type":"hvm"}},"b_info":{{"type.hvm":{{{hvm}}}}},"pcidevs":[{{{pci}}}]}}"#
            );
            let (config, warnings) = parse(&text).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
            config
        };
        let hole = |hvm| parsed(hvm, r#""bus":1"#).mmio_hole;
        assert_eq!(hole(r#""mmio_hole_memkb":1048576,"pci_layout":"auto""#), Some(Size::GIB));
        assert_eq!(hole(r#""mmio_hole_memkb":0,"pci_layout":"auto""#), None, "libxl's default, filled in");
        assert_eq!(
            hole(r#""mmio_hole_memkb":1048576,"mmio_hole_computed":true,"pci_layout_data":"{}""#),
            None
        );
        assert_eq!(hole(r#""mmio_hole_memkb":0"#), None);
        let device = |pci| parsed("", pci).pci.remove(0).device;
        assert_eq!(device(r#""name":"gpu""#), HostDeviceName::Name("gpu".to_owned()));
        let found = Sbdf { segment: 0, bdf: Bdf::new(0x3b, 0, 0).unwrap() };
        assert_eq!(device(r#""name":"gpu","bus":59"#), HostDeviceName::Address(found));
    }

    #[test]
    fn unknown_fields_are_named_and_known_ones_are_not() {
        let text = r#"[{"domid":1,"config":{"c_info":{"type":"hvm","uuid":"x","colour":1},
            "b_info":{"type.hvm":{"vnc":{},"shape":2}},"disks":[{"vdev":"hda","readwrite":1,"taste":3}]}}]"#;
        let (_, warnings) = parse(text).unwrap();
        let messages: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert!(
            messages[0].contains("colour") && messages[1].contains("shape") && messages[2].contains("taste")
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place() {
        let error = |text| parse(text).unwrap_err().to_string();
        assert!(error(r#"{"b_info":{"max_memkb":"much"}}"#).starts_with("b_info.max_memkb: invalid type"));
        assert_eq!(error(r#"{"c_info":{"type":"vm"}}"#), "c_info.type: unknown value \"vm\"");
        assert_eq!(
            error(r#"{"pcidevs":[{"bus":1,"dev":40}]}"#),
            "pcidevs[0]: device 40, function 0: no such address"
        );
        assert!(error("{").contains("line 1"));
    }

    #[test]
    fn a_policy_that_libxl_could_not_name_is_its_default() {
        let text =
            r#"{"c_info":{"type":"hvm"},"b_info":{"type.hvm":{"rdm":{"strategy":"host","policy":null}}}}"#;
        let (config, _) = parse(text).unwrap();
        assert_eq!((config.rdm_strategy, config.rdm_policy), (RdmStrategy::Host, None));
    }
}
