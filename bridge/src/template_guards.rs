//! What fuel does not see of a template's work: lists that are made twice as long or as deep again and again without
//! being copied, single steps over long lists, and comparisons and searches, which read all of a list that holds one
//! long text many times. The source is written anew with calls of filters around loops, calls, sums, products, literals
//! and what is compared; the filters count, and look at the clock and the stop flag.
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use minijinja::machinery::ast::{self, Expr, Stmt};
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, StringInput, Tuple, Value, ValueKind};
use minijinja::{filters, tests, Environment, Error, ErrorKind, State};

use crate::abi::Stop;

const LOOP: &str = "__loop";
const TICK: &str = "__tick";
const MADE: &str = "__made";
const READ: &str = "__read";
const SHOWN: &str = "__shown";

/// Values that a list or mapping may hold, those inside of its parts included, each as often as it is there.
const MOST_VALUES: u64 = 1 << 18;
/// Processor time of one rendering, far above what its fuel takes.
const MOST_NANOSECONDS: u64 = 1_000_000_000;
/// The clock is looked at every so many steps.
const LOOK: u32 = 8;

/// Of a text: as the engine has it.
pub const BYTES_PER_FUEL: usize = 64;

fn no_more(limit: String) -> Error {
    Error::new(ErrorKind::OutOfFuel, limit)
}

fn too_many_values() -> Error {
    no_more(format!("a list or mapping holds more than {MOST_VALUES} values, those inside of it included"))
}

thread_local! {
    static END: Cell<u64> = const { Cell::new(u64::MAX) };
    static UNTIL_LOOK: Cell<u32> = const { Cell::new(0) };
}

fn thread_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Begins the time of a rendering on this thread.
pub fn start() {
    END.with(|end| end.set(thread_time() + MOST_NANOSECONDS));
}

fn tick() -> Result<(), Error> {
    let left = UNTIL_LOOK.with(|left| left.replace(left.get().checked_sub(1).unwrap_or(LOOK)));
    if left == 0 && Stop::current().is_set() {
        return Err(Error::from(ErrorKind::OutOfFuel)); // nobody reads it
    }
    if left == 0 && END.with(|end| thread_time() > end.get()) {
        return Err(no_more(format!("it took more than {} s of processor time", MOST_NANOSECONDS / 1_000_000_000)));
    }
    Ok(())
}

/// The items of a loop, with a look at the clock before each.
#[derive(Debug)]
struct Watched(Value);

impl Object for Watched {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let Ok(items) = self.0.try_iter() else { return Enumerator::NonEnumerable };
        Enumerator::Iter(Box::new(items.map(|item| match tick() {
            Ok(()) => item,
            Err(error) => Value::from(error),
        })))
    }
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.0.len()
    }
}

fn watched(value: Value) -> Result<Value, Error> {
    tick()?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => Ok(Value::from_object(Watched(value))),
        _ => Ok(value),
    }
}

