//! Tokenizers from the metadata of GGUF files. Such a file has the vocabulary, merges or scores, and the *name* of the
//! pre-tokenizer; the regular expressions behind the names are part of the format's convention (gguf_pre.rs).
use serde_json::{json, Value};
use std::sync::Arc;
use tokenizers::models::ModelWrapper;
use tokenizers::AddedToken;

use crate::abi::{slice, text, Failure, Outcome};
use crate::gguf_pre::{pre_tokenizer, PreTokenizer};
use crate::pair_model::{PairModel, Rule, SharedModel};
use crate::piece_model::Kind;
use crate::sentencepiece::{parts_of, File, Flags};
use crate::string_table::StringTable;
use crate::tokenizer_json::{normalizer, part, MergeBuilder, Parts};

/// A list of strings, one behind the other; `ends[i]` is the end of string i.
#[repr(C)]
pub struct WeftStrings {
    text: *const u8,
    ends: *const u64,
    count: usize,
}

/// Metadata `tokenizer.ggml.*`; absent ids and flags are -1, absent arrays have no elements.
#[repr(C)]
pub struct WeftGgufVocabulary {
    model: *const u8,
    model_size: usize,
    pre: *const u8,
    pre_size: usize,
    tokens: WeftStrings,
    merges: WeftStrings,
    scores: *const f32,
    score_count: usize,
    types: *const i32,
    type_count: usize,
    bos: i64,
    eos: i64,
    unknown: i64,
    separator: i64,
    cls: i64,
    mask: i64,
    add_bos: i32,
    add_eos: i32,
    add_space_prefix: i32,
    remove_extra_spaces: i32,
    charsmap: *const u8,
    charsmap_size: usize,
}

/// llama.cpp's token types.
pub const NORMAL: i32 = 1;
pub const UNKNOWN: i32 = 2;
pub const CONTROL: i32 = 3;
pub const USER_DEFINED: i32 = 4;
pub const UNUSED: i32 = 5;
pub const BYTE: i32 = 6;

pub const SPACE: char = '\u{2581}';

/// The metadata, checked and borrowed.
pub struct Vocabulary<'a> {
    pub model: &'a str,
    pre: &'a str,
    pub tokens: Vec<&'a str>,
    pub merges: Vec<&'a str>,
    pub scores: &'a [f32],
    types: &'a [i32],
    raw: &'a WeftGgufVocabulary,
}

/// What stands around a tokenizer's model, as tokenizer.json has it.
pub struct Steps {
    pub normalizer: Option<Value>,
    pub pre_tokenizer: Option<Value>,
    pub post_processor: Option<Value>,
    pub decoder: Option<Value>,
}

impl Steps {
    fn around(self, model: PairModel, added: Vec<AddedToken>) -> Outcome<Parts> {
        Ok(Parts {
            model: SharedModel::Pairs(Arc::new(model)),
            added,
            normalizer: normalizer(self.normalizer)?,
            pre_tokenizer: part("pre_tokenizer", self.pre_tokenizer)?,
            post_processor: part("post_processor", self.post_processor)?,
            decoder: part("decoder", self.decoder)?,
        })
    }
}

unsafe fn strings<'a>(list: &WeftStrings, name: &str) -> Outcome<Vec<&'a str>> {
    let ends = slice(list.ends, list.count);
    let size = ends.last().copied().unwrap_or(0) as usize;
    let all = slice(list.text, size);
    let mut start = 0;
    let mut out = Vec::with_capacity(list.count);
    for (i, &end) in ends.iter().enumerate() {
        let item = std::str::from_utf8(&all[start..end as usize]);
        out.push(item.map_err(|_| Failure::invalid(format!("{name}[{i}] is not UTF-8")))?);
        start = end as usize;
    }
    Ok(out)
}

