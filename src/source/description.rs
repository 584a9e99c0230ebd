// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest description: the JSON form of a [`Guest`], checked.
//!
//! The keys are documented in docs/guest-description.md. An unknown key is an error that names it, and so is a value
//! that no machine can have: a BAR whose size is no power of two, two functions at one address.

use std::collections::{BTreeMap, BTreeSet};

use crate::address::{Address, Size};
use crate::guest::{Guest, PAGE_SIZES};
use crate::pci::{BarKind, Bdf, Device};

/// What is wrong with a guest description.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// It is no JSON, or not of the right shape.
    #[error("{place}: {problem}")]
    Shape {
        /// The path to the value inside the description.
        place: String,
        /// What serde says, with line and column.
        problem: serde_json::Error,
    },
    /// A value that no guest can have.
    #[error("{0}")]
    Guest(String),
    /// A value that no PCI function can have.
    #[error("device {bdf}: {problem}")]
    Device {
        /// The function.
        bdf: Bdf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads one guest description.
///
/// ```
/// let guest = xen_pci_layout::source::description::parse(
///     r#"{"phys_bits": 39, "low_mem_pgend": 131072, "devices": [
///         {"bdf": "00:05.0", "vendor": 4318, "device": 7864, "class": 770,
///          "bars": [{"reg": 16, "kind": "mem32", "size": 16777216}]}]}"#,
/// )?;
/// assert_eq!(guest.devices.len(), 1);
/// # Ok::<(), xen_pci_layout::source::description::DescriptionError>(())
/// ```
///
/// # Errors
///
/// What is wrong, and where.
pub fn parse(text: &str) -> Result<Guest, DescriptionError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let shape = |place: String, problem| DescriptionError::Shape { place, problem };
    let mut guest: Guest = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = match error.path().to_string() {
            path if path == "." => "guest description".to_owned(),
            path => path,
        };
        shape(place, error.into_inner())
    })?;
    json.end().map_err(|problem| shape("after the guest description".to_owned(), problem))?;
    guest.devices.iter_mut().try_for_each(resize)?;
    validate(&guest)?;
    Ok(guest)
}

/// The `id` of a description that may otherwise be wrong, so that its answer can be told apart.
pub fn id(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).ok()?.remove("id")
}

/// Reads one element of `devices`: what `attach` takes as a file.
///
/// # Errors
///
/// What is wrong, and where.
pub fn parse_device(text: &str) -> Result<Device, DescriptionError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut device: Device = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        DescriptionError::Shape { place: format!("device: {}", error.path()), problem: error.into_inner() }
    })?;
    json.end()
        .map_err(|problem| DescriptionError::Shape { place: "after the device".to_owned(), problem })?;
    resize(&mut device)?;
    validate_device(&device)?;
    validate_bus(&device)?;
    Ok(device)
}

/// Gives its resizable BARs the sizes that they are planned with.
fn resize(device: &mut Device) -> Result<(), DescriptionError> {
    device.resize().map_err(|problem| DescriptionError::Device { bdf: device.bdf, problem })
}

