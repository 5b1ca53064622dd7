//! What schemas and regular expressions go through before llguidance reads them: what it would refuse although the
//! standard says that it constrains nothing is dropped, what it would not enforce is written in other words, and
//! objects are closed unless they say otherwise.
use std::collections::HashSet;

use llguidance::derivre::{RegexAst, RegexBuilder};
use serde_json::{json, Map, Value};

use crate::abi::{Failure, Outcome};
use crate::schema_numbers::{check_native, is_placeholder, number_text, restore_numbers, shown, Numbers};

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

/// Formats that llguidance enforces; the standard makes others annotations.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
const MAPS: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
const DATA: [&str; 7] = ["const", "enum", "default", "examples", "example", "required", "dependentRequired"];
const NUMBERS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
/// Keywords that constrain a value by themselves. "type" is left out: beside another schema, it says nothing of parts.
const CONSTRAINTS: [&str; 31] = [
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedProperties",
    "unevaluatedItems",
];
/// Up to so many values, an array of different ones is written as a list of all such arrays.
const MOST_DIFFERENT: usize = 4;

/// What the schemas of a request have in common.
#[derive(Default)]
pub struct Preparation {
    /// Refuse what cannot be enforced, instead of warning.
    pub strict: bool,
    pub warnings: Vec<String>,
    pub numbers: Numbers,
}

fn is_numeric(members: &Map<String, Value>) -> bool {
    let numeric = |one: &Value| matches!(one.as_str(), Some("number" | "integer"));
    members
        .get("type")
        .is_some_and(|types| numeric(types) || types.as_array().is_some_and(|list| list.iter().any(numeric)))
}

/// Whether a value must satisfy several schemas here, which llguidance then merges.
fn is_combined(members: &Map<String, Value>) -> bool {
    let mut schemas = members.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
    schemas += ["anyOf", "oneOf", "$ref", "const", "enum"].iter().filter(|name| members.contains_key(**name)).count();
    let own = is_numeric(members) || CONSTRAINTS.iter().any(|name| members.contains_key(*name));
    schemas + usize::from(own) > 1
}

fn has_applicator(members: &Map<String, Value>) -> bool {
    ["allOf", "anyOf", "oneOf", "$ref", "const", "enum", "if", "not", "dependentSchemas"]
        .iter()
        .any(|name| members.contains_key(*name))
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The JSON pointers of the schemas that a schema is made of, each with whether it holds for (a part of) the same
/// value.
fn parts(schema: &Value) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let Some(members) = schema.as_object() else { return found };
    for (name, value) in members {
        let here = format!("/{}", escaped(name));
        match value {
            _ if DATA.contains(&name.as_str()) => {}
            Value::Object(map) if MAPS.contains(&name.as_str()) => {
                let same = !matches!(name.as_str(), "$defs" | "definitions");
                found.extend(map.keys().map(|key| (format!("{here}/{}", escaped(key)), same)));
            }
            Value::Array(items) => found.extend((0..items.len()).map(|i| (format!("{here}/{i}"), true))),
            Value::Object(_) => found.push((here, CONSTRAINTS.contains(&name.as_str()))),
            _ => {}
        }
    }
    found
}

/// The JSON pointer of a reference into the same document.
fn pointer(reference: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = reference.strip_prefix('#')?.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok().filter(|path| path.is_empty() || path.starts_with('/'))
}

/// Where the schemas of a document are merged with others, so that they must stay as they are.
#[derive(Default)]
struct Merged {
    places: HashSet<String>,
    everywhere: bool, // a reference by name, among schemas that are merged
}

