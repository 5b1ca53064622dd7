//! Chat templates on minijinja, set up as the reference sets up Jinja2: trimmed blocks, loop controls, Python's string
//! methods, its own `tojson`, `raise_exception`, `strftime_now` and `{% generation %}`. Templates are hostile input:
//! fuel bounds time and memory.
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use std::ffi::CString;

use crate::abi::{self, guard, guard_stop, Failure, Outcome, Stop, WeftBytes, WeftError};
use crate::{context, printf, python, template_guards, thread};

pub struct WeftTemplate {
    environment: Environment<'static>,
    output_limit: usize,
}

const NAME: &str = "chat template";
/// The variable that carries the time of strftime_now into a rendering, and a prefix that no other message has.
const NOW: &str = "__now_unix_s";
const RAISED: &str = "\u{1}raised\u{1}";

/// Adapts a source text to minijinja, tag by tag, keeping its lines:
/// - The reference's `{% generation %}` marks the assistant's text for training; for rendering it is an always-true
//    `if`.
/// - `{% for x in EXPRESSION %}` over None is an error in Python and an empty loop here; a filter makes it the error.
//    Loops with their own `if`, `recursive` or a `%}` in a string are left alone.
/// - `"text" % values` becomes a filter.
fn adapted(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = next_tag(rest) {
        let close = match rest.as_bytes()[start + 1] {
            b'%' => "%}",
            b'{' => "}}",
            _ => "#}",
        };
        let Some(size) = rest[start + 2..].find(close) else { break };
        let end = start + size + 4;
        out.push_str(&rest[..start]);
        match close {
            "%}" => out.push_str(&adapted_statement(&printf::with_filters(&rest[start..end]))),
            "}}" => out.push_str(&printf::with_filters(&rest[start..end])),
            _ => out.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    out + rest
}

/// The next `{%`, `{{` or `{#`.
fn next_tag(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|pair| pair[0] == b'{' && matches!(pair[1], b'%' | b'{' | b'#'))
}

fn adapted_statement(tag: &str) -> String {
    match tag[2..tag.len() - 2].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
        "generation" => tag.replace("generation", "if true"),
        "endgeneration" => tag.replace("endgeneration", "endif"),
        inner => match loop_expression(inner) {
            Some(expression) => tag.replacen(expression, &format!("({expression})|{ITERABLE}"), 1),
            None => tag.to_string(),
        },
    }
}

const ITERABLE: &str = "__iterable";

/// The EXPRESSION of "for NAMES in EXPRESSION" if it is a simple one that occurs once in the tag.
fn loop_expression(inner: &str) -> Option<&str> {
    let after_for = inner.strip_prefix("for")?.strip_prefix(char::is_whitespace)?;
    let (_, expression) = after_for.split_once(" in ")?;
    let expression = expression.trim();
    let simple = expression.chars().all(|c| c.is_alphanumeric() || "_.[]()'\" |,=-+:".contains(c));
    let words =
        expression.split(|c: char| !c.is_alphanumeric()).any(|w| matches!(w, "if" | "else" | "recursive" | "in"));
    (simple && !words && inner.matches(expression).count() == 1).then_some(expression)
}

/// An expression with more tokens than this nests deeper than the parser's stack allows (a chain of operators is
/// nested).
const MAX_TOKENS: usize = 2000;
const MAX_BLOCKS: usize = 150;

/// Refuses sources that the parser, which recurses, could not take: minijinja limits brackets, but not chains of
/// operators or blocks in blocks.
fn check_nesting(source: &str) -> Outcome<()> {
    let mut rest = source;
    let mut line = 1;
    let mut blocks: Vec<(&str, usize)> = vec![]; // open blocks, with the branches of each
    while let Some(start) = rest.find("{%").into_iter().chain(rest.find("{{")).min() {
        line += rest[..start].matches('\n').count();
        let tag = &rest[start..];
        let Some(size) = tag.find(if tag.starts_with("{%") { "%}" } else { "}}" }) else { break };
        let inner = &tag[2..size.max(2)];
        if tokens(inner) > MAX_TOKENS {
            return Err(Failure::invalid(format!("an expression is too long (in chat template:{line})")));
        }
        let word = inner
            .trim_start_matches(['-', '+', ' ', '\n', '\t'])
            .split(|c: char| !c.is_alphanumeric())
            .next()
            .unwrap_or("");
        let block =
            matches!(word, "if" | "for" | "macro" | "call" | "filter" | "with" | "block" | "autoescape" | "generation");
        if tag.starts_with("{%") && (block || (word == "set" && !inner.contains('='))) {
            blocks.push((word, 1));
        } else if let (true, Some(last)) = (word == "elif", blocks.last_mut()) {
            last.1 += 1; // nested in the syntax tree
        } else if blocks.last().is_some_and(|last| word.strip_prefix("end") == Some(last.0)) {
            blocks.pop();
        }
        if blocks.iter().map(|b| b.1).sum::<usize>() > MAX_BLOCKS {
            return Err(Failure::invalid(format!("blocks are nested too deep (in chat template:{line})")));
        }
        line += inner.matches('\n').count();
        rest = &tag[size + 2..];
    }
    Ok(())
}

