// SPDX-License-Identifier: LGPL-2.1-or-later
//! The `PROPERTY=VALUE` part of a QEMU argument.

use crate::address::Size;

/// Properties in the order they were given; of two with one name the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(Vec<Property>);

/// One property: its name as it was written, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Property {
    name: String,
    value: String,
}

impl Properties {
    /// Reads `FIRST,NAME=VALUE,...`, and gives `FIRST`, which has no name, apart. A comma inside a value is doubled; a
    /// name without a value is `on`.
    pub fn parse(text: &str) -> (String, Self) {
        let mut parts = Vec::new();
        let mut part = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                ',' if rest.next_if_eq(&',').is_some() => part.push(','),
                ',' => parts.push(std::mem::take(&mut part)),
                c => part.push(c),
            }
        }
        parts.push(part);
        let mut parts = parts.into_iter();
        let first = parts.next().unwrap_or_default();
        let mut properties = Self::default();
        // `-device driver=edu,id=e` is `-device edu,id=e`.
        let name = match first.split_once('=') {
            Some((name, value)) => {
                properties.push(name, value);
                String::new()
            }
            None => first,
        };
        for part in parts.filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((name, value)) => properties.push(name, value),
                None => properties.push(&part, "on"),
            }
        }
        (name, properties)
    }

    /// Adds one.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push(Property { name: name.to_owned(), value: value.to_owned() });
    }

    /// Puts others before these: they count only where these say nothing.
    pub fn with_defaults(mut self, defaults: &Self) -> Self {
        self.0.splice(0..0, defaults.0.iter().cloned());
        self
    }

    /// The value of that name. QEMU's names differ in `_` and `-`; here they do not matter.
    pub fn get(&self, name: &str) -> Option<&str> {
        let same = |known: &str| known.replace('_', "-") == name.replace('_', "-");
        self.0.iter().rev().find(|property| same(&property.name)).map(|property| property.value.as_str())
    }

    /// Each name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|property| (property.name.as_str(), property.value.as_str()))
    }

    /// A number, decimal or `0x`.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => match text {
                "on" | "true" | "yes" => Some(1),
                "off" | "false" | "no" => Some(0),
                "-1" => Some(u64::from(u32::MAX)),
                _ => text.parse().ok(),
            },
        };
        number.map(Some).ok_or_else(|| format!("{name}={text}: no number"))
    }

    /// A size, in bytes where it has no unit.
    pub(super) fn size(&self, name: &str) -> Result<Option<Size>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        Size::parse(text).map(Some).ok_or_else(|| format!("{name}={text}: no size"))
    }

    /// On or off.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        match self.get(name) {
            None | Some("auto") => Ok(None),
            Some("on" | "true" | "yes" | "y" | "1") => Ok(Some(true)),
            Some("off" | "false" | "no" | "n" | "0") => Ok(Some(false)),
            Some(text) => Err(format!("{name}={text}: on or off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_as_qemu_reads_them() {
        let (driver, properties) = Properties::parse("nvme,serial=a,,b,drive=d0,membar=1G,membar=2G,shpc");
        assert_eq!(driver, "nvme");
        assert_eq!(properties.get("serial"), Some("a,b"));
        assert_eq!(properties.size("membar"), Ok(Some(Size::new(2 << 30))));
        assert_eq!(properties.flag("shpc"), Ok(Some(true)));
        assert_eq!(properties.get("addr"), None);
        let (driver, properties) = Properties::parse("driver=edu,ram_size-mb=0x10");
        assert_eq!((driver.as_str(), properties.get("driver")), ("", Some("edu")));
        assert_eq!(properties.number("ram-size_mb"), Ok(Some(16)));
        assert!(properties.size("driver").is_err());
    }
}
