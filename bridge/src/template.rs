//! Chat templates on minijinja, set up as the reference sets up Jinja2: trimmed blocks, loop controls, Python's string methods, its
//! own `tojson`, `raise_exception`, `strftime_now` and `{% generation %}`. Templates are hostile input: fuel bounds time and memory.
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use std::ffi::CString;

use crate::abi::{self, guard, Failure, Outcome, WeftBytes, WeftError};
use crate::python;

pub struct WeftTemplate {
    environment: Environment<'static>,
    output_limit: usize,
}

const NAME: &str = "chat template";
/// The variable that carries the time of strftime_now into a rendering, and a prefix that no other message has.
const NOW: &str = "__now_unix_s";
const RAISED: &str = "\u{1}raised\u{1}";

/// Adapts a source text to minijinja, tag by tag, keeping its lines:
/// - The reference's `{% generation %}` marks the assistant's text for training; for rendering it is an always-true `if`.
/// - `{% for x in EXPRESSION %}` over None is an error in Python and an empty loop here; a filter makes it the error. Loops with
///   their own `if`, `recursive` or a `%}` in a string are left alone.
fn adapted(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(size) = rest[start..].find("%}") else { break };
        let end = start + size + 2;
        let tag = &rest[start..end];
        let inner = tag[2..tag.len() - 2].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        out.push_str(&rest[..start]);
        match inner {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => match loop_expression(inner) {
                Some(expression) => out.push_str(&tag.replacen(expression, &format!("({expression})|{ITERABLE}"), 1)),
                None => out.push_str(tag),
            },
        }
        rest = &rest[end..];
    }
    out + rest
}

const ITERABLE: &str = "__iterable";

/// The EXPRESSION of "for NAMES in EXPRESSION" if it is a simple one that occurs once in the tag.
fn loop_expression(inner: &str) -> Option<&str> {
    let after_for = inner.strip_prefix("for")?.strip_prefix(char::is_whitespace)?;
    let (_, expression) = after_for.split_once(" in ")?;
    let expression = expression.trim();
    let simple = expression.chars().all(|c| c.is_alphanumeric() || "_.[]()'\" |,=-+:".contains(c));
    let words = expression.split(|c: char| !c.is_alphanumeric()).any(|w| matches!(w, "if" | "else" | "recursive" | "in"));
    (simple && !words && inner.matches(expression).count() == 1).then_some(expression)
}

/// Passes on what Python can iterate over.
fn iterable(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None => Err(Error::new(ErrorKind::InvalidOperation, "'NoneType' object is not iterable")),
        _ => Ok(value),
    }
}

/// C's strftime, which Python's is too. `now`: seconds since 1970 shown in UTC, or the clock in local time.
fn strftime(format: &str, now: Option<i64>) -> Result<String, Error> {
    let format = CString::new(format).map_err(|_| Error::new(ErrorKind::InvalidOperation, "embedded null character"))?;
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

fn new_environment(fuel: u64) -> Outcome<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|e| Failure::invalid(e.to_string()))?);
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(200);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(python::format);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", |value: &Value| python::str(value));
    environment.add_filter(ITERABLE, iterable);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment.add_function("strftime_now", |state: &State, format: &str| {
        strftime(format, state.lookup(NOW).and_then(|now| now.as_i64()))
    });
    Ok(environment)
}

/// The message of what a template raised, or minijinja's account with the line.
fn failure(error: &Error) -> Failure {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        let text = e.downcast_ref::<Error>().and_then(|e| e.detail()).map(str::to_string);
        if let Some(raised) = text.as_deref().and_then(|t| t.strip_prefix(RAISED)) {
            return Failure::invalid(raised.to_string());
        }
        cause = e.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return Failure::invalid("the chat template does more work than allowed".to_string());
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
    let absent = || Failure::invalid("continue_final_message is set, but the final message does not appear in the rendered chat");
    let trimmed = last.trim();
    let place = rendered.rfind(trimmed).filter(|_| !trimmed.is_empty()).ok_or_else(absent)?;
    let whole = last.trim_start(); // with the space behind it, if the template keeps that
    let size = if rendered[place..].starts_with(whole) && whole == last { whole.len() } else { trimmed.len() };
    Ok(rendered[..place + size].to_string())
}

fn last_text(context: &serde_json::Value) -> Outcome<String> {
    let message = context.get("messages").and_then(|m| m.as_array()).and_then(|m| m.last());
    let content = message.and_then(|m| m.get("content"));
    let text = match content {
        Some(serde_json::Value::Array(parts)) => parts.iter().rev().find_map(|p| p.get("text")).and_then(|t| t.as_str()),
        other => other.and_then(|c| c.as_str()),
    };
    text.map(str::to_string).ok_or_else(|| Failure::invalid("continue_final_message is set, but the final message has no text"))
}

impl WeftTemplate {
    fn render(&self, context: &[u8], continue_final: bool) -> Outcome<String> {
        let context: serde_json::Value = serde_json::from_slice(context).map_err(|e| Failure::invalid(e.to_string()))?;
        let template = self.environment.get_template(NAME).map_err(|e| failure(&e))?;
        let mut out = Limited { text: Vec::new(), limit: self.output_limit };
        template.render_captured_to(Value::from(Serde(&context)), &mut out).map_err(|e| failure(&e))?;
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
        let source = adapted(abi::text(source, size)?);
        environment.add_template_owned(NAME, source).map_err(|e| failure(&e))?;
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
/// `context` is a JSON object of `size` bytes, the template's variables; `out` and `error` are writable. False after an error.
#[no_mangle]
pub unsafe extern "C" fn weft_template_render(
    template: &WeftTemplate,
    context: *const u8,
    size: usize,
    continue_final: bool,
    out: *mut WeftBytes,
    error: *mut WeftError,
) -> bool {
    guard(error, false, || {
        out.write(template.render(abi::bytes(context, size), continue_final)?.into());
        Ok(true)
    })
}
