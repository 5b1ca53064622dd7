//! Encoding without the whole text in the crate's hands: the steps of `tokenizers` (added tokens, normalisation, words,
//! model) are gone through word by word, so that the caller's stop flag is looked at every millisecond or so and the
//! memory is that of the ids. The ids are those of `encode_fast`: words are cut by the crate's own expressions over the
//! whole text. Tokenizers with steps that are not known here, which no decoder of today has, are left to the crate and
//! take short texts only.
use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::utils::SysRegex;
use tokenizers::{
    AddedVocabulary, Model, NormalizedString, Normalizer, NormalizerWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior,
};

use crate::abi::{Failure, Outcome, Stop};
use crate::pair_model::SharedModel;
use crate::sentencepiece::SharedNormalizer;
use crate::tokenizer::{byte_characters, Pipeline};

/// Bytes that have to be handed over in one piece: a run of letters to an expression, a word to a model, a text to a
/// tokenizer of an unknown kind. All of that takes time in proportion, at most about half a second for these.
pub const MOST_IN_ONE: usize = 1 << 20;
/// The same for a word behind the byte-level spelling, which has up to two bytes for each.
pub const MOST_IN_WORD: usize = 2 * MOST_IN_ONE;

/// What a text becomes.
pub struct Sink {
    pub ids: Vec<u32>,
    pub most: usize, // an error once there are more
    pub stop: Stop,
}

impl Sink {
    /// Called between words.
    pub fn check(&self) -> Outcome<()> {
        self.stop.check()?;
        if self.ids.len() > self.most {
            return Err(Failure::too_large(format!("the text has more than {} tokens", self.most)));
        }
        Ok(())
    }
}

pub fn too_long(what: &str, bytes: usize, most: usize) -> Failure {
    Failure::too_large(format!("{what} has {bytes} bytes; at most {most} are accepted"))
}

// ---- added tokens

/// A token that is looked for in the text.
struct Added {
    id: u32,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

struct Finder {
    search: AhoCorasick,
    tokens: Vec<Added>,
}

/// A part of a text: an added token, or what lies between them.
type Part = (Option<u32>, usize, usize);

impl Finder {
    fn new(vocabulary: &AddedVocabulary, normalizer: Option<&SharedNormalizer>, normalized: bool) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut patterns = Vec::new();
        for (id, token) in vocabulary.get_added_tokens_decoder() {
            if token.normalized != normalized {
                continue;
            }
            let mut content = NormalizedString::from(token.content.as_str());
            if let Some(normalizer) = normalizer.filter(|_| normalized) {
                normalizer.normalize(&mut content).ok()?;
            }
            patterns.push(content.get().to_string());
            tokens.push(Added {
                id: *id,
                special: token.special,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            });
        }
        if patterns.iter().any(String::is_empty) {
            return None;
        }
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns).ok()?;
        Some(Finder { search, tokens })
    }

    /// As AddedVocabulary::find_matches. `plain`: special tokens are characters.
    fn parts(&self, text: &str, plain: bool, mut each: impl FnMut(Part) -> Outcome<()>) -> Outcome<()> {
        let mut behind = 0; // the last token
        if !self.tokens.is_empty() {
            for found in self.search.find_iter(text) {
                let token = &self.tokens[found.pattern().as_usize()];
                let (mut start, mut end) = (found.start(), found.end());
                if (plain && token.special) || (token.single_word && !stands_alone(text, start, end)) {
                    continue;
                }
                if token.lstrip {
                    start = text[..start].trim_end_matches(char::is_whitespace).len().max(behind);
                }
                if token.rstrip {
                    let rest = &text[end..];
                    end += rest.len() - rest.trim_start_matches(char::is_whitespace).len();
                }
                if behind < start {
                    each((None, behind, start))?;
                }
                each((Some(token.id), start, end))?;
                behind = end;
            }
        }
        if behind < text.len() {
            each((None, behind, text.len()))?;
        }
        Ok(())
    }
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let letter = |c: char| {
        let mut buffer = [0; 4];
        static WORD: std::sync::LazyLock<regex::Regex> =
            std::sync::LazyLock::new(|| regex::Regex::new(r"^\w").unwrap());
        WORD.is_match(c.encode_utf8(&mut buffer))
    };
    !text[..start].chars().next_back().is_some_and(letter) && !text[end..].chars().next().is_some_and(letter)
}

// ---- normalisation

enum Normalization {
    None,
    /// Of which each works on characters, so that texts may be cut in front of most of them. The first list is for the
    /// beginning of a text, where a prefix may be put.
    Local {
        first: Vec<NormalizerWrapper>,
        later: Vec<NormalizerWrapper>,
    },
    /// Ours, which looks at the stop flag itself.
    Pieces,
    Whole,
}

