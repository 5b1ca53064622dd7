//! Structural tags: free text in which marked parts follow a schema. Two spellings are read, the older one with
//! `structures` and `triggers` (vLLM, SGLang), and the newer tree of formats (xgrammar, TensorRT-LLM) under `format`.
//! Both become one Lark grammar; schemas, expressions and grammars inside become grammars of their own that it refers
//! to.
//!
//! Free text holds no special tokens, except those that a tag names: `literal` writes them as token ids.
use llguidance::api::GrammarWithLexer;
use serde_json::Value;

use crate::abi::{Failure, Outcome};
use crate::gbnf;
use crate::grammar::{json_schema_with_options, Specials};
use crate::schema_check::{self, Preparation};
use crate::schema_numbers::protect_numbers;

/// Any text, and how text in a grammar's free parts is matched.
const ANY: &str = "/(?s:.*)/";

/// What follows a format.
#[derive(Clone, Copy)]
enum Tail<'a> {
    End,                // the end of the answer
    Ends(&'a [String]), // one of these texts
    Middle,             // something else
}

struct Builder<'a> {
    specials: &'a Specials,
    compact: bool,
    preparation: &'a mut Preparation,
    rules: String,
    grammars: Vec<GrammarWithLexer>,
    count: usize,
}

fn wrong(path: &str, must: &str) -> Failure {
    Failure::invalid(format!("structural tag: {path} must be {must}"))
}

fn member<'v>(value: &'v Value, path: &str, name: &str) -> Outcome<&'v Value> {
    value.get(name).ok_or_else(|| Failure::invalid(format!("structural tag: {path}.{name} is missing")))
}

fn text<'v>(value: &'v Value, path: &str, name: &str) -> Outcome<&'v str> {
    member(value, path, name)?.as_str().ok_or_else(|| wrong(&format!("{path}.{name}"), "a string"))
}

fn list<'v>(value: &'v Value, path: &str, name: &str) -> Outcome<&'v Vec<Value>> {
    match member(value, path, name)?.as_array() {
        Some(items) if !items.is_empty() => Ok(items),
        _ => Err(wrong(&format!("{path}.{name}"), "a list with at least one element")),
    }
}

fn flag(value: &Value, path: &str, name: &str) -> Outcome<bool> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(_) => Err(wrong(&format!("{path}.{name}"), "true or false")),
    }
}

fn strings(value: &Value, path: &str) -> Outcome<Vec<String>> {
    match value {
        Value::String(one) => Ok(vec![one.clone()]),
        Value::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| item.as_str().map(String::from).ok_or_else(|| wrong(path, "a string or a list of strings")))
            .collect(),
        _ => Err(wrong(path, "a string or a list of strings")),
    }
}

