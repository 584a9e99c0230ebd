// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an administrator says about one BAR: its size, how it is to be mapped.

use std::str::FromStr;

use super::{Caching, CachingPolicy, Device, PlannedSize, Resizable, Sbdf};
use crate::address::Size;

/// A BAR of a device of the host, or of the guest's where no device comes from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarName {
    /// The function.
    pub device: Sbdf,
    /// The register: 0x10 to 0x24.
    pub reg: u8,
}

/// Something said about a BAR: `3b:00.0:0x18=largest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarSetting<T> {
    /// The BAR.
    pub bar: BarName,
    /// What is said.
    pub value: T,
}

impl FromStr for BarName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("\"{text}\" names no BAR, as 3b:00.0:0x18 does (the registers are 0x10 to 0x24)");
        let (device, register) = text.rsplit_once(":0x").ok_or_else(expected)?;
        let reg = u8::from_str_radix(register, 16).map_err(|_| expected())?;
        let known = matches!(reg, 0x10 | 0x14 | 0x18 | 0x1c | 0x20 | 0x24);
        let device = device.parse().map_err(|_| expected())?;
        known.then_some(Self { device, reg }).ok_or_else(expected)
    }
}

impl<T: FromStr<Err = String>> FromStr for BarSetting<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (bar, value) = text.split_once('=').ok_or_else(|| format!("\"{text}\" is no BAR=VALUE"))?;
        Ok(Self { bar: bar.parse()?, value: value.parse()? })
    }
}

impl FromStr for PlannedSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "largest" {
            return Ok(Self::Largest);
        }
        let size = Size::parse(text).filter(|size| size.is_power_of_two());
        size.map(Self::Bytes)
            .ok_or_else(|| format!("\"{text}\" is no size of a BAR, such as 16G, nor \"largest\""))
    }
}

impl FromStr for Caching {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unknown" => Ok(Self::Unknown),
            "uncached" => Ok(Self::Uncached),
            "write-combining" => Ok(Self::WriteCombining),
            _ => Err(format!("\"{text}\" is not one of write-combining, uncached and unknown")),
        }
    }
}

impl BarName {
    /// The device that is meant.
    fn of<'a>(&self, devices: &'a mut [Device]) -> Result<&'a mut Device, String> {
        let name = |device: &Device| device.host.unwrap_or(Sbdf { segment: 0, bdf: device.bdf });
        let device = devices.iter_mut().find(|device| name(device) == self.device);
        let missing = || format!("{}: the guest has no such device", self.device);
        let device = device.ok_or_else(missing)?;
        if device.bars.iter().any(|bar| bar.reg == self.reg) {
            return Ok(device);
        }
        Err(format!("{}: has no BAR 0x{:02x}", self.device, self.reg))
    }
}

impl BarSetting<PlannedSize> {
    /// Gives the BAR that size.
    ///
    /// # Errors
    ///
    /// That there is no such BAR, or that it cannot have that size.
    pub fn apply(&self, devices: &mut [Device]) -> Result<(), String> {
        let device = self.bar.of(devices)?;
        match device.resizable.iter_mut().find(|resizable| resizable.reg == self.bar.reg) {
            Some(resizable) => resizable.plan = Some(self.value),
            None => {
                let (reg, plan) = (self.bar.reg, Some(self.value));
                device.resizable.push(Resizable { reg, sizes: Vec::new(), plan });
            }
        }
        device.resize().map_err(|problem| format!("{}: {problem}", self.bar.device))
    }
}

impl BarSetting<Caching> {
    /// Notes how the BAR is to be mapped.
    ///
    /// # Errors
    ///
    /// That there is no such BAR.
    pub fn apply(&self, devices: &mut [Device]) -> Result<(), String> {
        let device = self.bar.of(devices)?;
        device.caching.push(CachingPolicy { reg: self.bar.reg, hint: self.value });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::{Bar, BarKind};

    fn devices() -> Vec<Device> {
        let mut device = Device::new("00:05.0".parse().unwrap(), (0x1002, 0x73bf), 0x0300);
        device.host = Some("0000:3b:00.0".parse().unwrap());
        device.bars.push(Bar {
            reg: 0x10,
            kind: BarKind::Mem64,
            size: Size::new(256 << 20),
            prefetch: true,
            value: 0,
            io16: false,
            host_address: None,
        });
        let sizes = [256, 512, 1024].map(|mib| Size::new(mib << 20)).to_vec();
        device.resizable.push(Resizable { reg: 0x10, sizes, plan: None });
        vec![device]
    }

    fn sized(setting: &str) -> Result<Size, String> {
        let mut devices = devices();
        setting.parse::<BarSetting<PlannedSize>>()?.apply(&mut devices)?;
        Ok(devices[0].bars[0].size)
    }

    #[test]
    fn a_bar_is_given_the_size_that_is_asked_for_if_it_can_have_it() {
        assert_eq!(sized("3b:00.0:0x10=largest"), Ok(Size::GIB));
        assert_eq!(sized("0000:3b:00.0:0x10=512M"), Ok(Size::new(512 << 20)));
        let error = |setting| sized(setting).unwrap_err();
        assert_eq!(
            error("3b:00.0:0x10=2G"),
            "0000:3b:00.0: BAR 0x10 cannot have 2G: it can have 256M, 512M, 1G"
        );
        assert!(error("3b:00.0:0x18=largest").contains("has no BAR 0x18"));
        assert!(error("00:05.0:0x10=largest").contains("no such device"));
        for wrong in ["", "3b:00.0=1G", "3b:00.0:0x10", "3b:00.0:0x30=1G", "3b:00.0:0x10=3G", "3b:00.0:10=1G"]
        {
            assert!(sized(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prefetchable_bar_is_mapped_in_no_known_way_until_somebody_says_how() {
        let mut devices = devices();
        assert_eq!(devices[0].caching_of(0x10), Caching::Unknown);
        "3b:00.0:0x10=write-combining".parse::<BarSetting<Caching>>().unwrap().apply(&mut devices).unwrap();
        assert_eq!(devices[0].caching_of(0x10), Caching::WriteCombining);
    }
}
