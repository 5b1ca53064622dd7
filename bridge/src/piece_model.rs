//! SentencePiece's two models as `tokenizers` models: pairs merged by the score of the piece they make, and the best
//! sequence of pieces by the sum of their scores. Written after bpe_model.cc, unigram_model.cc and
//! sentencepiece_processor.cc of SentencePiece 0.2, whose ids it gives: the crate's own models differ from it where
//! scores are equal, where an unknown character stands inside a piece, and for pieces that users defined.
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, OnceLock};

use tokenizers::Token;

use crate::abi::Outcome;
use crate::pieces::{too_long, Sink, MOST_IN_WORD};
use crate::segments::{Neighbours, LONG};
use crate::string_table::StringTable;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined, // always one piece, whatever stands around it
    Unused,      // not in any result
    Byte,
}

/// The user's pieces, of which the longest that begins at a place counts.
#[derive(Default)]
pub struct PrefixMatcher {
    by_first_byte: HashMap<u8, Vec<String>>, // longest first
}

impl PrefixMatcher {
    pub fn new<'a>(pieces: impl Iterator<Item = &'a str>) -> Self {
        let mut by_first_byte: HashMap<u8, Vec<String>> = HashMap::new();
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            by_first_byte.entry(piece.as_bytes()[0]).or_default().push(piece.to_string());
        }
        by_first_byte.values_mut().for_each(|list| list.sort_by_key(|piece| std::cmp::Reverse(piece.len())));
        PrefixMatcher { by_first_byte }
    }

    /// Bytes of the piece at the beginning of `text`.
    pub fn matched(&self, text: &str) -> Option<usize> {
        let list = self.by_first_byte.get(text.as_bytes().first()?)?;
        list.iter().find(|piece| text.starts_with(piece.as_str())).map(String::len)
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Rule {
    /// The pair whose piece has the best score first, of equal ones the leftmost. With `whole_words`, a text that is a
    /// piece is taken as it is (tiktoken).
    Pairs { whole_words: bool },
    /// The best sum of scores (Viterbi).
    Unigram,
}

pub struct PieceModel {
    pub vocabulary: StringTable,
    pub kinds: Vec<Kind>,
    pub scores: Vec<f32>,
    pub rule: Rule,
    pub unknown: u32,
    pub byte_tokens: Option<Box<[Option<u32>; 256]>>,
    pub matcher: Arc<PrefixMatcher>,
    range: (f32, f32),                // least and greatest score of the normal pieces
    longest: usize,                   // bytes of the longest piece
    neighbours: OnceLock<Neighbours>, // found when a long text comes for the first time
}

#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize, // start: merged into its left neighbour
    frozen: bool,
    previous: Option<usize>,
    next: Option<usize>,
}

struct Pair {
    score: f32,
    left: usize,
    right: usize,
    size: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}
impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Pair {}

/// A piece of the result: its text's bounds, and its id (None: unknown).
type Found = (usize, usize, Option<u32>);

/// Of unused pieces: bytes of the left one of the two that each was made of last.
type Splits<'t> = HashMap<&'t str, usize>;

impl PieceModel {
    pub fn new(
        pieces: Vec<(String, f32, Kind)>,
        rule: Rule,
        unknown: u32,
        byte_fallback: bool,
        matcher: Arc<PrefixMatcher>,
    ) -> Self {
        let mut vocabulary = StringTable::with_capacity(pieces.len(), pieces.iter().map(|p| p.0.len()).sum());
        let mut range = (f32::MAX, f32::MIN);
        for (id, (text, score, kind)) in pieces.iter().enumerate() {
            vocabulary.insert(text, id as u32);
            if *kind == Kind::Normal {
                range = (range.0.min(*score), range.1.max(*score));
            }
        }
        let byte_tokens =
            byte_fallback.then(|| Box::new(std::array::from_fn(|byte| vocabulary.find(&format!("<0x{byte:02X}>")))));
        PieceModel {
            kinds: pieces.iter().map(|p| p.2).collect(),
            scores: pieces.iter().map(|p| p.1).collect(),
            longest: pieces.iter().map(|p| p.0.len()).max().unwrap_or(0),
            vocabulary,
            rule,
            unknown,
            byte_tokens,
            matcher,
            range,
            neighbours: OnceLock::new(),
        }
    }