impl Builder<'_> {
    fn fresh(&mut self, stem: &str) -> String {
        self.count += 1;
        format!("{stem}_{}", self.count)
    }

    fn rule(&mut self, name: &str, body: &str) {
        self.rules.push_str(&format!("{name}: {body}\n"));
    }

    /// The name of a grammar of its own.
    fn nested(&mut self, mut grammar: GrammarWithLexer) -> String {
        let name = self.fresh("part");
        grammar.name = Some(name.clone());
        self.grammars.push(grammar);
        format!("@{name}")
    }

    fn one_of(&self, ends: &[String]) -> String {
        let options: Vec<String> = ends.iter().map(|end| self.specials.literal(end)).collect();
        format!("({})", options.join(" | "))
    }

    fn with_tail(&self, body: String, tail: Tail) -> String {
        match tail {
            Tail::Ends(ends) => format!("{body} {}", self.one_of(ends)),
            _ => body,
        }
    }

    /// Text up to one of `ends`, which belongs to it.
    fn text_until(&mut self, ends: &[String], path: &str) -> Outcome<String> {
        if ends.iter().any(String::is_empty) {
            return Err(Failure::unsupported(format!(
                "structural tag: {path} is any_text, so what ends it may not be empty"
            )));
        }
        let name = self.fresh("text");
        if ends.iter().all(|end| self.specials.begins(end)) {
            self.rule(&name, &format!("{ANY} {}", self.one_of(ends)));
        } else if ends.iter().any(|end| self.specials.within(end)) {
            return Err(Failure::unsupported(format!(
                "structural tag: {path} is any_text and ends with a mixture of text and special tokens"
            )));
        } else {
            let options = self.one_of(ends);
            self.rule(&format!("{name}[lazy]"), &format!("{ANY} {options}"));
        }
        Ok(name)
    }

    fn format(&mut self, value: &Value, path: &str, tail: Tail) -> Outcome<String> {
        if !value.is_object() {
            return Err(wrong(path, "an object with a \"type\""));
        }
        match text(value, path, "type")? {
            "const_string" => Ok(self.with_tail(self.specials.literal(text(value, path, "value")?), tail)),
            "json_schema" => self.schema(value, path).map(|body| self.with_tail(body, tail)),
            "regex" => {
                let expression = text(value, path, "pattern")?;
                schema_check::check_pattern(expression, &format!("structural tag: {path}.pattern"))?;
                let part = self.nested(GrammarWithLexer::from_regex(expression));
                Ok(self.with_tail(part, tail))
            }
            "grammar" => {
                let source = text(value, path, "grammar")?;
                let lark = if source.contains("::=") { gbnf::to_lark(source)? } else { source.to_string() };
                let part = self.nested(GrammarWithLexer::from_lark(lark));
                Ok(self.with_tail(part, tail))
            }
            "any_text" => self.any_text(value, path, tail),
            "sequence" => self.sequence(value, path, tail),
            "or" => self.alternatives(value, path, tail),
            "tag" => self.tag(value, path, 0).map(|body| self.with_tail(body, tail)),
            "optional" => self.repeated(value, path, "?", tail),
            "star" => self.repeated(value, path, "*", tail),
            "plus" => self.repeated(value, path, "+", tail),
            "triggered_tags" => self.triggered_tags(value, path, tail),
            "tags_with_separator" => self.separated_tags(value, path, tail),
            other => Err(Failure::unsupported(format!(
                "structural tag: {path}.type {} is not available; const_string, json_schema, regex, grammar, any_text, sequence, or, \
                 optional, star, plus, tag, triggered_tags and tags_with_separator are",
                serde_json::to_string(other).unwrap_or_default()
            ))),
        }
    }

    fn schema(&mut self, value: &Value, path: &str) -> Outcome<String> {
        if let Some(style) = value.get("style").filter(|style| style.as_str() != Some("json")) {
            return Err(Failure::unsupported(format!(
                "structural tag: {path}.style {style} is not available; \"json\" is"
            )));
        }
        let schema = member(value, path, "json_schema")?;
        if !schema.is_object() && !schema.is_boolean() {
            return Err(wrong(&format!("{path}.json_schema"), "a schema"));
        }
        let mut schema = schema.clone();
        schema_check::prepare_schema(&mut schema, self.preparation)?;
        Ok(self.nested(GrammarWithLexer::from_json_schema(json_schema_with_options(schema, self.compact))))
    }

    fn any_text(&mut self, value: &Value, path: &str, tail: Tail) -> Outcome<String> {
        if value.get("excludes").and_then(Value::as_array).is_some_and(|excludes| !excludes.is_empty()) {
            return Err(Failure::unsupported(format!("structural tag: {path}.excludes is not available")));
        }
        match tail {
            Tail::End => Ok(ANY.to_string()),
            Tail::Ends(ends) => self.text_until(ends, path),
            Tail::Middle => Err(Failure::unsupported(format!(
                "structural tag: {path} is any_text, which must be the last part of a tag or of the answer"
            ))),
        }
    }

    fn sequence(&mut self, value: &Value, path: &str, tail: Tail) -> Outcome<String> {
        let elements = list(value, path, "elements")?;
        let mut parts = Vec::new();
        for (i, element) in elements.iter().enumerate() {
            let tail = if i + 1 == elements.len() { tail } else { Tail::Middle };
            parts.push(self.format(element, &format!("{path}.elements[{i}]"), tail)?);
        }
        Ok(format!("({})", parts.join(" ")))
    }

    fn alternatives(&mut self, value: &Value, path: &str, tail: Tail) -> Outcome<String> {
        let mut options = Vec::new();
        for (i, element) in list(value, path, "elements")?.iter().enumerate() {
            options.push(self.format(element, &format!("{path}.elements[{i}]"), tail)?);
        }
        Ok(format!("({})", options.join(" | ")))
    }

    fn repeated(&mut self, value: &Value, path: &str, sign: &str, tail: Tail) -> Outcome<String> {
        let body = self.format(member(value, path, "content")?, &format!("{path}.content"), Tail::Middle)?;
        Ok(self.with_tail(format!("({body}){sign}"), tail))
    }

    /// A tag; the first `skip` bytes of its beginning have been written already.
    fn tag(&mut self, value: &Value, path: &str, skip: usize) -> Outcome<String> {
        let ends = strings(member(value, path, "end")?, &format!("{path}.end"))?;
        let begin = self.specials.literal(&text(value, path, "begin")?[skip..]);
        let content = self.format(member(value, path, "content")?, &format!("{path}.content"), Tail::Ends(&ends))?;
        let name = self.fresh("tag");
        self.rule(&name, &format!("{begin} {content}"));
        Ok(name)
    }

    fn triggered_tags(&mut self, value: &Value, path: &str, tail: Tail) -> Outcome<String> {
        if !matches!(tail, Tail::End) {
            return Err(Failure::unsupported(format!(
                "structural tag: {path} is triggered_tags, which must be the last part of the answer"
            )));
        }
        let triggers = strings(member(value, path, "triggers")?, &format!("{path}.triggers"))?;
        if triggers.iter().any(String::is_empty) {
            return Err(wrong(&format!("{path}.triggers"), "a list of strings that are not empty"));
        }
        let mut tags: Vec<Vec<String>> = vec![Vec::new(); triggers.len()];
        for (i, tag) in list(value, path, "tags")?.iter().enumerate() {
            let here = format!("{path}.tags[{i}]");
            let begin = text(tag, &here, "begin")?;
            let Some(which) = triggers.iter().position(|trigger| begin.starts_with(trigger.as_str())) else {
                return Err(Failure::invalid(format!("structural tag: {here}.begin starts with none of the triggers")));
            };
            tags[which].push(self.tag(tag, &here, triggers[which].len())?);
        }
        // Free text is what holds no trigger, so that one is always followed by one of its tags.
        let words: Vec<String> =
            triggers.iter().filter(|t| !self.specials.begins(t)).map(|t| self.specials.literal(t)).collect();
        if triggers.iter().any(|t| !self.specials.begins(t) && self.specials.within(t)) {
            return Err(Failure::unsupported(format!(
                "structural tag: a trigger of {path} is a mixture of text and special tokens"
            )));
        }
        let free = self.fresh("FREE");
        let body =
            if words.is_empty() { ANY.to_string() } else { format!("{ANY} & ~({ANY} ({}) {ANY})", words.join(" | ")) };
        self.rule(&free, &body);
        let mut options = Vec::new();
        for (trigger, tags) in triggers.iter().zip(tags).filter(|(_, tags)| !tags.is_empty()) {
            let opening = if self.specials.begins(trigger) {
                format!("{free} {}", self.specials.literal(trigger))
            } else {
                let name = self.fresh("opening");
                self.rule(&format!("{name}[lazy]"), &format!("{ANY} {}", self.specials.literal(trigger)));
                name
            };
            options.push(format!("{opening} ({})", tags.join(" | ")));
        }
        let tagged = self.fresh("tagged");
        self.rule(&tagged, &options.join(" | "));
        let (at_least_one, once) = (flag(value, path, "at_least_one")?, flag(value, path, "stop_after_first")?);
        Ok(match (at_least_one, once) {
            (true, true) => tagged,
            (false, true) => format!("({tagged} | {free})"),
            (true, false) => format!("({tagged}+ {free})"),
            (false, false) => format!("({tagged}* {free})"),
        })
    }

    fn separated_tags(&mut self, value: &Value, path: &str, tail: Tail) -> Outcome<String> {
        let separator = self.specials.literal(text(value, path, "separator")?);
        let mut tags = Vec::new();
        for (i, tag) in list(value, path, "tags")?.iter().enumerate() {
            tags.push(self.tag(tag, &format!("{path}.tags[{i}]"), 0)?);
        }
        let one = self.fresh("one");
        self.rule(&one, &tags.join(" | "));
        let (at_least_one, once) = (flag(value, path, "at_least_one")?, flag(value, path, "stop_after_first")?);
        let body = if once { one } else { format!("({one} ({separator} {one})*)") };
        Ok(self.with_tail(if at_least_one { body } else { format!("({body})?") }, tail))
    }
}

