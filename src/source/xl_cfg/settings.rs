// SPDX-License-Identifier: LGPL-2.1-or-later
//! Parameters by name and kind, read as xl reads them: what it ignores with a warning is ignored here with one.

use std::collections::BTreeSet;

use super::XlCfgError;
use super::syntax::{Setting, Value};
use crate::layout::Warning;

/// A file's parameters, which of them somebody has asked for, and what was wrong with those.
pub(super) struct Settings {
    settings: Vec<Setting>,
    asked: BTreeSet<&'static str>,
    warnings: Vec<Warning>,
}

impl Settings {
    pub(super) fn new(settings: Vec<Setting>) -> Self {
        Self { settings, asked: BTreeSet::new(), warnings: Vec::new() }
    }

    /// The warnings, those about parameters that nobody asked for and that `known` does not list among them.
    pub(super) fn into_warnings(mut self, known: &[&str]) -> Vec<Warning> {
        for setting in &self.settings {
            if !self.asked.contains(setting.name.as_str()) && !known.contains(&setting.name.as_str()) {
                let message = format!(
                    "line {}: \"{}\" is no parameter that xl or this program knows; it is ignored",
                    setting.line, setting.name
                );
                self.warnings.push(Warning::new("unknown-key", message));
            }
        }
        self.warnings
    }

    fn get(&mut self, name: &'static str) -> Option<&Setting> {
        self.asked.insert(name);
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// Whether the parameter is there at all.
    pub(super) fn has(&mut self, name: &'static str) -> bool {
        self.get(name).is_some()
    }

    /// A warning about a parameter.
    pub(super) fn warn(&mut self, name: &'static str, problem: &str) {
        self.warn_as("ignored-value", name, problem);
    }

    /// A warning about a parameter, under a code of its own.
    pub(super) fn warn_as(&mut self, code: &str, name: &'static str, problem: &str) {
        let line = self.line(name);
        self.warnings.push(Warning::new(code, format!("line {line}: {name}: {problem}")));
    }

    /// An error about a parameter.
    pub(super) fn error(&self, name: &'static str, problem: impl Into<String>) -> XlCfgError {
        XlCfgError::Value { line: self.line(name), name, problem: problem.into() }
    }

    fn line(&self, name: &str) -> usize {
        self.settings.iter().find(|setting| setting.name == name).map_or(1, |setting| setting.line)
    }

    /// The value if it is a list.
    pub(super) fn values(&mut self, name: &'static str) -> Option<&[Value]> {
        match &self.get(name)?.value {
            Value::List(values) => Some(values),
            Value::Atom(_) => None,
        }
    }

    /// The value if it is a string or a number.
    pub(super) fn atom(&mut self, name: &'static str) -> Option<String> {
        match &self.get(name)?.value {
            Value::Atom(text) => Some(text.clone()),
            Value::List(_) => None,
        }
    }

    /// A string; a list in its place is ignored.
    pub(super) fn string(&mut self, name: &'static str) -> Option<String> {
        let text = self.atom(name);
        if text.is_none() && self.has(name) {
            self.warn(name, "is a list where a single value should be; xl ignores it");
        }
        text
    }

    /// A number; anything else is ignored.
    pub(super) fn number(&mut self, name: &'static str) -> Option<i64> {
        let text = self.string(name)?;
        if self.get(name)?.added {
            self.warn(name, "xl takes no number that += was used on; it ignores the parameter");
            return None;
        }
        let number = strtol(&text);
        if number.is_none() {
            self.warn(name, &format!("\"{text}\" is no number; xl ignores the parameter"));
        }
        number
    }

    /// A number as yes or no.
    pub(super) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        self.number(name).map(|number| number != 0)
    }

    /// A list of strings; a single value in its place is ignored, and so is what follows an item that is no string.
    pub(super) fn strings(&mut self, name: &'static str) -> Vec<String> {
        let Some(values) = self.values(name) else {
            if self.has(name) {
                self.warn(name, "is a single value where a list should be; xl ignores it");
            }
            return Vec::new();
        };
        let strings: Vec<String> = values
            .iter()
            .map_while(|value| match value {
                Value::Atom(text) => Some(text.clone()),
                Value::List(_) => None,
            })
            .collect();
        if strings.len() < values.len() {
            self.warn(name, "holds a list where a string should be; xl ignores that and what follows");
        }
        strings
    }
}

/// Reads a number as strtol with base 0 does, white space and sign included; `None` where anything is left over or
/// 63 bits are not enough.
pub(super) fn strtol(text: &str) -> Option<i64> {
    let text = text.trim_start_matches(is_c_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (radix, digits) = match hex {
        Some(digits) => (16, digits),
        None if digits.len() > 1 && digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    // from_str_radix takes a sign of its own, which strtol does not take twice.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let signed = if negative { format!("-{digits}") } else { digits.to_owned() };
    i64::from_str_radix(&signed, radix).ok()
}

/// What isspace() is true for.
pub(super) fn is_c_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

/// Reads a number as atoi does: whatever digits come first, and 0 where there are none.
pub(super) fn atoi(text: &str) -> i64 {
    let text = text.trim_start_matches(is_c_space);
    let sign = text.len().min(usize::from(text.starts_with(['-', '+'])));
    let end = text
        .bytes()
        .enumerate()
        .skip(sign)
        .find_map(|(index, byte)| (!byte.is_ascii_digit()).then_some(index))
        .unwrap_or(text.len());
    text.get(..end).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_strtol_reads_them() {
        for (text, number) in [
            ("512", Some(512)),
            (" 0x10", Some(16)),
            ("010", Some(8)),
            ("0", Some(0)),
            ("-5", Some(-5)),
            ("+5", Some(5)),
            ("", None),
            ("+-5", None),
            ("08", None),
            ("512M", None),
            ("5 ", None),
            ("0x", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
        ] {
            assert_eq!(strtol(text), number, "{text:?}");
        }
    }

    #[test]
    fn atoi_takes_the_digits_that_come_first() {
        for (text, number) in [("1", 1), (" -2x", -2), ("yes", 0), ("", 0), ("+", 0), ("1,2", 1)] {
            assert_eq!(atoi(text), number, "{text:?}");
        }
    }
}