/// Whether a guest, from wherever it came, is one that a machine can have.
///
/// # Errors
///
/// What is wrong, and where.
pub fn validate(guest: &Guest) -> Result<(), DescriptionError> {
    let wrong = |problem: String| Err(DescriptionError::Guest(problem));
    if !(32..=52).contains(&guest.phys_bits) {
        return wrong(format!("phys_bits {}: a guest's width is 32 to 52 bits", guest.phys_bits));
    }
    if !PAGE_SIZES.contains(&guest.page_size) {
        return wrong(format!("page_size {}: must be 4096, 16384 or 65536", guest.page_size.get()));
    }
    let top = Address::new(1 << 52);
    let above = |frame| Address::from_frame(frame).is_none_or(|end| end > top);
    if above(guest.low_mem_pgend) || above(guest.high_mem_pgend) {
        return wrong("low_mem_pgend or high_mem_pgend: RAM ends above 52 bits".to_owned());
    }
    if Address::from_frame(guest.low_mem_pgend).is_none_or(|end| end > Address::FOUR_GIB) {
        return wrong(format!("low_mem_pgend {}: RAM below 4G ends above 4G", guest.low_mem_pgend));
    }
    let huge = |size: &Size| size.get() > top.get();
    if [guest.reserve.low, guest.reserve.high].iter().chain(&guest.device_model_memory).any(huge) {
        return wrong("reserve or device_model_memory: more than 52 bits can hold".to_owned());
    }
    let ends_above =
        |range: &crate::guest::MemoryRange| range.addr.checked_add(range.size).is_none_or(|end| end > top);
    if guest.relaxed_memory.iter().any(ends_above) {
        return wrong("relaxed_memory: ends above 52 bits".to_owned());
    }
    let mut seen = BTreeSet::new();
    for device in &guest.devices {
        if !seen.insert(device.bdf) {
            return Err(DescriptionError::Device { bdf: device.bdf, problem: "is there twice".to_owned() });
        }
        validate_device(device)?;
    }
    let by_bdf = guest.devices.iter().map(|device| (device.bdf, device)).collect();
    guest.devices.iter().try_for_each(|device| validate_bridge(&by_bdf, device))
}

fn validate_bridge(devices: &BTreeMap<Bdf, &Device>, device: &Device) -> Result<(), DescriptionError> {
    let wrong = |problem: String| Err(DescriptionError::Device { bdf: device.bdf, problem });
    let mut at = device;
    for _ in 0..=u8::MAX {
        let Some(bridge) = at.bridge else { return validate_bus(at) };
        match devices.get(&bridge) {
            Some(other) if other.is_bridge() => at = other,
            Some(_) => return wrong(format!("its bridge {bridge} has no header type 1")),
            None => return wrong(format!("its bridge {bridge} is not among the devices")),
        }
    }
    wrong("sits behind more bridges than there are buses: they form a ring".to_owned())
}

/// Without a bridge above it a function is on the root bus, which is bus 0.
fn validate_bus(device: &Device) -> Result<(), DescriptionError> {
    let Device { bdf, bridge, .. } = device;
    if bridge.is_some() || bdf.bus() == 0 {
        return Ok(());
    }
    let problem = format!("is on bus {:02x} and names no bridge that it sits behind", bdf.bus());
    Err(DescriptionError::Device { bdf: *bdf, problem })
}

fn validate_device(device: &Device) -> Result<(), DescriptionError> {
    let wrong = |problem: String| Err(DescriptionError::Device { bdf: device.bdf, problem });
    let mut registers = BTreeSet::new();
    for bar in &device.bars {
        let name = format!("BAR 0x{:02x}", bar.reg);
        if !matches!(bar.reg, 0x10 | 0x14 | 0x18 | 0x1c | 0x20 | 0x24 | 0x30) {
            return wrong(format!("{name}: BARs are at 0x10 to 0x24 and 0x30"));
        }
        if (bar.kind == BarKind::Rom) != (bar.reg == 0x30) {
            return wrong(format!("{name}: kind {}: 0x30 is the ROM's register, and no other is", bar.kind));
        }
        if let Some(problem) = impossible_size(bar.kind, bar.size) {
            return wrong(format!("{name}: {problem}"));
        }
        let upper = (bar.kind == BarKind::Mem64).then(|| bar.reg.saturating_add(4));
        for register in [Some(bar.reg), upper].into_iter().flatten() {
            if !registers.insert(register) {
                return wrong(format!("{name}: register 0x{register:02x} belongs to two BARs"));
            }
        }
    }
    validate_virtual_functions(device)
}

