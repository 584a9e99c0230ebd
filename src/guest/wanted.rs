// SPDX-License-Identifier: LGPL-2.1-or-later
//! Devices of the host that a guest may be given later, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::pci::Sbdf;

/// Any so many of some devices of the host, at the same time; written `K:SBDF[,SBDF...]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AnyOf {
    /// How many, from 1 to all of them.
    pub at_once: usize,
    /// The devices, each once.
    pub devices: Vec<Sbdf>,
}

impl AnyOf {
    /// All of these at the same time, each counted once.
    pub fn all(devices: &[Sbdf]) -> Self {
        let mut devices = devices.to_vec();
        devices.sort_unstable();
        devices.dedup();
        Self { at_once: devices.len(), devices }
    }
}

impl FromStr for AnyOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, list) =
            text.split_once(':').ok_or("K:SBDF[,SBDF...] expected, such as 2:3b:00.0,5e:00.0")?;
        let mut devices: Vec<Sbdf> = Vec::new();
        for device in list.split(',') {
            let sbdf = device.parse().map_err(|error: crate::pci::ParseBdfError| error.to_string())?;
            if devices.contains(&sbdf) {
                return Err(format!("{sbdf} is named twice"));
            }
            devices.push(sbdf);
        }
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let at_once = count.parse().ok().filter(|count| digits && (1..=devices.len()).contains(count));
        let at_once =
            at_once.ok_or_else(|| format!("\"{count}\" is no number from 1 to {}", devices.len()))?;
        Ok(Self { at_once, devices })
    }
}

impl fmt::Display for AnyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices: Vec<String> = self.devices.iter().map(ToString::to_string).collect();
        write!(f, "{}:{}", self.at_once, devices.join(","))
    }
}

impl From<AnyOf> for String {
    fn from(any: AnyOf) -> Self {
        any.to_string()
    }
}

impl TryFrom<String> for AnyOf {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_k_of_some_devices_is_a_number_and_a_list() {
        let any: AnyOf = "2:3b:00.0,0000:5e:00.0,5f:00.0".parse().unwrap();
        assert_eq!((any.at_once, any.devices.len()), (2, 3));
        assert_eq!(any.to_string(), "2:0000:3b:00.0,0000:5e:00.0,0000:5f:00.0");
        assert_eq!("1:0001:3b:00.0".parse::<AnyOf>().unwrap().devices[0].segment, 1);
        for text in [
            "",
            "3b:00.0",
            "0:3b:00.0",
            "2:3b:00.0",
            "+1:3b:00.0",
            "1:",
            "1:3b:00.0,",
            "2:3b:00.0,0000:3b:00.0",
        ] {
            assert!(text.parse::<AnyOf>().is_err(), "{text}");
        }
    }
}