fn count(value: &Value, so_far: &mut u64) -> Result<(), Error> {
    *so_far += 1;
    if *so_far > MOST_VALUES {
        return Err(too_many_values());
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                count(&item, so_far)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                count(&value.get_item(&key)?, so_far)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Pays for the values that a new list or mapping holds, as if they had been copied: at 32 bytes each.
fn made(state: &State, value: Value) -> Result<Value, Error> {
    tick()?;
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        if value.len().is_some_and(|size| size as u64 > MOST_VALUES) {
            return Err(too_many_values());
        }
        let mut values = 0;
        count(&value, &mut values)?;
        state.consume_fuel(values / 2)?;
    }
    Ok(value)
}

/// Pays `times` for reading all of a value, each text as often as it is there.
fn read(state: &State, value: &Value, times: u64) -> Result<(), Error> {
    state.consume_fuel(times * (1 + value.as_str().map_or(0, |text| text.len() / BYTES_PER_FUEL) as u64))?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                read(state, &item, times)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                read(state, &key, times)?;
                read(state, &value.get_item(&key)?, times)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Pays for what a method of a value reads besides the text that it is called on, which the engine charges.
pub fn charge_method(state: &State, value: &Value, name: &str, arguments: &[Value]) -> Result<(), Error> {
    tick()?;
    let fields = value.as_str().filter(|_| name == "format").map_or(0, |text| text.matches('{').count());
    for argument in arguments {
        read(state, argument, 1 + fields as u64)?;
    }
    match (value.as_str(), name) {
        (None, "count") => read(state, value, 1)?,
        (Some(text), "split" | "splitlines") => {
            let parts = match arguments.first().and_then(|separator| separator.as_str()) {
                Some(separator) if name == "split" => text.matches(separator).count(),
                _ => text.bytes().filter(u8::is_ascii_whitespace).count(),
            };
            if parts as u64 > MOST_VALUES {
                return Err(too_many_values());
            }
        }
        _ => {}
    }
    if let ("strip" | "lstrip" | "rstrip", Some(text), Some(chars)) =
        (name, value.as_str(), arguments.first().and_then(|chars| chars.as_str()))
    {
        // Each character of the text is looked for among all of these.
        state.consume_fuel((text.len() as u64).saturating_mul(chars.len() as u64) / BYTES_PER_FUEL as u64)?;
    }
    Ok(())
}

/// Filters that read all of what they are given, however deep it lies. They are registered twice: by a name of their
/// own, and by the name that templates use with their price in front.
macro_rules! reading_filters {
    ($environment: expr, $($name: literal, $function: expr, $times: expr;)*) => {$(
        $environment.add_filter(concat!("__plain_", $name), $function);
        $environment.add_filter($name, |state: &mut State, arguments: Rest<Value>| -> Result<Value, Error> {
            tick()?;
            for argument in arguments.iter() {
                read(state, argument, $times(argument))?;
            }
            state.apply_filter(concat!("__plain_", $name), &arguments)
        });
    )*};
}

macro_rules! reading_tests {
    ($environment: expr, $($names: expr, $plain: literal, $function: expr;)*) => {$(
        $environment.add_test($plain, $function);
        for name in $names {
            $environment.add_test(name, |state: &mut State, arguments: Rest<Value>| -> Result<bool, Error> {
                tick()?;
                for argument in arguments.iter() {
                    read(state, argument, 1)?;
                }
                state.perform_test($plain, &arguments)
            });
        }
    )*};
}

fn once(_: &Value) -> u64 {
    1
}

/// Comparisons of each of its values.
fn sorting(value: &Value) -> u64 {
    1 + u64::from(value.len().unwrap_or(0).max(1).ilog2())
}

pub fn add_filters(environment: &mut Environment) {
    environment.add_filter(LOOP, watched);
    environment.add_filter(TICK, |value: Value| tick().map(|()| value));
    environment.add_filter(MADE, made);
    environment.add_filter(SHOWN, |state: &State, value: Value| match value.as_str() {
        Some(_) => Ok(value),
        None => read(state, &value, 1).map(|()| value),
    });
    environment.add_filter(READ, |state: &State, value: Value| {
        tick()?;
        read(state, &value, 1).map(|()| value)
    });
    reading_filters! { environment,
        "upper", filters::upper, once;
        "lower", filters::lower, once;
        "title", filters::title, once;
        "capitalize", filters::capitalize, once;
        "replace", filters::replace, once;
        "trim", trim, once;
        "escape", filters::escape, once;
        "e", filters::escape, once;
        "safe", filters::safe, once;
        "indent", filters::indent, once;
        "split", filters::split, once;
        "lines", filters::lines, once;
        "sum", filters::sum, once;
        "min", filters::min, once;
        "max", filters::max, once;
        "sort", filters::sort, sorting;
        "dictsort", dictsort, sorting;
        "unique", filters::unique, sorting;
        "groupby", filters::groupby, sorting;
        "pprint", filters::pprint, once;
    }
    reading_tests! { environment,
        ["eq", "equalto", "=="], "__plain_eq", tests::is_eq;
        ["ne", "!="], "__plain_ne", tests::is_ne;
        ["lt", "lessthan", "<"], "__plain_lt", tests::is_lt;
        ["le", "<="], "__plain_le", tests::is_le;
        ["gt", "greaterthan", ">"], "__plain_gt", tests::is_gt;
        ["ge", ">="], "__plain_ge", tests::is_ge;
        ["in"], "__plain_in", tests::is_in;
        ["startingwith"], "__plain_startingwith", tests::is_startingwith;
        ["endingwith"], "__plain_endingwith", tests::is_endingwith;
    }
    environment.remove_global("debug"); // Jinja2 has none; it writes all that there is
}

/// As the engine's own, which pays for the items and not for what comparing them reads.
fn dictsort(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let mut pairs = Vec::new();
    for pair in filters::dictsort(value, kwargs)?.try_iter()? {
        pairs.push(Value::from(Tuple::from([pair.get_item_by_index(0)?, pair.get_item_by_index(1)?])));
    }
    Ok(Value::from(pairs))
}

fn trim(state: &State, value: StringInput, chars: Option<Cow<str>>) -> Result<Value, Error> {
    let tried = (value.as_str().len() as u64).saturating_mul(chars.as_ref().map_or(0, |chars| chars.len()) as u64);
    state.consume_fuel(tried / BYTES_PER_FUEL as u64)?;
    Ok(filters::trim(value, chars))
}

// ---- the source

/// Texts to be put into the source, by place.
#[derive(Default)]
struct Marks(Vec<(usize, String)>);

impl Marks {
    fn put(&mut self, start: usize, before: &str, end: usize, behind: String) {
        self.0.push((start, before.into()));
        self.0.push((end, behind));
    }

    /// A filter behind a literal or a call.
    fn filter(&mut self, start: usize, end: usize, filter: &str) {
        self.put(start, "(", end, format!("|{filter})"));
    }

    fn block(&mut self, statements: &[Stmt]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Template(t) => self.block(&t.children),
            Stmt::EmitExpr(e) => _ = self.expression(&e.expr),
            Stmt::ForLoop(f) => {
                let start = self.expression(&f.iter);
                self.put(start, "(", f.iter.span().end_offset as usize, format!(")|{LOOP}"));
                f.filter_expr.iter().for_each(|e| _ = self.expression(e));
                self.block(&f.body);
                self.block(&f.else_body);
            }
            Stmt::IfCond(i) => {
                self.expression(&i.expr);
                self.block(&i.true_body);
                self.block(&i.false_body);
            }
            Stmt::WithBlock(w) => {
                w.assignments.iter().for_each(|(_, value)| _ = self.expression(value));
                self.block(&w.body);
            }
            Stmt::Set(s) => _ = self.expression(&s.expr),
            Stmt::SetBlock(s) => {
                self.block(&s.body);
            }
            Stmt::AutoEscape(a) => self.block(&a.body),
            Stmt::FilterBlock(f) => self.block(&f.body),
            Stmt::Macro(m) => {
                m.defaults.iter().for_each(|e| _ = self.expression(e));
                self.block(&m.body);
            }
            Stmt::CallBlock(c) => {
                self.arguments(&c.call.args);
                self.block(&c.macro_decl.body);
            }
            Stmt::Do(d) => self.arguments(&d.call.args),
            _ => {}
        }
    }

    fn arguments(&mut self, arguments: &[ast::CallArg]) {
        for argument in arguments {
            match argument {
                ast::CallArg::Pos(e) | ast::CallArg::Kwarg(_, e) => self.expression(e),
                ast::CallArg::PosSplat(e) | ast::CallArg::KwargSplat(e) => self.expression(e),
            };
        }
    }

    fn optional(&mut self, expression: &Option<Expr>) {
        expression.iter().for_each(|e| _ = self.expression(e));
    }

    /// Returns where the expression begins, or a place behind brackets that it begins with: what is put there are
    /// brackets as well. The parser's own spans begin elsewhere.
    fn expression(&mut self, expression: &Expr) -> usize {
        let (start, end) = (expression.span().start_offset as usize, expression.span().end_offset as usize);
        match expression {
            Expr::Var(_) | Expr::Const(_) => start,
            Expr::Slice(s) => {
                let start = self.expression(&s.expr);
                [&s.start, &s.stop, &s.step].into_iter().for_each(|e| self.optional(e));
                start
            }
            Expr::UnaryOp(u) => {
                let operand = self.expression(&u.expr);
                match u.op {
                    ast::UnaryOpKind::Neg => start,
                    ast::UnaryOpKind::Not => operand,
                }
            }
            Expr::BinOp(b) => {
                let start = self.operands(b);
                if is_sum(b) {
                    self.put(start, "((", end, format!(")|{MADE})"));
                }
                start
            }
            Expr::Compare(c) => {
                let read_all = std::iter::once(&c.expr).chain(c.ops.iter().map(|op| &op.expr)).all(may_be_long);
                for op in &c.ops {
                    let start = self.expression(&op.expr);
                    if read_all {
                        self.mark(start, &op.expr, READ);
                    }
                }
                let start = self.expression(&c.expr);
                if read_all {
                    self.mark(start, &c.expr, READ);
                }
                start
            }
            Expr::IfExpr(i) => {
                self.expression(&i.test_expr);
                self.optional(&i.false_expr);
                self.expression(&i.true_expr)
            }
            Expr::Filter(f) => {
                self.arguments(&f.args);
                f.expr.as_ref().map_or(start, |e| self.expression(e))
            }
            Expr::Test(t) => {
                self.arguments(&t.args);
                self.expression(&t.expr)
            }
            Expr::GetAttr(g) => self.expression(&g.expr),
            Expr::GetItem(g) => {
                let start = self.expression(&g.subscript_expr);
                if may_be_long(&g.subscript_expr) {
                    self.mark(start, &g.subscript_expr, READ);
                }
                self.expression(&g.expr)
            }
            Expr::Call(c) => {
                let start = self.expression(&c.expr);
                self.arguments(&c.args);
                self.filter(start, end, TICK);
                start
            }
            Expr::List(l) => {
                l.items.iter().for_each(|e| _ = self.expression(e));
                self.filter(start, end, MADE);
                start
            }
            Expr::Tuple(t) => {
                // Which may have no brackets.
                let places: Vec<usize> = t.items.iter().map(|e| self.expression(e)).collect();
                let Some(&first) = places.first() else { return start };
                self.put(first, "((", end, format!(")|{MADE})"));
                first
            }
            Expr::Map(m) => {
                m.keys.iter().chain(&m.values).for_each(|e| _ = self.expression(e));
                self.filter(start, end, MADE);
                start
            }
        }
    }

    /// An operand, whose text begins at `start`, see `expression`.
    fn mark(&mut self, start: usize, operand: &Expr, filter: &str) {
        if !matches!(operand, Expr::Const(_)) {
            self.put(start, "((", operand.span().end_offset as usize, format!(")|{filter})"));
        }
    }

    /// The operands of a chain of sums and products, which as a whole is counted once.
    fn operands(&mut self, b: &ast::BinOp) -> usize {
        let mut one = |e: &Expr| match e {
            Expr::BinOp(inner) if is_sum(b) && is_sum(inner) => self.operands(inner),
            other => self.expression(other),
        };
        let start = one(&b.left);
        let right = one(&b.right);
        if matches!(b.op, ast::BinOpKind::Concat) {
            for (start, operand) in [(start, &b.left), (right, &b.right)] {
                self.mark(start, operand, SHOWN);
            }
        }
        if compares(b) && may_be_long(&b.left) && may_be_long(&b.right) {
            self.mark(start, &b.left, READ);
            self.mark(right, &b.right, READ);
        }
        start
    }
}

fn compares(b: &ast::BinOp) -> bool {
    use ast::BinOpKind::{Eq, Gt, Gte, In, Lt, Lte, Ne};
    matches!(b.op, Eq | Ne | Lt | Lte | Gt | Gte | In)
}

/// Whether a value may be more than a number, a truth value or a short text: then a comparison with it is one with all
/// of what it is compared with.
fn may_be_long(expression: &Expr) -> bool {
    match expression {
        Expr::Const(c) => c.value.as_str().map_or(false, |text| text.len() > BYTES_PER_FUEL),
        Expr::Compare(_) | Expr::Test(_) => false,
        Expr::UnaryOp(u) => !matches!(u.op, ast::UnaryOpKind::Not),
        Expr::BinOp(b) => !compares(b),
        _ => true,
    }
}

fn is_sum(b: &ast::BinOp) -> bool {
    matches!(b.op, ast::BinOpKind::Add | ast::BinOpKind::Mul)
}

/// The source with its guards. One that does not parse stays as it is: the environment says what is wrong with it.
pub fn guarded(source: &str, name: &str, syntax: SyntaxConfig) -> String {
    let Ok(tree) = parse(source, name, syntax) else { return source.to_string() };
    let mut marks = Marks::default();
    marks.statement(&tree);
    marks.0.sort_by_key(|(place, _)| *place); // of one place, what lies further inside comes first
    let mut out = String::with_capacity(source.len() + 8 * marks.0.len());
    let mut copied = 0;
    for (place, text) in &marks.0 {
        let Some(part) = source.get(copied..*place) else { return source.to_string() };
        out.push_str(part);
        out.push_str(text);
        copied = *place;
    }
    out + &source[copied..]
}
