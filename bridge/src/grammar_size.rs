//! What of a grammar the parser would work on where nothing can be cancelled: counted before it does.
use std::collections::HashSet;

use llguidance::{
    api::ParserLimits,
    earley::{lexerspec::LexerSpec, Grammar},
};

use crate::abi::{Failure, Outcome};

/// Of a text of this size the parser's first row takes no time to speak of.
pub const FREE_TEXT: usize = 4 << 10;
/// Comparisons of two of the parser's items in its first row; a second of processor time or two.
const MOST_COMPARISONS: u64 = 4_000_000_000;

/// The first row of the parser is made with it, where nothing can be cancelled. Each item in it predicts the rules of
/// the symbol that it is in front of, and each of these is looked for in the whole row.
pub fn check_first_row(rules: &Grammar, lexer: &LexerSpec, limits: &ParserLimits) -> Outcome<()> {
    // What is wrong with it, the parser will say.
    let Ok(compiled) = rules.optimize().compile(lexer.clone(), limits) else { return Ok(()) };
    // The rules of the start are looked for as well.
    let (mut items, mut predictions) = (0u64, compiled.rules_of(compiled.start()).len() as u64);
    let mut seen = HashSet::from([compiled.start().as_index()]);
    let mut open = vec![compiled.start()];
    while let Some(symbol) = open.pop() {
        for &rule in compiled.rules_of(symbol) {
            for &next in compiled.rule_rhs(rule).0 {
                items += 1;
                predictions += compiled.rules_of(next).len() as u64;
                if seen.insert(next.as_index()) {
                    open.push(next);
                }
                if !compiled.sym_data(next).is_nullable {
                    break;
                }
            }
        }
    }
    match items.saturating_mul(predictions) / 2 {
        0..=MOST_COMPARISONS => Ok(()),
        _ => Err(Failure::invalid(format!(
            "its rules are too ambiguous: the parser would begin with {items} items that predict {predictions} rules"
        ))),
    }
}

/// Rules and terminals of a grammar while it is built, before the parser takes out those that stand for another one.
/// Each terminal is compared with all before it, and of an object in a schema the members behind each member are hashed
/// (Compiler::ordered_sequence): some 3 s of processor time for so many, and nothing can be cancelled.
pub const MOST_BUILT: usize = 30_000;
/// Rules and terminals that the parser can tell apart: it counts them in 16 bits (CGrammar::from_grammar).
const MOST_SYMBOLS: usize = u16::MAX as usize - 11;
/// What may be empty is looked for in passes over all symbols of all rules, in the worst case as many passes as there
/// are rules (CGrammar::set_nullable): again some 3 s.
const MOST_LOOKS: u64 = 1_200_000_000;
/// With fewer no text that is accepted is long enough for any of these.
const FEW_SYMBOLS: usize = 2000;

/// Of the grammar as the parser will have it.
pub fn check_size(rules: &Grammar) -> Outcome<()> {
    if rules.num_symbols() < FEW_SYMBOLS {
        return Ok(());
    }
    let smaller = rules.optimize();
    let (names, size) = names_and_size(&smaller);
    if names.saturating_mul(size) > MOST_LOOKS {
        return Err(Failure::invalid(format!(
            "it is too large: it comes to {names} rules with {size} symbols in them, and one times the other may be \
             {MOST_LOOKS} at most"
        )));
    }
    match smaller.num_symbols() {
        0..=MOST_SYMBOLS => Ok(()),
        many => Err(too_many_symbols(many, MOST_SYMBOLS)),
    }
}

pub fn too_many_symbols(many: impl std::fmt::Display, most: usize) -> Failure {
    Failure::invalid(format!(
        "it has {many} rules and terminals, and {most} are allowed; many alternatives that are plain texts are one \
         terminal if they are written as one (A: \"x\" | \"y\")"
    ))
}

/// What is no terminal, and the symbols in all rules: the second and the fourth number of "4006 terminals; 8003
/// non-terminals with 12004 rules with 40020 symbols", which is all that the crate says of it.
fn names_and_size(rules: &Grammar) -> (u64, u64) {
    let stats = rules.stats();
    let mut numbers = stats.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
    let names = numbers.nth(1).unwrap_or(u64::MAX);
    (names, numbers.nth(1).unwrap_or(u64::MAX))
}
