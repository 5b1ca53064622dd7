//! Reads tokenizer.json. The large part, vocabulary and merges of a byte-pair model, goes straight from the text into a
//! PairModel without intermediate values; the small parts are left to the `tokenizers` crate.
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, DecoderWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use crate::abi::{Failure, Outcome};
use crate::pair_model::{MergeTable, PairModel, Rule, SharedModel};
use crate::sentencepiece::SharedNormalizer;
use crate::string_table::StringTable;

/// Ids beyond this are taken for a broken file: tables are as long as the largest id.
pub const MAX_ID: u32 = 1 << 24;

/// The parts of a tokenizer, from whichever source.
pub struct Parts {
    pub model: SharedModel,
    pub added: Vec<AddedToken>,
    pub normalizer: Option<SharedNormalizer>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub post_processor: Option<PostProcessorWrapper>,
    pub decoder: Option<DecoderWrapper>,
}

#[derive(Deserialize)]
struct File<'a> {
    version: Option<Value>,
    #[serde(default)]
    added_tokens: Option<Vec<AddedToken>>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Model<'a> {
    r#type: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    #[serde(borrow)]
    vocab: Option<&'a RawValue>,
    #[serde(borrow)]
    merges: Option<&'a RawValue>,
}

pub fn parse(json: &str) -> Outcome<Parts> {
    if json.starts_with("version https://git-lfs") {
        return Err(Failure::invalid("it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"));
    }
    let file: File = serde_json::from_str(json).map_err(|e| Failure::invalid(e.to_string()))?;
    if file.version.as_ref().is_some_and(|v| v != "1.0") {
        return Err(Failure::unsupported(format!(
            "tokenizer version {} (only \"1.0\" is known)",
            file.version.unwrap()
        )));
    }
    let Some(model) = file.model else {
        return Err(Failure::invalid("it has no `model`"));
    };
    Ok(Parts {
        model: parse_model(model)?,
        added: file.added_tokens.unwrap_or_default(),
        normalizer: normalizer(file.normalizer)?,
        pre_tokenizer: part("pre_tokenizer", file.pre_tokenizer)?,
        post_processor: part("post_processor", file.post_processor)?,
        decoder: part("decoder", file.decoder)?,
    })
}

#[derive(Deserialize)]
struct Config {
    added_tokens_decoder: Option<serde_json::Map<String, Value>>,
}

#[derive(Deserialize)]
struct ConfigToken {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

/// The tokens that tokenizer_config.json adds, in the order of the ids written there. The reference adds those that
/// tokenizer.json has not, and gives them the next free ids. A file that cannot be read adds nothing.
pub fn config_tokens(json: &str) -> Vec<(u32, AddedToken)> {
    let Some(listed) = serde_json::from_str::<Config>(json).ok().and_then(|c| c.added_tokens_decoder) else {
        return Vec::new();
    };
    let mut tokens: Vec<(u32, ConfigToken)> = listed
        .into_iter()
        .filter_map(|(id, token)| Some((id.parse().ok()?, serde_json::from_value(token).ok()?)))
        .collect();
    tokens.sort_by_key(|(id, _)| *id);
    let added = |(id, t): (u32, ConfigToken)| {
        let token = AddedToken::from(t.content, t.special).single_word(t.single_word).lstrip(t.lstrip).rstrip(t.rstrip);
        (id, token.normalized(t.normalized.unwrap_or(!t.special)))
    };
    tokens.into_iter().map(added).collect()
}

pub fn normalizer(value: Option<Value>) -> Outcome<Option<SharedNormalizer>> {
    Ok(part("normalizer", value)?.map(SharedNormalizer::Other))
}

/// A small part by the crate's own reader, with the part's name in the error.
pub fn part<T: for<'a> Deserialize<'a>>(name: &str, value: Option<Value>) -> Outcome<Option<T>> {
    let Some(value) = value else { return Ok(None) };
    if value.is_null() {
        return Ok(None);
    }
    let kind = value.get("type").cloned().unwrap_or(Value::Null);
    serde_json::from_value(value).map(Some).map_err(|e| Failure::invalid(format!("`{name}` of type {kind}: {e}")))
}

fn parse_model(raw: &RawValue) -> Outcome<SharedModel> {
    let invalid = |e: serde_json::Error| Failure::invalid(format!("`model`: {e}"));
    // A field of a wrong type (a vocabulary of Unigram is a list, for instance) is judged by the crate's reader.
    let ours = serde_json::from_str::<Model>(raw.get()).ok().filter(|m| {
        let empty = |text: &Option<String>| text.as_ref().is_none_or(|t| t.is_empty());
        m.vocab.is_some_and(|v| v.get().starts_with('{'))
            && m.merges.is_some()
            && m.r#type.as_ref().is_none_or(|t| t == "BPE")
            && m.dropout.is_none_or(|d| d == 0.0)
            && empty(&m.continuing_subword_prefix)
            && empty(&m.end_of_word_suffix)
    });
    let Some(model) = ours else {
        let other: ModelWrapper = serde_json::from_str(raw.get()).map_err(invalid)?;
        return Ok(SharedModel::Other(Arc::new(other)));
    };
    let vocab = model.vocab.unwrap().get();
    let vocabulary = VocabularySeed(vocab.len())
        .deserialize(&mut serde_json::Deserializer::from_str(vocab))
        .map_err(|e| Failure::invalid(format!("`model.vocab`: {e}")))?;
    let merges = model.merges.unwrap().get();
    let table = MergesSeed { vocabulary: &vocabulary, bytes: merges.len() }
        .deserialize(&mut serde_json::Deserializer::from_str(merges))
        .map_err(|e| Failure::invalid(format!("`model.merges`: {e}")))?;
    let unknown = match &model.unk_token {
        Some(token) => Some(vocabulary.find(token).ok_or_else(|| {
            Failure::invalid(format!("`model.unk_token` is {token:?}, which is not in the vocabulary"))
        })?),
        None => None,
    };
    let byte_tokens = model.byte_fallback.unwrap_or(false).then(|| PairModel::byte_table(&vocabulary));
    Ok(SharedModel::Pairs(Arc::new(PairModel {
        rule: Rule::Merges(table),
        unknown,
        fuse_unknown: model.fuse_unk.unwrap_or(false),
        byte_tokens,
        ignore_merges: model.ignore_merges.unwrap_or(false),
        neighbours: Default::default(),
        vocabulary,
    })))
}

/// A JSON string, borrowed from the text unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct VocabularySeed(usize); // bytes of the JSON text

impl<'de> DeserializeSeed<'de> for VocabularySeed {
    type Value = StringTable;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<StringTable, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for VocabularySeed {
    type Value = StringTable;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map of tokens to ids")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringTable, A::Error> {
        let mut table = StringTable::with_capacity(self.0 / 18, self.0 / 2);
        while let Some((Text(token), id)) = map.next_entry::<Text, u32>()? {
            if id >= MAX_ID {
                return Err(A::Error::custom(format!("the token {token:?} has the id {id}, which is too large")));
            }
            table.insert(&token, id);
        }
        Ok(table)
    }
}

struct MergesSeed<'v> {
    vocabulary: &'v StringTable,
    bytes: usize,
}

