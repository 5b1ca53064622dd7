//! What fuel does not see of a template's work: lists that are made twice as long or as deep again and again without
//! being copied, and single steps over long lists. The source is written anew with calls of filters around loops,
//! calls, sums, products and literals; the filters count, and look at the clock and the stop flag.
use std::cell::Cell;
use std::sync::Arc;

use minijinja::machinery::ast::{self, Expr, Stmt};
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use crate::abi::Stop;

const LOOP: &str = "__loop";
const TICK: &str = "__tick";
const MADE: &str = "__made";

/// Values that a list or mapping may hold, those inside of its parts included, each as often as it is there.
const MOST_VALUES: u64 = 1 << 18;
/// Processor time of one rendering, far above what its fuel takes.
const MOST_NANOSECONDS: u64 = 1_000_000_000;
/// The clock is looked at every so many steps.
const LOOK: u32 = 8;

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
    if left == 0 && (Stop::current().is_set() || END.with(|end| thread_time() > end.get())) {
        return Err(Error::from(ErrorKind::OutOfFuel));
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
        return Err(Error::from(ErrorKind::OutOfFuel));
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
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        let mut values = 0;
        count(&value, &mut values)?;
        state.consume_fuel(values / 2)?;
    }
    Ok(value)
}

pub fn add_filters(environment: &mut Environment) {
    environment.add_filter(LOOP, watched);
    environment.add_filter(TICK, |value: Value| tick().map(|()| value));
    environment.add_filter(MADE, made);
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
                c.ops.iter().for_each(|op| _ = self.expression(&op.expr));
                self.expression(&c.expr)
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
                self.expression(&g.subscript_expr);
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

    /// The operands of a chain of sums and products, which as a whole is counted once.
    fn operands(&mut self, b: &ast::BinOp) -> usize {
        let mut one = |e: &Expr| match e {
            Expr::BinOp(inner) if is_sum(b) && is_sum(inner) => self.operands(inner),
            other => self.expression(other),
        };
        let start = one(&b.left);
        one(&b.right);
        start
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
