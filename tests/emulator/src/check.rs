// SPDX-License-Identifier: GPL-2.0-only
//! Two outcomes of one guest side by side, and recorded outcomes against fresh ones.

use std::fmt;

use serde_json::{Map, Value};

/// A field that two outcomes do not agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field's name, for a BAR with its number in the list.
    pub field: String,
    /// What the genuine loader did; null where it has nothing.
    pub genuine: Value,
    /// What the other side says.
    pub other: Value,
}

impl Difference {
    /// The output's field, without the number of an entry.
    pub fn root(&self) -> &str {
        self.field.split('[').next().unwrap_or(&self.field)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Value| if value.is_null() { "nothing".to_owned() } else { value.to_string() };
        write!(f, "{}: genuine {}, other {}", self.field, shown(&self.genuine), shown(&self.other))
    }
}

/// The fields in which two outcomes differ, but for those named in `left_out`. Lists are compared entry by entry.
pub fn differences(genuine: &Value, other: &Value, left_out: &[&str]) -> Vec<Difference> {
    let none = Map::new();
    let (a, b) = (genuine.as_object().unwrap_or(&none), other.as_object().unwrap_or(&none));
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| !left_out.contains(&name.as_str())) {
        field(name, a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null), &mut found);
    }
    found
}

fn field(name: &str, genuine: &Value, other: &Value, found: &mut Vec<Difference>) {
    match (genuine, other) {
        (a, b) if a == b => {}
        (Value::Array(a), Value::Array(b)) => {
            for number in 0..a.len().max(b.len()) {
                let entry = |list: &[Value]| list.get(number).cloned().unwrap_or_default();
                field(&format!("{name}[{number}]"), &entry(a), &entry(b), found);
            }
        }
        _ => {
            found.push(Difference { field: name.to_owned(), genuine: genuine.clone(), other: other.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_field_a_changed_one_and_a_changed_entry_are_named() {
        let genuine = json!({"a": 1, "b": [1, 2], "c": {"x": 1}, "log": ["l"]});
        let other = json!({"b": [1, 3, 4], "c": {"x": 1}, "d": 5});
        let named: Vec<String> =
            differences(&genuine, &other, &["log"]).iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            [
                "a: genuine 1, other nothing",
                "b[1]: genuine 2, other 3",
                "b[2]: genuine nothing, other 4",
                "d: genuine nothing, other 5"
            ]
        );
    }

    #[test]
    fn equal_outcomes_have_none() {
        let outcome = json!({"bars": [{"reg": 16}], "result": "ok"});
        assert_eq!(differences(&outcome, &outcome, &[]), []);
    }
}