impl Merged {
    fn find(&mut self, root: &Value, schema: &Value, merged: bool) {
        let Some(members) = schema.as_object() else { return };
        let merged = merged || is_combined(members);
        if let Some(reference) = members.get("$ref").and_then(Value::as_str).filter(|_| merged) {
            match pointer(reference) {
                Some(place) => {
                    if self.places.insert(place.clone()) {
                        if let Some(target) = root.pointer(&place) {
                            self.find(root, target, true);
                        }
                    }
                }
                None => self.everywhere = true,
            }
        }
        for (place, same) in parts(schema) {
            if let Some(part) = schema.pointer(&place) {
                self.find(root, part, merged && same);
            }
        }
    }
}

/// A pattern's leading lookaheads ("^(?=...)(?=...)rest") as patterns of their own, and what is left.
fn lookaheads(pattern: &str) -> Option<(Vec<String>, String)> {
    let mut rest = pattern.strip_prefix('^')?;
    let mut found = Vec::new();
    while let Some(inner) = rest.strip_prefix("(?=") {
        let (mut open, mut in_class, mut skip, mut end) = (1, false, false, None);
        for (i, byte) in inner.bytes().enumerate() {
            match byte {
                _ if skip => skip = false,
                b'\\' => skip = true,
                b'[' => in_class = true,
                b']' => in_class = false,
                b'(' if !in_class => open += 1,
                b')' if !in_class => open -= 1,
                _ => {}
            }
            if open == 0 {
                end = Some(i);
                break;
            }
        }
        found.push(format!("^(?:{})", &inner[..end?]));
        rest = &inner[end? + 1..];
    }
    (!found.is_empty()).then(|| (found, format!("^{rest}")))
}

struct Walk<'a> {
    root: Value, // as it was
    merged: Merged,
    preparation: &'a mut Preparation,
}

