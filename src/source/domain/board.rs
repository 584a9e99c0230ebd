// SPDX-License-Identifier: LGPL-2.1-or-later
//! QEMU's PCI buses: which function sits where, and the memory that is populated for it.
//!
//! A device that says no address gets the lowest slot whose function 0 is free (do_pci_register_device), and QEMU's
//! memory blocks follow the end of RAM in the order in which devices are made (xen_ram_alloc).

use std::path::PathBuf;

use super::{DomainError, complete, unknown_device};
use crate::address::Size;
use crate::layout::Warning;
use crate::pci::{Bdf, Device};
use crate::source::qemu_devices::arguments::{Arguments, Requested};
use crate::source::qemu_devices::ask::ask;
use crate::source::qemu_devices::{Emulated, Machine, Model, Properties};

/// The functions on the root bus and behind bridges.
pub(super) struct Board {
    pub(super) devices: Vec<Device>,
    pub(super) memory: Vec<Size>,
    pub(super) warnings: Vec<Warning>,
    machine: Machine,
    arguments: Arguments,
    ask_qemu: Option<PathBuf>,
    buses: Vec<Bus>,
}

/// A bus behind a bridge.
struct Bus {
    name: String,
    number: u8,
    bridge: Bdf,
    first_slot: u8,
}

impl Board {
    /// The chipset's own functions (pc_init1): host bridge, ISA bridge, IDE, USB, power management.
    pub(super) fn new(
        machine: Machine,
        usb: bool,
        acpi: bool,
        arguments: Arguments,
        ask_qemu: Option<PathBuf>,
    ) -> Result<Self, DomainError> {
        let mut board = Self {
            devices: Vec::new(),
            memory: Vec::new(),
            warnings: Vec::new(),
            machine,
            arguments,
            ask_qemu,
            buses: Vec::new(),
        };
        let chipset = [
            ("i440FX", "addr=0", true),
            ("PIIX3", "addr=1,multifunction=on", true),
            ("piix3-ide", "addr=1.1", true),
            ("piix3-usb-uhci", "addr=1.2", usb),
            ("PIIX4_PM", "addr=1.3", acpi),
        ];
        for (name, place, _) in chipset.into_iter().filter(|(_, _, present)| *present) {
            board.add(&Requested::new(name, place))?;
        }
        Ok(board)
    }

    /// The slot that the next device of the root bus gets.
    pub(super) fn free_slot(&self) -> Option<u8> {
        self.free_slot_of(0, 0)
    }

    fn free_slot_of(&self, bus: u8, first: u8) -> Option<u8> {
        (first..32).find(|slot| {
            let taken = |device: &Device| {
                (device.bdf.bus(), device.bdf.slot(), device.bdf.function()) == (bus, *slot, 0)
            };
            !self.devices.iter().any(taken)
        })
    }

    /// Puts a function at its address.
    pub(super) fn place(&mut self, device: Device) -> Result<(), DomainError> {
        if let Some(other) = self.devices.iter().find(|other| other.bdf == device.bdf) {
            return Err(DomainError::SlotTaken {
                bdf: device.bdf,
                first: called(other),
                second: called(&device),
            });
        }
        self.devices.push(device);
        Ok(())
    }

    /// Makes a device as `-device` does; one that is no PCI function leaves no trace.
    pub(super) fn add(&mut self, request: &Requested) -> Result<(), DomainError> {
        let driver = request.driver.as_str();
        if Model::is_no_pci_function(driver) {
            return Ok(());
        }
        let model = Model::find(driver);
        let names = model.map_or(std::slice::from_ref(&driver), |model| model.names);
        let properties = complete(request, names, &self.arguments);
        let wrong = |problem: String| DomainError::Device { driver: driver.to_owned(), problem };
        let (bdf, bridge) = self.address(driver, &properties).map_err(|error| match error {
            AddressError::NoSlot => DomainError::NoSlot(driver.to_owned()),
            AddressError::Wrong(problem) => wrong(problem),
        })?;
        let asked = Requested { driver: driver.to_owned(), properties: properties.clone() };
        let Emulated { mut device, memory } = match (model, &self.ask_qemu) {
            (Some(model), _) => model.instantiate(bdf, &properties, self.machine).map_err(wrong)?,
            (None, Some(qemu)) => ask(qemu, bdf, &asked, &self.arguments.options, self.machine)?,
            (None, None) => {
                let mut warning = unknown_device(driver);
                warning.bdf = Some(bdf);
                self.warnings.push(warning);
                let mut device = Device::new(bdf, (0xffff, 0xffff), 0x00ff);
                device.model = Some(driver.to_owned());
                Emulated { device, memory: Vec::new() }
            }
        };
        device.bridge = bridge;
        if device.is_bridge() {
            self.add_bus(&device, &properties);
        }
        self.place(device)?;
        self.memory.extend(memory);
        Ok(())
    }

    /// The bus behind a bridge: numbered in order, because nothing under Xen numbers it.
    fn add_bus(&mut self, bridge: &Device, properties: &Properties) {
        let highest = self.buses.iter().map(|bus| bus.number).max().unwrap_or(0);
        let Some(number) = highest.checked_add(1) else { return };
        // The standard hot-plug controller takes slot 0 (shpc_init).
        let hot_plug = bridge.bars.iter().any(|bar| bar.size == Size::new(256));
        self.buses.push(Bus {
            name: properties.get("id").unwrap_or_default().to_owned(),
            number,
            bridge: bridge.bdf,
            first_slot: u8::from(hot_plug),
        });
    }

    /// `bus=` and `addr=`, or the next free slot.
    fn address(&self, driver: &str, properties: &Properties) -> Result<(Bdf, Option<Bdf>), AddressError> {
        let (bus, first, bridge) = match properties.get("bus") {
            None | Some("pci.0" | "pci") => (0, 0, None),
            Some(name) => match self.buses.iter().find(|bus| bus.name == name) {
                Some(bus) => (bus.number, bus.first_slot, Some(bus.bridge)),
                None => {
                    return Err(AddressError::Wrong(format!(
                        "bus={name}: no PCI bus of that name before it"
                    )));
                }
            },
        };
        let (slot, function) = match properties.get("addr") {
            Some(text) => slot_and_function(text).ok_or_else(|| {
                AddressError::Wrong(format!("addr={text}: SLOT or SLOT.FUNCTION, hexadecimal"))
            })?,
            None => (self.free_slot_of(bus, first).ok_or(AddressError::NoSlot)?, 0),
        };
        match Bdf::new(bus, slot, function) {
            Some(bdf) => Ok((bdf, bridge)),
            None => Err(AddressError::Wrong(format!("{driver}: no such slot"))),
        }
    }
}

enum AddressError {
    NoSlot,
    Wrong(String),
}

/// QEMU's addr=: a slot, or slot and function, hexadecimal with or without 0x.
fn slot_and_function(text: &str) -> Option<(u8, u8)> {
    let hex = |text: &str| u8::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let (slot, function) = match text.split_once('.') {
        Some((slot, function)) => (hex(slot)?, hex(function)?),
        None => (hex(text)?, 0),
    };
    (slot < 32 && function < 8).then_some((slot, function))
}

fn called(device: &Device) -> String {
    match (&device.host, &device.model) {
        (Some(host), _) => format!("the host's {host}"),
        (None, Some(model)) => model.clone(),
        (None, None) => format!("{:04x}:{:04x}", device.vendor, device.device),
    }
}