/// # Safety
/// The arrays are as long as the structure says.
pub unsafe fn vocabulary(raw: &WeftGgufVocabulary) -> Outcome<Vocabulary<'_>> {
    let vocabulary = Vocabulary {
        model: text(raw.model, raw.model_size)?,
        pre: text(raw.pre, raw.pre_size)?,
        tokens: strings(&raw.tokens, "tokenizer.ggml.tokens")?,
        merges: strings(&raw.merges, "tokenizer.ggml.merges")?,
        scores: slice(raw.scores, raw.score_count),
        types: slice(raw.types, raw.type_count),
        raw,
    };
    let count = vocabulary.tokens.len();
    if count == 0 {
        return Err(Failure::invalid("tokenizer.ggml.tokens is absent or empty"));
    }
    for (name, size) in [("scores", vocabulary.scores.len()), ("token_type", vocabulary.types.len())] {
        if size != 0 && size != count {
            return Err(Failure::invalid(format!(
                "tokenizer.ggml.{name} has {size} elements, tokenizer.ggml.tokens {count}"
            )));
        }
    }
    let ids =
        [("bos", raw.bos), ("eos", raw.eos), ("unknown", raw.unknown), ("seperator", raw.separator), ("cls", raw.cls)];
    for (name, id) in ids.into_iter().chain([("mask", raw.mask)]) {
        if id >= count as i64 {
            return Err(Failure::invalid(format!(
                "tokenizer.ggml.{name}_token_id is {id}, but there are {count} tokens"
            )));
        }
    }
    Ok(vocabulary)
}

/// # Safety
/// As above.
pub unsafe fn parts(raw: &WeftGgufVocabulary) -> Outcome<Parts> {
    let vocabulary = vocabulary(raw)?;
    match vocabulary.model {
        "gpt2" => vocabulary.byte_level(),
        "llama" => vocabulary.sentence_piece(),
        "bert" => vocabulary.word_piece(),
        "t5" => vocabulary.unigram(),
        other => Err(Failure::unsupported(format!(
            "tokenizer.ggml.model {other:?}; known are \"gpt2\", \"llama\", \"bert\" and \"t5\""
        ))),
    }
}

