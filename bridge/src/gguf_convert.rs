//! tokenizer.json from the metadata of a GGUF file, and the other way. Only where both say the same: what one of the
//! two forms cannot express is refused.
use serde_json::{json, Map, Value};
use std::collections::{HashMap, HashSet};

use crate::abi::{guard, text, Failure, Outcome, WeftBytes, WeftError};
use crate::gguf::{
    vocabulary, Steps, Vocabulary, WeftGgufVocabulary, BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED,
};
use crate::gguf_pre::PRE_TOKENIZERS;
use crate::tokenizer::byte_token;
use crate::tokenizer_json::MAX_ID;

/// # Safety
/// As for weft_tokenizer_from_gguf; `out` may be written to.
#[no_mangle]
pub unsafe extern "C" fn weft_gguf_to_tokenizer_json(
    raw: &WeftGgufVocabulary,
    out: *mut WeftBytes,
    error: *mut WeftError,
) -> bool {
    guard(error, false, || {
        let json = to_json(&vocabulary(raw)?)?;
        out.write(json.to_string().into());
        Ok(true)
    })
}

/// # Safety
/// `json` points at `size` bytes; `out` may be written to.
#[no_mangle]
pub unsafe extern "C" fn weft_gguf_from_tokenizer_json(
    json: *const u8,
    size: usize,
    rows: usize,
    out: *mut WeftBytes,
    error: *mut WeftError,
) -> bool {
    guard(error, false, || {
        let found = from_json(text(json, size)?, rows)?;
        out.write(found.to_string().into());
        Ok(true)
    })
}