impl Walk<'_> {
    fn not_enforced(&mut self, keyword: &str, at: &str) -> Outcome<()> {
        let said = format!("{keyword} at #{at} is not enforced");
        if self.preparation.strict {
            return Err(Failure::unsupported(said));
        }
        self.preparation.warnings.push(said);
        Ok(())
    }

    /// The values that a schema lists, if it lists them.
    fn listed(&self, schema: &Value) -> Option<Vec<Value>> {
        let mut schema = schema;
        for _ in 0..8 {
            let members = schema.as_object()?;
            if let Some(Value::Array(values)) = members.get("enum") {
                return Some(values.clone());
            }
            if let Some(value) = members.get("const") {
                return Some(vec![value.clone()]);
            }
            if members.get("type").and_then(Value::as_str) == Some("boolean") {
                return Some(vec![json!(true), json!(false)]);
            }
            schema = self.root.pointer(&pointer(members.get("$ref")?.as_str()?)?)?;
        }
        None
    }

    /// Checks and rewrites the schema at a place of the document. `merged`: it meets other schemas.
    fn visit(&mut self, schema: &mut Value, at: &str, merged: bool) -> Outcome<()> {
        let merged = merged || self.merged.everywhere || self.merged.places.contains(at);
        let Some(members) = schema.as_object_mut() else { return Ok(()) };
        if is_placeholder(members) {
            return Ok(());
        }
        if members.get("not").is_some_and(|not| *not == json!({}) || *not == json!(true)) {
            *schema = Value::Bool(false);
            return Ok(());
        }
        drop_annotations(members);
        if let Some(Value::Object(patterns)) = members.get("patternProperties") {
            patterns.keys().try_for_each(|pattern| check_pattern(pattern, "the pattern"))?;
        }
        let merged_parts = merged || is_combined(members);
        self.strings(members)?;
        self.names(members, at, merged_parts)?;
        self.different_items(members, at)?;
        if !merged {
            self.constants(members)?;
        }
        distinct_constants(members);
        for (place, same) in parts(schema) {
            let mut part = schema.pointer_mut(&place).map(Value::take).unwrap_or_default();
            self.visit(&mut part, &format!("{at}{place}"), merged_parts && same)?;
            if let Some(to) = schema.pointer_mut(&place) {
                *to = part;
            }
        }
        let Some(members) = schema.as_object_mut() else { return Ok(()) };
        if !merged_parts {
            close(members);
        }
        if !merged_parts && !has_applicator(members) {
            return self.preparation.numbers.replace(schema);
        }
        for name in NUMBERS {
            if let Some(value) = members.get_mut(name) {
                check_native(name, value)?;
            }
        }
        for name in ["const", "enum"] {
            if let Some(value) = members.get_mut(name) {
                check_constants(name, value)?;
            }
        }
        Ok(())
    }

    fn strings(&mut self, members: &mut Map<String, Value>) -> Outcome<()> {
        let Some(Value::String(pattern)) = members.get("pattern") else { return Ok(()) };
        check_pattern(pattern, "the pattern")?;
        let Some((ahead, rest)) = lookaheads(pattern) else { return Ok(()) };
        members.insert("pattern".into(), json!(rest));
        let all = members.entry("allOf").or_insert_with(|| json!([]));
        if let Value::Array(all) = all {
            all.extend(ahead.into_iter().map(|pattern| json!({"pattern": pattern})));
        }
        Ok(())
    }

    /// propertyNames: names that are listed become properties, a pattern becomes the only one.
    fn names(&mut self, members: &mut Map<String, Value>, at: &str, merged: bool) -> Outcome<()> {
        let Some(mut names) = members.shift_remove("propertyNames") else { return Ok(()) };
        if names == json!(false) {
            members.insert("maxProperties".into(), json!(0));
            return Ok(());
        }
        let listed = self.listed(&names);
        let Some(rules) = names.as_object_mut() else { return Ok(()) };
        drop_annotations(rules);
        let rules: Vec<&String> = rules
            .keys()
            .filter(|key| {
                CONSTRAINTS.contains(&key.as_str())
                    || matches!(key.as_str(), "enum" | "const" | "$ref" | "allOf" | "anyOf" | "oneOf")
            })
            .collect();
        let rules: Vec<&str> = rules.into_iter().map(String::as_str).filter(|key| *key != "format").collect();
        if rules.is_empty() {
            return Ok(());
        }
        let additional = members.get("additionalProperties").cloned().unwrap_or(json!(true));
        let fixed = members.get("properties").and_then(Value::as_object).is_some_and(|map| !map.is_empty());
        if members.contains_key("patternProperties")
            || merged
            || (fixed && additional != json!(false) && listed.is_none())
        {
            return self.not_enforced("propertyNames", at);
        }
        if let Some(values) = listed {
            let allowed: Vec<String> = values.iter().filter_map(|value| value.as_str().map(String::from)).collect();
            let Value::Object(properties) = members.entry("properties").or_insert_with(|| json!({})) else {
                return Ok(());
            };
            properties
                .iter_mut()
                .filter(|(name, _)| !allowed.contains(name))
                .for_each(|(_, schema)| *schema = json!(false));
            if additional != json!(false) {
                for name in allowed {
                    properties.entry(name).or_insert_with(|| additional.clone());
                }
            }
            members.insert("additionalProperties".into(), json!(false));
            return Ok(());
        }
        let pattern = match rules[..] {
            ["pattern"] => names["pattern"].as_str().unwrap_or_default().to_string(),
            _ if rules.iter().all(|rule| matches!(*rule, "minLength" | "maxLength")) => {
                let most = names.get("maxLength").map(shown).unwrap_or_default();
                format!("^[\\s\\S]{{{},{most}}}$", names.get("minLength").map_or("0".into(), shown))
            }
            _ => return self.not_enforced("propertyNames", at),
        };
        check_pattern(&pattern, "the pattern")?;
        if let Some(Value::Object(properties)) = members.get_mut("properties") {
            for (name, schema) in properties {
                if !found_in(&pattern, name)? {
                    *schema = json!(false);
                }
            }
        }
        if additional != json!(false) {
            members.insert("patternProperties".into(), json!({pattern: additional}));
        }
        members.insert("additionalProperties".into(), json!(false));
        Ok(())
    }

    /// uniqueItems, for items of a few values.
    fn different_items(&mut self, members: &mut Map<String, Value>, at: &str) -> Outcome<()> {
        match members.shift_remove("uniqueItems") {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) | None => return Ok(()),
            Some(other) => {
                return Err(Failure::invalid(format!("uniqueItems must be true or false, not {}", shown(&other))))
            }
        }
        let size = |name: &str| members.get(name).and_then(Value::as_u64).map(|size| size as usize);
        let (least, most) = (size("minItems").unwrap_or(0), size("maxItems"));
        if most.is_some_and(|most| most < 2) {
            return Ok(());
        }
        let plain = ["prefixItems", "additionalItems", "contains", "allOf", "anyOf", "oneOf", "$ref", "const", "enum"];
        let is_array = members.get("type").and_then(Value::as_str) == Some("array");
        let mut values = members.get("items").and_then(|items| self.listed(items)).unwrap_or_default();
        let mut seen = HashSet::new();
        values.retain(|value| seen.insert(shown(value)));
        if !is_array
            || values.is_empty()
            || values.len() > MOST_DIFFERENT
            || plain.iter().any(|name| members.contains_key(*name))
        {
            return self.not_enforced("uniqueItems", at);
        }
        if least > values.len() {
            return Err(Failure::invalid(format!(
                "minItems {least} at #{at} is more than the {} different items",
                values.len()
            )));
        }
        let mut lists: Vec<Vec<&Value>> = vec![vec![]];
        let mut options = Vec::new();
        for count in 0..=values.len().min(most.unwrap_or(values.len())) {
            if count >= least {
                options.extend(lists.iter().map(|list| json!({"const": list})));
            }
            lists = lists
                .iter()
                .flat_map(|list| {
                    values.iter().filter(|value| !list.contains(value)).map(|value| [&list[..], &[value]].concat())
                })
                .collect();
        }
        ["type", "items", "minItems", "maxItems"].iter().for_each(|name| drop(members.shift_remove(*name)));
        members.insert("anyOf".into(), Value::Array(options));
        Ok(())
    }

    /// Constants with numbers that float64 or its text would change.
    fn constants(&mut self, members: &mut Map<String, Value>) -> Outcome<()> {
        let alone =
            !["allOf", "anyOf", "oneOf", "$ref"].iter().chain(&CONSTRAINTS).any(|name| members.contains_key(*name));
        let (name, values) = match (members.get("const"), members.get("enum")) {
            (Some(value), None) => ("const", vec![value.clone()]),
            (None, Some(Value::Array(values))) => ("enum", values.clone()),
            _ => return Ok(()),
        };
        if !alone || !values.iter().any(has_long_number) {
            return Ok(());
        }
        let types = members.shift_remove("type");
        let values = values.into_iter().filter(|value| types.as_ref().is_none_or(|types| is_of(value, types)));
        let (long, plain): (Vec<Value>, Vec<Value>) = values.partition(has_long_number);
        let mut options = Vec::new();
        if !plain.is_empty() {
            options.push(json!({"enum": plain}));
        }
        for value in long {
            options.push(self.constant(value)?);
        }
        members.shift_remove(name);
        members.insert("anyOf".into(), Value::Array(options));
        Ok(())
    }

    fn constant(&mut self, value: Value) -> Outcome<Value> {
        if let Some(text) = number_text(&value) {
            return self.preparation.numbers.constant(&text);
        }
        match value {
            Value::Array(items) => {
                let size = items.len();
                let items = items.into_iter().map(|item| self.constant(item)).collect::<Outcome<Vec<Value>>>()?;
                Ok(
                    json!({"type": "array", "items": items, "additionalItems": false, "minItems": size, "maxItems": size}),
                )
            }
            Value::Object(map) => {
                let names: Vec<String> = map.keys().cloned().collect();
                let properties = map.into_iter().map(|(name, value)| Ok((name, self.constant(value)?)));
                let properties = properties.collect::<Outcome<Map<String, Value>>>()?;
                Ok(
                    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false}),
                )
            }
            other => Ok(json!({"const": other})),
        }
    }
}

