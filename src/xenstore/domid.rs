// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's number.

use std::fmt;
use std::str::FromStr;

/// The first number that Xen keeps for itself (`DOMID_FIRST_RESERVED`, xen/include/public/xen.h).
const FIRST_RESERVED: u16 = 0x7ff0;

/// A guest's domain number: 1 to 32751.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domid(u16);

/// A number that is no guest's: a bad argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomidError {
    /// Domain 0.
    #[error("domain 0 is the host's own: it has no hvmloader and no layout to store")]
    Host,
    /// Past the last one.
    #[error("{0} is no guest's domain number: those are 1 to {last}", last = FIRST_RESERVED.saturating_sub(1))]
    OutOfRange(u64),
    /// No number.
    #[error("\"{0}\" is not a domain number (a domain's name is not accepted here: see xl domid)")]
    NoNumber(String),
}

impl Domid {
    /// The guest with this number.
    pub fn new(number: u64) -> Result<Self, DomidError> {
        match u16::try_from(number) {
            Ok(0) => Err(DomidError::Host),
            Ok(domid) if domid < FIRST_RESERVED => Ok(Self(domid)),
            _ => Err(DomidError::OutOfRange(number)),
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.into()
    }
}

impl fmt::Display for Domid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Domid {
    type Err = DomidError;

    fn from_str(text: &str) -> Result<Self, DomidError> {
        let no_number = || DomidError::NoNumber(text.to_owned());
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(no_number());
        }
        Self::new(text.parse().map_err(|_| no_number())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_a_number_between_domain_0_and_xens_own() {
        assert_eq!("1".parse::<Domid>().unwrap().get(), 1);
        assert_eq!("32751".parse::<Domid>().unwrap().to_string(), "32751");
        assert_eq!("0".parse::<Domid>(), Err(DomidError::Host));
        assert_eq!("32752".parse::<Domid>(), Err(DomidError::OutOfRange(32752)));
        for text in ["", "-1", "+1", "0x1", "one", "1 ", "99999999999999999999999"] {
            assert!(matches!(text.parse::<Domid>(), Err(DomidError::NoNumber(_))), "{text:?}");
        }
    }
}