impl Normalization {
    fn of(normalizer: Option<&SharedNormalizer>) -> Self {
        match normalizer {
            None => Normalization::None,
            Some(SharedNormalizer::Pieces(_)) => Normalization::Pieces,
            Some(SharedNormalizer::Other(one)) => {
                let list: Vec<NormalizerWrapper> = match one {
                    NormalizerWrapper::Sequence(sequence) => sequence.as_ref().to_vec(),
                    single => vec![single.clone()],
                };
                if !list.iter().all(is_local) {
                    return Normalization::Whole;
                }
                let prefix = |one: &NormalizerWrapper| matches!(one, NormalizerWrapper::Prepend(_));
                let later = list.iter().filter(|one| !prefix(one)).cloned().collect();
                Normalization::Local { first: list, later }
            }
        }
    }
}

fn is_local(normalizer: &NormalizerWrapper) -> bool {
    use NormalizerWrapper::*;
    match normalizer {
        NFC(_) | NFD(_) | NFKC(_) | NFKD(_) | Lowercase(_) | Prepend(_) => true,
        Replace(_) => {
            let written = serde_json::to_value(normalizer).unwrap_or_default();
            written["pattern"]["String"].as_str().is_some_and(|pattern| pattern.chars().count() == 1)
        }
        _ => false,
    }
}

/// Characters that no normalisation joins with what stands in front of them.
fn begins_anew(c: char) -> bool {
    matches!(c as u32,
        0x20..=0x7E | 0x0A | 0xC0..=0x24F | 0x391..=0x3A9 | 0x3B1..=0x3C9 | 0x410..=0x44F | 0x621..=0x63A
        | 0x641..=0x64A | 0x3000..=0x3020 | 0x3041..=0x3096 | 0x30A1..=0x30FA | 0x4E00..=0x9FFF | 0xAC00..=0xD7A3
        | 0xFF01..=0xFF5E | 0x1F300..=0x1FAFF)
}

/// The end of a piece of about `size` bytes at the beginning of `text`, in front of a character that begins anew.
fn piece_end(text: &str, size: usize) -> usize {
    if text.len() <= size {
        return text.len();
    }
    let mut from = size;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].char_indices().find(|(_, c)| begins_anew(*c)).map_or(text.len(), |(place, _)| from + place)
}

// ---- words

enum Stage {
    Expression {
        regex: SysRegex,
        behavior: SplitDelimiterBehavior,
    },
    Digits {
        single: bool,
    },
    Metaspace {
        space: char,
        scheme: PrependScheme,
        split: bool,
    },
    /// A space in front of what has none.
    PrefixSpace,
    /// Bytes as characters.
    Bytes,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The steps of a pre-tokenizer; None if one is not known.
fn stages(pre_tokenizer: &PreTokenizerWrapper, found: &mut Vec<Stage>) -> Option<()> {
    use SplitDelimiterBehavior::*;
    match pre_tokenizer {
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref().iter().try_for_each(|one| stages(one, found))?,
        PreTokenizerWrapper::Split(split) => {
            // Of isolated parts it does not matter which of them match.
            if split.behavior == Contiguous || (split.invert && split.behavior != Isolated) {
                return None;
            }
            let regex = match &split.pattern {
                SplitPattern::String(text) => SysRegex::new(&regex::escape(text)),
                SplitPattern::Regex(text) => SysRegex::new(text),
            };
            found.push(Stage::Expression { regex: regex.ok()?, behavior: split.behavior });
        }
        PreTokenizerWrapper::ByteLevel(level) => {
            if level.add_prefix_space {
                found.push(Stage::PrefixSpace);
            }
            if level.use_regex {
                found.push(Stage::Expression { regex: SysRegex::new(GPT2).ok()?, behavior: Isolated });
            }
            found.push(Stage::Bytes);
        }
        PreTokenizerWrapper::Digits(digits) => found.push(Stage::Digits { single: digits.individual_digits }),
        PreTokenizerWrapper::Metaspace(m) => found.push(Stage::Metaspace {
            space: m.get_replacement(),
            scheme: m.get_prepend_scheme(),
            split: m.get_split(),
        }),
        _ => return None,
    }
    Some(())
}

/// Cuts `text` as NormalizedString::split does with the matches of a pattern.
struct Cutter<'t> {
    text: &'t str,
    behavior: SplitDelimiterBehavior,
    start: usize, // of what has not been handed on
    end: usize,   // of what was seen
    open: bool,   // the last part may be joined by what follows (MergedWithPrevious, MergedWithNext)
}

