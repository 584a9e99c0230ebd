// SPDX-License-Identifier: LGPL-2.1-or-later
//! The shipped JSON Schemas, held against what the program prints.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::path::PathBuf;

use jsonschema::Validator;
use serde_json::{Value, json};

/// A shipped schema by its file's name, and made strict: a key that it does not name is an error here, while readers
/// ignore it.
pub fn strict(name: &str) -> Validator {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{name}.schema.json"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    close(&mut schema);
    jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") && object.get("type") == Some(&json!("object")) {
                object.entry("additionalProperties").or_insert(json!(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(array) => array.iter_mut().for_each(close),
        _ => {}
    }
}

/// Fails with every way in which `value` is not as a shipped schema says.
pub fn check(name: &str, value: &Value) {
    check_with(&strict(name), name, value);
}

/// The same with a schema that is at hand.
pub fn check_with(schema: &Validator, name: &str, value: &Value) {
    let errors: Vec<String> =
        schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{name}: {errors:#?} in {value}");
}
