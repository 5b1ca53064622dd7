//! Python's `text % values`, which templates write as an operator and as the `format` filter.
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::python;

/// The filter that the operator `%` behind a text becomes.
pub const OPERATOR: &str = "__printf";

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, text.into())
}

/// A field: `%[(key)][flags][width][.precision]type`.
#[derive(Default)]
struct Field {
    alternate: bool,
    zeros: bool,
    left: bool,
    blank: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

/// What is formatted: values one after the other, or the members of a mapping.
struct Values<'a> {
    list: &'a [Value],
    next: usize,
    mapping: Option<Value>,
}

impl Values<'_> {
    fn take(&mut self) -> Result<Value, Error> {
        let value = self.list.get(self.next).cloned().ok_or_else(|| wrong("not enough arguments for format string"))?;
        self.next += 1;
        Ok(value)
    }
    fn member(&self, key: &str) -> Result<Value, Error> {
        let mapping = self.mapping.as_ref().ok_or_else(|| wrong("format requires a mapping"))?;
        let value = mapping.get_attr(key)?;
        if value.is_undefined() {
            return Err(wrong(format!("the format's mapping has no '{key}'")));
        }
        Ok(value)
    }
}

struct Parser<'a> {
    rest: &'a str,
}

/// A field wider than this would be an attack.
const MAX_WIDTH: usize = 9999;

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }
    fn step(&mut self) -> Result<char, Error> {
        let c = self.peek().ok_or_else(|| wrong("incomplete format"))?;
        self.rest = &self.rest[c.len_utf8()..];
        Ok(c)
    }
    fn flags(&mut self) -> Field {
        let mut field = Field::default();
        while let Some(c) = self.peek() {
            match c {
                '#' => field.alternate = true,
                '0' => field.zeros = true,
                '-' => field.left = true,
                ' ' => field.blank = true,
                '+' => field.plus = true,
                _ => break,
            }
            self.rest = &self.rest[1..];
        }
        field
    }
    /// Digits, or `*`: the next value, which may be negative.
    fn number(&mut self, values: &mut Values) -> Result<i64, Error> {
        let number = if self.peek() == Some('*') {
            self.step()?;
            values.take()?.as_i64().ok_or_else(|| wrong("* wants int"))?
        } else {
            let size = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
            let digits = &self.rest[..size];
            self.rest = &self.rest[size..];
            if digits.is_empty() {
                0
            } else {
                digits.parse().unwrap_or(i64::MAX)
            }
        };
        if number.unsigned_abs() as usize > MAX_WIDTH {
            return Err(wrong("a field of the format is too wide"));
        }
        Ok(number)
    }
}

/// C's printf of a double, which Python's is too.
fn float_text(field: &Field, kind: char, number: f64) -> String {
    let mut format = String::from("%");
    for (set, flag) in [(field.alternate, '#'), (field.plus, '+'), (field.blank, ' ')] {
        if set {
            format.push(flag);
        }
    }
    format.push_str(".*");
    format.push(kind);
    format.push('\0');
    let precision = field.precision.unwrap_or(6);
    let mut buffer = vec![0u8; precision + 400];
    // SAFETY: the format takes an int and a double, and the buffer's size is given.
    let size = unsafe {
        libc::snprintf(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            format.as_ptr().cast(),
            precision as libc::c_int,
            number,
        )
    };
    buffer.truncate(usize::try_from(size).unwrap_or(0).min(buffer.len()));
    String::from_utf8_lossy(&buffer).into_owned()
}

fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

fn whole_number(value: &Value, kind: char) -> Result<i128, Error> {
    let fits = |number: Option<i128>| number.ok_or_else(|| wrong("a number is too large for the format"));
    if value.kind() == ValueKind::Bool {
        return Ok(i128::from(value.is_true()));
    }
    if !is_number(value) {
        return Err(wrong(format!("%{kind} format: a real number is required, not {}", value.kind())));
    }
    if value.is_integer() {
        return fits(i128::try_from(value.clone()).ok());
    }
    let number = f64::try_from(value.clone())?.trunc();
    if !matches!(kind, 'd' | 'i' | 'u') {
        return Err(wrong(format!("%{kind} format: an integer is required, not float")));
    }
    fits((number.abs() < 1e38).then_some(number as i128))
}

