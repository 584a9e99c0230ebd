// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where a function sits: bus, slot (PCI's "device number") and function, with or without the segment.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bus, slot and function of a PCI function, written `BB:SS.F` in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Bdf {
    bus: u8,
    devfn: u8,
}

/// Segment (Linux: domain), bus, slot and function of a host's PCI function, written `SSSS:BB:SS.F`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sbdf {
    /// The segment; 0 on most machines. Linux numbers some (VMD) above 0xffff.
    pub segment: u32,
    /// The rest.
    pub bdf: Bdf,
}

/// A text that names no PCI function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a PCI address: {expected} in hexadecimal, slot up to 1f, function up to 7")]
pub struct ParseBdfError {
    text: String,
    expected: &'static str,
}

impl Bdf {
    /// The function at `slot` (0 to 31) and `function` (0 to 7) of `bus`; `None` past those.
    pub fn new(bus: u8, slot: u8, function: u8) -> Option<Self> {
        (slot < 32 && function < 8).then_some(Self { bus, devfn: (slot << 3) | function })
    }

    /// The bus.
    pub fn bus(self) -> u8 {
        self.bus
    }

    /// The slot, 0 to 31.
    pub fn slot(self) -> u8 {
        self.devfn >> 3
    }

    /// The function, 0 to 7.
    pub fn function(self) -> u8 {
        self.devfn & 7
    }

    /// Slot and function in one byte, as configuration space addresses them.
    pub fn devfn(self) -> u8 {
        self.devfn
    }

    /// The same slot's function `function` (0 to 7).
    pub fn with_function(self, function: u8) -> Option<Self> {
        Self::new(self.bus, self.slot(), function)
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.slot(), self.function())
    }
}

/// One to `digits` hexadecimal digits and nothing else.
fn hex(text: &str, digits: usize) -> Option<u32> {
    let valid = !text.is_empty() && text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| u32::from_str_radix(text, 16).ok())?
}

fn parse_bdf(text: &str) -> Option<Bdf> {
    let (bus, rest) = text.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let byte = |text, digits| u8::try_from(hex(text, digits)?).ok();
    Bdf::new(byte(bus, 2)?, byte(slot, 2)?, byte(function, 1)?)
}

impl FromStr for Bdf {
    type Err = ParseBdfError;

    fn from_str(text: &str) -> Result<Self, ParseBdfError> {
        parse_bdf(text).ok_or_else(|| ParseBdfError { text: text.to_owned(), expected: "BUS:SLOT.FUNCTION" })
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.bdf)
    }
}

impl FromStr for Sbdf {
    type Err = ParseBdfError;

    /// The segment may be left out, as `lspci` and xl leave it out.
    fn from_str(text: &str) -> Result<Self, ParseBdfError> {
        let parse = || match text.matches(':').count() {
            1 => Some(Self { segment: 0, bdf: parse_bdf(text)? }),
            _ => {
                let (segment, rest) = text.split_once(':')?;
                Some(Self { segment: hex(segment, 8)?, bdf: parse_bdf(rest)? })
            }
        };
        parse()
            .ok_or_else(|| ParseBdfError { text: text.to_owned(), expected: "[SEGMENT:]BUS:SLOT.FUNCTION" })
    }
}

impl From<Bdf> for String {
    fn from(bdf: Bdf) -> Self {
        bdf.to_string()
    }
}

impl TryFrom<String> for Bdf {
    type Error = ParseBdfError;

    fn try_from(text: String) -> Result<Self, ParseBdfError> {
        text.parse()
    }
}

impl From<Sbdf> for String {
    fn from(sbdf: Sbdf) -> Self {
        sbdf.to_string()
    }
}

impl TryFrom<String> for Sbdf {
    type Error = ParseBdfError;

    fn try_from(text: String) -> Result<Self, ParseBdfError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_back_as_written() {
        for text in ["00:05.0", "ff:1f.7"] {
            assert_eq!(text.parse::<Bdf>().unwrap().to_string(), text);
        }
        assert_eq!("3b:00.0".parse::<Sbdf>().unwrap().to_string(), "0000:3b:00.0");
        assert_eq!("10000:3b:00.0".parse::<Sbdf>().unwrap().segment, 0x10000);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "5.0", "00:20.0", "00:05.8", "00:05", "000:05.0", "0g:05.0", "00:+5.0", "00:05.0 "] {
            assert!(text.parse::<Bdf>().is_err(), "{text}");
        }
        for text in ["0000:00:20.0", ":00:05.0", "0:0:0:0.0"] {
            assert!(text.parse::<Sbdf>().is_err(), "{text}");
        }
    }
}