/// "left right", or ["left", "right"].
enum Merge<'a> {
    Joined(Cow<'a, str>),
    Pair(Cow<'a, str>, Cow<'a, str>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Merge<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Merge<'de>, E> {
                Ok(Merge::Joined(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Merge<'de>, E> {
                Ok(Merge::Joined(Cow::Owned(text.to_string())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge<'de>, A::Error> {
                let short = || A::Error::custom("a merge has two parts");
                let Text(left) = seq.next_element()?.ok_or_else(short)?;
                let Text(right) = seq.next_element()?.ok_or_else(short)?;
                match seq.next_element::<Text>()? {
                    Some(_) => Err(short()),
                    None => Ok(Merge::Pair(left, right)),
                }
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl<'de> DeserializeSeed<'de> for MergesSeed<'_> {
    type Value = MergeTable;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<MergeTable, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MergesSeed<'_> {
    type Value = MergeTable;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<MergeTable, A::Error> {
        let mut merges = MergeBuilder::new(self.vocabulary, self.bytes / 8);
        while let Some(merge) = seq.next_element::<Merge>()? {
            let added = match &merge {
                Merge::Joined(text) if text.starts_with("#version") => continue,
                Merge::Joined(text) => merges.add_joined(text),
                Merge::Pair(left, right) => merges.add(left, right),
            };
            added.map_err(A::Error::custom)?;
        }
        Ok(merges.finish())
    }
}

/// Collects merges in the order of their rank.
pub struct MergeBuilder<'v> {
    vocabulary: &'v StringTable,
    list: Vec<(u32, u32, u32)>,
    joined: String,
}

impl<'v> MergeBuilder<'v> {
    pub fn new(vocabulary: &'v StringTable, expected: usize) -> Self {
        MergeBuilder { vocabulary, list: Vec::with_capacity(expected), joined: String::new() }
    }

    pub fn add_joined(&mut self, merge: &str) -> Result<(), String> {
        match merge.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => self.add(left, right),
            _ => Err(format!("merge {}, {merge:?}, is not two parts with a space between", self.list.len())),
        }
    }

    pub fn add(&mut self, left: &str, right: &str) -> Result<(), String> {
        self.joined.clear();
        self.joined.push_str(left);
        self.joined.push_str(right);
        let find = |piece: &str| {
            self.vocabulary.find(piece).ok_or_else(|| {
                format!("merge {} ({left:?}, {right:?}): {piece:?} is not in the vocabulary", self.list.len())
            })
        };
        let merge = (find(left)?, find(right)?, find(&self.joined)?);
        self.list.push(merge);
        Ok(())
    }

    pub fn finish(self) -> MergeTable {
        let mut table = MergeTable::with_capacity(self.list.len());
        for (rank, (left, right, merged)) in self.list.into_iter().enumerate() {
            table.insert(left, right, rank as u32, merged);
        }
        table
    }
}
