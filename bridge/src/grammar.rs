//! Guided decoding over llguidance: a factory per tokenizer (the trie of its tokens), and one matcher per answer.
use std::sync::Arc;

use llguidance::{
    api::{GrammarInit, GrammarWithLexer, TopLevelGrammar},
    earley::SlicedBiasComputer,
    Matcher, ParserFactory,
};
use serde_json::Value;
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::abi::{self, guard, guard_stop, Failure, Outcome, Stop, WeftBytes, WeftError};
use crate::gbnf;
use crate::grammar_size;
use crate::mask_budget;
use crate::memory::Measure;
use crate::schema_check::{self, Preparation};
use crate::schema_numbers::protect_numbers;
use crate::structural_tag;
use crate::thread;
use crate::tokenizer::WeftTokenizer;

/// The vocabulary as the grammar engine sees it. Text is only ever cut greedily: forced tokens are not used.
struct Vocabulary {
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }
    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(text)
    }
}

pub struct WeftGrammarFactory {
    factory: ParserFactory,
    specials: Specials,
}

#[repr(C)]
pub struct WeftGrammarLimits {
    text_bytes: usize,
    nesting: usize,
    parser_items: usize,
    lexer_states: usize,
    lexer_cost: u64,
    memory: usize,
    step_ns: u64,
}

pub struct WeftGrammar {
    matcher: Matcher, // cancellable
    step_ns: u64,
}

impl WeftGrammar {
    /// A call into the matcher that ends in time.
    fn step<T>(&mut self, work: impl FnOnce(&mut Matcher) -> T) -> T {
        mask_budget::within(self.matcher.cancellation_handle(), self.step_ns, || work(&mut self.matcher))
    }

    /// Of a call that has failed.
    fn failure(&self, error: &anyhow::Error) -> Failure {
        Failure::invalid(if self.matcher.is_cancelled() { too_slow(self.step_ns) } else { plain(error) })
    }
}

fn too_complex(problem: &str) -> Failure {
    Failure::exhausted(format!("the grammar has become too complex: {problem}"))
}

fn too_slow(budget_ns: u64) -> String {
    format!("its rules are too ambiguous: one token took more than {} ms of processor time", budget_ns / 1_000_000)
}

/// Of a compilation: heap memory of the result, processor time, and one warning a line.
#[repr(C)]
pub struct WeftGrammarReport {
    bytes: usize,
    processor_ns: u64,
    warnings: WeftBytes,
}

fn plain(error: &anyhow::Error) -> String {
    in_words(&format!("{error:#}"))
}

/// What the parser says of itself, as a client can read it: without the mark that stands in for its state.
fn in_words(problem: &str) -> String {
    if problem.contains("NoExtensionBias") {
        return "no token of the model's vocabulary can come next: the grammar asks for text that none of them writes, \
                or for text that cannot be"
            .into();
    }
    problem.replace("\n<non-verbose/>", "")
}

/// Special tokens cannot be written by a grammar's text; ids without a token neither.
fn words(tokenizer: &WeftTokenizer, rows: u32) -> Vec<Vec<u8>> {
    let special = |name: String| {
        let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        word.extend_from_slice(name.as_bytes());
        word
    };
    (0..rows)
        .map(|id| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            if bytes.is_empty() {
                special(format!("<[{id}]>"))
            } else if tokenizer.is_special(id) {
                special(String::from_utf8_lossy(&bytes).into_owned())
            } else {
                bytes
            }
        })
        .collect()
}

/// The tokenizer's special tokens by name: a text that names one stands for the token, as in a prompt.
pub struct Specials {
    names: Vec<(String, u32)>,
}

impl Specials {
    fn new(tokenizer: &WeftTokenizer, rows: u32) -> Self {
        let mut names: Vec<(String, u32)> = (0..rows)
            .filter(|&id| tokenizer.is_special(id))
            .filter_map(|id| Some((String::from_utf8(tokenizer.token_bytes(id)?).ok()?, id)))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Specials { names }
    }

