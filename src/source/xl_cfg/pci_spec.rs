// SPDX-License-Identifier: LGPL-2.1-or-later
//! One entry of `pci=[...]`: `[DDDD:]BB:DD.F[@VSLOT],KEY=VALUE,...`, as xlu_pci_parse_spec_string reads it.

use super::settings::{atoi, is_c_space};
use crate::pci::{Bdf, Sbdf};
use crate::source::domain_config::{HostDeviceName, HostPci, RdmPolicy};

/// Reads an entry on top of `defaults`, which are the file's own (`pci_permissive=` and the like). The second part of
/// the answer says what of it xl reads in a way that nobody would expect.
pub(super) fn parse(text: &str, defaults: &HostPci) -> Result<(HostPci, Vec<String>), String> {
    let mut device = defaults.clone();
    let mut notes = Vec::new();
    let mut address = None;
    let mut name = None;
    let mut rest = text;
    if let Some((found, all_functions, after)) = bdf(text) {
        address = Some(found);
        device.all_functions = all_functions;
        rest = after;
        if let Some(after) = rest.strip_prefix('@') {
            let (slot, after) = virtual_slot(after)?;
            device.virtual_slot = slot;
            rest = after;
        }
        rest = match rest.strip_prefix(',') {
            Some(after) => after,
            None if rest.is_empty() => rest,
            None => return Err(format!("\"{rest}\" after the device's address")),
        };
    }
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            return Err(match address {
                Some(_) => format!("\"{rest}\" is no KEY=VALUE"),
                None => format!("\"{text}\" names no device: [DDDD:]BB:DD.F in hexadecimal"),
            });
        };
        let (value, after) = after.split_once(',').unwrap_or((after, ""));
        rest = after;
        match key {
            "bdf" => {
                let (found, all_functions, junk) =
                    bdf(value).ok_or_else(|| format!("\"{value}\" is no address: [DDDD:]BB:DD.F"))?;
                note_junk(&mut notes, junk);
                address = Some(found);
                device.all_functions = all_functions;
            }
            "vslot" => {
                let (slot, junk) = virtual_slot(value)?;
                note_junk(&mut notes, junk);
                device.virtual_slot = slot;
            }
            "permissive" => device.permissive = flag(key, value, &mut notes),
            "msitranslate" => device.msitranslate = flag(key, value, &mut notes),
            "seize" => device.seize = flag(key, value, &mut notes),
            "power_mgmt" => device.power_mgmt = flag(key, value, &mut notes),
            "rdm_policy" => device.rdm_policy = rdm_policy(value)?,
            "name" => name = Some(value.to_owned()),
            _ => return Err(format!("unknown option \"{key}\"")),
        }
    }
    device.device = match (address, name) {
        (Some(address), None) => HostDeviceName::Address(address),
        (None, Some(name)) => HostDeviceName::Name(name),
        (None, None) => return Err(format!("\"{text}\" names no device: [DDDD:]BB:DD.F or name=")),
        (Some(_), Some(_)) => return Err("names a device by address and by name".to_owned()),
    };
    Ok((device, notes))
}

/// Reads an RDM policy; "invalid" is what libxl calls its default.
pub(super) fn rdm_policy(text: &str) -> Result<Option<RdmPolicy>, String> {
    match text.to_ascii_lowercase().as_str() {
        "strict" => Ok(Some(RdmPolicy::Strict)),
        "relaxed" => Ok(Some(RdmPolicy::Relaxed)),
        "invalid" => Ok(None),
        _ => Err(format!("\"{text}\" is no RDM policy: strict or relaxed")),
    }
}

fn note_junk(notes: &mut Vec<String>, junk: &str) {
    if !junk.is_empty() {
        notes.push(format!("xl ignores \"{junk}\""));
    }
}

fn flag(key: &str, value: &str, notes: &mut Vec<String>) -> bool {
    if !matches!(value, "0" | "1") {
        notes.push(format!("xl reads {key}={value} as {}", i32::from(atoi(value) != 0)));
    }
    atoi(value) != 0
}