fn found_in(pattern: &str, text: &str) -> Outcome<bool> {
    let mut builder = RegexBuilder::new();
    let made = builder.mk(&RegexAst::SearchRegex(pattern.into())).map_err(|e| Failure::invalid(e.to_string()))?;
    Ok(builder.to_regex(made).is_match(text))
}

fn has_long_number(value: &Value) -> bool {
    match value {
        _ if number_text(value).is_some() => value.is_object(),
        Value::Array(items) => items.iter().any(has_long_number),
        Value::Object(members) => members.values().any(has_long_number),
        _ => false,
    }
}

/// Whether a value is of a "type", a name or a list of names.
fn is_of(value: &Value, types: &Value) -> bool {
    if let Value::Array(list) = types {
        return list.iter().any(|one| is_of(value, one));
    }
    let number = number_text(value);
    match types.as_str() {
        Some("integer") => {
            number.and_then(|text| crate::decimal::Decimal::parse(&text)).is_some_and(|number| number.is_integer())
        }
        Some("number") => number.is_some(),
        Some("object") => number.is_none() && value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => true,
    }
}

fn check_constants(name: &str, value: &mut Value) -> Outcome<()> {
    match value {
        _ if number_text(value).is_some() => check_native(name, value),
        Value::Array(items) => items.iter_mut().try_for_each(|item| check_constants(name, item)),
        Value::Object(members) => members.values_mut().try_for_each(|member| check_constants(name, member)),
        _ => Ok(()),
    }
}