impl Cutter<'_> {
    /// The next part, which begins where the last ended.
    fn part(&mut self, end: usize, matched: bool, each: &mut dyn FnMut(&str) -> Outcome<()>) -> Outcome<()> {
        use SplitDelimiterBehavior::*;
        let begin = std::mem::replace(&mut self.end, end);
        let joins = match self.behavior {
            MergedWithPrevious => self.open && matched,
            MergedWithNext => self.open && !matched,
            _ => false,
        };
        if !joins {
            self.flush(begin, each)?;
        }
        self.open = match self.behavior {
            MergedWithPrevious => !matched,
            MergedWithNext => matched,
            _ => false,
        };
        if self.behavior == Removed && matched {
            self.start = end;
        }
        Ok(())
    }

    fn flush(&mut self, end: usize, each: &mut dyn FnMut(&str) -> Outcome<()>) -> Outcome<()> {
        let part = &self.text[self.start.min(end)..end];
        self.start = self.start.max(end);
        if part.is_empty() {
            return Ok(());
        }
        each(part)
    }
}

fn cut(
    text: &str,
    matches: impl Iterator<Item = (usize, usize)>,
    behavior: SplitDelimiterBehavior,
    each: &mut dyn FnMut(&str) -> Outcome<()>,
) -> Outcome<()> {
    let mut cutter = Cutter { text, behavior, start: 0, end: 0, open: false };
    for (start, end) in matches {
        if start > cutter.end {
            cutter.part(start, false, each)?;
        }
        cutter.part(end, true, each)?;
    }
    if text.len() > cutter.end {
        cutter.part(text.len(), false, each)?;
    }
    cutter.flush(text.len(), each)
}

/// Runs of one kind of character that are longer than an expression may be kept busy with.
fn check_runs(text: &str) -> Outcome<()> {
    if text.len() <= MOST_IN_ONE {
        return Ok(());
    }
    let kind = |c: char| match c {
        _ if c.is_alphabetic() => 0,
        _ if c.is_numeric() => 1,
        _ if c.is_whitespace() => 2,
        _ => 3,
    };
    let (mut start, mut last) = (0, 4);
    for (place, c) in text.char_indices() {
        let this = kind(c);
        if this != last {
            (start, last) = (place, this);
        } else if place - start > MOST_IN_ONE {
            let what = ["letters", "digits", "white space", "signs"][this];
            return Err(Failure::too_large(format!(
                "the text has {what} without a break for more than {MOST_IN_ONE} bytes, at byte {start}"
            )));
        }
    }
    Ok(())
}

// ---- all of it

pub struct Pieces {
    as_it_is: Finder,
    normalized: Finder,
    normalization: Normalization,
    stages: Vec<Stage>,
}

fn failed(e: tokenizers::Error) -> Failure {
    Failure::invalid(e.to_string())
}

impl Pieces {
    /// None: a step of the pipeline is not known here.
    pub fn of(pipeline: &Pipeline) -> Option<Self> {
        let normalizer = pipeline.get_normalizer();
        let vocabulary = pipeline.get_added_vocabulary();
        let mut steps = Vec::new();
        if let Some(pre_tokenizer) = pipeline.get_pre_tokenizer() {
            stages(pre_tokenizer, &mut steps)?;
        }
        let normalization = Normalization::of(normalizer);
        // It asks where in the text from before the normalisation a part begins: behind a prefix of it, or inside of a
        // character that it has spelled out, a part is at the beginning once more.
        let first = |stage: &Stage| matches!(stage, Stage::Metaspace { scheme: PrependScheme::First, .. });
        let unknown = match &normalization {
            Normalization::Whole => steps.iter().any(first),
            Normalization::Local { .. } => steps.iter().skip(1).any(first),
            _ => false,
        };
        if unknown {
            return None;
        }
        Some(Pieces {
            as_it_is: Finder::new(vocabulary, normalizer, false)?,
            normalized: Finder::new(vocabulary, normalizer, true)?,
            normalization,
            stages: steps,
        })
    }

    /// Appends the ids of `text`, without those of the post-processor. `plain`: special tokens are characters.
    pub fn encode(&self, pipeline: &Pipeline, text: &str, plain: bool, sink: &mut Sink) -> Outcome<()> {
        self.as_it_is.parts(text, plain, |(id, start, end)| {
            sink.check()?;
            if let Some(id) = id {
                sink.ids.push(id);
                return Ok(());
            }
            let text = self.normalize(pipeline, &text[start..end], start == 0, sink)?;
            self.normalized.parts(&text, plain, |(id, from, to)| {
                sink.check()?;
                match id {
                    Some(id) => sink.ids.push(id),
                    None => self.words(pipeline, &text[from..to], start == 0 && from == 0, sink)?,
                }
                Ok(())
            })
        })
    }

