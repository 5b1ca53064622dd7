//! Numbers in schemas. llguidance reads them as float64 and lets a model write digits without end, so that a bound or
//! constant of its own expressions may be another number than the schema's. Here every number of a schema goes through
//! llguidance as a placeholder, an integer that no answer needs; in the compiled lexer the placeholders are then
//! exchanged for expressions made from the digits of the schema's text.
use std::collections::HashMap;

use llguidance::derivre::{ExprRef, RegexAst};
use llguidance::earley::lexerspec::{LexemeSpec, LexerSpec};
use llguidance::earley::regexvec::LexemeSet;
use llguidance::earley::Grammar;
use serde_json::{json, Map, Value};

use crate::abi::{Code, Failure, Outcome};
use crate::decimal::{all_numbers, Bound, Decimal, Range};

/// Stands for a number whose text `serde_json` would not keep: {"weft.number": "9007199254740993"}.
const MARK: &str = "weft.number";

/// Numbers with at most so many characters keep their value as float64 or int64.
const SHORT: usize = 15;

/// Whether `text` is a number in JSON, of any size.
fn is_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    digits(whole) && digits(fraction) && digits(exponent) && (whole == "0" || !whole.starts_with('0'))
}

/// `text`, which is JSON, with long numbers as objects that keep their digits.
pub fn protect_numbers(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i, mut in_string) = (String::with_capacity(text.len()), 0, false);
    let mut kept = 0; // what is behind this place has not been copied
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if in_string => i += 2,
            b'"' => {
                in_string = !in_string;
                i += 1;
            }
            b'-' | b'0'..=b'9' if !in_string => {
                let size = bytes[i..]
                    .iter()
                    .take_while(|c| matches!(c, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
                    .count();
                let number = &text[i..i + size];
                let exact = size <= SHORT && !number.contains(['e', 'E', '.']);
                if !exact && is_number(number) {
                    out.push_str(&text[kept..i]);
                    out.push_str(&format!("{{\"{MARK}\":\"{number}\"}}"));
                    kept = i + size;
                }
                i += size;
            }
            _ => i += 1,
        }
    }
    out.push_str(&text[kept..]);
    out
}

/// The text of a number.
pub fn number_text(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::Object(members) if members.len() == 1 => members.get(MARK)?.as_str().map(String::from),
        _ => None,
    }
}

/// Undoes `protect_numbers` in a part of a schema.
pub fn restore_numbers(value: &mut Value) {
    if let Some(text) = number_text(value).filter(|_| value.is_object()) {
        *value = serde_json::from_str(&text).unwrap_or(Value::Null);
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(restore_numbers),
        Value::Object(members) => members.values_mut().for_each(restore_numbers),
        _ => {}
    }
}

/// How values are written: compact, numbers by their own text.
pub fn shown(value: &Value) -> String {
    match (number_text(value), value) {
        (Some(text), _) => text,
        (_, Value::Array(items)) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
        (_, Value::Object(members)) => {
            let members: Vec<String> =
                members.iter().map(|(key, value)| format!("{}:{}", json!(key), shown(value))).collect();
            format!("{{{}}}", members.join(","))
        }
        (_, other) => other.to_string(),
    }
}

const BOUNDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// Placeholders are FIRST, FIRST + STEP and so on, which are float64 and int64; FIRST itself stands for nothing.
const FIRST: u64 = 1 << 62;
const STEP: u64 = 1024;
const MOST: usize = 1 << 20;
/// Numbers that stay with llguidance keep away from placeholders.
const NATIVE: f64 = (1u64 << 53) as f64;

/// Whether a schema was made here: long numbers of the document itself are objects.
pub fn is_placeholder(schema: &Map<String, Value>) -> bool {
    schema.get("minimum").and_then(Value::as_u64).is_some_and(|number| number >= FIRST)
}

#[derive(Default)]
pub struct Numbers {
    places: HashMap<String, usize>,
    expressions: Vec<RegexAst>,
}

impl Numbers {
    /// A schema for the numbers that `expression` matches.
    fn placeholder(&mut self, expression: RegexAst) -> Outcome<Value> {
        let next = self.expressions.len();
        if next >= MOST {
            return Err(Failure::invalid(format!("the schema has more than {MOST} different numbers")));
        }
        let place = *self.places.entry(format!("{expression:?}")).or_insert(next);
        if place == next {
            self.expressions.push(expression);
        }
        let number = FIRST + STEP * (place as u64 + 1);
        Ok(json!({"type": "integer", "minimum": number, "maximum": number}))
    }

    /// A schema for one number, written as the schema writes it.
    pub fn constant(&mut self, text: &str) -> Outcome<Value> {
        self.placeholder(RegexAst::Literal(text.into()))
    }

