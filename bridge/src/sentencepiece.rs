//! tokenizer.model: SentencePiece's own file, a message of Protocol Buffers (sentencepiece_model.proto) with pieces,
//! the kind of model, and the rules that texts are normalised by.
use serde_json::{json, Value};
use std::collections::HashSet;
use std::sync::Arc;
use tokenizers::{AddedToken, NormalizedString, Normalizer, NormalizerWrapper};

use crate::abi::{Failure, Outcome, Stop};
use crate::gguf::template;
use crate::pair_model::SharedModel;
use crate::piece_model::{Kind, PieceModel, PrefixMatcher, Rule};
use crate::tokenizer_json::{part, Parts, MAX_ID};

const SPACE: &str = "\u{2581}";

// ---- the file

/// The fields of a message: number, and value.
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = (self.0.get(..count)?, self.0.get(count..)?);
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// None at the end, and an error for what is no message.
    fn next(&mut self) -> Outcome<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let read = |fields: &mut Self| {
            let key = fields.varint()?;
            let value = match key & 7 {
                0 => Field::Number(fields.varint()?),
                1 => Field::Bytes(fields.take(8)?),
                2 => {
                    let size = usize::try_from(fields.varint()?).ok()?;
                    Field::Bytes(fields.take(size)?)
                }
                5 => Field::Float(f32::from_le_bytes(fields.take(4)?.try_into().ok()?)),
                _ => return None,
            };
            Some((key >> 3, value))
        };
        read(self).map(Some).ok_or_else(|| Failure::invalid("it is no SentencePiece model, or is cut off"))
    }
}

/// What of the file counts. Absent fields have the defaults of sentencepiece_model.proto.
pub struct File<'a> {
    pub pieces: Vec<(String, f32, Kind)>,
    pub model_type: u64, // 1: unigram, 2: bpe
    pub space_as_suffix: bool,
    pub byte_fallback: bool,
    pub bos: i64,
    pub eos: i64,
    pub charsmap: &'a [u8],
    pub dummy_prefix: bool,
    pub remove_extra_spaces: bool,
    pub escape_spaces: bool,
}

fn piece(message: &[u8], id: usize) -> Outcome<(String, f32, Kind)> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(bytes)) => {
                text = String::from_utf8(bytes.to_vec())
                    .map_err(|_| Failure::invalid(format!("piece {id} is not UTF-8")))?
            }
            (2, Field::Float(value)) => score = value,
            (3, Field::Number(value)) => kind = value,
            _ => {}
        }
    }
    let kind = match kind {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        other => return Err(Failure::invalid(format!("piece {id} is of type {other}, which is not known"))),
    };
    if text.is_empty() || !score.is_finite() {
        return Err(Failure::invalid(format!("piece {id} has no text, or a score that is no number")));
    }
    Ok((text, score, kind))
}

