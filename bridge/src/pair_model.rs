//! Byte-pair encoding as a `tokenizers` model: a word is split into characters, and the adjacent pair of the best rank
//! is merged until none is left. It gives what `tokenizers::models::bpe::BPE` gives, but loads several times faster
//! (strings in one buffer, merges by id) and can also rank pairs by the score of the piece they make, as SentencePiece
//! does, without a table of merges.
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{Model, Token};

use crate::abi::Outcome;
use crate::piece_model::PieceModel;
use crate::pieces::{too_long, Sink, MOST_IN_WORD};
use crate::segments::{Neighbours, LONG};
use crate::string_table::StringTable;

const NONE: u32 = u32::MAX;

/// Pairs of ids to rank and merged id; open addressing over one flat buffer.
pub struct MergeTable {
    slots: Vec<(u32, u32, u32, u32)>, // left, right, rank, merged; left NONE: free
}

impl MergeTable {
    pub fn with_capacity(merges: usize) -> Self {
        MergeTable { slots: vec![(NONE, 0, 0, 0); (merges.max(4) * 2).next_power_of_two()] }
    }

    fn slot(&self, left: u32, right: u32) -> usize {
        let mask = self.slots.len() - 1;
        let key = (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut slot = (key >> 24) as usize & mask;
        while self.slots[slot].0 != NONE && (self.slots[slot].0, self.slots[slot].1) != (left, right) {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// At most as many as the capacity. Of a pair that comes twice the later one counts, as in the reference.
    pub fn insert(&mut self, left: u32, right: u32, rank: u32, merged: u32) {
        let slot = self.slot(left, right);
        self.slots[slot] = (left, right, rank, merged);
    }

    fn get(&self, left: u32, right: u32) -> Option<(u64, u32)> {
        let (found, _, rank, merged) = self.slots[self.slot(left, right)];
        (found != NONE).then_some((u64::from(rank), merged))
    }
}

/// What decides which pair is merged first.
pub enum Rule {
    /// The place in the list of merges.
    Merges(MergeTable),
    /// The score of the merged piece, best first; of equal scores the pair with the longer left part, then the longer
    /// right part (the order in which converters to tokenizer.json list their merges). By id; None for pieces that
    /// merging never makes.
    Scores(Vec<Option<f32>>),
}

pub struct PairModel {
    pub vocabulary: StringTable,
    pub rule: Rule,
    pub unknown: Option<u32>,
    pub fuse_unknown: bool,
    /// Characters outside the vocabulary become one token per byte, "<0xE2>".
    pub byte_tokens: Option<Box<[Option<u32>; 256]>>,
    /// A word that is in the vocabulary as a whole is taken as it is.
    pub ignore_merges: bool,
    /// Found when a long word comes for the first time.
    pub neighbours: OnceLock<Neighbours>,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    start: u32,
    size: u32,  // bytes; 0: merged into its left neighbour
    chars: u32, // 0: a byte or unknown token, which stands for text that is not its own
    previous: u32,
    next: u32,
}

impl PairModel {
    pub fn byte_table(vocabulary: &StringTable) -> Box<[Option<u32>; 256]> {
        Box::new(std::array::from_fn(|byte| vocabulary.find(&format!("<0x{byte:02X}>"))))
    }

    fn rank(&self, word: &str, left: &Symbol, right: &Symbol) -> Option<(u64, u32)> {
        match &self.rule {
            Rule::Merges(merges) => merges.get(left.id, right.id),
            Rule::Scores(scores) => {
                if left.chars == 0 || right.chars == 0 {
                    return None;
                }
                let merged = self.vocabulary.find(&word[left.start as usize..(right.start + right.size) as usize])?;
                let score = scores[merged as usize]?;
                let longest_first = |chars: u32| u64::from(u16::MAX - chars.min(u32::from(u16::MAX)) as u16);
                Some((
                    u64::from(descending(score)) << 32 | longest_first(left.chars) << 16 | longest_first(right.chars),
                    merged,
                ))
            }
        }
    }

    /// One symbol per character (or per byte of one that is unknown), linked.
    fn split(&self, word: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        let mut unknown_open = false; // the last symbol is an unknown one that the next may join
        for (start, c) in word.char_indices() {
            let mut buffer = [0u8; 4];
            let size = c.len_utf8() as u32;
            let mut add = |id: u32, start: u32, size: u32, chars: u32| {
                let place = symbols.len() as u32;
                symbols.push(Symbol { id, start, size, chars, previous: place.wrapping_sub(1), next: place + 1 });
            };
            let start = start as u32;
            if let Some(id) = self.vocabulary.find(c.encode_utf8(&mut buffer)) {
                add(id, start, size, 1);
                unknown_open = false;
                continue;
            }
            if let Some(table) = &self.byte_tokens {
                let bytes = &word.as_bytes()[start as usize..(start + size) as usize];
                if bytes.iter().all(|&b| table[b as usize].is_some()) {
                    bytes
                        .iter()
                        .enumerate()
                        .for_each(|(i, &b)| add(table[b as usize].unwrap(), start + i as u32, 1, 0));
                    unknown_open = false;
                    continue;
                }
            }
            let Some(id) = self.unknown else { continue };
            if unknown_open && self.fuse_unknown {
                symbols.last_mut().unwrap().size += size;
            } else {
                add(id, start, size, 0);
            }
            unknown_open = true;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        symbols
    }

    fn merge(&self, word: &str) -> Vec<Symbol> {
        let mut symbols = self.split(word);
        // Ordered by rank, then place; entries whose symbols have changed since are skipped by comparing the merged id.
        let mut queue: BinaryHeap<Reverse<(u64, u32, u32)>> = BinaryHeap::with_capacity(symbols.len());
        for place in 1..symbols.len() {
            if let Some((rank, merged)) = self.rank(word, &symbols[place - 1], &symbols[place]) {
                queue.push(Reverse((rank, place as u32 - 1, merged)));
            }
        }
        while let Some(Reverse((_, place, merged))) = queue.pop() {
            let left = symbols[place as usize];
            if left.size == 0 || left.next == NONE {
                continue;
            }
            let right = symbols[left.next as usize];
            if self.rank(word, &left, &right).map(|r| r.1) != Some(merged) {
                continue;
            }
            symbols[left.next as usize].size = 0;
            let joined = Symbol {
                id: merged,
                size: left.size + right.size,
                chars: left.chars + right.chars,
                next: right.next,
                ..left
            };
            symbols[place as usize] = joined;
            if right.next != NONE {
                symbols[right.next as usize].previous = place;
                if let Some((rank, merged)) = self.rank(word, &joined, &symbols[right.next as usize]) {
                    queue.push(Reverse((rank, place, merged)));
                }
            }
            if joined.previous != NONE {
                if let Some((rank, merged)) = self.rank(word, &symbols[joined.previous as usize], &joined) {
                    queue.push(Reverse((rank, joined.previous, merged)));
                }
            }
        }
        symbols.retain(|s| s.size != 0);
        symbols
    }

    /// Appends the ids of a word, in parts where it is long.
    pub fn append(&self, word: &str, sink: &mut Sink) -> Outcome<()> {
        if let Some(id) = self.vocabulary.find(word).filter(|_| self.ignore_merges) {
            sink.ids.push(id);
            return Ok(());
        }
        if word.len() <= LONG {
            sink.ids.extend(self.merge(word).iter().map(|symbol| symbol.id));
            return Ok(());
        }
        for (start, end) in self.neighbours.get_or_init(|| Neighbours::of(&self.vocabulary)).parts(word) {
            sink.check()?;
            if end - start > MOST_IN_WORD {
                return Err(too_long("a part of the text without a place to cut it", end - start, MOST_IN_WORD));
            }
            sink.ids.extend(self.merge(&word[start..end]).iter().map(|symbol| symbol.id));
        }
        Ok(())
    }

    fn tokenize(&self, word: &str) -> Vec<Token> {
        let token = |id: u32, start: usize, end: usize| {
            Token::new(id, self.vocabulary.get(id).unwrap_or("").to_string(), (start, end))
        };
        if word.is_empty() {
            return vec![];
        }
        if self.ignore_merges {
            if let Some(id) = self.vocabulary.find(word) {
                return vec![token(id, 0, word.len())];
            }
        }
        self.merge(word).iter().map(|s| token(s.id, s.start as usize, (s.start + s.size) as usize)).collect()
    }
}

/// Maps floats to integers that fall as the floats rise.
fn descending(score: f32) -> u32 {
    let bits = score.to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !rising
}

/// The model of every tokenizer of this crate: ours for byte-pair encoding and SentencePiece's files, the crate's own
/// for the rest. Cloning shares it.
#[derive(Clone)]
pub enum SharedModel {
    Pairs(Arc<PairModel>),
    Pieces(Arc<PieceModel>),
    Other(Arc<ModelWrapper>),
}

impl SharedModel {
    /// Of our own models.
    fn vocabulary(&self) -> Option<&StringTable> {
        match self {
            SharedModel::Pairs(model) => Some(&model.vocabulary),
            SharedModel::Pieces(model) => Some(&model.vocabulary),
            SharedModel::Other(_) => None,
        }
    }

    pub fn end_id(&self) -> u32 {
        match self {
            SharedModel::Pairs(model) => model.vocabulary.end_id(),
            SharedModel::Pieces(model) => model.vocabulary.end_id(),
            SharedModel::Other(model) => model.get_vocab().values().max().map_or(0, |&id| id.saturating_add(1)),
        }
    }
}

impl Model for SharedModel {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        match self {
            SharedModel::Pairs(model) => Ok(model.tokenize(word)),
            SharedModel::Pieces(model) => Ok(model.tokenize(word)),
            SharedModel::Other(model) => model.tokenize(word),
        }
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            SharedModel::Other(model) => model.token_to_id(token),
            ours => ours.vocabulary()?.find(token),
        }
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            SharedModel::Other(model) => model.id_to_token(id),
            ours => ours.vocabulary()?.get(id).map(str::to_string),
        }
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        match (self, self.vocabulary()) {
            (SharedModel::Other(model), _) => model.get_vocab(),
            (_, Some(table)) => {
                (0..table.end_id()).filter_map(|id| table.get(id).map(|token| (token.to_string(), id))).collect()
            }
            (_, None) => HashMap::new(),
        }
    }
    fn get_vocab_size(&self) -> usize {
        match self {
            SharedModel::Other(model) => model.get_vocab_size(),
            ours => ours.vocabulary().map_or(0, StringTable::len),
        }
    }
    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("this tokenizer is for reading only".into())
    }
    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            SharedModel::Other(model) => model.get_trainer(),
            _ => ModelWrapper::BPE(Default::default()).get_trainer(),
        }
    }
}