    fn normalize<'t>(&self, pipeline: &Pipeline, text: &'t str, first: bool, sink: &Sink) -> Outcome<Cow<'t, str>> {
        let whole = |normalizer: &SharedNormalizer| {
            let mut normalized = NormalizedString::from(text);
            normalizer.normalize(&mut normalized).map_err(failed)?;
            Ok(Cow::from(normalized.get().to_string()))
        };
        match (&self.normalization, pipeline.get_normalizer()) {
            (Normalization::Local { first, later }, _) => {
                const SIZE: usize = 16 << 10;
                let mut out = String::with_capacity(text.len());
                let mut rest = text;
                while !rest.is_empty() {
                    sink.check()?;
                    let end = piece_end(rest, SIZE);
                    if end > MOST_IN_ONE {
                        return Err(too_long("a part of the text without a place to cut it", end, MOST_IN_ONE));
                    }
                    let mut piece = NormalizedString::from(&rest[..end]);
                    let normalizers = if out.is_empty() { first } else { later };
                    normalizers.iter().try_for_each(|one| one.normalize(&mut piece)).map_err(failed)?;
                    out.push_str(piece.get());
                    rest = &rest[end..];
                }
                Ok(Cow::from(out))
            }
            (Normalization::Pieces, Some(SharedNormalizer::Pieces(pieces))) => {
                pieces.normalized(text, first, sink.stop).map(Cow::from)
            }
            (Normalization::Whole, Some(normalizer)) if text.len() <= MOST_IN_ONE => whole(normalizer),
            (Normalization::Whole, Some(_)) => Err(too_long("a text for this tokenizer", text.len(), MOST_IN_ONE)),
            _ => Ok(Cow::from(text)),
        }
    }

    fn words(&self, pipeline: &Pipeline, text: &str, first: bool, sink: &mut Sink) -> Outcome<()> {
        if self.stages.iter().any(|stage| matches!(stage, Stage::Expression { .. })) {
            check_runs(text)?;
        }
        self.stage(0, text, first, &mut |word| {
            sink.check()?;
            self.word(pipeline.get_model(), word, sink)
        })
    }

    /// Runs the steps from `place` on over a part of the text. `first`: it begins the whole text.
    fn stage(&self, place: usize, text: &str, first: bool, each: &mut dyn FnMut(&str) -> Outcome<()>) -> Outcome<()> {
        let Some(stage) = self.stages.get(place) else { return each(text) };
        let mut first_part = first;
        let mut next = |part: &str| self.stage(place + 1, part, std::mem::take(&mut first_part), each);
        match stage {
            Stage::Expression { regex, behavior } => cut(text, regex.find_iter(text), *behavior, &mut next),
            Stage::Digits { single: true } => {
                let digits = text.char_indices().filter(|(_, c)| c.is_numeric());
                let digits = digits.map(|(start, c)| (start, start + c.len_utf8()));
                cut(text, digits, SplitDelimiterBehavior::Isolated, &mut next)
            }
            Stage::Digits { single: false } => {
                let mut start = 0;
                let mut last = None;
                for (here, c) in text.char_indices() {
                    if last.is_some_and(|last| last != c.is_numeric()) {
                        next(&text[start..here])?;
                        start = here;
                    }
                    last = Some(c.is_numeric());
                }
                next(&text[start..])
            }
            Stage::Metaspace { space, scheme, split } => {
                let mut buffer = [0; 4];
                let mark: &str = space.encode_utf8(&mut buffer);
                let mut spaced = text.replace(' ', mark);
                let wanted = match scheme {
                    PrependScheme::Always => true,
                    PrependScheme::First => first,
                    PrependScheme::Never => false,
                };
                if wanted && !spaced.starts_with(*space) {
                    spaced.insert(0, *space);
                }
                if !split {
                    return next(&spaced);
                }
                let marks = spaced.match_indices(*space).map(|(start, mark)| (start, start + mark.len()));
                cut(&spaced, marks, SplitDelimiterBehavior::MergedWithNext, &mut next)
            }
            Stage::PrefixSpace if !text.starts_with(' ') => next(&format!(" {text}")),
            Stage::PrefixSpace => next(text),
            Stage::Bytes => next(&byte_characters(text)),
        }
    }

    fn word(&self, model: &SharedModel, word: &str, sink: &mut Sink) -> Outcome<()> {
        match model {
            SharedModel::Pairs(model) => model.append(word, sink),
            SharedModel::Pieces(model) => model.append(word, sink),
            SharedModel::Other(model) => {
                let by_words = matches!(**model, ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_));
                if word.len() > MOST_IN_ONE && !by_words {
                    return Err(too_long("a word of the text", word.len(), MOST_IN_ONE));
                }
                sink.ids.extend(model.tokenize(word).map_err(failed)?.iter().map(|token| token.id));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
