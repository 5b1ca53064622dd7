//! tekken.json: Mistral's own file for its byte-level tokenizers, a vocabulary as tiktoken's (bytes by rank, the pair
//! whose bytes have the lowest rank merged first) behind a number of special tokens. Read as mistral_common's
//! Tekkenizer reads it.
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use tokenizers::AddedToken;

use crate::abi::{Failure, Outcome};
use crate::gguf::{split, template};
use crate::pair_model::SharedModel;
use crate::piece_model::{Kind, PieceModel, PrefixMatcher, Rule};
use crate::sentencepiece::{Ends, Flags};
use crate::tokenizer::byte_character;
use crate::tokenizer_json::{part, Parts, MAX_ID};

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<Token>,
    special_tokens: Option<Vec<SpecialToken>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: Option<usize>,
    default_num_special_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct Token {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct SpecialToken {
    rank: usize,
    token_str: String,
}

/// Those of files that list none (mistral_common's DEPRECATED_SPECIAL_TOKENS).
const FIRST_SPECIAL_TOKENS: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for c in digits.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (text.len() % 4 == 0 && bits == 0).then_some(bytes)
}

/// The texts of the special tokens, by id.
fn special_tokens(file: &File) -> Outcome<Vec<String>> {
    let mut texts: Vec<String> = match &file.special_tokens {
        None => FIRST_SPECIAL_TOKENS.map(str::to_string).to_vec(),
        Some(listed) => {
            let mut listed: Vec<&SpecialToken> = listed.iter().collect();
            listed.sort_by_key(|token| token.rank);
            if let Some(place) = listed.iter().enumerate().position(|(place, token)| token.rank != place) {
                return Err(Failure::invalid(format!("`special_tokens` has no token of rank {place}, or two")));
            }
            listed.into_iter().map(|token| token.token_str.clone()).collect()
        }
    };
    let count = file.config.default_num_special_tokens.unwrap_or(texts.len());
    if texts.len() > count || count > MAX_ID as usize {
        return Err(Failure::invalid(format!(
            "there are {} special tokens, but default_num_special_tokens is {count}",
            texts.len()
        )));
    }
    texts.extend((texts.len()..count).map(|id| format!("<SPECIAL_{id}>")));
    if texts.iter().collect::<HashSet<_>>().len() != texts.len() {
        return Err(Failure::invalid("two special tokens have the same text"));
    }
    Ok(texts)
}

/// The parts, and the ids of the beginning and the end of a text.
pub fn parts(json: &str, flags: &Flags) -> Outcome<(Parts, Ends)> {
    let file: File = serde_json::from_str(json).map_err(|e| Failure::invalid(e.to_string()))?;
    let special = special_tokens(&file)?;
    let count = match file.config.default_vocab_size {
        Some(size) if size < special.len() || size - special.len() > file.vocab.len() => {
            return Err(Failure::invalid(format!(
                "default_vocab_size is {size}, but there are {} special tokens and {} others",
                special.len(),
                file.vocab.len()
            )))
        }
        Some(size) => size - special.len(),
        None => file.vocab.len(),
    };
    if special.len() + count > MAX_ID as usize {
        return Err(Failure::invalid("it has too many tokens"));
    }
    let mut pieces: Vec<(String, f32, Kind)> = special.iter().map(|text| (text.clone(), 0.0, Kind::Control)).collect();
    for (place, token) in file.vocab.iter().take(count).enumerate() {
        let bytes = from_base64(&token.token_bytes)
            .filter(|bytes| !bytes.is_empty() && token.rank == place)
            .ok_or_else(|| Failure::invalid(format!("`vocab[{place}]` has not the rank {place}, or no token_bytes")))?;
        // The lowest rank is the best score; up to 2^24 they are exact.
        pieces.push((bytes.into_iter().map(byte_character).collect(), -(place as f32), Kind::Normal));
    }
    let find = |text: &str| special.iter().position(|token| token == text);
    let (bos, eos) = (find("<s>"), find("</s>"));
    let spelled = |id: Option<usize>, wanted: bool| id.filter(|_| wanted).map(|id| (special[id].as_str(), id as i64));
    let post_processor = template(spelled(bos, flags.add_bos), spelled(eos, flags.add_eos), None);
    let model = PieceModel::new(
        pieces,
        Rule::Pairs { whole_words: true },
        find("<unk>").unwrap_or(0) as u32,
        false,
        Arc::new(PrefixMatcher::default()),
    );
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let steps = json!({"type": "Sequence", "pretokenizers": [split(&file.config.pattern), byte_level.clone()]});
    let parts = Parts {
        model: SharedModel::Pieces(Arc::new(model)),
        added: special.iter().map(|text| AddedToken::from(text, true).normalized(false)).collect(),
        normalizer: None,
        pre_tokenizer: part("pre_tokenizer", Some(steps))?,
        post_processor: part("post_processor", Some(post_processor))?,
        decoder: part("decoder", Some(byte_level))?,
    };
    Ok((parts, [bos, eos].map(|id| id.map(|id| id as u32))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::byte_level_bytes;

    #[test]
    fn bytes_and_back() {
        assert_eq!(from_base64("SGVsbG8="), Some(b"Hello".to_vec()));
        assert_eq!(from_base64("/+8="), Some(vec![0xFF, 0xEF]));
        assert_eq!(from_base64("SGVsbG8"), None);
        assert_eq!(from_base64("SG*sbG8="), None);
        for byte in 0..=255 {
            assert_eq!(byte_level_bytes(&byte_character(byte).to_string()), vec![byte]);
        }
    }
}
