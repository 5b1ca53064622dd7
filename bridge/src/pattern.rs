//! Regular expressions that checkpoints and adapters have for names of modules, in Python's syntax. Whoever writes such
//! a file is not trusted: an expression is compiled to a bounded size, and matching takes a bounded number of steps.
use crate::abi::{self, Failure, WeftError};

const MOST_STEPS: usize = 100_000; // of backtracking, which expressions with look-around or references need
const MOST_BYTES: usize = 1 << 20; // of one compiled expression

pub struct WeftPattern(fancy_regex::Regex);

impl WeftPattern {
    fn new(pattern: &str, whole: bool) -> Result<Self, String> {
        let anchored = format!(r"\A(?:{pattern}){}", if whole { r"\z" } else { "" });
        fancy_regex::RegexBuilder::new(&anchored)
            .backtrack_limit(MOST_STEPS)
            .delegate_size_limit(MOST_BYTES)
            .delegate_dfa_size_limit(MOST_BYTES)
            .build()
            .map(Self)
            .map_err(|error| error.to_string())
    }

    fn matches(&self, name: &str) -> Result<bool, String> {
        self.0.is_match(name).map_err(|error| error.to_string())
    }
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn weft_pattern_new(
    pattern: *const u8,
    size: usize,
    whole: bool,
    error: *mut WeftError,
) -> *mut WeftPattern {
    abi::guard(error, std::ptr::null_mut(), || {
        let pattern = WeftPattern::new(abi::text(pattern, size)?, whole).map_err(Failure::unsupported)?;
        Ok(Box::into_raw(Box::new(pattern)))
    })
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn weft_pattern_matches(
    pattern: &WeftPattern,
    name: *const u8,
    size: usize,
    matches: &mut bool,
    error: *mut WeftError,
) -> bool {
    abi::guard(error, false, || {
        *matches = pattern.matches(abi::text(name, size)?).map_err(Failure::unsupported)?;
        Ok(true)
    })
}

/// # Safety
/// It came from `weft_pattern_new` and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn weft_pattern_free(pattern: *mut WeftPattern) {
    drop(Box::from_raw(pattern));
}

#[cfg(test)]
mod tests {
    use super::WeftPattern;

    fn matches(pattern: &str, whole: bool, name: &str) -> bool {
        WeftPattern::new(pattern, whole).unwrap().matches(name).unwrap()
    }

    // As Python 3.11's re.match and re.fullmatch answer.
    #[test]
    fn is_pythons() {
        let name = "model.layers.10.self_attn.q_proj";
        for (pattern, at_start, whole) in [
            (r".*self_attn.*", true, true),
            (r"self_attn", false, false),
            (r"model\.layers\.1", true, false),
            (r"model|lm_head", true, false),
            (r"^(?!.*(?:lm_head|mlp)).*", true, true),
            (r"(?P<front>model)\..*(q|k)_proj$", true, true),
            (r"(?i)MODEL.*", true, true),
            (r"(\w+)\.layers\.(\d)0\..*\2?", true, true),
            (r".*layers\.(?:[0-9]|1[0-3])\.", true, false),
        ] {
            assert_eq!(matches(pattern, false, name), at_start, "{pattern}");
            assert_eq!(matches(pattern, true, name), whole, "{pattern}");
        }
    }

    // Patterns that take a matcher for ever, or all of its stack.
    #[test]
    fn work_is_bounded() {
        let long = "b".repeat(300_000);
        assert!(!matches(r"(.|b)*z", true, &long));
        assert!(!matches(r"((.*)*)*z", true, &long));
        assert!(!matches(r"(.*)*x(.*)*y(.*)*z", true, &long[..20_000]));
        // With a reference back it has to be tried: 2^n ways, of which a bounded number is.
        let tried = WeftPattern::new(r"(a|aa)+\1b", false).unwrap().matches(&"a".repeat(100));
        assert!(tried.unwrap_err().contains("limit"));
        assert!(WeftPattern::new(&format!("{}a{}", "(".repeat(2_000), ")".repeat(2_000)), false).is_err());
        assert!(WeftPattern::new("((a{100}){100}){100}", false).is_err());
        assert!(WeftPattern::new("(", false).is_err());
    }
}