fn parse(bytes: &[u8]) -> Outcome<File<'_>> {
    let mut file = File {
        pieces: Vec::new(),
        model_type: 1,
        space_as_suffix: false,
        byte_fallback: false,
        bos: 1,
        eos: 2,
        charsmap: &[],
        dummy_prefix: true,
        remove_extra_spaces: true,
        escape_spaces: true,
    };
    let mut whole = false; // the settings stand behind the pieces
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(message)) => file.pieces.push(piece(message, file.pieces.len())?),
            (2, Field::Bytes(message)) => {
                whole = true;
                let mut trainer = Fields(message);
                while let Some((number, value)) = trainer.next()? {
                    let Field::Number(value) = value else { continue };
                    match number {
                        3 => file.model_type = value,
                        24 => file.space_as_suffix = value != 0,
                        35 => file.byte_fallback = value != 0,
                        41 => file.bos = i64::from(value as i32),
                        42 => file.eos = i64::from(value as i32),
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(message)) => {
                let mut normalizer = Fields(message);
                while let Some(field) = normalizer.next()? {
                    match field {
                        (2, Field::Bytes(map)) => file.charsmap = map,
                        (3, Field::Number(value)) => file.dummy_prefix = value != 0,
                        (4, Field::Number(value)) => file.remove_extra_spaces = value != 0,
                        (5, Field::Number(value)) => file.escape_spaces = value != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !whole {
        return Err(Failure::invalid("it is no SentencePiece model, or is cut off: it has no trainer_spec"));
    }
    Ok(file)
}

// ---- normalisation

/// SentencePiece's normalisation (normalizer.cc): the longest rule of its map at each place, then spaces. The user's
/// pieces stay as they are.
pub struct PieceNormalizer {
    trie: Vec<u32>, // a double array of the library Darts-clone
    texts: Vec<u8>, // what rules put in, each ended by a zero
    matcher: Arc<PrefixMatcher>,
    dummy_prefix: bool,
    first_only: bool, // no prefix behind a special token
    remove_extra_spaces: bool,
    escape_spaces: bool,
}

impl PieceNormalizer {
    /// The map: the trie's size in bytes, the trie, and the texts.
    fn read_map(map: &[u8]) -> Outcome<(Vec<u32>, Vec<u8>)> {
        if map.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let broken = || Failure::invalid("its precompiled_charsmap is broken");
        let size = map.get(..4).ok_or_else(broken)?;
        let size = u32::from_le_bytes(size.try_into().unwrap()) as usize;
        let trie = map.get(4..).and_then(|rest| rest.get(..size)).ok_or_else(broken)?;
        let units = trie.chunks_exact(4).map(|unit| u32::from_le_bytes(unit.try_into().unwrap())).collect();
        Ok((units, map[4 + size..].to_vec()))
    }

    /// Of the rule for the longest beginning of `text`: how long that is, and what it becomes.
    fn rule(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut node = offset(*self.trie.first()?);
        let mut found = None;
        for (place, &byte) in text.iter().enumerate() {
            node ^= u32::from(byte);
            let Some(&unit) = self.trie.get(node as usize) else { break };
            if unit & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = self.trie.get(node as usize).map_or(0, |unit| unit & !(1 << 31));
                found = Some((place + 1, value as usize));
            }
        }
        let (length, start) = found?;
        let text = self.texts.get(start..)?;
        Some((length, text.split(|&byte| byte == 0).next().unwrap_or_default()))
    }

    /// The beginning of `text` that is normalised as one, in bytes, and what it becomes.
    fn prefix<'a>(&'a self, text: &'a str) -> (usize, &'a [u8]) {
        let as_it_is = |length: usize| (length, &text.as_bytes()[..length]);
        if let Some(length) = self.matcher.matched(text) {
            return as_it_is(length);
        }
        match self.rule(text.as_bytes()) {
            Some((length, text_of_rule)) if text.is_char_boundary(length) => (length, text_of_rule),
            _ => as_it_is(text.chars().next().map_or(0, char::len_utf8)),
        }
    }

    pub fn normalized(&self, text: &str, first: bool, stop: Stop) -> Outcome<String> {
        let mut rest = text;
        while self.remove_extra_spaces && !rest.is_empty() {
            let (length, becomes) = self.prefix(rest);
            if becomes != b" " {
                break;
            }
            rest = &rest[length..];
        }
        if rest.is_empty() {
            return Ok(String::new());
        }
        let space = if self.escape_spaces { SPACE.as_bytes() } else { b" " };
        let mut out: Vec<u8> = Vec::with_capacity(text.len() * 2);
        if self.dummy_prefix && (first || !self.first_only) {
            out.extend_from_slice(space);
        }
        let mut after_space = self.remove_extra_spaces;
        let mut until_look = 0;
        while !rest.is_empty() {
            if until_look == 0 {
                stop.check()?;
                until_look = 10_000;
            }
            until_look -= 1;
            let (length, mut becomes) = self.prefix(rest);
            while let (true, Some(more)) = (after_space, becomes.strip_prefix(b" ")) {
                becomes = more;
            }
            for &byte in becomes {
                if byte == b' ' {
                    out.extend_from_slice(space);
                } else {
                    out.push(byte);
                }
            }
            if !becomes.is_empty() {
                after_space = becomes.ends_with(b" ");
            }
            after_space &= self.remove_extra_spaces;
            rest = &rest[length..];
        }
        while self.remove_extra_spaces && out.ends_with(space) {
            out.truncate(out.len() - space.len());
        }
        Ok(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }
}

/// The normalizer of every tokenizer of this crate: SentencePiece's, or the crate's own.
#[derive(Clone)]
pub enum SharedNormalizer {
    Pieces(Arc<PieceNormalizer>),
    Other(NormalizerWrapper),
}

impl Normalizer for SharedNormalizer {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        match self {
            // Only ids are asked for, so the text need not know where its parts came from.
            SharedNormalizer::Pieces(pieces) => {
                let first = text.offsets_original().0 == 0;
                let normalized = pieces.normalized(text.get(), first, Stop::current()).map_err(|e| e.message)?;
                *text = NormalizedString::from(normalized);
                Ok(())
            }
            SharedNormalizer::Other(other) => other.normalize(text),
        }
    }
}

// ---- the tokenizer

/// What tokenizer_config.json says about a tokenizer that is not in tokenizer.json, as transformers' LlamaTokenizer
/// takes it.
pub struct Flags {
    pub add_bos: bool,
    pub add_eos: bool,
    pub legacy: bool,
    pub add_prefix_space: Option<bool>,
}

impl Flags {
    pub fn of(config: &str) -> Self {
        let config: Value = serde_json::from_str(config).unwrap_or_default();
        let flag = |name: &str| config.get(name).and_then(Value::as_bool);
        Flags {
            add_bos: flag("add_bos_token").unwrap_or(true),
            add_eos: flag("add_eos_token").unwrap_or(false),
            legacy: flag("legacy").unwrap_or(true),
            add_prefix_space: flag("add_prefix_space"),
        }
    }
}

/// The ids of the tokens at the beginning and the end of a text.
pub type Ends = [Option<u32>; 2];

/// Gives pieces the names that tokenizer_config.json has for their ids: models are trained on with their unused pieces.
/// A name that another piece keeps is left to that.
fn rename(pieces: &mut [(String, f32, Kind)], named: &[(u32, AddedToken)]) {
    let ids: HashSet<u32> = named.iter().map(|(id, _)| *id).collect();
    let kept: HashSet<String> =
        pieces.iter().enumerate().filter(|(id, _)| !ids.contains(&(*id as u32))).map(|(_, p)| p.0.clone()).collect();
    for (id, token) in named {
        let Some(piece) = pieces.get_mut(*id as usize) else { continue };
        if piece.0 != token.content && !kept.contains(&token.content) {
            piece.0 = token.content.clone();
            piece.2 = Kind::Control;
        }
    }
}

/// The parts, and the ends. `named`: the tokens of tokenizer_config.json by id.
pub fn parts(bytes: &[u8], flags: &Flags, named: &[(u32, AddedToken)]) -> Outcome<(Parts, Ends)> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(Failure::invalid("it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"));
    }
    // "IQ== 0" and so on: Llama 3's original files and others have the same name.
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if line.len() < 100 && line.ends_with(b" 0") && line.is_ascii() {
        return Err(Failure::unsupported(
            "it is a vocabulary of tiktoken, not SentencePiece's; tokenizer.json is needed beside it",
        ));
    }
    let mut file = parse(bytes)?;
    rename(&mut file.pieces, named);
    parts_of(file, flags)
}