    /// A schema for the numbers that `schema` (of type "integer" or "number") bounds; None if there are none.
    fn bounded(&mut self, schema: &Map<String, Value>, integer: bool) -> Outcome<Option<Value>> {
        let (range, multiple) = (range_of(schema, integer)?, multiple_of(schema)?);
        let mut expression = range.expression();
        if let Some((coefficient, digits)) = multiple {
            if coefficient == 0 {
                expression = RegexAst::And(vec![expression, RegexAst::Literal("0".into())]);
            } else {
                let multiples = vec![RegexAst::Regex("-?".into()), RegexAst::MultipleOf(coefficient, digits)];
                expression = RegexAst::And(vec![expression, RegexAst::Concat(multiples)]);
            }
        }
        if range.is_bounded() || multiple.is_some() {
            let mut builder = llguidance::derivre::RegexBuilder::new();
            let made = builder.mk(&expression).map_err(|e| Failure::invalid(e.to_string()))?;
            if builder.to_regex_limited(made, 20_000).is_ok_and(|mut regex| regex.always_empty()) {
                return Ok(None);
            }
        }
        self.placeholder(expression).map(Some)
    }

    /// Replaces the bounds of a schema that constrains nothing but numbers, or a list of types with numbers among them,
    /// by placeholders.
    pub fn replace(&mut self, schema: &mut Value) -> Outcome<()> {
        let Some(members) = schema.as_object_mut() else { return Ok(()) };
        let types: Vec<String> = match members.get("type") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(list)) => list.iter().filter_map(|one| one.as_str().map(String::from)).collect(),
            None if BOUNDS.iter().any(|bound| members.contains_key(*bound)) => {
                ["null", "boolean", "number", "string", "array", "object"].map(String::from).to_vec()
            }
            _ => return Ok(()),
        };
        let Some(number) = types.iter().find(|one| *one == "number").or(types.iter().find(|one| *one == "integer"))
        else {
            BOUNDS.iter().for_each(|bound| drop(members.shift_remove(*bound)));
            return Ok(());
        };
        let replaced = self.bounded(members, number == "integer")?;
        let bounds: Vec<String> =
            BOUNDS.iter().filter(|bound| members.contains_key(**bound)).map(|s| s.to_string()).collect();
        if replaced.is_none() && types.len() == 1 {
            let said: Vec<String> = bounds.iter().map(|name| format!("{name} {}", shown(&members[name]))).collect();
            return Err(Failure::invalid(format!("no number satisfies {}", said.join(" and "))));
        }
        bounds.iter().for_each(|bound| drop(members.shift_remove(bound)));
        let others: Vec<Value> =
            types.iter().filter(|one| *one != "number" && *one != "integer").map(|one| json!(one)).collect();
        if others.is_empty() {
            replaced.into_iter().for_each(|new| members.extend(new.as_object().cloned().unwrap_or_default()));
            return Ok(());
        }
        members.insert("type".into(), Value::Array(others));
        let Some(numbers) = replaced else { return Ok(()) };
        let mut rest = std::mem::take(members);
        for kept in ["$defs", "definitions", "$id", "$schema"] {
            if let Some(value) = rest.shift_remove(kept) {
                members.insert(kept.into(), value);
            }
        }
        members.insert("anyOf".into(), json!([numbers, rest]));
        Ok(())
    }

    /// Exchanges the placeholders in the lexer of `grammar` for their expressions.
    pub fn apply(
        &self,
        (grammar, mut spec): (Grammar, LexerSpec),
        limits: &mut llguidance::api::ParserLimits,
    ) -> Outcome<(Grammar, LexerSpec)> {
        let fault = |e: anyhow::Error| Failure { code: Code::Internal, message: format!("{e:#}") };
        let unbounded = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?";
        let unbounded = spec.regex_builder.mk_regex(unbounded).map_err(fault)?;
        let places = self.lexemes_of_placeholders(&spec, limits).map_err(fault)?;
        let class = spec.current_class;
        for (i, lexeme) in std::mem::take(&mut spec.lexemes).into_iter().enumerate() {
            let expression = match places.get(&i) {
                Some(numbers) => expression_of(&lexeme).map(|old| self.exchanged(old, numbers)),
                None => expression_of(&lexeme).filter(|old| *old == unbounded).map(|_| RegexAst::Regex(all_numbers())),
            };
            let Some(expression) = expression else {
                spec.lexemes.push(lexeme);
                continue;
            };
            spec.current_class = lexeme.class();
            let name = String::new();
            let add = |spec: &mut LexerSpec, made| {
                spec.add_greedy_lexeme(name.clone(), made, false, None, lexeme.max_tokens())
            };
            if add(&mut spec, expression.clone()).map_err(fault)?.as_usize() != i {
                // It has become equal to another: no number is written so, and every lexeme must have a place.
                let other = RegexAst::Not(Box::new(RegexAst::Literal(format!("#{i}"))));
                add(&mut spec, RegexAst::And(vec![expression, other])).map_err(fault)?;
            }
        }
        spec.current_class = class;
        Ok((grammar, spec))
    }

    /// The places of the lexemes that match placeholders, each with those that it matches.
    fn lexemes_of_placeholders(
        &self,
        spec: &LexerSpec,
        limits: &mut llguidance::api::ParserLimits,
    ) -> anyhow::Result<HashMap<usize, Vec<usize>>> {
        let mut found: HashMap<usize, Vec<usize>> = HashMap::new();
        if self.expressions.is_empty() {
            return Ok(found);
        }
        let mut lexer = spec.to_regex_vec(limits)?;
        let mut all = LexemeSet::new(spec.lexemes.len());
        spec.lexemes.iter().enumerate().for_each(|(i, _)| all.add(llguidance::earley::lexerspec::LexemeIdx::new(i)));
        let start = lexer.initial_state(&all);
        let mut matching = |number: u64| {
            let state = number.to_string().bytes().fold(start, |state, digit| lexer.transition(state, digit));
            lexer.state_desc(state).greedy_accepting.as_slice().iter().map(|index| index.as_usize()).collect::<Vec<_>>()
        };
        let general = matching(FIRST); // free text, for example
        for place in 0..self.expressions.len() {
            for lexeme in matching(FIRST + STEP * (place as u64 + 1)) {
                if !general.contains(&lexeme) {
                    found.entry(lexeme).or_default().push(place);
                }
            }
        }
        Ok(found)
    }

    fn exchanged(&self, old: ExprRef, places: &[usize]) -> RegexAst {
        let literals = places.iter().map(|place| RegexAst::Literal((FIRST + STEP * (*place as u64 + 1)).to_string()));
        let others = RegexAst::Not(Box::new(RegexAst::Or(literals.collect())));
        let mut parts = vec![RegexAst::And(vec![RegexAst::ExprRef(old), others])];
        parts.extend(places.iter().map(|place| self.expressions[*place].clone()));
        RegexAst::Or(parts)
    }
}