/// Words and operators outside string literals.
fn tokens(expression: &str) -> usize {
    let (mut count, mut quote, mut in_word, mut escaped) = (0, None, false, false);
    for c in expression.chars() {
        if let Some(q) = quote {
            if c == q && !escaped {
                quote = None;
            }
            escaped = c == '\\' && !escaped;
            continue;
        }
        let word = c.is_alphanumeric() || c == '_';
        if matches!(c, '"' | '\'') {
            quote = Some(c);
        }
        count += usize::from(!c.is_whitespace() && (!word || !in_word));
        in_word = word;
    }
    count
}

/// Passes on what Python can iterate over.
fn iterable(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None => Err(Error::new(ErrorKind::InvalidOperation, "'NoneType' object is not iterable")),
        _ => Ok(value),
    }
}

/// The `join` filter and str.join. minijinja's own pay for a shared item once, so that a list that repeats a long text
/// joins to more memory than the fuel allows; here each item's bytes are paid for before they are copied.
fn joined(state: &State, values: &Value, joiner: &str, attribute: Option<&Value>) -> Result<String, Error> {
    let mut out = String::new();
    for (place, item) in values.try_iter()?.enumerate() {
        let item = match attribute {
            None => item,
            Some(key) => match key.as_str() {
                Some(path) => path.split('.').try_fold(item, |value, name| value.get_attr(name))?,
                None => item.get_item(key)?,
            },
        };
        let text = python::str(state, &item)?;
        let separator = if place == 0 { "" } else { joiner };
        state.consume_fuel(1 + ((separator.len() + text.len()) / 64) as u64)?;
        out.push_str(separator);
        out.push_str(&text);
    }
    Ok(out)
}

fn join_filter(
    state: &State,
    values: &Value,
    joiner: Option<Value>,
    attribute: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let joiner = joiner.or(kwargs.get("d")?);
    let attribute = attribute.or(kwargs.get("attribute")?);
    kwargs.assert_all_used()?;
    let joiner = joiner.map_or(Ok(String::new()), |j| python::str(state, &j))?;
    joined(state, values, &joiner, attribute.as_ref())
}

/// Whether a format text has a number so large that a field of that width would be an attack.
fn wide_field(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4)
}

fn too_wide() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a field of the format is too wide")
}

/// Python's methods of texts, lists and mappings.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    template_guards::charge_method(state, value, name, args)?;
    match (name, value.as_str(), args) {
        ("format", Some(text), _) if wide_field(text) => Err(too_wide()),
        ("join", Some(joiner), [values]) => joined(state, values, joiner, None).map(Value::from),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

const MAX_TIME_FORMAT: usize = 4096;

/// C's strftime, which Python's is too. `now`: seconds since 1970 shown in UTC, or the clock in local time.
fn strftime(format: &str, now: Option<i64>) -> Result<String, Error> {
    if format.len() > MAX_TIME_FORMAT {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("the format of a time has {} bytes, more than {MAX_TIME_FORMAT}", format.len()),
        ));
    }
    let format =
        CString::new(format).map_err(|_| Error::new(ErrorKind::InvalidOperation, "embedded null character"))?;
    if format.as_bytes().is_empty() {
        return Ok(String::new());
    }
    let mut buffer = vec![0u8; 64 * format.as_bytes().len() + 256];
    // SAFETY: all pointers are to live values of the right types, and the buffer's size is given.
    let size = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        match now {
            Some(seconds) => libc::gmtime_r(&seconds, &mut parts),
            None => libc::localtime_r(&libc::time(std::ptr::null_mut()), &mut parts),
        };
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &parts)
    };
    buffer.truncate(size);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

fn syntax() -> Outcome<SyntaxConfig> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.map_err(|e| Failure::invalid(e.to_string()))
}

