//! GBNF / EBNF grammars ("root ::= ...", as llama.cpp and xgrammar take them) to the Lark form of llguidance: rule
//! names in lower case with underscores, one rule a line, character classes as regular expressions.
use crate::abi::{Failure, Outcome};

/// Copies one quoted text or character class starting at `at` and returns the index behind it.
fn copy_until(text: &[char], at: usize, close: char, out: &mut String) -> Outcome<usize> {
    let mut i = at + 1;
    while i < text.len() {
        match text[i] {
            '\\' if i + 1 < text.len() => {
                out.push('\\');
                out.push(text[i + 1]);
                i += 2;
            }
            c if c == close => return Ok(i + 1),
            '\n' => break,
            '/' if close == ']' => {
                out.push_str("\\/");
                i += 1;
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    Err(Failure::invalid(format!(
        "the grammar has an open {} at character {at}",
        if close == ']' { "[" } else { "\"" }
    )))
}

fn rule_name(name: &str) -> String {
    if name == "root" {
        return "start".into();
    }
    // Lark takes upper-case names for terminals, and "start" is the root's.
    format!("r_{}", name.to_lowercase().replace('-', "_"))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

pub fn to_lark(source: &str) -> Outcome<String> {
    let text: Vec<char> = source.chars().collect();
    let mut out = String::new();
    let mut rules = 0;
    let mut i = 0;
    while i < text.len() {
        match text[i] {
            '#' => {
                while i < text.len() && text[i] != '\n' {
                    i += 1;
                }
            }
            '"' => {
                out.push('"');
                i = copy_until(&text, i, '"', &mut out)?;
                out.push('"');
            }
            '[' => {
                out.push_str("/[");
                i = copy_until(&text, i, ']', &mut out)?;
                out.push_str("]/");
            }
            '.' => {
                out.push_str("/(?s:.)/");
                i += 1;
            }
            c if is_name(c) && !c.is_ascii_digit() => {
                let begin = i;
                while i < text.len() && is_name(text[i]) {
                    i += 1;
                }
                let name: String = text[begin..i].iter().collect();
                let mut after = i;
                while after < text.len() && text[after].is_whitespace() {
                    after += 1;
                }
                if text[after..].starts_with(&[':', ':', '=']) {
                    out.push('\n');
                    out.push_str(&rule_name(&name));
                    out.push(':');
                    rules += 1;
                    i = after + 3;
                } else {
                    out.push_str(&rule_name(&name));
                }
            }
            c if c.is_whitespace() => {
                out.push(' ');
                i += 1;
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    if rules == 0 || !out.contains("\nstart:") {
        return Err(Failure::invalid("the grammar has no rule named root"));
    }
    Ok(out.trim_start().to_string() + "\n")
}
