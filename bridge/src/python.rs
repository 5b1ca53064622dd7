//! Python's spellings of values, which chat templates rely on: json.dumps for the `tojson` filter, str() and repr() for
//! output.
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};
use std::fmt::Write;

use crate::context::BigInteger;

/// Values nested deeper than this are refused; it is far below what the stack holds.
const MAX_DEPTH: usize = 128;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value is nested deeper than {MAX_DEPTH} levels"))
}

/// The options of json.dumps that the reference's `tojson` filter has.
struct Style {
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    ascii_only: bool,
    sort_keys: bool,
}

struct Dumper<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    style: Style,
    out: String,
}

/// Pays for copying a value's text: lists may hold one long text many times.
fn charge(state: &State, value: &Value) -> Result<(), Error> {
    state.consume_fuel(1 + (value.as_str().map_or(0, |text| text.len()) / 64) as u64)
}

impl Dumper<'_, '_, '_> {
    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.style.ascii_only && !c.is_ascii()) => {
                    let mut units = [0u16; 2];
                    for unit in c.encode_utf16(&mut units) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn line(&mut self, level: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..level {
                self.out.push_str(indent);
            }
        }
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::Bool => self.string(if key.is_true() { "true" } else { "false" }),
            ValueKind::None => self.string("null"),
            ValueKind::Number => self.string(&number(key)),
            other => {
                let text = format!("keys must be str, int, float, bool or None, not {other}");
                return Err(Error::new(ErrorKind::InvalidOperation, text));
            }
        }
        Ok(())
    }

    fn map(&mut self, map: &Value, level: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.style.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        for (i, key) in keys.iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.style.item_separator.clone());
            }
            self.line(level + 1);
            self.key(key)?;
            self.out.push_str(&self.style.key_separator.clone());
            self.value(&map.get_item(key)?, level + 1)?;
        }
        if !keys.is_empty() {
            self.line(level);
        }
        self.out.push('}');
        Ok(())
    }

    fn value(&mut self, value: &Value, level: usize) -> Result<(), Error> {
        if level > MAX_DEPTH {
            return Err(too_deep());
        }
        charge(self.state, value)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Number => self.out.push_str(&match number(value).as_str() {
                "inf" => "Infinity".to_string(),
                "-inf" => "-Infinity".to_string(),
                "nan" => "NaN".to_string(),
                other => other.to_string(),
            }),
            ValueKind::Map => self.map(value, level)?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    if !empty {
                        self.out.push_str(&self.style.item_separator.clone());
                    }
                    empty = false;
                    self.line(level + 1);
                    self.value(&item, level + 1)?;
                }
                if !empty {
                    self.line(level);
                }
                self.out.push(']');
            }
            _ if value.downcast_object_ref::<BigInteger>().is_some() => {
                let _ = write!(self.out, "{value}");
            }
            other => {
                let name = if other == ValueKind::Undefined { "Undefined".to_string() } else { other.to_string() };
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("Object of type {name} is not JSON serializable"),
                ));
            }
        }
        Ok(())
    }
}

/// The reference's filter: json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False).
pub fn tojson(state: &State, value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let mut positional = positional.iter();
    let mut option = |name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(positional.next().cloned().or(named).filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let ascii_only = option("ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = option("indent")?.map(|v| match v.as_str() {
        Some(text) => text.to_string(),
        None => " ".repeat(v.as_i64().unwrap_or(0).clamp(0, 64) as usize),
    });
    let separators = option("separators")?;
    let sort_keys = option("sort_keys")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let (item_separator, key_separator) = match separators {
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
        None => (if indent.is_some() { ",".to_string() } else { ", ".to_string() }, ": ".to_string()),
    };
    let style = Style { indent, item_separator, key_separator, ascii_only, sort_keys };
    let mut dumper = Dumper { state, style, out: String::new() };
    dumper.value(value, 0)?;
    Ok(Value::from(dumper.out))
}

/// repr() of a number.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(number) => float(number),
        Err(_) => value.to_string(),
    }
}

/// repr() of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_string();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf".to_string() } else { "-inf".to_string() };
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = number.to_string();
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}

fn repr_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if (0x80..0xa0).contains(&(c as u32)) || c as u32 == 0xad || c as u32 == 0xa0 => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn repr(state: &State, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    charge(state, value)?;
    match value.kind() {
        ValueKind::String => repr_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(state, out, &key, depth + 1)?;
                out.push_str(": ");
                repr(state, out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(state, out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => {
            let _ = write!(out, "{value}"); // True, False, None and the odd rest
        }
    }
    Ok(())
}

/// repr() of a value.
pub fn repr_of(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    repr(state, &mut out, value, 0)?;
    Ok(out)
}

/// str() of a value, as `{{ value }}` and `|string` have it.
pub fn str(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        ValueKind::Undefined => {}
        _ => repr(state, &mut out, value, 0)?,
    }
    Ok(out)
}

/// The formatter of `{{ value }}`.
pub fn format(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Invalid {
        return Err(Error::new(ErrorKind::InvalidOperation, value.to_string()));
    }
    match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&str(state, value)?).map_err(Error::from),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn floats_are_spelled_as_python_does() {
        for (number, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (123456789012345.0, "123456789012345.0"),
            (-0.0001, "-0.0001"),
        ] {
            assert_eq!(super::float(number), text);
        }
    }
}
