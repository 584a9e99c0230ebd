// SPDX-License-Identifier: LGPL-2.1-or-later
//! A running guest's functions and where their BARs are now, out of `query-pci`'s answer.

use qapi::qmp;

use crate::address::{Address, Size};
use crate::pci::{BarKind, Bdf, PresentBar, PresentFunction};

/// An address that is none: the BAR's decode is off (PCI_BAR_UNMAPPED).
const UNMAPPED: i64 = -1;

/// How libxl names the passed-through devices that it adds (libxl_internal.h, PCI_PT_QDEV_ID).
const PASSED_THROUGH: &str = "pci-pt-";

/// The functions of `query-pci`'s answer, those behind bridges with them.
///
/// # Errors
///
/// What in it is no PCI function or no BAR.
pub fn functions(buses: &[qmp::PciInfo]) -> Result<Vec<PresentFunction>, String> {
    let mut found = Vec::new();
    let mut waiting: Vec<&qmp::PciDeviceInfo> = buses.iter().flat_map(|bus| &bus.devices).collect();
    while let Some(device) = waiting.pop() {
        found.push(function(device)?);
        let behind = device.pci_bridge.as_ref().and_then(|bridge| bridge.devices.as_ref());
        waiting.extend(behind.into_iter().flatten());
    }
    found.sort_by_key(|function| function.bdf);
    Ok(found)
}

fn function(device: &qmp::PciDeviceInfo) -> Result<PresentFunction, String> {
    let byte = |number: i64| u8::try_from(number).ok();
    let place = || Bdf::new(byte(device.bus)?, byte(device.slot)?, byte(device.function)?);
    let bdf = place().ok_or_else(|| {
        format!("{}:{}.{} is no function's place", device.bus, device.slot, device.function)
    })?;
    let word = |number: i64| u16::try_from(number).map_err(|_| format!("{bdf}: {number} is no ID"));
    let bars =
        device.regions.iter().map(|region| bar(region).ok_or_else(|| format!("{bdf}: {region:?} is no BAR")));
    Ok(PresentFunction {
        bdf,
        vendor: word(device.id.vendor)?,
        device: word(device.id.device)?,
        passed_through: device.qdev_id.starts_with(PASSED_THROUGH),
        bars: bars.collect::<Result<_, _>>()?,
    })
}

fn bar(region: &qmp::PciMemoryRegion) -> Option<PresentBar> {
    let index = u8::try_from(region.bar).ok().filter(|index| *index <= 6)?;
    let kind = match (index, region.type_.as_str(), region.mem_type_64) {
        (6, ..) => BarKind::Rom,
        (_, "io", _) => BarKind::Io,
        (_, _, Some(true)) => BarKind::Mem64,
        _ => BarKind::Mem32,
    };
    let address = match region.address {
        UNMAPPED => None,
        address => Some(Address::new(u64::try_from(address).ok()?)),
    };
    Some(PresentBar {
        reg: if index == 6 { 0x30 } else { index.checked_mul(4)?.checked_add(0x10)? },
        kind,
        size: Size::new(u64::try_from(region.size).ok()?),
        address,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::source::qmp::DeviceModel;

    fn query(socket: &Path) -> Result<Vec<PresentFunction>, String> {
        let buses = DeviceModel::at(socket).query_pci().map_err(|error| error.to_string())?;
        functions(&buses)
    }

    /// Speaks QMP as QEMU 7.2 did on the wire, once.
    fn stand_in(directory: &Path, answer: &'static str) -> PathBuf {
        let socket = directory.join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#;
            writeln!(stream, "{greeting}").unwrap();
            for reply in [r#"{"return": {}}"#, answer] {
                let Some(Ok(line)) = lines.next() else { return };
                let command: serde_json::Value = serde_json::from_str(&line).unwrap();
                let mut reply: serde_json::Value = serde_json::from_str(reply).unwrap();
                if let Some(id) = command.get("id") {
                    reply.as_object_mut().unwrap().insert("id".to_owned(), id.clone());
                }
                writeln!(stream, "{reply}").unwrap();
            }
        });
        socket
    }

    const BUS: &str = r#"{"return": [{"bus": 0, "devices": [
        {"irq_pin": 0, "bus": 0, "qdev_id": "", "slot": 3, "function": 0,
         "class_info": {"class": 768, "desc": "VGA controller"}, "id": {"device": 184, "vendor": 4115},
         "regions": [
            {"prefetch": true, "mem_type_64": false, "bar": 0, "size": 33554432, "address": 4026531840, "type": "memory"},
            {"prefetch": false, "mem_type_64": false, "bar": 6, "size": 65536, "address": -1, "type": "memory"}]},
        {"irq_pin": 1, "bus": 0, "qdev_id": "pci-pt-00_05.0", "slot": 5, "function": 0,
         "class_info": {"class": 255}, "id": {"device": 5, "vendor": 6966},
         "regions": [
            {"bar": 1, "size": 256, "address": 4096, "type": "io"},
            {"prefetch": true, "mem_type_64": true, "bar": 2, "size": 268435456, "address": 5368709120, "type": "memory"}]}
        ]}]}"#;

    #[test]
    fn addresses_are_qemus_and_a_bar_without_decode_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let found = query(&stand_in(directory.path(), BUS)).unwrap();
        let places: Vec<_> = found
            .iter()
            .flat_map(|function| &function.bars)
            .map(|bar| (bar.reg, bar.kind, bar.size.get(), bar.address.map(Address::get)))
            .collect();
        assert_eq!(
            places,
            [
                (0x10, BarKind::Mem32, 32 << 20, Some(0xf000_0000)),
                (0x30, BarKind::Rom, 64 << 10, None),
                (0x14, BarKind::Io, 256, Some(0x1000)),
                (0x18, BarKind::Mem64, 256 << 20, Some(0x1_4000_0000)),
            ]
        );
        assert_eq!((found[0].vendor, found[1].bdf.to_string()), (0x1013, "00:05.0".to_owned()));
        assert!(!found[0].passed_through && found[1].passed_through);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let socket = stand_in(directory.path(), r#"{"error": {"class": "GenericError", "desc": "not now"}}"#);
        assert!(query(&socket).unwrap_err().contains("not now"));
        let gone = query(Path::new("/nonexistent/qmp")).unwrap_err();
        assert!(gone.contains("cannot reach"), "{gone}");
    }
}