/// The expression of a lexeme of a JSON schema, whose description is "[12] [12]  (ExprRef 345)".
fn expression_of(lexeme: &LexemeSpec) -> Option<ExprRef> {
    let description = lexeme.to_string(100, None);
    let (_, rest) = description.split_once("(ExprRef ")?;
    rest.split_once(')')?.0.parse().ok().map(ExprRef::new)
}

fn decimal(name: &str, value: &Value) -> Outcome<Decimal> {
    let Some(text) = number_text(value) else {
        return Err(Failure::invalid(format!("{name} must be a number, not {}", shown(value))));
    };
    Decimal::parse(&text).ok_or_else(|| Failure::unsupported(format!("{name} {text} is too large to be enforced")))
}

fn range_of(schema: &Map<String, Value>, integer: bool) -> Outcome<Range> {
    let bound = |inclusive: &str, exclusive: &str| -> Outcome<[Option<Bound>; 2]> {
        let mut inclusive = match schema.get(inclusive) {
            Some(value) => Some(Bound { at: decimal(inclusive, value)?, inclusive: true }),
            None => None,
        };
        let exclusive = match schema.get(exclusive) {
            // Draft 4
            Some(Value::Bool(only)) => {
                inclusive.iter_mut().for_each(|bound| bound.inclusive = !only);
                None
            }
            Some(value) => Some(Bound { at: decimal(exclusive, value)?, inclusive: false }),
            None => None,
        };
        Ok([inclusive, exclusive])
    };
    let tighter = |bounds: [Option<Bound>; 2], low: bool| match bounds {
        [Some(a), Some(b)] => {
            let order = a.at.compare(&b.at);
            let b_is_tighter = if low { order.is_le() } else { order.is_ge() };
            Some(if b_is_tighter { b } else { a })
        }
        [a, b] => a.or(b),
    };
    Ok(Range {
        integer,
        low: tighter(bound("minimum", "exclusiveMinimum")?, true),
        high: tighter(bound("maximum", "exclusiveMaximum")?, false),
    })
}

fn multiple_of(schema: &Map<String, Value>) -> Outcome<Option<(u32, u32)>> {
    let Some(value) = schema.get("multipleOf") else { return Ok(None) };
    let scaled = decimal("multipleOf", value)?.scaled();
    scaled
        .map(Some)
        .ok_or_else(|| Failure::unsupported(format!("multipleOf {} is too large to be enforced", shown(value))))
}

/// For numbers whose schema meets another one (allOf, or keywords beside $ref), and which llguidance must therefore
/// read itself: refuses what float64 does not hold.
pub fn check_native(name: &str, value: &mut Value) -> Outcome<()> {
    let Some(text) = number_text(value) else { return Ok(()) };
    restore_numbers(value);
    let float = value.as_f64().unwrap_or(f64::INFINITY); // it is null beyond float64
    let exact = Decimal::parse(&text)
        .is_some_and(|number| number == Decimal::parse(&float.to_string()).unwrap_or(number.clone()));
    let short = text.trim_start_matches('-').replace(['.', 'e', 'E'], "").len() <= 15;
    if float.abs() <= NATIVE && (exact || short) {
        return Ok(());
    }
    Err(Failure::unsupported(format!("{name} {text} is too large to be enforced where schemas are combined")))
}