    /// The earliest special token in `text`, the longest of those that begin there: its place, size and id.
    fn find(&self, text: &str) -> Option<(usize, usize, u32)> {
        let found = self.names.iter().filter_map(|(name, id)| Some((text.find(name.as_str())?, name.len(), *id)));
        found.min_by_key(|&(place, size, _)| (place, std::cmp::Reverse(size)))
    }

    pub fn begins(&self, text: &str) -> bool {
        self.find(text).is_some_and(|(place, ..)| place == 0)
    }

    pub fn within(&self, text: &str) -> bool {
        self.find(text).is_some()
    }

    /// `text` in Lark's syntax.
    pub fn literal(&self, mut text: &str) -> String {
        let mut parts = Vec::new();
        while let Some((place, size, id)) = self.find(text) {
            if place > 0 {
                parts.push(serde_json::to_string(&text[..place]).unwrap_or_default());
            }
            parts.push(format!("<[{id}]>"));
            text = &text[place + size..];
        }
        if !text.is_empty() || parts.is_empty() {
            parts.push(serde_json::to_string(text).unwrap_or_default());
        }
        parts.join(" ")
    }
}

/// # Safety
/// `ends` points at `count` ids; `limits` and `error` at their structs.
#[no_mangle]
pub unsafe extern "C" fn weft_grammar_factory_new(
    tokenizer: &WeftTokenizer,
    rows: u32,
    ends: *const u32,
    count: usize,
    limits: &WeftGrammarLimits,
    error: *mut WeftError,
) -> *mut WeftGrammarFactory {
    guard(error, std::ptr::null_mut(), || {
        let ends = abi::slice(ends, count);
        if ends.is_empty() {
            return Err(Failure::unsupported("the model has no end-of-sequence token, which guided decoding needs"));
        }
        let specials = Specials::new(tokenizer, rows);
        let words = words(tokenizer, rows);
        let info = TokRxInfo::new(words.len() as u32, ends[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(ends);
        let environment: TokEnv = Arc::new(Vocabulary { trie });
        let capabilities = InferenceCapabilities { ff_tokens: false, ..Default::default() };
        let mut factory = ParserFactory::new(&environment, capabilities, &SlicedBiasComputer::general_slices())
            .map_err(|e| Failure::invalid(plain(&e)))?;
        factory.quiet();
        let set = factory.limits_mut();
        set.initial_lexer_fuel = limits.lexer_cost;
        set.step_max_items = limits.parser_items;
        set.max_items_in_row = limits.parser_items; // an object of n optional members has 4n at its start
        set.verbose_errors = false;
        set.max_lexer_states = limits.lexer_states;
        set.max_grammar_size = grammar_size::MOST_BUILT;
        Ok(Box::into_raw(Box::new(WeftGrammarFactory { factory, specials })))
    })
}

/// # Safety
/// `factory` comes from `weft_grammar_factory_new` and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn weft_grammar_factory_free(factory: *mut WeftGrammarFactory) {
    drop(Box::from_raw(factory));
}

/// Between two values of a JSON text: nothing, a space, or a line break with its indentation. Unbounded white space
/// lets a model write nothing but blanks until its budget is spent.
const WHITE_SPACE: &str = r"( |\n[ \t]{0,40})?";

pub fn json_schema_with_options(mut schema: Value, compact: bool) -> Value {
    let options = if compact {
        serde_json::json!({"whitespace_flexible": false})
    } else {
        serde_json::json!({"whitespace_flexible": true, "whitespace_pattern": WHITE_SPACE})
    };
    match &mut schema {
        Value::Object(members) => {
            members.insert("x-guidance".into(), options);
        }
        Value::Bool(true) => schema = serde_json::json!({"x-guidance": options}),
        _ => {}
    }
    schema
}

fn json_grammar(schema: Value, compact: bool) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(json_schema_with_options(schema, compact))
}