fn integer_text(field: &Field, kind: char, number: i128) -> String {
    let size = number.unsigned_abs();
    let (prefix, digits) = match kind {
        'x' => ("0x", format!("{size:x}")),
        'X' => ("0X", format!("{size:X}")),
        'o' => ("0o", format!("{size:o}")),
        _ => ("", size.to_string()),
    };
    let sign = if number < 0 {
        "-"
    } else if field.plus {
        "+"
    } else if field.blank {
        " "
    } else {
        ""
    };
    let prefix = if field.alternate { prefix } else { "" };
    format!("{sign}{prefix}{digits:0>width$}", width = field.precision.unwrap_or(0))
}

/// Fills up to the width: zeros go behind the sign and the prefix.
fn padded(field: &Field, text: String, numeric: bool) -> String {
    let missing = field.width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    if field.left {
        return text + &" ".repeat(missing);
    }
    if !(field.zeros && numeric) {
        return " ".repeat(missing) + &text;
    }
    let head = text.find(|c: char| !matches!(c, '+' | '-' | ' ')).unwrap_or(0);
    let head = head + if text[head..].starts_with(['0']) && text[head..].contains(['x', 'X', 'o']) { 2 } else { 0 };
    format!("{}{}{}", &text[..head], "0".repeat(missing), &text[head..])
}

fn character(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str().filter(|text| text.chars().count() == 1) {
        return Ok(text.to_string());
    }
    let code = value.as_i64().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
    code.map(String::from).ok_or_else(|| wrong("%c requires an int or a unicode character"))
}

fn field_text(state: &State, field: &Field, kind: char, value: &Value) -> Result<String, Error> {
    let cut = |text: String| match field.precision {
        Some(size) => text.chars().take(size).collect(),
        None => text,
    };
    match kind {
        's' => Ok(padded(field, cut(python::str(state, value)?), false)),
        'r' => Ok(padded(field, cut(python::repr_of(state, value)?), false)),
        'c' => Ok(padded(field, character(value)?, false)),
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            Ok(padded(field, integer_text(field, kind, whole_number(value, kind)?), true))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            if !is_number(value) {
                return Err(wrong(format!("must be real number, not {}", value.kind())));
            }
            let number = if value.kind() == ValueKind::Bool {
                f64::from(u8::from(value.is_true()))
            } else {
                f64::try_from(value.clone())?
            };
            Ok(padded(field, float_text(field, kind, number), number.is_finite()))
        }
        other => Err(wrong(format!("unsupported format character '{other}'"))),
    }
}