/// `[DDDD:]BB:DD.F` or `.*` at the start: the address, whether all functions are meant, and what follows.
fn bdf(text: &str) -> Option<(Sbdf, bool, &str)> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit() && c != ':').unwrap_or(text.len());
    let (segment, rest) = match text.get(..end)?.matches(':').count() {
        1 => (0, text),
        2 => {
            let (segment, rest) = scan_hex(text)?;
            (segment, rest.strip_prefix(':')?)
        }
        _ => return None,
    };
    let (bus, rest) = scan_hex(rest)?;
    let (slot, rest) = scan_hex(rest.strip_prefix(':')?)?;
    let rest = rest.strip_prefix('.')?;
    let (function, all, rest) = match rest.strip_prefix('*') {
        Some(rest) => (0, true, rest),
        None => {
            let (function, rest) = scan_hex(rest)?;
            (function, false, rest)
        }
    };
    let byte = |number: u32| u8::try_from(number).ok();
    let bdf = Bdf::new(byte(bus)?, byte(slot)?, byte(function)?)?;
    (segment <= 0xffff).then_some((Sbdf { segment, bdf }, all, rest))
}

/// A slot in hexadecimal at the start, 1 to 1f, and what follows; xl takes slot 0 for none.
fn virtual_slot(text: &str) -> Result<(Option<u8>, &str), String> {
    let slot = scan_hex(text).and_then(|(slot, rest)| Some((u8::try_from(slot).ok()?, rest)));
    match slot {
        Some((slot, rest)) if slot <= 0x1f => Ok(((slot != 0).then_some(slot), rest)),
        _ => Err(format!("\"{text}\" is no virtual slot: 1 to 1f, hexadecimal")),
    }
}

/// What scanf's `%x` takes: white space, a sign, `0x`, digits; a number over 32 bits is none that anybody means.
fn scan_hex(text: &str) -> Option<(u32, &str)> {
    let text = text.trim_start_matches(is_c_space);
    let text = text.strip_prefix('+').unwrap_or(text);
    let digit_next = |text: &str| text.starts_with(|c: char| c.is_ascii_hexdigit());
    let prefixed = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let text = prefixed.filter(|text| digit_next(text)).unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> HostPci {
        HostPci {
            device: HostDeviceName::Name(String::new()),
            all_functions: false,
            virtual_slot: None,
            msitranslate: false,
            power_mgmt: false,
            permissive: false,
            seize: false,
            rdm_policy: None,
        }
    }

    fn address(text: &str) -> HostDeviceName {
        HostDeviceName::Address(text.parse().unwrap())
    }

    fn read(text: &str) -> HostPci {
        parse(text, &defaults()).unwrap().0
    }

    #[test]
    fn every_form_that_xl_documents_is_read() {
        assert_eq!(read("04:00.1").device, address("0000:04:00.1"));
        assert_eq!(read("1000:04:00.1").device, address("1000:04:00.1"));
        let all = read("0000:04:00.*@1f,msitranslate=1,power_mgmt=1,permissive=1,seize=1,rdm_policy=relaxed");
        assert!(all.all_functions && all.msitranslate && all.power_mgmt && all.permissive && all.seize);
        assert_eq!((all.virtual_slot, all.rdm_policy), (Some(0x1f), Some(RdmPolicy::Relaxed)));
        let keyed = read("bdf=04:00.0,vslot=a,rdm_policy=strict");
        assert_eq!((keyed.device, keyed.virtual_slot), (address("04:00.0"), Some(10)));
        assert_eq!(read("name=gpu,permissive=1").device, HostDeviceName::Name("gpu".to_owned()));
        assert_eq!(read("04:00.0@0").virtual_slot, None);
    }

    #[test]
    fn what_scanf_takes_is_taken() {
        assert_eq!(read("4:0.0@ 0x5").virtual_slot, Some(5));
        assert_eq!(read("04: 00.0").device, address("04:00.0"));
        let (_, notes) = parse("bdf=04:00.0junk,permissive=yes", &defaults()).unwrap();
        assert_eq!(notes, ["xl ignores \"junk\"", "xl reads permissive=yes as 0"]);
    }

    #[test]
    fn what_xl_refuses_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "names no device"),
            ("04:00", "names no device"),
            ("04:00.8", "names no device"),
            ("04:20.0", "names no device"),
            ("04:00.0@20", "no virtual slot"),
            ("04:00.0@", "no virtual slot"),
            ("04:00.0 ,permissive=1", "after the device's address"),
            ("04:00.0,permissive", "no KEY=VALUE"),
            ("04:00.0,colour=red", "unknown option \"colour\""),
            ("04:00.0,rdm_policy=lax", "no RDM policy"),
            ("04:00.0,name=gpu", "by address and by name"),
            ("permissive=1", "names no device"),
            ("10000:04:00.0", "names no device"),
        ] {
            let error = parse(text, &defaults()).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