    /// The id of a piece that stands for its text.
    fn piece(&self, text: &str) -> Option<u32> {
        let of_text = |id: &u32| matches!(self.kinds[*id as usize], Kind::Normal | Kind::UserDefined | Kind::Unused);
        self.vocabulary.find(text).filter(of_text)
    }

    pub fn tokenize(&self, text: &str) -> Vec<Token> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut tokens: Vec<Token> = Vec::new();
        let mut after_unknown = false;
        for found in self.find(text, &mut 0.0) {
            self.results(text, found, &mut after_unknown, &mut |id, start, end| {
                tokens.push(Token::new(id, self.vocabulary.get(id).unwrap_or("").to_string(), (start, end)))
            });
        }
        tokens
    }

    /// Appends the ids of a text, in parts where it is long.
    pub fn append(&self, text: &str, sink: &mut Sink) -> Outcome<()> {
        let mut after_unknown = false;
        let mut score = 0.0;
        let mut part = |text: &str, sink: &mut Sink| -> Outcome<()> {
            sink.check()?;
            if text.len() > MOST_IN_WORD {
                return Err(too_long("a part of the text without a place to cut it", text.len(), MOST_IN_WORD));
            }
            for found in self.find(text, &mut score) {
                self.results(text, found, &mut after_unknown, &mut |id, _, _| sink.ids.push(id));
            }
            Ok(())
        };
        // How an unused piece is taken apart depends on the whole text.
        if text.len() <= LONG || self.kinds.contains(&Kind::Unused) {
            return part(text, sink);
        }
        let neighbours = self.neighbours.get_or_init(|| Neighbours::of(&self.vocabulary));
        neighbours.parts(text).try_for_each(|(start, end)| part(&text[start..end], sink))
    }

    /// The pieces of a text, or of a part of it behind which the best path had the score `score`.
    fn find(&self, text: &str, score: &mut f32) -> Vec<Found> {
        match self.rule {
            Rule::Pairs { whole_words: true } if self.piece(text).is_some() => vec![(0, text.len(), self.piece(text))],
            Rule::Pairs { .. } => self.merge_pairs(text),
            Rule::Unigram => self.best_path(text, score),
        }
    }

    /// The tokens of a piece that was found.
    fn results(
        &self,
        text: &str,
        (start, end, id): Found,
        after_unknown: &mut bool,
        add: &mut dyn FnMut(u32, usize, usize),
    ) {
        match (id.filter(|&id| id != self.unknown), &self.byte_tokens) {
            (Some(id), _) => add(id, start, end),
            (None, Some(table)) => (start..end).for_each(|place| {
                let byte = text.as_bytes()[place];
                add(table[byte as usize].unwrap_or(self.unknown), place, place + 1)
            }),
            (None, None) if *after_unknown => {} // a run of unknown pieces is one
            (None, None) => add(self.unknown, start, end),
        }
        *after_unknown = id.is_none_or(|id| id == self.unknown);
    }

    /// Characters, and the user's pieces.
    fn split(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        let mut start = 0;
        while start < text.len() {
            let matched = self.matcher.matched(&text[start..]);
            let size = matched.unwrap_or_else(|| text[start..].chars().next().unwrap().len_utf8());
            let place = symbols.len();
            symbols.push(Symbol {
                start,
                end: start + size,
                frozen: matched.is_some(),
                previous: place.checked_sub(1),
                next: Some(place + 1),
            });
            start += size;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        symbols
    }

    fn merge_pairs<'t>(&self, text: &'t str) -> Vec<Found> {
        let mut symbols = self.split(text);
        let mut queue = BinaryHeap::with_capacity(symbols.len());
        let mut splits = Splits::new();
        let add = |symbols: &[Symbol],
                   left: Option<usize>,
                   right: Option<usize>,
                   queue: &mut BinaryHeap<Pair>,
                   splits: &mut Splits<'t>| {
            let (Some(left), Some(right)) = (left, right) else { return };
            let (a, b) = (&symbols[left], &symbols[right]);
            if a.frozen || b.frozen {
                return;
            }
            let Some(id) = self.piece(&text[a.start..b.end]) else { return };
            queue.push(Pair { score: self.scores[id as usize], left, right, size: b.end - a.start });
            if self.kinds[id as usize] == Kind::Unused {
                splits.insert(&text[a.start..b.end], a.end - a.start);
            }
        };
        for right in 1..symbols.len() {
            add(&symbols, Some(right - 1), Some(right), &mut queue, &mut splits);
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (symbols[pair.left], symbols[pair.right]);
            let sizes = (left.end - left.start, right.end - right.start);
            if sizes.0 == 0 || sizes.1 == 0 || sizes.0 + sizes.1 != pair.size {
                continue; // one of them has been merged since
            }
            symbols[pair.left].end = right.end;
            symbols[pair.left].next = right.next;
            symbols[pair.right].end = right.start;
            if let Some(next) = right.next {
                symbols[next].previous = Some(pair.left);
            }
            add(&symbols, left.previous, Some(pair.left), &mut queue, &mut splits);
            add(&symbols, Some(pair.left), right.next, &mut queue, &mut splits);
        }
        let mut found = Vec::with_capacity(symbols.len());
        for symbol in symbols.iter().filter(|s| s.end > s.start) {
            self.used_parts(text, symbol.start, symbol.end, &splits, &mut found);
        }
        found
    }

    /// The piece, or the pieces that an unused one was made of.
    fn used_parts(&self, text: &str, start: usize, end: usize, splits: &Splits<'_>, found: &mut Vec<Found>) {
        let id = self.vocabulary.find(&text[start..end]);
        let unused = id.is_some_and(|id| self.kinds[id as usize] == Kind::Unused);
        match splits.get(&text[start..end]) {
            Some(&left) if unused => {
                self.used_parts(text, start, start + left, splits, found);
                self.used_parts(text, start + left, end, splits, found);
            }
            _ => found.push((start, end, id)),
        }
    }

    /// `score`: of the path to the beginning of `text`; becomes that of the path to its end.
    fn best_path(&self, text: &str, score: &mut f32) -> Vec<Found> {
        #[derive(Clone, Copy)]
        struct Node {
            score: f32,
            start: usize,
            id: Option<u32>,
            reached: bool,
        }
        const PENALTY: f32 = 10.0; // of unknown characters
        let mut nodes = vec![Node { score: 0.0, start: 0, id: None, reached: false }; text.len() + 1];
        nodes[0].score = *score;
        let mut start = 0;
        while start < text.len() {
            let until_here = nodes[start].score;
            let character = text[start..].chars().next().unwrap().len_utf8();
            let mut single = false;
            let offer = |node: &mut Node, score: f64, id: Option<u32>| {
                if !node.reached || score > f64::from(node.score) {
                    *node = Node { score: score as f32, start, id, reached: true };
                }
            };
            let mut end = start;
            for next in text[start..].chars() {
                end += next.len_utf8();
                if end - start > self.longest {
                    break;
                }
                let Some(id) = self.piece(&text[start..end]) else { continue };
                let score = match self.kinds[id as usize] {
                    Kind::Unused => continue,
                    Kind::UserDefined => f64::from((end - start) as f32 * self.range.1) - 0.1,
                    _ => f64::from(self.scores[id as usize]),
                };
                offer(&mut nodes[end], score + f64::from(until_here), Some(id));
                single |= end - start == character;
            }
            if !single {
                offer(&mut nodes[start + character], f64::from(self.range.0 - PENALTY + until_here), None);
            }
            start += character;
        }
        *score = nodes[text.len()].score;
        let mut found = Vec::new();
        let mut end = text.len();
        while end > 0 {
            found.push((nodes[end].start, end, nodes[end].id));
            end = nodes[end].start;
        }
        found.reverse();
        found
    }
}