fn to_json(v: &Vocabulary) -> Outcome<Value> {
    let (steps, model) = match v.model {
        "gpt2" => (v.byte_level_steps()?, byte_level_model(v)?),
        "llama" => (v.sentence_piece_steps()?, sentence_piece_model(v)?),
        other => {
            return Err(Failure::unsupported(format!(
                "tokenizer.ggml.model {other:?} has no tokenizer.json here; \"gpt2\" and \"llama\" have"
            )))
        }
    };
    let added: Vec<Value> = v
        .added()
        .into_iter()
        .map(|(id, token)| {
            json!({"id": id, "content": token.content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": token.special})
        })
        .collect();
    let Steps { normalizer, pre_tokenizer, post_processor, decoder } = steps;
    Ok(json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": decoder, "model": model}))
}

/// All tokens, those that are added among them, so that ids are those of the file.
fn vocabulary_map(v: &Vocabulary) -> Outcome<Value> {
    let mut map = Map::with_capacity(v.tokens.len());
    for (id, token) in v.tokens.iter().enumerate() {
        if let Some(other) = map.insert(token.to_string(), id.into()) {
            return Err(Failure::unsupported(format!("the tokens {other} and {id} are both {token:?}")));
        }
    }
    Ok(Value::Object(map))
}

fn model(v: &Vocabulary, unknown: Option<&str>, ignore_merges: bool, merges: Vec<Value>) -> Outcome<Value> {
    let pieces = v.model == "llama";
    Ok(json!({"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": pieces, "byte_fallback": pieces, "ignore_merges": ignore_merges,
        "vocab": vocabulary_map(v)?, "merges": merges}))
}

fn byte_level_model(v: &Vocabulary) -> Outcome<Value> {
    let mut merges = Vec::with_capacity(v.merges.len());
    for merge in &v.merges {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(Failure::invalid(format!("tokenizer.ggml.merges: {merge:?} is not two parts")));
        };
        merges.push(json!([left, right]));
    }
    model(v, None, v.pre_tokenizer()?.ignore_merges, merges)
}

/// The two parts of a token at each of its characters.
fn splits(token: &str) -> impl Iterator<Item = (&str, &str)> {
    token.char_indices().skip(1).map(|(at, _)| token.split_at(at))
}

/// SentencePiece merges the pair whose token has the highest score; as ranks of merges: all pairs of the best token
/// first.
fn sentence_piece_model(v: &Vocabulary) -> Outcome<Value> {
    if v.scores.is_empty() {
        return Err(Failure::invalid("tokenizer.ggml.scores is absent"));
    }
    let pieces: HashSet<&str> = (0..v.tokens.len()).filter(|&id| v.is_mergeable(id)).map(|id| v.tokens[id]).collect();
    let pairs = |id: usize| splits(v.tokens[id]).filter(|(l, r)| pieces.contains(l) && pieces.contains(r));
    let mut made: Vec<usize> =
        (0..v.tokens.len()).filter(|&id| v.is_mergeable(id) && pairs(id).next().is_some()).collect();
    if let Some(&id) = made.iter().find(|&&id| !v.scores[id].is_finite()) {
        return Err(Failure::invalid(format!("tokenizer.ggml.scores[{id}] is no number")));
    }
    made.sort_by(|&a, &b| v.scores[b].total_cmp(&v.scores[a]));
    for pair in made.windows(2) {
        if v.scores[pair[0]] == v.scores[pair[1]] && pair.iter().all(|&id| v.kind(id) == NORMAL) {
            return Err(Failure::unsupported(format!(
                "the tokens {:?} and {:?} have the same score, which the merges of a tokenizer.json cannot express",
                v.tokens[pair[0]], v.tokens[pair[1]]
            )));
        }
    }
    let merges = made.iter().flat_map(|&id| pairs(id)).map(|(left, right)| json!([left, right])).collect();
    model(v, v.unknown().map(|id| v.tokens[id as usize]), false, merges)
}

/// A tokenizer.json, as far as it is looked at.
struct File {
    tokens: Vec<Option<String>>,
    types: Vec<i32>,
    merges: Vec<(String, String)>,
    normalizers: Vec<Value>,
    pre_tokenizers: Vec<Value>,
    byte_fallback: bool,
    ignore_merges: bool,
}

fn refused(what: impl std::fmt::Display) -> Failure {
    Failure::unsupported(format!("{what}, which a GGUF file cannot express"))
}

/// A step, or the steps of a sequence, one after the other.
fn flat(step: &Value, list: &str) -> Vec<Value> {
    match (step.is_null(), step.get(list).and_then(Value::as_array)) {
        (true, _) => Vec::new(),
        (_, Some(steps)) => steps.iter().flat_map(|step| flat(step, list)).collect(),
        _ => vec![step.clone()],
    }
}

fn kind_of(step: &Value) -> &str {
    step["type"].as_str().unwrap_or("")
}

impl File {
    fn read(json: &Value) -> Outcome<Self> {
        let model = &json["model"];
        let empty = |key: &str| model[key].as_str().unwrap_or("").is_empty();
        if model["type"].as_str().is_some_and(|kind| kind != "BPE") || !model["vocab"].is_object() {
            return Err(refused(format!("the model of tokenizer.json is of type {}", model["type"])));
        }
        if !empty("continuing_subword_prefix")
            || !empty("end_of_word_suffix")
            || model["dropout"].as_f64().unwrap_or(0.0) != 0.0
        {
            return Err(refused("tokenizer.json marks where words go on or end, or drops merges"));
        }
        let mut file = File {
            tokens: Vec::new(),
            types: Vec::new(),
            merges: Vec::new(),
            normalizers: flat(&json["normalizer"], "normalizers"),
            pre_tokenizers: flat(&json["pre_tokenizer"], "pretokenizers"),
            byte_fallback: model["byte_fallback"] == true,
            ignore_merges: model["ignore_merges"] == true,
        };
        for (token, id) in model["vocab"].as_object().unwrap() {
            let kind = if file.byte_fallback && byte_token(token).is_some() { BYTE } else { NORMAL };
            file.put(token, id.as_u64(), kind)?;
        }
        if let Some(unknown) = model["unk_token"].as_str().filter(|_| file.byte_fallback) {
            if let Some(id) = file.tokens.iter().position(|token| token.as_deref() == Some(unknown)) {
                file.types[id] = UNKNOWN;
            }
        }
        file.read_added(&json["added_tokens"])?;
        file.read_merges(&model["merges"])?;
        Ok(file)
    }

    fn put(&mut self, token: &str, id: Option<u64>, kind: i32) -> Outcome<()> {
        let id = id
            .filter(|&id| id < u64::from(MAX_ID))
            .ok_or_else(|| Failure::invalid(format!("the token {token:?} has no id from 0 to {MAX_ID}")))?
            as usize;
        if self.tokens.len() <= id {
            self.tokens.resize(id + 1, None);
            self.types.resize(id + 1, UNUSED);
        }
        if self.tokens[id].as_deref().is_some_and(|other| other != token) {
            return Err(Failure::invalid(format!("{token:?} and {:?} have the same id", self.tokens[id])));
        }
        self.tokens[id] = Some(token.to_string());
        self.types[id] = kind;
        Ok(())
    }

    fn read_added(&mut self, added: &Value) -> Outcome<()> {
        for token in added.as_array().into_iter().flatten() {
            let content = token["content"].as_str().unwrap_or("");
            for key in ["single_word", "lstrip", "rstrip"] {
                if token[key] == true {
                    return Err(refused(format!("the added token {content:?} of tokenizer.json has {key}")));
                }
            }
            if token["normalized"] == true && !self.normalizers.is_empty() {
                return Err(refused(format!("the added token {content:?} of tokenizer.json is normalised")));
            }
            let id = token["id"].as_u64();
            let unknown = id.is_some_and(|id| self.types.get(id as usize) == Some(&UNKNOWN));
            let special = if unknown { UNKNOWN } else { CONTROL };
            self.put(content, id, if token["special"] == true { special } else { USER_DEFINED })?;
        }
        Ok(())
    }

    fn read_merges(&mut self, merges: &Value) -> Outcome<()> {
        for merge in merges.as_array().into_iter().flatten() {
            let parts = match merge {
                Value::String(joined) if joined.starts_with("#version") => continue,
                Value::String(joined) => joined.split_once(' '),
                Value::Array(pair) if pair.len() == 2 => pair[0].as_str().zip(pair[1].as_str()),
                _ => None,
            };
            let (left, right) = parts.ok_or_else(|| Failure::invalid(format!("the merge {merge} is not two parts")))?;
            self.merges.push((left.to_string(), right.to_string()));
        }
        Ok(())
    }

    /// The expressions that texts are split by before bytes become characters.
    fn expressions(&self) -> Outcome<Vec<&str>> {
        const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
        let mut found = Vec::new();
        for step in &self.pre_tokenizers {
            match kind_of(step) {
                "Split"
                    if (step["behavior"] == "Isolated" && step["invert"] != true)
                        || (step["behavior"] == "Removed" && step["invert"] == true) =>
                {
                    let regex = step["pattern"]["Regex"].as_str();
                    found.push(regex.ok_or_else(|| refused(format!("tokenizer.json splits by {}", step["pattern"])))?);
                }
                "Digits" => found.push(if step["individual_digits"] == true { r"\p{N}" } else { r"\p{N}+" }),
                "ByteLevel" if step["add_prefix_space"] != true => {
                    if step["use_regex"] != false {
                        found.push(GPT2);
                    }
                }
                _ => return Err(refused(format!("tokenizer.json has the pre-tokenizer {step}"))),
            }
        }
        Ok(found)
    }

    fn byte_level(&self) -> Outcome<Map<String, Value>> {
        let normalize = match self.normalizers.as_slice() {
            [] => false,
            [one] if kind_of(one) == "NFC" => true,
            more => return Err(refused(format!("tokenizer.json has the normalizers {}", json!(more)))),
        };
        let expressions = self.expressions()?;
        let is_same = |pre: &&crate::gguf_pre::PreTokenizer| {
            pre.splits == expressions && pre.normalize == normalize && pre.ignore_merges == self.ignore_merges
        };
        let Some(pre) = PRE_TOKENIZERS.iter().find(is_same) else {
            return Err(refused(format!(
                "tokenizer.json splits texts by {expressions:?}{}{}, and no name of tokenizer.ggml.pre stands for it",
                if normalize { " after NFC" } else { "" },
                if self.ignore_merges { " and ignores merges" } else { "" }
            )));
        };
        let mut merges = Vec::with_capacity(self.merges.len());
        for (left, right) in &self.merges {
            if left.contains(' ') || right.contains(' ') {
                return Err(refused(format!("the merge {left:?} {right:?} has a space")));
            }
            merges.push(Value::String(format!("{left} {right}")));
        }
        let mut out = Map::new();
        out.insert("model".into(), "gpt2".into());
        out.insert("pre".into(), if pre.names[0].is_empty() { "default" } else { pre.names[0] }.into());
        out.insert("merges".into(), merges.into());
        Ok(out)
    }

    /// Whether a space is put before texts.
    fn space_prefix(&self) -> Outcome<bool> {
        let space = SPACE.to_string();
        let mut prefix = false;
        let mut replaced = false;
        for step in &self.normalizers {
            match kind_of(step) {
                "Prepend" if step["prepend"] == space && !replaced => prefix = true,
                "Replace" if step["pattern"]["String"] == " " && step["content"] == space => replaced = true,
                _ => return Err(refused(format!("tokenizer.json has the normalizer {step}"))),
            }
        }
        for step in &self.pre_tokenizers {
            match kind_of(step) {
                "Metaspace"
                    if !replaced
                        && step["replacement"] == space
                        && step["prepend_scheme"] == "never"
                        && step["split"] == false =>
                {
                    replaced = true;
                }
                "Split" if replaced && step["pattern"]["String"] == " " => {} // there are no spaces any more
                _ => return Err(refused(format!("tokenizer.json has the pre-tokenizer {step}"))),
            }
        }
        match replaced {
            true => Ok(prefix),
            false => Err(refused("tokenizer.json does not write spaces as U+2581")),
        }
    }

    /// Scores that lead to the same merges: a token's is the rank of the first merge that makes it, below 0. That is
    /// the same if every pair of pieces that makes a token is a merge, and the merges of a token follow each other.
    fn scores(&self) -> Outcome<Vec<f32>> {
        let text = |id: usize| self.tokens[id].as_deref().unwrap_or("");
        let ids = || (0..self.tokens.len()).filter(|&id| !matches!(self.types[id], UNKNOWN | CONTROL | BYTE | UNUSED));
        let pieces: HashMap<&str, usize> = ids().map(|id| (text(id), id)).collect();
        let mut scores = vec![-1e6f32; self.tokens.len()];
        let mut known: HashSet<(&str, &str)> = HashSet::with_capacity(self.merges.len());
        let mut last = usize::MAX;
        let mut made = HashSet::new();
        for (rank, (left, right)) in self.merges.iter().enumerate() {
            let joined = format!("{left}{right}");
            let Some(&id) = pieces.get(joined.as_str()) else {
                return Err(refused(format!("the merge {left:?} {right:?} makes a token that is special or absent")));
            };
            if id != last && !made.insert(id) {
                return Err(refused(format!("other merges stand between those that make {joined:?}")));
            }
            if id != last {
                scores[id] = -(rank as f32);
            }
            last = id;
            known.insert((left, right));
        }
        for id in ids() {
            for (left, right) in splits(text(id)) {
                if pieces.contains_key(left) && pieces.contains_key(right) && !known.contains(&(left, right)) {
                    return Err(refused(format!(
                        "no merge joins {left:?} and {right:?}, though {:?} is a token",
                        text(id)
                    )));
                }
            }
        }
        Ok(scores)
    }

    fn sentence_piece(&self) -> Outcome<Map<String, Value>> {
        if self.ignore_merges {
            return Err(refused("tokenizer.json ignores merges"));
        }
        let mut out = Map::new();
        out.insert("model".into(), "llama".into());
        out.insert("pre".into(), "default".into());
        out.insert("add_space_prefix".into(), self.space_prefix()?.into());
        out.insert("scores".into(), self.scores()?.into());
        Ok(out)
    }
}

/// What the post-processor puts before and behind a text: one token each, or nothing.
fn frame(json: &Value) -> Outcome<[Option<u64>; 2]> {
    let mut found = [None, None];
    for step in flat(&json["post_processor"], "processors") {
        match kind_of(&step) {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                let mut behind = false;
                for piece in step["single"].as_array().into_iter().flatten() {
                    let Some(name) = piece["SpecialToken"]["id"].as_str() else {
                        behind = true;
                        continue;
                    };
                    let ids = step["special_tokens"][name]["ids"].as_array().map_or(&[][..], Vec::as_slice);
                    let place = &mut found[usize::from(behind)];
                    match (ids, place.is_none()) {
                        ([id], true) => *place = id.as_u64(),
                        _ => return Err(refused("tokenizer.json puts several tokens before or behind a text")),
                    }
                }
            }
            other => return Err(refused(format!("tokenizer.json has a post-processor of type {other}"))),
        }
    }
    Ok(found)
}

fn from_json(text: &str, rows: usize) -> Outcome<Value> {
    let json: Value = serde_json::from_str(text).map_err(|e| Failure::invalid(e.to_string()))?;
    let mut file = File::read(&json)?;
    if file.tokens.len() > rows {
        return Err(refused(format!("tokenizer.json has {} tokens, and the model rows for {rows}", file.tokens.len())));
    }
    file.tokens.resize(rows, None);
    file.types.resize(rows, UNUSED);
    let byte_level = |list: &[Value]| list.iter().any(|step| kind_of(step) == "ByteLevel");
    let mut out = if byte_level(&file.pre_tokenizers) { file.byte_level()? } else { file.sentence_piece()? };
    let [starts, ends] = frame(&json)?;
    out.insert("starts_with".into(), json!(starts));
    out.insert("ends_with".into(), json!(ends));
    let name = |(id, token): (usize, Option<String>)| Value::String(token.unwrap_or_else(|| format!("[PAD{id}]")));
    out.insert("tokens".into(), file.tokens.into_iter().enumerate().map(name).collect());
    out.insert("token_type".into(), file.types.into());
    Ok(Value::Object(out))
}