/// The same from what a file says, wherever that came from.
pub fn parts_of(file: File, flags: &Flags) -> Outcome<(Parts, Ends)> {
    if file.pieces.is_empty() || file.pieces.len() > MAX_ID as usize {
        return Err(Failure::invalid(format!("it has {} pieces", file.pieces.len())));
    }
    let rule = match file.model_type {
        1 => Rule::Unigram,
        2 => Rule::Pairs { whole_words: false },
        other => {
            return Err(Failure::unsupported(format!(
                "its model_type is {}; known are unigram and bpe",
                ["", "", "", "word", "char"].get(other as usize).unwrap_or(&"not known")
            )))
        }
    };
    if file.space_as_suffix {
        return Err(Failure::unsupported("it has treat_whitespace_as_suffix"));
    }
    let Some(unknown) = file.pieces.iter().position(|piece| piece.2 == Kind::Unknown) else {
        return Err(Failure::invalid("it has no piece for what is unknown"));
    };
    let named =
        |id: i64| usize::try_from(id).ok().filter(|&id| file.pieces.get(id).is_some_and(|p| p.2 == Kind::Control));
    let (bos, eos) = (named(file.bos), named(file.eos));
    let spelled =
        |id: Option<usize>, wanted: bool| id.filter(|_| wanted).map(|id| (file.pieces[id].0.as_str(), id as i64));
    let post_processor = template(spelled(bos, flags.add_bos), spelled(eos, flags.add_eos), None);
    let special = |piece: &(String, f32, Kind)| matches!(piece.2, Kind::Control | Kind::Unknown);
    let added =
        file.pieces.iter().filter(|p| special(p)).map(|p| AddedToken::from(&p.0, true).normalized(false)).collect();
    let matcher = Arc::new(PrefixMatcher::new(
        file.pieces.iter().filter(|piece| piece.2 == Kind::UserDefined).map(|piece| piece.0.as_str()),
    ));
    let (trie, texts) = PieceNormalizer::read_map(file.charsmap)?;
    let dummy_prefix = flags.add_prefix_space.unwrap_or(file.dummy_prefix);
    let normalizer = PieceNormalizer {
        trie,
        texts,
        matcher: matcher.clone(),
        dummy_prefix,
        first_only: !flags.legacy,
        remove_extra_spaces: file.remove_extra_spaces,
        escape_spaces: file.escape_spaces,
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if dummy_prefix || file.remove_extra_spaces {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let ends = [bos, eos].map(|id| id.map(|id| id as u32));
    let model = PieceModel::new(file.pieces, rule, unknown as u32, file.byte_fallback, matcher);
    let parts = Parts {
        model: SharedModel::Pieces(Arc::new(model)),
        added,
        normalizer: Some(SharedNormalizer::Pieces(Arc::new(normalizer))),
        pre_tokenizer: None,
        post_processor: part("post_processor", Some(post_processor))?,
        decoder: part("decoder", Some(json!({"type": "Sequence", "decoders": decoders})))?,
    };
    Ok((parts, ends))
}