/// Lets the answer begin with its thinking: text up to "</think>" and some white space, before what `grammar` asks for.
/// `open`: the prompt ends inside the thinking; otherwise the model may open it. There is no end of the answer inside
/// the thinking.
fn after_thinking(mut grammar: TopLevelGrammar, open: bool, specials: &Specials) -> TopLevelGrammar {
    const BLANK: &str = r"(/[ \n]{1,4}/)?";
    let (opening, end) = (specials.literal("<think>"), specials.literal("</think>"));
    let (start, lazy) = if specials.begins("</think>") {
        (format!("/(?s:.*)/ {end} {BLANK} @answer"), String::new())
    } else {
        (format!("thoughts {BLANK} @answer"), format!("thoughts[lazy]: /(?s:.*)/ {end}\n"))
    };
    let lark =
        if open { format!("start: {start}\n{lazy}") } else { format!("start: @answer | {opening} {start}\n{lazy}") };
    if let Some(first) = grammar.grammars.first_mut() {
        first.name = Some("answer".into());
    }
    grammar.grammars.insert(0, GrammarWithLexer::from_lark(lark));
    grammar
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// JSON whose long numbers are protected.
fn read_json(text: &str, what: &str, limits: &WeftGrammarLimits) -> Outcome<Value> {
    let too_deep = || Failure::invalid(format!("{what} is nested deeper than {} levels", limits.nesting));
    // The reader has a limit of its own, of 128 levels.
    let value: Value = serde_json::from_str(&protect_numbers(text)).map_err(|e| match e.to_string() {
        message if message.contains("recursion limit") => too_deep(),
        message => Failure::invalid(format!("{what} is not JSON: {message}")),
    })?;
    if depth(&value) > limits.nesting {
        return Err(too_deep());
    }
    Ok(value)
}

/// The deepest nesting of groups in an expression or grammar.
fn group_depth(text: &str) -> usize {
    let (mut open, mut deepest) = (0usize, 0usize);
    for c in text.bytes() {
        match c {
            b'(' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn top_level(
    kind: u32,
    text: &str,
    compact: bool,
    specials: &Specials,
    limits: &WeftGrammarLimits,
    preparation: &mut Preparation,
) -> Outcome<TopLevelGrammar> {
    if text.len() > limits.text_bytes {
        return Err(Failure::invalid(format!("it has {} bytes, more than {}", text.len(), limits.text_bytes)));
    }
    if (kind == 2 || kind == 3) && group_depth(text) > limits.nesting {
        return Err(Failure::invalid(format!("groups are nested deeper than {} levels", limits.nesting)));
    }
    match kind {
        0 => Ok(json_grammar(serde_json::json!({"type": "object"}), compact)),
        1 => {
            let mut schema = read_json(text, "the schema", limits)?;
            schema_check::prepare_schema(&mut schema, preparation)?;
            Ok(json_grammar(schema, compact))
        }
        2 => {
            schema_check::check_pattern(text, "the expression")?;
            Ok(TopLevelGrammar::from_regex(text))
        }
        3 if text.contains("::=") => Ok(TopLevelGrammar::from_lark(gbnf::to_lark(text)?)),
        3 => Ok(TopLevelGrammar::from_lark(text.into())),
        5 => {
            let request = read_json(text, "the structural tag", limits)?;
            Ok(TopLevelGrammar {
                grammars: structural_tag::grammars(&request, specials, compact, preparation)?,
                max_tokens: None,
            })
        }
        _ => {
            let choices: Vec<String> = serde_json::from_str(text)
                .map_err(|e| Failure::invalid(format!("the choices are not a list of strings: {e}")))?;
            if choices.is_empty() || choices.iter().any(String::is_empty) {
                return Err(Failure::invalid("there must be at least one choice, and none may be empty"));
            }
            let quoted: Vec<String> = choices.iter().map(|c| serde_json::to_string(c).unwrap_or_default()).collect();
            // As one terminal: the lexer takes tens of thousands of choices, the parser would have an item for each.
            Ok(TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}", quoted.join(" | "))))
        }
    }
}

/// `kind`: 0 JSON object, 1 JSON schema, 2 regular expression, 3 EBNF or Lark, 4 choices (a JSON list of strings), 5
/// structural tag. `thinking`: 0 none, 1 the answer may begin with it, 2 it begins inside of it. `strict`: keywords of
/// schemas that cannot be enforced are errors; otherwise they are warnings.
///
/// # Safety
/// `text` points at `size` bytes; `report` and `error` at writable values.
#[no_mangle]
pub unsafe extern "C" fn weft_grammar_new(
    factory: &WeftGrammarFactory,
    kind: u32,
    text: *const u8,
    size: usize,
    compact: bool,
    thinking: u32,
    strict: bool,
    limits: &WeftGrammarLimits,
    report: *mut WeftGrammarReport,
    error: *mut WeftError,
    stop: *const u8,
) -> *mut WeftGrammar {
    report.write(WeftGrammarReport { bytes: 0, processor_ns: 0, warnings: String::new().into() });
    guard_stop(stop, error, std::ptr::null_mut(), || {
        let text = abi::text(text, size)?;
        let mut preparation = Preparation { strict, ..Default::default() };
        let mut processor_ns = 0;
        let made = thread::on_stack(STACK_BYTES, "to compile it on", || {
            let made = compile(factory, kind, text, compact, thinking, limits, &mut preparation);
            processor_ns = thread_time();
            made
        });
        let warnings = preparation.warnings.join("\n").into();
        report.write(WeftGrammarReport { bytes: made.as_ref().map_or(0, |(_, held)| *held), processor_ns, warnings });
        let (matcher, _) = made?;
        Ok(Box::into_raw(Box::new(WeftGrammar { matcher, step_ns: limits.step_ns })))
    })
}

/// Rules and references that follow each other are compiled by recursion, thousands of levels deep if a request wants
/// it so.
const STACK_BYTES: usize = 1 << 30;

/// Processor time of this thread so far, in nanoseconds.
fn thread_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The first mask may take as long as so many later ones.
const FIRST_STEPS: u64 = 10;

/// The matcher at its start, and the heap bytes that it holds.
fn compile(
    factory: &WeftGrammarFactory,
    kind: u32,
    text: &str,
    compact: bool,
    thinking: u32,
    limits: &WeftGrammarLimits,
    preparation: &mut Preparation,
) -> Outcome<(Matcher, usize)> {
    let measure = Measure::start();
    let check_memory = || match measure.peak() {
        peak if peak > limits.memory => {
            Err(Failure::exhausted(format!("it needs {peak} bytes of memory, more than {}", limits.memory)))
        }
        _ => Ok(()),
    };
    let mut grammar = top_level(kind, text, compact, &factory.specials, limits, preparation)?;
    if thinking > 0 {
        grammar = after_thinking(grammar, thinking == 2, &factory.specials);
    }
    let wrong = |e: anyhow::Error| match format!("{e:#}") {
        problem if problem.contains("grammar size (number of symbols) too big") => {
            grammar_size::too_many_symbols(format!("more than {}", grammar_size::MOST_BUILT), grammar_size::MOST_BUILT)
        }
        problem => Failure::invalid(in_words(&problem)),
    };
    let mut parser_limits = factory.factory.limits().clone();
    let environment = factory.factory.tok_env().clone();
    let compiled =
        GrammarInit::Serialized(grammar).to_internal(Some(environment), parser_limits.clone()).map_err(wrong)?;
    Stop::current().check()?;
    let (rules, lexer) = match kind {
        0 | 1 | 5 => preparation.numbers.apply(compiled, &mut parser_limits)?,
        _ => compiled,
    };
    Stop::current().check()?;
    grammar_size::check_size(&rules)?;
    Stop::current().check()?;
    if text.len() > grammar_size::FREE_TEXT {
        grammar_size::check_first_row(&rules, &lexer, &parser_limits)?;
    }
    let init = GrammarInit::Internal(rules, lexer);
    let parser = factory.factory.create_parser_from_init_default(init).map_err(wrong)?;
    check_memory()?;
    Stop::current().check()?;
    mask_budget::start()?;
    let mut matcher = Matcher::new(Ok(parser)).into_cancellable();
    if let Some(problem) = matcher.grammar_warnings().first() {
        return Err(Failure::unsupported(problem.clone()));
    }
    // The first mask shows whether the limits hold.
    let budget_ns = FIRST_STEPS * limits.step_ns; // the lexer's tables are built with it
    mask_budget::within(matcher.cancellation_handle(), budget_ns, || matcher.compute_mask_or_eos())
        .map_err(|e| Failure::invalid(if matcher.is_cancelled() { too_slow(budget_ns) } else { plain(&e) }))?;
    check_memory()?;
    Ok((matcher, measure.held()))
}

/// # Safety
/// `grammar` comes from this file and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn weft_grammar_free(grammar: *mut WeftGrammar) {
    drop(Box::from_raw(grammar));
}

#[no_mangle]
pub extern "C" fn weft_grammar_clone(grammar: &WeftGrammar) -> *mut WeftGrammar {
    Box::into_raw(Box::new(WeftGrammar { matcher: grammar.matcher.deep_clone(), step_ns: grammar.step_ns }))
}

/// # Safety
/// `out` points at `words` writable words; `error` at a writable WeftError.
#[no_mangle]
pub unsafe extern "C" fn weft_grammar_mask(
    grammar: &mut WeftGrammar,
    out: *mut u32,
    words: usize,
    error: *mut WeftError,
) -> bool {
    guard(error, false, || {
        let mask = grammar.step(Matcher::compute_mask_or_eos).map_err(|e| grammar.failure(&e))?;
        let from = mask.as_slice();
        for i in 0..words {
            out.add(i).write(from.get(i).copied().unwrap_or(0));
        }
        Ok(true)
    })
}

/// # Safety
/// `error` points at a writable WeftError.
#[no_mangle]
pub unsafe extern "C" fn weft_grammar_accept(grammar: &mut WeftGrammar, token: u32, error: *mut WeftError) -> bool {
    guard(error, false, || {
        // A mask that ran into a limit has been reported to nobody yet.
        if let Some(problem) = grammar.matcher.get_error() {
            return Err(too_complex(&match grammar.matcher.is_cancelled() {
                true => too_slow(grammar.step_ns),
                false => in_words(&problem),
            }));
        }
        let accepted = grammar.step(|matcher| match matcher.validate_tokens(&[token]) {
            Ok(1..) => matcher.consume_token(token).map(|()| true),
            _ => Ok(false),
        });
        match accepted {
            Ok(true) => Ok(true),
            _ if grammar.matcher.is_cancelled() => Err(too_complex(&too_slow(grammar.step_ns))),
            Ok(false) => Err(Failure::invalid(format!("the grammar does not allow token {token} here"))),
            Err(e) => Err(Failure::invalid(plain(&e))),
        }
    })
}

/// # Safety
/// `error` points at a writable WeftError.
#[no_mangle]
pub unsafe extern "C" fn weft_grammar_rollback(
    grammar: &mut WeftGrammar,
    tokens: usize,
    error: *mut WeftError,
) -> bool {
    guard(error, false, || grammar.matcher.rollback(tokens).map(|()| true).map_err(|e| Failure::invalid(plain(&e))))
}

#[no_mangle]
pub extern "C" fn weft_grammar_is_finished(grammar: &WeftGrammar) -> bool {
    grammar.matcher.is_stopped()
}

#[no_mangle]
pub extern "C" fn weft_grammar_may_end(grammar: &mut WeftGrammar) -> bool {
    abi::catch(|| grammar.step(Matcher::is_accepting).map_err(|e| grammar.failure(&e))).unwrap_or(false)
}