impl Vocabulary<'_> {
    pub fn kind(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or(1)
    }

    fn table(&self) -> StringTable {
        let mut table = StringTable::with_capacity(self.tokens.len(), self.tokens.iter().map(|t| t.len()).sum());
        self.tokens.iter().enumerate().for_each(|(id, token)| table.insert(token, id as u32));
        table
    }

    /// Ids and tokens that are looked for in texts before anything else.
    pub fn added(&self) -> Vec<(usize, AddedToken)> {
        let added = |(id, token): (usize, &&str)| {
            let special =
                matches!(self.kind(id), CONTROL | UNKNOWN) || [self.raw.bos, self.raw.eos].contains(&(id as i64));
            (special || self.kind(id) == USER_DEFINED)
                .then(|| (id, AddedToken::from(*token, special).normalized(false)))
        };
        self.tokens.iter().enumerate().filter_map(added).collect()
    }

    /// A TemplateProcessing post-processor with BOS and EOS as the flags say.
    fn template(&self, add_bos: bool, add_eos: bool) -> Outcome<Value> {
        let special = |id: i64, wanted: bool, name: &str| -> Outcome<Option<(&str, i64)>> {
            match (wanted, usize::try_from(id)) {
                (false, _) => Ok(None),
                (true, Ok(index)) => Ok(Some((self.tokens[index], id))),
                (true, Err(_)) => Err(Failure::invalid(format!(
                    "tokenizer.ggml.add_{name}_token is set, but tokenizer.ggml.{name}_token_id is absent"
                ))),
            }
        };
        let (bos, eos) = (special(self.raw.bos, add_bos, "bos")?, special(self.raw.eos, add_eos, "eos")?);
        Ok(template(bos, eos, None))
    }

    fn added_tokens(&self) -> Vec<AddedToken> {
        self.added().into_iter().map(|(_, token)| token).collect()
    }

    pub fn pre_tokenizer(&self) -> Outcome<PreTokenizer> {
        pre_tokenizer(self.pre)
    }

    pub fn byte_level_steps(&self) -> Outcome<Steps> {
        let pre = self.pre_tokenizer()?;
        let add_bos = if self.raw.add_bos < 0 { pre.adds_bos && self.raw.bos >= 0 } else { self.raw.add_bos == 1 };
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let mut steps: Vec<Value> = pre.splits.iter().map(|regex| split(regex)).collect();
        steps.push(bytes.clone());
        Ok(Steps {
            normalizer: pre.normalize.then(|| json!({"type": "NFC"})),
            pre_tokenizer: Some(json!({"type": "Sequence", "pretokenizers": steps})),
            post_processor: Some(self.template(add_bos, self.raw.add_eos == 1)?),
            decoder: Some(bytes),
        })
    }

    fn byte_level(&self) -> Outcome<Parts> {
        let vocabulary = self.table();
        let mut merges = MergeBuilder::new(&vocabulary, self.merges.len());
        for merge in &self.merges {
            merges.add_joined(merge).map_err(|e| Failure::invalid(format!("tokenizer.ggml.merges: {e}")))?;
        }
        let rule = Rule::Merges(merges.finish());
        let model = PairModel {
            rule,
            unknown: None,
            fuse_unknown: false,
            byte_tokens: None,
            ignore_merges: self.pre_tokenizer()?.ignore_merges,
            neighbours: Default::default(),
            vocabulary,
        };
        self.byte_level_steps()?.around(model, self.added_tokens())
    }

    /// Whether a token comes out of merging: not control tokens, and not those that stand for a byte.
    pub fn is_mergeable(&self, id: usize) -> bool {
        !matches!(self.kind(id), UNKNOWN | CONTROL | BYTE)
    }

    pub fn unknown(&self) -> Option<u32> {
        u32::try_from(self.raw.unknown).ok()
    }

    pub fn sentence_piece_steps(&self) -> Outcome<Steps> {
        let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.raw.add_space_prefix != 0 {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let add_bos = if self.raw.add_bos < 0 { self.raw.bos >= 0 } else { self.raw.add_bos == 1 };
        Ok(Steps {
            normalizer: Some(json!({"type": "Sequence", "normalizers": normalizers})),
            pre_tokenizer: None,
            post_processor: Some(self.template(add_bos, self.raw.add_eos == 1)?),
            decoder: Some(json!({"type": "Sequence", "decoders": decoders})),
        })
    }

    fn sentence_piece(&self) -> Outcome<Parts> {
        if self.scores.is_empty() {
            return Err(Failure::invalid("tokenizer.ggml.scores is absent"));
        }
        let vocabulary = self.table();
        let mergeable = |(id, &score): (usize, &f32)| self.is_mergeable(id).then_some(score);
        let model = PairModel {
            rule: Rule::Scores(self.scores.iter().enumerate().map(mergeable).collect()),
            unknown: self.unknown(),
            fuse_unknown: true,
            byte_tokens: Some(PairModel::byte_table(&vocabulary)),
            ignore_merges: false,
            neighbours: Default::default(),
            vocabulary,
        };
        self.sentence_piece_steps()?.around(model, self.added_tokens())
    }

    /// SentencePiece's unigram model, with the rules of its file that texts are normalised by.
    fn unigram(&self) -> Outcome<Parts> {
        if self.scores.is_empty() {
            return Err(Failure::invalid("tokenizer.ggml.scores is absent"));
        }
        let kind = |id: usize| match self.kind(id) {
            UNKNOWN => Kind::Unknown,
            CONTROL => Kind::Control,
            USER_DEFINED => Kind::UserDefined,
            UNUSED => Kind::Unused,
            BYTE => Kind::Byte,
            _ if i64::try_from(id) == Ok(self.raw.unknown) => Kind::Unknown,
            _ => Kind::Normal,
        };
        if let Some(id) = self.scores.iter().position(|score| !score.is_finite()) {
            return Err(Failure::invalid(format!("tokenizer.ggml.scores[{id}] is no number")));
        }
        let pieces = self.tokens.iter().zip(self.scores).enumerate();
        let file = File {
            pieces: pieces.map(|(id, (token, &score))| (token.to_string(), score, kind(id))).collect(),
            model_type: 1,
            space_as_suffix: false,
            byte_fallback: self.types.contains(&BYTE),
            bos: self.raw.bos,
            eos: self.raw.eos,
            charsmap: unsafe { slice(self.raw.charsmap, self.raw.charsmap_size) },
            dummy_prefix: self.raw.add_space_prefix == 1,
            remove_extra_spaces: self.raw.remove_extra_spaces == 1,
            escape_spaces: true,
        };
        let flags = Flags {
            add_bos: self.raw.add_bos == 1,
            add_eos: self.raw.add_eos != 0,
            legacy: true,
            add_prefix_space: None,
        };
        Ok(parts_of(file, &flags)?.0)
    }

    /// WordPiece. GGUF marks the pieces that begin a word where BERT's own files mark those that go on in one.
    fn word_piece(&self) -> Outcome<Parts> {
        let spelling = |(id, token): (usize, &&str)| {
            let whole = (token.starts_with('[') && token.ends_with(']')) || matches!(self.kind(id), CONTROL | UNKNOWN);
            match token.strip_prefix(SPACE) {
                Some(word) => (word.to_string(), id as u32),
                None if whole => (token.to_string(), id as u32),
                None => (format!("##{token}"), id as u32),
            }
        };
        let find = |id: i64, name: &str| {
            let index = if id >= 0 { Some(id as usize) } else { self.tokens.iter().position(|t| *t == name) };
            index
                .map(|i| (self.tokens[i], i as i64))
                .ok_or_else(|| Failure::invalid(format!("the vocabulary has no {name}")))
        };
        let unknown = find(self.raw.unknown, "[UNK]")?;
        let (cls, sep) = (
            find(if self.raw.cls >= 0 { self.raw.cls } else { self.raw.bos }, "[CLS]")?,
            find(self.raw.separator, "[SEP]")?,
        );
        let special = |t: (&str, i64)| AddedToken::from(t.0, true).normalized(false);
        let mut added = vec![special(unknown), special(cls), special(sep)];
        for name in ["[PAD]", "[MASK]"] {
            added.extend(find(-1, name).ok().map(special));
        }
        let vocab: serde_json::Map<String, Value> =
            self.tokens.iter().enumerate().map(spelling).map(|(token, id)| (token, id.into())).collect();
        let model = json!({"type": "WordPiece", "unk_token": unknown.0, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab});
        let model: ModelWrapper = serde_json::from_value(model).map_err(|e| Failure::invalid(e.to_string()))?;
        let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
        Ok(Parts {
            model: SharedModel::Other(Arc::new(model)),
            added,
            normalizer: normalizer(Some(bert))?,
            pre_tokenizer: part("pre_tokenizer", Some(json!({"type": "BertPreTokenizer"})))?,
            post_processor: part("post_processor", Some(template(Some(cls), Some(sep), Some(sep))))?,
            decoder: part("decoder", Some(json!({"type": "WordPiece", "prefix": "##", "cleanup": true})))?,
        })
    }
}

/// "before A after" for one text; "before A after between-less B after" for two: with `separator` the second text has
/// no opening token (BERT), without it both have one (decoders).
pub fn template(before: Option<(&str, i64)>, after: Option<(&str, i64)>, separator: Option<(&str, i64)>) -> Value {
    let token =
        |t: Option<(&str, i64)>, kind: i64| t.map(|(name, _)| json!({"SpecialToken": {"id": name, "type_id": kind}}));
    let text = |name: &str, kind: i64| Some(json!({"Sequence": {"id": name, "type_id": kind}}));
    let single: Vec<Value> = [token(before, 0), text("A", 0), token(after, 0)].into_iter().flatten().collect();
    let opening = if separator.is_some() { None } else { token(before, 1) };
    let second = [opening, text("B", 1), token(after, 1)].into_iter().flatten();
    let pair: Vec<Value> = single.iter().cloned().chain(second).collect();
    let mut special = serde_json::Map::new();
    for (name, id) in before.into_iter().chain(after) {
        special.insert(name.to_string(), json!({"id": name, "ids": [id], "tokens": [name]}));
    }
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
}

pub fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}