fn new_environment(fuel: u64) -> Outcome<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax()?);
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(200);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(python::format);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", |state: &State, value: &Value| python::str(state, value));
    environment.add_filter("join", join_filter);
    environment.add_filter("format", printf::format_filter);
    environment.add_filter(printf::OPERATOR, printf::operator);
    environment.add_filter(ITERABLE, iterable);
    template_guards::add_filters(&mut environment);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |state: &State, message: Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{}", python::str(state, &message)?)))
    });
    environment.add_function("strftime_now", |state: &State, format: &str| {
        strftime(format, state.lookup(NOW).and_then(|now| now.as_i64()))
    });
    Ok(environment)
}

/// The message of what a template raised, or minijinja's account with the line. `fuel`: what a rendering has.
fn failure(error: &Error, fuel: Option<u64>) -> Failure {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        let text = e.downcast_ref::<Error>().and_then(|e| e.detail()).map(str::to_string);
        if let Some(raised) = text.as_deref().and_then(|t| t.strip_prefix(RAISED)) {
            return Failure::invalid(raised.to_string());
        }
        cause = e.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        let limit = error.detail().map(str::to_string).unwrap_or_else(|| {
            format!(
                "it takes more than {} steps, of which each {} bytes that it writes or reads are one",
                fuel.unwrap_or(0),
                template_guards::BYTES_PER_FUEL
            )
        });
        return Failure::invalid(format!("the chat template does more work than allowed: {limit}"));
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    Failure::invalid(text)
}

/// Collects the output up to a limit.
struct Limited {
    text: Vec<u8>,
    limit: usize,
}

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if Stop::current().is_set() {
            return Err(std::io::Error::other("stopped"));
        }
        if bytes.len() > self.limit - self.text.len() {
            return Err(std::io::Error::other(format!("the chat template writes more than {} bytes", self.limit)));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Cuts a rendering off behind its last message, so that the model goes on with it; the reference's rule.
fn cut_after(rendered: &str, last: &str) -> Outcome<String> {
    let absent = || {
        Failure::invalid("continue_final_message is set, but the final message does not appear in the rendered chat")
    };
    let trimmed = last.trim();
    let place = rendered.rfind(trimmed).filter(|_| !trimmed.is_empty()).ok_or_else(absent)?;
    let whole = last.trim_start(); // with the space behind it, if the template keeps that
    let size = if rendered[place..].starts_with(whole) && whole == last { whole.len() } else { trimmed.len() };
    Ok(rendered[..place + size].to_string())
}

fn last_text(context: &Value) -> Outcome<String> {
    let member = |value: &Value, name: &str| value.get_attr(name).unwrap_or_default();
    let last = |list: &Value| list.get_item_by_index(list.len().unwrap_or(0).wrapping_sub(1)).unwrap_or_default();
    let mut content = member(&last(&member(context, "messages")), "content");
    if content.kind() == ValueKind::Seq {
        let texts = content.try_iter().into_iter().flatten().map(|part| member(&part, "text"));
        content = texts.filter(|text| !text.is_undefined()).last().unwrap_or_default();
    }
    content
        .as_str()
        .map(str::to_string)
        .ok_or_else(|| Failure::invalid("continue_final_message is set, but the final message has no text"))
}

/// Runs `work` where there is stack enough for any nesting that the fuel can build: comparing, printing and freeing
/// values recurse.
fn with_deep_stack<T: Send>(work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    const STACK_BYTES: usize = 512 << 20;
    thread::on_stack(STACK_BYTES, "for the chat template", work)
}

impl WeftTemplate {
    fn render(&self, context: &[u8], continue_final: bool) -> Outcome<String> {
        let context = context::read(context)?;
        let fuel = self.environment.fuel();
        let template = self.environment.get_template(NAME).map_err(|e| failure(&e, fuel))?;
        template_guards::start();
        let mut out = Limited { text: Vec::new(), limit: self.output_limit };
        let done = template.render_captured_to(context.clone(), &mut out);
        Stop::current().check()?;
        done.map_err(|e| failure(&e, fuel))?;
        let rendered = String::from_utf8_lossy(&out.text).into_owned();
        if continue_final {
            return cut_after(&rendered, &last_text(&context)?);
        }
        Ok(rendered)
    }
}

/// `fuel`: instructions, and data at 64 bytes each.
///
/// # Safety
/// `source` points at `size` bytes. The result is freed with `weft_template_free`; null after an error.
#[no_mangle]
pub unsafe extern "C" fn weft_template_new(
    source: *const u8,
    size: usize,
    fuel: u64,
    output_limit: usize,
    error: *mut WeftError,
) -> *mut WeftTemplate {
    guard(error, std::ptr::null_mut(), || {
        let mut environment = new_environment(fuel)?;
        let source = abi::text(source, size)?;
        check_nesting(source)?;
        let source = template_guards::guarded(&adapted(source), NAME, syntax()?);
        environment.add_template_owned(NAME, source).map_err(|e| failure(&e, None))?;
        Ok(Box::into_raw(Box::new(WeftTemplate { environment, output_limit })))
    })
}

/// # Safety
/// `template` came from `weft_template_new` and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn weft_template_free(template: *mut WeftTemplate) {
    drop(Box::from_raw(template));
}

