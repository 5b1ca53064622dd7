//! Checks for schemas and regular expressions that the crates below accept although they would not enforce them:
//! numbers that a float64 cannot hold, and expressions like "^+" that repeat nothing, which JSON schema's expressions
//! (ECMA-262's) refuse.
use serde_json::Value;

use crate::abi::{Failure, Outcome};

/// The place (in bytes) of a quantifier behind "^", "$", "\b" or "\B".
fn repeated_assertion(pattern: &str) -> Option<usize> {
    let bytes = pattern.as_bytes();
    let (mut in_class, mut assertion) = (false, false);
    let mut i = 0;
    while i < bytes.len() {
        let quantifier = match bytes[i] {
            b'*' | b'+' | b'?' => true,
            b'{' => bytes.get(i + 1).is_some_and(u8::is_ascii_digit),
            _ => false,
        };
        if assertion && quantifier {
            return Some(i);
        }
        assertion = false;
        match bytes[i] {
            b'\\' => {
                i += 1;
                assertion = !in_class && matches!(bytes.get(i), Some(b'b' | b'B'));
            }
            b'[' => in_class = true,
            b']' => in_class = false,
            b'^' | b'$' => assertion = !in_class,
            _ => {}
        }
        i += 1;
    }
    None
}

pub fn check_pattern(pattern: &str, what: &str) -> Outcome<()> {
    match repeated_assertion(pattern) {
        Some(place) => Err(Failure::invalid(format!(
            "{what} {} has nothing to repeat at byte {place}",
            serde_json::to_string(pattern).unwrap_or_default()
        ))),
        None => Ok(()),
    }
}

/// Numbers become float64, and bounds of integers int64.
fn check_number(value: &Value, name: &str, bound: bool) -> Outcome<()> {
    let Value::Number(number) = value else { return Ok(()) };
    let float = number.as_f64().unwrap_or(f64::NAN);
    let whole = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    let exact = whole.is_none_or(|whole| float as i128 == whole);
    if exact && (!bound || float.abs() < 9.2e18) {
        return Ok(());
    }
    Err(Failure::unsupported(format!("{name} {number} is too large to be enforced")))
}

/// Of a list of integers, "type": "integer" says nothing more, but would bring them to int64.
fn drop_redundant_type(members: &mut serde_json::Map<String, Value>) {
    let is_integer = |value: &Value| value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let listed = match (members.get("const"), members.get("enum")) {
        (Some(value), _) => is_integer(value),
        (_, Some(Value::Array(values))) => !values.is_empty() && values.iter().all(is_integer),
        _ => false,
    };
    if listed && members.get("type").and_then(Value::as_str) == Some("integer") {
        members.shift_remove("type");
    }
}

/// Checks every part of a schema. Members that hold data are not looked into.
pub fn prepare_schema(schema: &mut Value) -> Outcome<()> {
    match schema {
        Value::Array(items) => items.iter_mut().try_for_each(prepare_schema),
        Value::Object(members) => {
            drop_redundant_type(members);
            members.iter_mut().try_for_each(|(name, value)| match (name.as_str(), &mut *value) {
                ("pattern", Value::String(pattern)) => check_pattern(pattern, "the pattern"),
                ("patternProperties", Value::Object(patterns)) => {
                    patterns.keys().try_for_each(|pattern| check_pattern(pattern, "the pattern"))?;
                    prepare_schema(value)
                }
                ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf", number) => {
                    check_number(number, name, true)
                }
                ("const", constant) => check_number(constant, "const", false),
                ("enum", Value::Array(constants)) => {
                    constants.iter().try_for_each(|constant| check_number(constant, "enum", false))
                }
                ("default" | "examples" | "enum", _) => Ok(()),
                _ => prepare_schema(value),
            })
        }
        _ => Ok(()),
    }
}