/// `{"begin", "schema", "end"}` of the older spelling as a tag of the newer one.
fn newer_tag(structure: &Value, path: &str) -> Outcome<Value> {
    let schema = match member(structure, path, "schema")? {
        Value::Null => Value::Bool(true),
        Value::String(source) => serde_json::from_str(&protect_numbers(source))
            .map_err(|e| Failure::invalid(format!("structural tag: {path}.schema is not JSON: {e}")))?,
        schema => schema.clone(),
    };
    Ok(
        serde_json::json!({"type": "tag", "begin": text(structure, path, "begin")?, "end": text(structure, path, "end")?,
                          "content": {"type": "json_schema", "json_schema": schema}}),
    )
}

/// The grammars of `request`; the first is the one to start from.
pub fn grammars(
    request: &Value,
    specials: &Specials,
    compact: bool,
    preparation: &mut Preparation,
) -> Outcome<Vec<GrammarWithLexer>> {
    let mut builder = Builder { specials, compact, preparation, rules: String::new(), grammars: Vec::new(), count: 0 };
    let start = if let Some(format) = request.get("format") {
        builder.format(format, "format", Tail::End)?
    } else if request.get("structures").is_some() {
        let mut tags = Vec::new();
        for (i, structure) in list(request, "structural_tag", "structures")?.iter().enumerate() {
            tags.push(newer_tag(structure, &format!("structures[{i}]"))?);
        }
        let triggers = member(request, "structural_tag", "triggers")?;
        let format = serde_json::json!({"type": "triggered_tags", "triggers": triggers, "tags": tags});
        builder.triggered_tags(&format, "structural_tag", Tail::End)?
    } else {
        return Err(Failure::invalid("structural tag: \"format\", or \"structures\" and \"triggers\", must be given"));
    };
    let lark = format!("start: {start}\n{}", builder.rules);
    let mut all = vec![GrammarWithLexer::from_lark(lark)];
    all.append(&mut builder.grammars);
    Ok(all)
}