fn validate_virtual_functions(device: &Device) -> Result<(), DescriptionError> {
    let wrong = |problem: String| Err(DescriptionError::Device { bdf: device.bdf, problem });
    let Some(functions) = &device.sriov else { return Ok(()) };
    if functions.total_vfs == 0 {
        return wrong("sriov: total_vfs is 0: leave sriov out".to_owned());
    }
    let mut registers = BTreeSet::new();
    for bar in &functions.bars {
        let name = format!("VF BAR 0x{:02x}", bar.reg);
        if !matches!(bar.reg, 0x10 | 0x14 | 0x18 | 0x1c | 0x20 | 0x24) {
            return wrong(format!("{name}: BARs are at 0x10 to 0x24"));
        }
        if !matches!(bar.kind, BarKind::Mem32 | BarKind::Mem64) {
            return wrong(format!("{name}: a virtual function has memory BARs alone, mem32 or mem64"));
        }
        if let Some(problem) = impossible_size(bar.kind, bar.size) {
            return wrong(format!("{name}: {problem}"));
        }
        let upper = (bar.kind == BarKind::Mem64).then(|| bar.reg.saturating_add(4));
        for register in [Some(bar.reg), upper].into_iter().flatten() {
            if !registers.insert(register) {
                return wrong(format!("{name}: register 0x{register:02x} belongs to two VF BARs"));
            }
        }
    }
    Ok(())
}

/// What no BAR of that kind can have as its size, said in a sentence.
fn impossible_size(kind: BarKind, size: Size) -> Option<String> {
    let (least, most) = match kind {
        BarKind::Io => (4, 1 << 31),
        BarKind::Rom => (2 << 10, 1 << 31),
        BarKind::Mem32 | BarKind::Mem1m => (16, 1 << 31),
        BarKind::Mem64 => (16, 1 << 63),
    };
    let bytes = size.get();
    if !size.is_power_of_two() {
        return Some(format!("size {bytes} is no power of two"));
    }
    (!(least..=most).contains(&bytes)).then(|| {
        format!("a BAR of kind {kind} has {} to {} bytes, not {bytes}", Size::new(least), Size::new(most))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let text = r#"{"phys_bits":39,"low_mem_pgend":1,"devices":[
            {"bdf":"00:05.0","vendor":1,"device":1,"class":1,"bras":[]}]}"#;
        let error = error(text);
        assert!(
            error.contains("devices[0]") && error.contains("bras") && error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn what_no_machine_has_is_refused_by_device_and_bar() {
        let with_bars = |bars: &str| {
            error(&format!(
                r#"{{"phys_bits":39,"low_mem_pgend":1,"devices":[
                {{"bdf":"00:05.0","vendor":1,"device":1,"class":1,"bars":[{bars}]}}]}}"#
            ))
        };
        assert_eq!(
            with_bars(r#"{"reg":16,"kind":"mem32","size":3000}"#),
            "device 00:05.0: BAR 0x10: size 3000 is no power of two"
        );
        assert!(with_bars(r#"{"reg":17,"kind":"mem32","size":4096}"#).contains("BARs are at"));
        for (reg, kind) in [(16, "rom"), (48, "mem32"), (48, "mem64"), (48, "io")] {
            let bar = format!(r#"{{"reg":{reg},"kind":"{kind}","size":4096}}"#);
            assert!(with_bars(&bar).contains("0x30 is the ROM's register"), "{bar}");
        }
        assert!(
            with_bars(r#"{"reg":16,"kind":"mem64","size":4096},{"reg":20,"kind":"io","size":4}"#)
                .contains("register 0x14 belongs to two BARs")
        );
        assert!(error(r#"{"phys_bits":64,"low_mem_pgend":1,"devices":[]}"#).contains("32 to 52 bits"));
    }

    #[test]
    fn a_ring_of_bridges_and_a_bus_without_one_are_refused() {
        let text = r#"{"phys_bits":39,"low_mem_pgend":1,"devices":[
            {"bdf":"00:05.0","vendor":1,"device":1,"class":1540,"header":1,"bridge":"01:00.0"},
            {"bdf":"01:00.0","vendor":1,"device":1,"class":1540,"header":1,"bridge":"00:05.0"}]}"#;
        assert!(error(text).contains("ring"));
        let text = r#"{"phys_bits":39,"low_mem_pgend":1,"devices":[
            {"bdf":"01:00.0","vendor":1,"device":1,"class":512}]}"#;
        let expected = "device 01:00.0: is on bus 01 and names no bridge that it sits behind";
        assert_eq!(error(text), expected);
        let device = r#"{"bdf":"01:00.0","vendor":1,"device":1,"class":512}"#;
        assert_eq!(parse_device(device).unwrap_err().to_string(), expected);
    }
}
