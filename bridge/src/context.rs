//! The variables of a chat template: JSON read into values that print as Python's would. Integers are exact at any
//! size, where serde_json makes floats of those beyond 64 bits.
use minijinja::value::{Object, ObjectRepr, Value};
use std::fmt;
use std::sync::Arc;

use crate::abi::{Failure, Outcome};

/// Lists and objects nested deeper than this are refused.
const MAX_DEPTH: usize = 128;

/// An integer beyond 128 bits, which templates can only print.
#[derive(Debug)]
pub struct BigInteger(String);

impl Object for BigInteger {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

pub fn read(json: &[u8]) -> Outcome<Value> {
    let text = std::str::from_utf8(json).map_err(|e| Failure::invalid(e.to_string()))?;
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.wrong()),
    }
}

impl<'a> Reader<'a> {
    fn wrong(&self) -> Failure {
        Failure::invalid(format!("not valid JSON at byte {}", self.at))
    }

    /// The first byte of what comes next, behind white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Moves behind `byte` if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Outcome<()> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }

    fn value(&mut self, depth: usize) -> Outcome<Value> {
        if depth > MAX_DEPTH {
            return Err(Failure::invalid(format!("a value is nested deeper than {MAX_DEPTH} levels")));
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => Ok(Value::from(self.string()?)),
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Outcome<Value> {
        self.expect(b'{')?;
        let mut members: Vec<(Value, Value)> = vec![];
        while !self.take(b'}') {
            if !members.is_empty() {
                self.expect(b',')?;
            }
            self.peek();
            let key = self.string()?;
            self.expect(b':')?;
            members.push((Value::from(key), self.value(depth + 1)?));
        }
        Ok(Value::from_pairs(members))
    }

    fn list(&mut self, depth: usize) -> Outcome<Value> {
        self.expect(b'[')?;
        let mut items: Vec<Value> = vec![];
        while !self.take(b']') {
            if !items.is_empty() {
                self.expect(b',')?;
            }
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::from(items))
    }

    fn string(&mut self) -> Outcome<String> {
        let bytes = self.text.as_bytes();
        let begin = self.at;
        if bytes.get(begin) != Some(&b'"') {
            return Err(self.wrong());
        }
        let mut end = begin + 1;
        while let Some(byte) = bytes.get(end).filter(|b| **b != b'"') {
            end += if *byte == b'\\' { 2 } else { 1 };
        }
        let literal = self.text.get(begin..end + 1).ok_or_else(|| self.wrong())?;
        self.at = end + 1;
        serde_json::from_str(literal).map_err(|e| Failure::invalid(e.to_string()))
    }

    /// A number, true, false or null.
    fn word(&mut self) -> Outcome<Value> {
        let rest = &self.text[self.at..];
        let size = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(rest.len());
        let word = &rest[..size];
        let value = match word {
            "null" => Some(Value::from(())),
            "true" => Some(Value::from(true)),
            "false" => Some(Value::from(false)),
            _ => number(word),
        };
        let value = value.ok_or_else(|| self.wrong())?;
        self.at += size;
        Ok(value)
    }
}

fn number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from);
    }
    let value = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<i128>().map(Value::from));
    Some(value.unwrap_or_else(|_| Value::from_object(BigInteger(text.to_string()))))
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::python;

    fn rendered(json: &str, template: &str) -> String {
        let mut environment = minijinja::Environment::new();
        environment.set_fuel(Some(10_000));
        environment.set_formatter(python::format);
        environment.add_filter("tojson", python::tojson);
        match read(json.as_bytes()).map(|context| environment.render_str(template, context)) {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "not read".to_string(),
        }
    }

    #[test]
    fn numbers_print_as_in_python() {
        // json.dumps(json.loads(x)) and str(json.loads(x)), by Python.
        let digits = "9".repeat(60);
        for (number, text) in [
            ("17592186044416.0", "17592186044416.0"),
            ("9.5367431640625e-07", "9.5367431640625e-07"),
            ("3.4028234663852886e+38", "3.4028234663852886e+38"),
            ("1e3", "1000.0"),
            ("1E-7", "1e-07"),
            ("-0.0", "-0.0"),
            ("-0", "0"),
            ("18446744073709551616", "18446744073709551616"),
            ("-170141183460469231731687303715884105729", "-170141183460469231731687303715884105729"),
            (&digits, &digits),
        ] {
            let json = format!("{{\"n\": [{number}]}}");
            assert_eq!(rendered(&json, "{{ n }} {{ n|tojson }}"), format!("[{text}] [{text}]"));
        }
    }

    #[test]
    fn members_keep_their_order_and_the_last_of_a_name_counts() {
        let json = r#"{"m": {"b": "\"\\\u00e9", "a": [], "b": null, "c": {}, "d": true}}"#;
        assert_eq!(rendered(json, "{{ m }}"), "{'b': None, 'a': [], 'c': {}, 'd': True}");
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "[1 2]", "{\"a\" 1}", "\"", "\"\\", "nul", "1e", "[] x", "+"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read("[".repeat(100_000).as_bytes()).is_err());
    }
}
