//! Decimal numbers by their digits, and regular expressions for ranges of them. Values never pass through floating
//! point, so bounds of any size and length hold exactly.
use std::cmp::Ordering;

use llguidance::derivre::RegexAst;

/// Digits on either side of the point that a number may have where its bounds do not need more: as with white space,
/// a model could otherwise write digits until its budget is spent.
const DIGITS: usize = 20;
/// Longer bounds make expressions too large.
const MOST_DIGITS: usize = 400;

/// A number's sign and digits: no zeros before `whole` (empty: 0) or behind `fraction`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    pub negative: bool,
    pub whole: String,
    pub fraction: String,
}

impl Decimal {
    /// Of a number in JSON; None for one with more than some hundred digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let exponent: i64 = exponent.parse().ok()?;
        let all = format!("{whole}{fraction}");
        if all.bytes().all(|digit| digit == b'0') {
            return Some(Decimal { negative: false, whole: String::new(), fraction: String::new() });
        }
        let point = whole.len() as i64 + exponent; // of `all`
        if all.len() > MOST_DIGITS || point.unsigned_abs() > MOST_DIGITS as u64 {
            return None;
        }
        let before = "0".repeat((-point).max(0) as usize);
        let behind = "0".repeat((point - all.len() as i64).max(0) as usize);
        let digits = format!("{before}{all}{behind}");
        let (whole, fraction) = digits.split_at(point.max(0) as usize);
        Some(Decimal {
            negative,
            whole: whole.trim_start_matches('0').into(),
            fraction: fraction.trim_end_matches('0').into(),
        })
    }

    pub fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    pub fn is_integer(&self) -> bool {
        self.fraction.is_empty()
    }

    fn negated(&self) -> Self {
        Decimal { negative: !self.negative && !self.is_zero(), ..self.clone() }
    }

    pub fn compare(&self, other: &Self) -> Ordering {
        let size =
            |a: &Self, b: &Self| (a.whole.len(), &a.whole, &a.fraction).cmp(&(b.whole.len(), &b.whole, &b.fraction));
        match (self.negative, other.negative) {
            (false, false) => size(self, other),
            (true, true) => size(other, self),
            (mine, _) => {
                if mine {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }

    /// How the number is written without an exponent.
    #[cfg(test)]
    fn text(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let point = if self.fraction.is_empty() { "" } else { "." };
        format!("{sign}{}{point}{}", self.whole_text(), self.fraction)
    }

    fn whole_text(&self) -> &str {
        if self.whole.is_empty() {
            "0"
        } else {
            &self.whole
        }
    }

    /// As coefficient and number of digits behind the point, if the former has 32 bits.
    pub fn scaled(&self) -> Option<(u32, u32)> {
        let digits = format!("{}{}", self.whole, self.fraction);
        Some((if digits.is_empty() { 0 } else { digits.parse().ok()? }, self.fraction.len() as u32))
    }
}

#[derive(Clone, Debug)]
pub struct Bound {
    pub at: Decimal,
    pub inclusive: bool,
}

/// The numbers between two bounds.
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub integer: bool,
    pub low: Option<Bound>,
    pub high: Option<Bound>,
}

/// One of `parts`.
fn any(parts: Vec<String>) -> String {
    format!("(?:{})", parts.join("|"))
}

fn digits(low: u8, high: u8) -> Option<String> {
    (low <= high).then(|| format!("[{}-{}]", low as char, high as char))
}

/// Whole numbers above `whole` with at most `limit` digits.
fn above(whole: &str, limit: usize) -> Vec<String> {
    let mut parts = Vec::new();
    for (i, digit) in whole.bytes().enumerate() {
        if let Some(next) = digits(digit + 1, b'9') {
            parts.push(format!("{}{next}[0-9]{{{}}}", &whole[..i], whole.len() - 1 - i));
        }
    }
    if limit > whole.len() {
        parts.push(format!("[1-9][0-9]{{{},{}}}", whole.len(), limit - 1));
    }
    parts
}

/// Whole numbers from 0 on and below `whole`.
fn below(whole: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for (i, digit) in whole.bytes().enumerate() {
        let least = if i == 0 && whole.len() > 1 { b'1' } else { b'0' };
        if let Some(less) = digits(least, digit.saturating_sub(1)) {
            parts.push(format!("{}{less}[0-9]{{{}}}", &whole[..i], whole.len() - 1 - i));
        }
    }
    if whole.len() > 1 {
        parts.push(format!("(?:0|[1-9][0-9]{{0,{}}})", whole.len() - 2));
    }
    parts
}

/// Fractions, from the point on or empty, that are at least `fraction`.
fn fractions_from(fraction: &str, inclusive: bool) -> String {
    let more = format!("0{{0,{DIGITS}}}[1-9][0-9]{{0,{DIGITS}}}");
    if fraction.is_empty() {
        return if inclusive { format!(r"(?:\.[0-9]{{1,{DIGITS}}})?") } else { format!(r"\.{more}") };
    }
    let mut parts = Vec::new();
    for (i, digit) in fraction.bytes().enumerate() {
        if let Some(next) = digits(digit + 1, b'9') {
            parts.push(format!("{}{next}[0-9]{{0,{DIGITS}}}", &fraction[..i]));
        }
    }
    parts.push(if inclusive { format!("{fraction}[0-9]{{0,{DIGITS}}}") } else { format!("{fraction}{more}") });
    format!(r"\.{}", any(parts))
}

/// Fractions that are at most `fraction`; None if there are none.
fn fractions_to(fraction: &str, inclusive: bool) -> Option<String> {
    if fraction.is_empty() {
        return inclusive.then(|| format!(r"(?:\.0{{1,{DIGITS}}})?"));
    }
    let mut parts = Vec::new();
    for (i, digit) in fraction.bytes().enumerate() {
        if let Some(less) = digits(b'0', digit.saturating_sub(1)).filter(|_| digit > b'0') {
            parts.push(format!("{}{less}[0-9]{{0,{DIGITS}}}", &fraction[..i]));
        }
        if i > 0 {
            parts.push(fraction[..i].into());
        }
    }
    if inclusive {
        parts.push(format!("{fraction}0{{0,{DIGITS}}}"));
    }
    Some(if parts.is_empty() { String::new() } else { format!(r"(?:\.{})?", any(parts)) })
}

impl Range {
    /// Numbers without a sign that are at least (not `inclusive`: above) `at`, which is not negative.
    fn at_least(&self, bound: &Bound, limit: usize) -> String {
        let whole = bound.at.whole_text();
        let mut parts = above(whole, limit);
        if self.integer {
            if bound.inclusive && bound.at.is_integer() {
                parts.push(whole.into());
            }
            return any(parts);
        }
        for part in &mut parts {
            part.push_str(&format!(r"(?:\.[0-9]{{1,{DIGITS}}})?"));
        }
        parts.push(format!("{whole}{}", fractions_from(&bound.at.fraction, bound.inclusive)));
        any(parts)
    }

    /// Likewise at most.
    fn at_most(&self, bound: &Bound) -> RegexAst {
        let whole = bound.at.whole_text();
        let mut parts = if whole == "0" { Vec::new() } else { below(whole) };
        if self.integer {
            if bound.inclusive || !bound.at.is_integer() {
                parts.push(whole.into());
            }
        } else {
            for part in &mut parts {
                part.push_str(&format!(r"(?:\.[0-9]{{1,{DIGITS}}})?"));
            }
            if let Some(fraction) = fractions_to(&bound.at.fraction, bound.inclusive) {
                parts.push(format!("{whole}{fraction}"));
            }
        }
        if parts.is_empty() {
            return RegexAst::NoMatch;
        }
        RegexAst::Regex(any(parts))
    }

    /// The numbers without a sign between `low` and `high`, neither of them negative.
    fn unsigned(&self, low: Option<&Bound>, high: Option<&Bound>) -> RegexAst {
        let limit = DIGITS.max([low, high].iter().flatten().map(|bound| bound.at.whole.len() + 1).max().unwrap_or(0));
        let zero =
            Bound { at: Decimal { negative: false, whole: String::new(), fraction: String::new() }, inclusive: true };
        let from = RegexAst::Regex(self.at_least(low.unwrap_or(&zero), limit));
        match high {
            Some(bound) => RegexAst::And(vec![from, self.at_most(bound)]),
            None => from,
        }
    }

    pub fn is_bounded(&self) -> bool {
        self.low.is_some() || self.high.is_some()
    }

    /// The numbers of the range as JSON. Without bounds, they may have an exponent of two digits.
    pub fn expression(&self) -> RegexAst {
        if !self.is_bounded() {
            return RegexAst::Regex(if self.integer { whole_numbers() } else { all_numbers() });
        }
        let zero = Decimal { negative: false, whole: String::new(), fraction: String::new() };
        let mut signs = Vec::new();
        if self.high.as_ref().is_none_or(|bound| !bound.at.negative) {
            let low = self.low.as_ref().filter(|bound| !bound.at.negative);
            signs.push(self.unsigned(low, self.high.as_ref()));
        }
        if self.low.as_ref().is_none_or(|bound| bound.at.negative) {
            let turned = |bound: &Bound| Bound { at: bound.at.negated(), inclusive: bound.inclusive };
            let least = match self.high.as_ref().filter(|bound| bound.at.negative) {
                Some(bound) => turned(bound),
                None => Bound { at: zero, inclusive: false },
            };
            let most = self.low.as_ref().map(turned);
            let size = self.unsigned(Some(&least), most.as_ref());
            signs.push(RegexAst::Concat(vec![RegexAst::Literal("-".into()), size]));
        }
        RegexAst::Or(signs)
    }
}

fn whole_numbers() -> String {
    format!("-?(?:0|[1-9][0-9]{{0,{}}})", DIGITS - 1)
}

/// Every number with a bounded count of digits.
pub fn all_numbers() -> String {
    format!(r"{}(?:\.[0-9]{{1,{DIGITS}}})?(?:[eE][+-]?[0-9]{{1,2}})?", whole_numbers())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(integer: bool, low: Option<(&str, bool)>, high: Option<(&str, bool)>) -> Range {
        let bound = |(text, inclusive): (&str, bool)| Bound { at: Decimal::parse(text).unwrap(), inclusive };
        Range { integer, low: low.map(bound), high: high.map(bound) }
    }

    #[test]
    fn reads_every_notation() {
        let text = |source: &str| Decimal::parse(source).map(|decimal| decimal.text());
        assert_eq!(text("9.5367431640625e-07").as_deref(), Some("0.00000095367431640625"));
        assert_eq!(text("17592186044416.0").as_deref(), Some("17592186044416"));
        assert_eq!(text("-1.50E+2").as_deref(), Some("-150"));
        assert_eq!(text("-0.0").as_deref(), Some("0"));
        assert_eq!(text("1e2000"), None);
    }

    /// Small numbers of every form against integer arithmetic on hundredths.
    #[test]
    fn ranges_hold_what_they_say() {
        let bounds = ["-12.5", "-10", "-9.99", "-1", "-0.05", "0", "0.5", "1", "9", "9.07", "10", "11.1", "20", "100"];
        let hundredths = |text: &str| (text.parse::<f64>().unwrap() * 100.0).round() as i64;
        let numbers: Vec<(i64, String)> = (-1300i64..1300)
            .chain([9_900, 9_999, 10_000, 10_001, 99_900, -10_000])
            .flat_map(|n| {
                let (sign, size) = (if n < 0 { "-" } else { "" }, n.abs());
                let mut forms = vec![format!("{sign}{}.{:02}", size / 100, size % 100)];
                if size % 100 == 0 {
                    forms.push(format!("{sign}{}", size / 100));
                }
                if size % 10 == 0 {
                    forms.push(format!("{sign}{}.{}", size / 100, size / 10 % 10));
                }
                forms.into_iter().map(move |form| (n, form))
            })
            .collect();
        for (i, low) in bounds.iter().enumerate() {
            for high in &bounds[i..] {
                for inclusive in [true, false] {
                    for integer in [true, false] {
                        let mut builder = llguidance::derivre::RegexBuilder::new();
                        let made = range(integer, Some((low, inclusive)), Some((high, inclusive))).expression();
                        let expression = builder.mk(&made).unwrap();
                        let mut regex = builder.to_regex(expression);
                        for (value, text) in &numbers {
                            let (from, to) = (hundredths(low), hundredths(high));
                            let inside =
                                if inclusive { from <= *value && *value <= to } else { from < *value && *value < to };
                            let right = inside && (!integer || !text.contains('.'));
                            assert_eq!(regex.is_match(text), right, "{text} in {low}..{high} {inclusive} {integer}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn large_bounds_are_exact() {
        let matches = |made: Range, text: &str| {
            let mut builder = llguidance::derivre::RegexBuilder::new();
            let expression = builder.mk(&made.expression()).unwrap();
            builder.to_regex(expression).is_match(text)
        };
        let int64 = range(true, Some(("-9223372036854775808", true)), Some(("9223372036854775807", true)));
        for (text, right) in [
            ("-9223372036854775808", true),
            ("-9223372036854775809", false),
            ("9223372036854775807", true),
            ("9223372036854775808", false),
            ("-1", true),
            ("1.0", false),
            ("99999999999999999999", false),
        ] {
            assert_eq!(matches(int64.clone(), text), right, "{text}");
        }
        let uint64 = range(true, Some(("0", true)), Some(("1.8446744073709551615e19", true)));
        assert!(matches(uint64.clone(), "18446744073709551615"));
        assert!(!matches(uint64, "18446744073709551616"));
        assert!(matches(range(false, None, None), "-1.5e-07"));
        assert!(!matches(range(false, None, None), "123456789012345678901"));
    }
}