/// # Safety
/// `context` is a JSON object of `size` bytes, the template's variables; `out` and `error` are writable. False after an
/// error.
#[no_mangle]
pub unsafe extern "C" fn weft_template_render(
    template: &WeftTemplate,
    context: *const u8,
    size: usize,
    continue_final: bool,
    out: *mut WeftBytes,
    error: *mut WeftError,
    stop: *const u8,
) -> bool {
    guard_stop(stop, error, false, || {
        let context = abi::bytes(context, size);
        out.write(with_deep_stack(|| template.render(context, continue_final))?.into());
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, String> {
        let mut environment = new_environment(2_000_000).unwrap();
        let source = template_guards::guarded(&adapted(source), NAME, syntax().unwrap());
        environment.add_template_owned(NAME, source).map_err(|e| failure(&e, None).message)?;
        let template = WeftTemplate { environment, output_limit: 16 << 20 };
        with_deep_stack(|| template.render(b"{\"messages\": []}", false)).map_err(|e| e.message)
    }

    #[test]
    fn guards_change_nothing() {
        // By Jinja2 3.1 with the reference's settings.
        for (source, text) in [
            ("{% for i in [1, 2, 3] %}{{ loop.index }}{% if not loop.last %},{% endif %}{% endfor %}", "1,2,3"),
            ("{% for x in [] %}{% else %}E{% endfor %}{% for c in 'ab' %}{{ c }}.{% endfor %}", "Ea.b."),
            ("{% for k, v in {'a': 1, 'b': [2, 'c'][1]}.items() %}{{ k }}={{ v }};{% endfor %}", "a=1;b=c;"),
            ("{% for x in [3, 1, 2]|sort if x > 1 %}{{ x }}{% endfor %}", "23"),
            ("{{ 'x' + 'y' + ('z' * 3) }} {{ (1 + 2) * 3 }} {{ -1 + 2 }} {{ -(1 + 2) }}", "xyzzz 9 1 -3"),
            ("{{ [1] + [2] }} {{ 1 in [1, 2] }} {{ 'a b'.split()[1] }} {{ (1, 2)[1] }}", "[1, 2] True b 2"),
            ("{{ ('a' if true else 'b') + 'c' }}{{ {'a': {'b': 7}}['a'].b }}{{ namespace(x=5).x + 1 }}", "ac76"),
            ("{% set a, b = 1, [2] %}{{ a }}{{ b[0] }}{{ not (a + 1 == 2) }}", "12False"),
            ("{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "3210"),
            ("{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "123"),
            (
                "{% set a, b = [1, 2], 'xy' %}{{ a[0] in a }} {{ b not in [b] }} {{ 'x' in b }} \
                 {{ a == [1] + [2] }}",
                "True False True True",
            ),
            (
                "{% set i, l = 1, [1, 2, 3] %}{{ (i + 1) * 2 == l[i] * 2 }} {{ l[i] < l[i + 1] }} \
                 {{ 1 < l[i] <= i + 1 }}",
                "True True True",
            ),
            (
                "{% set k, m = 'a', {'a': {'b': 3}} %}{{ m[k]['b'] }}{{ m[k].b == m['a'][('b')] }} {{ not k in m }}",
                "3True False",
            ),
            (
                "{{ [3, 1, 2]|sort|join }} {{ ['b', 'a', 'b']|unique|list }} {{ [1, 2]|max }} \
                 {{ ' x '|trim }}{{ 'xay'|trim('xy') }}",
                "123 ['b', 'a'] 2 xa",
            ),
            (
                "{{ 'a-b'|title }} {{ 'a'|upper }} {{ [1, 2]|sum }} \
                 {{ {'b': 1, 'a': 2}|dictsort|map('first')|join }} {{ 'aab'.strip('a') }}",
                "A-B A 3 ab b",
            ),
            ("{{ [1, 'a'] ~ 'b' ~ 2 }} {{ 'a b'.split()|length }}{{ 'a,b,'.split(',')|length }}", "[1, 'a']b2 23"),
            (
                "{{ ['a', 'b']|select('in', ['b'])|list }} {{ [1, 2]|reject('eq', 1)|list }} \
                 {{ 'abc'.startswith('a') }}",
                "['b'] [2] True",
            ),
        ] {
            let rendered = render(source);
            if rendered.as_deref() != Ok(text) {
                println!("{source}: {rendered:?}"); // the bridge silences what panics say
            }
            assert!(rendered.as_deref() == Ok(text));
        }
    }

    #[test]
    fn what_grows_without_being_copied_runs_out() {
        let grows = |step: &str, then: &str| {
            format!("{{% set ns = namespace(x=[1]) %}}{{% for i in range(40) %}}{{% set ns.x = {step} %}}{{% endfor %}}{then}")
        };
        for source in [
            grows("ns.x + ns.x", "{{ ns.x|length }}"),
            grows("[ns.x, ns.x]", "{{ ns.x ~ '' }}"),
            grows("(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
            grows("{'a': ns.x, 'b': ns.x}", "{{ ns.x|upper }}"),
            grows("ns.x * 2", "{{ ns.x|length }}"),
            "{% set x = [1] * 200000 %}{% for i in range(100000) %}{{ x[199999:]|first }}{% endfor %}".into(),
            "{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{% set c = a[-1] %}{% endfor %}".into(),
        ] {
            let failed = render(&source).err().unwrap_or_default();
            assert!(failed.starts_with("the chat template does more work than allowed: "), "{source}: {failed}");
        }
    }

    #[test]
    fn the_limit_that_was_crossed_is_named() {
        for (source, limit) in [
            (
                "{% for i in range(1000) %}{% set x = 'a' * 1000000 %}{% endfor %}",
                "it takes more than 2000000 steps, of which each 64 bytes that it writes or reads are one",
            ),
            (
                "{% set x = [1] * 300000 %}",
                "a list or mapping holds more than 262144 values, those inside of it included",
            ),
        ] {
            let failed = render(source).err().unwrap_or_default();
            assert!(failed == format!("the chat template does more work than allowed: {limit}"), "{source}: {failed}");
        }
    }

    /// A long list of one long text is small; whatever reads all of it, text by text, is not.
    #[test]
    fn searches_and_comparisons_are_paid() {
        let lists = "{% set a = 'a' * 1000000 %}{% set l = [a] * 100000 %}{% set b = 'a' * 999999 + 'b' %}\
                     {% set m = [b] * 100000 %}";
        let mut wrong = 0;
        for step in [
            "{{ b in l }}",
            "{{ b not in l }}",
            "{{ l == m }}",
            "{{ l != m }}",
            "{{ l < m }}",
            "{{ 1 < 2 < (l > m) }}",
            "{{ l.count(b) }}",
            "{{ b.startswith(l) }}",
            "{{ l|sort|length }}",
            "{{ l|unique|length }}",
            "{{ l|min }}",
            "{{ l|max }}",
            "{{ [l, l]|map('upper')|first|length }}",
            "{{ l|title|length }}",
            "{{ l|trim|length }}",
            "{{ l|replace('a', 'b')|length }}",
            "{{ l|indent|length }}",
            "{{ l|pprint|length }}",
            "{{ l|e|length }}",
            "{{ l is eq(m) }}",
            "{{ b is in(l) }}",
            "{{ l is startingwith('a') }}",
            "{{ [l, l]|select('eq', m)|list|length }}",
            "{{ [b]|select('in', l)|list|length }}",
            "{{ a.strip('b' * 1000000 + 'a') }}",
            "{{ a|trim('b' * 1000000 + 'a') }}",
            "{{ ('{0}' * 100000).format(a)|length }}",
            "{{ l ~ '' }}",
            "{{ 'b' ~ {'a': l} }}",
            "{{ raise_exception(l) }}",
            "{{ l|string|length }}",
            "{{ l|tojson|length }}",
            "{{ l|join|length }}",
        ] {
            let failed = render(&format!("{lists}{step}")).err().unwrap_or_default();
            if !failed.starts_with("the chat template does more work than allowed: it takes") {
                println!("{step}: {failed}");
                wrong += 1;
            }
        }
        assert!(wrong == 0);
        // What is straightforward costs what it reads.
        let cheap =
            "{% for i in range(2000) %}{% if x in y %}{% endif %}{% if x == y %}{% endif %}{{ m[x] }}{% endfor %}";
        let set = "{% set x = 'a' * 1000 %}{% set y = 'b' * 1000 %}{% set m = {x: 'c'} %}";
        assert!(render(&format!("{set}{cheap}")) == Ok("c".repeat(2000)));
    }
}