fn format(state: &State, text: &str, list: &[Value], mapping: Option<Value>) -> Result<String, Error> {
    let mut values = Values { list, next: 0, mapping };
    let mut out = String::new();
    let mut parser = Parser { rest: text };
    while let Some(at) = parser.rest.find('%') {
        out.push_str(&parser.rest[..at]);
        parser.rest = &parser.rest[at + 1..];
        let named = if parser.peek() == Some('(') {
            let end = parser.rest.find(')').ok_or_else(|| wrong("incomplete format key"))?;
            let key = parser.rest[1..end].to_string();
            parser.rest = &parser.rest[end + 1..];
            Some(values.member(&key)?)
        } else {
            None
        };
        let mut field = parser.flags();
        let width = parser.number(&mut values)?;
        field.left |= width < 0;
        field.width = width.unsigned_abs() as usize;
        if parser.peek() == Some('.') {
            parser.step()?;
            field.precision = Some(parser.number(&mut values)?.max(0) as usize);
        }
        if matches!(parser.peek(), Some('h' | 'l' | 'L')) {
            parser.step()?;
        }
        let kind = parser.step()?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => values.take()?,
        };
        let piece = field_text(state, &field, kind, &value)?;
        state.consume_fuel(1 + (piece.len() / 64) as u64)?;
        out.push_str(&piece);
    }
    out.push_str(parser.rest);
    if values.next < list.len() && values.mapping.is_none() {
        return Err(wrong("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// `text|format(values...)` and `text|format(name=value, ...)`.
pub fn format_filter(state: &State, text: &Value, list: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let named = kwargs.args().next().is_some();
    if named && !list.is_empty() {
        return Err(wrong("can't handle positional and keyword arguments at the same time"));
    }
    let mapping = named.then(|| Value::from(kwargs));
    format(state, &python::str(state, text)?, &list, mapping)
}

/// `text % value` and `text % (values...)`. What is no text has the operator's own meaning.
pub fn operator(state: &State, text: &Value, list: Rest<Value>) -> Result<Value, Error> {
    let Some(format_text) = text.as_str() else {
        return Err(wrong(format!("% behind a text: got {}", text.kind())));
    };
    let mapping = list.first().filter(|value| list.len() == 1 && value.kind() == ValueKind::Map).cloned();
    format(state, format_text, &list, mapping).map(Value::from)
}

/// End of the bracketed expression, or of the string, that `text` begins with.
fn closed(text: &str) -> Option<usize> {
    let mut open = 0usize;
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if let Some(q) = quote {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == q {
                quote = None;
            }
        } else {
            match c {
                '"' | '\'' => quote = Some(c),
                '(' | '[' | '{' => open += 1,
                ')' | ']' | '}' => open = open.checked_sub(1)?,
                _ => {}
            }
        }
        if quote.is_none() && open == 0 {
            return Some(at + c.len_utf8());
        }
    }
    None
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The size of the operand that `text` begins with: a primary with what binds tighter than `%`.
fn operand_size(text: &str) -> Option<usize> {
    let mut at = text.len() - text.trim_start_matches(['-', '+', ' ', '\n']).len();
    let first = text[at..].chars().next()?;
    at += if matches!(first, '(' | '[' | '{' | '"' | '\'') {
        closed(&text[at..])?
    } else {
        let size = text[at..].find(|c: char| !is_word(c)).unwrap_or(text.len() - at);
        if size == 0 {
            return None;
        }
        size
    };
    loop {
        let rest = &text[at..];
        let behind = rest.trim_start();
        let blanks = rest.len() - behind.len();
        if rest.starts_with('.') {
            at += 1 + rest[1..].find(|c: char| !is_word(c)).unwrap_or(rest.len() - 1);
        } else if rest.starts_with(['(', '[']) {
            at += closed(rest)?;
        } else if behind.starts_with('|') {
            let name = behind[1..].trim_start();
            let size = name.find(|c: char| !is_word(c) && c != '.').unwrap_or(name.len());
            at += blanks + (behind.len() - name.len()) + size;
        } else {
            return Some(at);
        }
    }
}

/// The expressions of a tag with `"text" % operand` written as a filter, since minijinja's operator takes numbers only.
pub fn with_filters(tag: &str) -> String {
    let mut out = String::with_capacity(tag.len());
    let mut rest = tag;
    while let Some(at) = rest.find(['"', '\'']) {
        let Some(size) = closed(&rest[at..]) else { break };
        let end = at + size;
        out.push_str(&rest[..end]);
        rest = &rest[end..];
        let behind = rest.trim_start();
        let Some(operand) = behind.strip_prefix('%').filter(|operand| !operand.starts_with('}')) else { continue };
        let operand = operand.trim_start();
        let Some(size) = operand_size(operand) else { continue };
        let (given, after) = operand.split_at(size);
        let tuple = given.starts_with('(') && closed(given) == Some(given.len());
        let given = if tuple { given[1..given.len() - 1].trim().trim_end_matches(',') } else { given };
        out.push_str(&format!("|{OPERATOR}({})", with_filters(given)));
        // the lines stay as they are
        out.push_str(&"\n".repeat(rest[..rest.len() - operand.len()].matches('\n').count()));
        rest = after;
    }
    out + rest
}