/// Unknown formats, and keywords that say nothing.
fn drop_annotations(members: &mut Map<String, Value>) {
    if members.get("format").and_then(Value::as_str).is_some_and(|format| !FORMATS.contains(&format)) {
        members.shift_remove("format");
    }
    for name in ["unevaluatedProperties", "unevaluatedItems"] {
        if members.get(name) == Some(&json!(true)) {
            members.shift_remove(name);
        }
    }
    if !has_applicator(members) {
        if let Some(rest) = members.shift_remove("unevaluatedProperties") {
            members.entry("additionalProperties").or_insert(rest);
        }
    }
}

/// "oneOf" of different constants is "anyOf".
fn distinct_constants(members: &mut Map<String, Value>) {
    let Some(Value::Array(options)) = members.get("oneOf") else { return };
    let mut seen = HashSet::new();
    let distinct = options.iter().all(|option| option.get("const").is_some_and(|value| seen.insert(shown(value))));
    let numbers =
        options.iter().filter(|option| option.get("const").is_some_and(|value| number_text(value).is_some())).count();
    if distinct && numbers > 0 && !members.contains_key("anyOf") {
        let options = members.shift_remove("oneOf").unwrap_or_default();
        members.insert("anyOf".into(), options);
    }
}

/// An object that names its properties has no others, unless it says so.
fn close(members: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = members.get("properties") else { return };
    let named = |name: &Value| name.as_str().is_some_and(|name| properties.contains_key(name));
    let complete = members.get("required").and_then(Value::as_array).is_none_or(|required| required.iter().all(named));
    let room =
        members.get("minProperties").and_then(Value::as_u64).is_none_or(|least| least <= properties.len() as u64);
    if !properties.is_empty() && complete && room && !has_applicator(members) {
        members.entry("additionalProperties").or_insert(json!(false));
    }
}

/// Prepares a schema, whose long numbers are protected.
pub fn prepare_schema(schema: &mut Value, preparation: &mut Preparation) -> Outcome<()> {
    let mut merged = Merged::default();
    merged.find(schema, schema, false);
    let mut walk = Walk { root: schema.clone(), merged, preparation };
    walk.visit(schema, "", false)?;
    restore_numbers(schema);
    Ok(())
}
