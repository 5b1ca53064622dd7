//! The tokenizer object and its C functions.
use std::sync::OnceLock;
use tokenizers::{
    AddedToken, DecoderWrapper, Encoding, Model, PostProcessorWrapper, PreTokenizerWrapper, Token, TokenizerImpl,
};

use crate::abi::{self, guard, guard_stop, Failure, Outcome, Stop, WeftBytes, WeftError, WeftIds};
use crate::detokenizer::Streaming;
use crate::gguf::{self, WeftGgufVocabulary};
use crate::pair_model::SharedModel;
use crate::pieces::{too_long, Pieces, Sink, MOST_IN_ONE};
use crate::sentencepiece::{self, Flags, SharedNormalizer};
use crate::tekken;
use crate::tokenizer_json::{self, Parts, MAX_ID};

pub type Pipeline =
    TokenizerImpl<SharedModel, SharedNormalizer, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

pub struct WeftTokenizer {
    pub pipeline: Pipeline,
    pieces: Option<Pieces>,    // how texts are encoded; None: by the crate
    plain: OnceLock<Pipeline>, // the same, with special tokens in the text taken as characters
    pub end_id: u32,           // one more than the largest id
    spelling: Spelling,
    pub streaming: Streaming,
    ends: [Option<u32>; 2], // beginning and end of a text, where the file itself names them
}

/// How the vocabulary's spelling of a token becomes bytes of text.
#[derive(Default)]
struct Spelling {
    byte_level: bool,             // "\u{120}the": each character stands for a byte
    byte_tokens: bool,            // "<0xE2>"
    space: Option<char>,          // '\u{2581}' for a space
    continuation: Option<String>, // "##": no space before this piece, and one before all others
}

impl Spelling {
    fn scan(&mut self, decoder: &DecoderWrapper) {
        match decoder {
            DecoderWrapper::ByteLevel(_) => self.byte_level = true,
            DecoderWrapper::ByteFallback(_) => self.byte_tokens = true,
            DecoderWrapper::Metaspace(m) => self.space = Some(m.get_replacement()),
            DecoderWrapper::Replace(_) => self.space = Some('\u{2581}'),
            DecoderWrapper::WordPiece(w) => self.continuation = Some(w.prefix.clone()),
            DecoderWrapper::Sequence(s) => s.get_decoders().iter().for_each(|d| self.scan(d)),
            _ => {}
        }
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_level {
            return byte_level_bytes(token);
        }
        if let (true, Some(byte)) = (self.byte_tokens, byte_token(token)) {
            return vec![byte];
        }
        if let Some(prefix) = &self.continuation {
            return match token.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.as_bytes().to_vec(),
                None => format!(" {token}").into_bytes(),
            };
        }
        match self.space {
            Some(space) => token.replace(space, " ").into_bytes(),
            None => token.as_bytes().to_vec(),
        }
    }
}

/// "<0xE2>" -> 0xE2
pub fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// The bytes that a byte-level spelling stands for (GPT-2's table: printable bytes are themselves, the other 68 are
/// U+0100 and up in order); a token with any other character is its own UTF-8, as the crate's decoder has it.
pub fn byte_level_bytes(token: &str) -> Vec<u8> {
    let byte = |c: char| -> Option<u8> {
        match c as u32 {
            c @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(c as u8),
            c @ 0x100..=0x120 => Some((c - 0x100) as u8), // 0x00..0x20
            c @ 0x121..=0x142 => Some((c - 0x121 + 0x7F) as u8), // 0x7F..0xA0
            0x143 => Some(0xAD),
            _ => None,
        }
    };
    token.chars().map(byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's character for a byte: the opposite of `byte_level_bytes`.
pub fn byte_character(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u32::from(byte),
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x121 + u32::from(byte) - 0x7F,
        0xAD => 0x143,
    };
    char::from_u32(code).unwrap()
}

/// All bytes of a text as such characters.
pub fn byte_characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    out.extend(text.bytes().map(byte_character));
    out
}

/// What the post-processor puts around one text or two: ids and type ids, with placeholders for the texts.
struct Frame {
    ids: Vec<u32>,
    types: Vec<u32>,
}

/// The placeholders of the first and the second text.
const TEXTS: [u32; 2] = [u32::MAX, u32::MAX - 1];

impl WeftTokenizer {
    pub fn build(parts: Parts) -> Outcome<Self> {
        let failed = |e: tokenizers::Error| Failure::invalid(e.to_string());
        let mut pipeline = Pipeline::new(parts.model.clone());
        // Truncation and padding of the file are for training batches; the reference switches them off too.
        pipeline.with_normalizer(parts.normalizer).map_err(failed)?;
        pipeline.with_pre_tokenizer(parts.pre_tokenizer);
        pipeline.with_post_processor(parts.post_processor);
        pipeline.with_decoder(parts.decoder);
        pipeline.add_tokens(parts.added).map_err(failed)?;
        // A file may name what it does not have; the crate panics on that when it is used, so use everything once.
        abi::catch(|| pipeline.encode_fast("a 1", true).map_err(failed))
            .map_err(|e| Failure::invalid(format!("it loads but cannot encode a text: {}", e.message)))?;
        let mut spelling = Spelling::default();
        if let Some(decoder) = pipeline.get_decoder() {
            spelling.scan(decoder);
        }
        let largest = pipeline.get_added_vocabulary().get_added_tokens_decoder().keys().max().copied();
        let end_id = parts.model.end_id().max(largest.map_or(0, |id| id.saturating_add(1)));
        if end_id > MAX_ID {
            let id = if end_id == u32::MAX { end_id } else { end_id - 1 };
            return Err(Failure::invalid(format!("a token has the id {id}, which is too large")));
        }
        Ok(WeftTokenizer {
            end_id,
            streaming: Streaming::of(pipeline.get_decoder()),
            pieces: Pieces::of(&pipeline),
            plain: OnceLock::new(),
            ends: [None; 2],
            spelling,
            pipeline,
        })
    }

    fn pipeline_for(&self, parse_special: bool) -> &Pipeline {
        if parse_special {
            return &self.pipeline;
        }
        self.plain.get_or_init(|| {
            let mut plain = self.pipeline.clone();
            plain.set_encode_special_tokens(true);
            plain
        })
    }

    /// One or two texts: ids, and the type id of each. Fails once there are more than `most` ids of a text.
    pub fn encode(
        &self,
        texts: &[&str],
        add_special: bool,
        parse_special: bool,
        most: usize,
    ) -> Outcome<(Vec<u32>, Vec<u32>)> {
        let encoded =
            texts.iter().map(|text| self.ids(text, parse_special, most)).collect::<Outcome<Vec<Vec<u32>>>>()?;
        let frame = self.frame(texts.len(), add_special)?;
        let (mut ids, mut types) = (Vec::new(), Vec::new());
        for (id, kind) in frame.ids.iter().zip(frame.types) {
            match TEXTS.iter().position(|text| text == id) {
                Some(which) => ids.extend_from_slice(&encoded[which]),
                None => ids.push(*id),
            }
            types.resize(ids.len(), kind);
        }
        Ok((ids, types))
    }

    /// Of one text, without what the post-processor adds.
    fn ids(&self, text: &str, parse_special: bool, most: usize) -> Outcome<Vec<u32>> {
        let mut sink = Sink { ids: Vec::new(), most, stop: Stop::current() };
        match &self.pieces {
            Some(pieces) => pieces.encode(&self.pipeline, text, !parse_special, &mut sink)?,
            None if text.len() > MOST_IN_ONE => {
                return Err(too_long("a text for this tokenizer", text.len(), MOST_IN_ONE))
            }
            None => {
                let encoding = self.pipeline_for(parse_special).encode_fast(text, false);
                sink.ids.extend_from_slice(encoding.map_err(|e| Failure::invalid(e.to_string()))?.get_ids());
            }
        }
        sink.check()?;
        Ok(sink.ids)
    }

    /// No post-processor looks at the texts themselves.
    fn frame(&self, texts: usize, add_special: bool) -> Outcome<Frame> {
        let placeholder =
            |which: usize| Encoding::from_tokens(vec![Token::new(TEXTS[which], String::new(), (0, 0))], 0);
        let second = (texts > 1).then(|| placeholder(1));
        let encoding = self.pipeline.post_process(placeholder(0), second, add_special);
        let encoding = encoding.map_err(|e| Failure::invalid(e.to_string()))?;
        Ok(Frame { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec() })
    }

    #[cfg(test)]
    pub fn has_pieces(&self) -> bool {
        self.pieces.is_some()
    }

    /// As the crate encodes it, for tests.
    #[cfg(test)]
    pub fn reference(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        self.pipeline_for(parse_special).encode_fast(text, add_special).unwrap().get_ids().to_vec()
    }

    pub fn added(&self, id: u32) -> Option<&AddedToken> {
        self.pipeline.get_added_vocabulary().get_added_tokens_decoder().get(&id)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.added(id).is_some_and(|token| token.special)
    }

    /// The vocabulary's spelling as the decoder gets it.
    pub fn spelling(&self, id: u32) -> Option<String> {
        self.pipeline
            .get_added_vocabulary()
            .simple_id_to_token(id)
            .or_else(|| self.pipeline.get_model().id_to_token(id))
    }

    /// The bytes of a token in the middle of a text.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        match self.added(id) {
            Some(token) if token.special => Some(token.content.clone().into_bytes()),
            _ => self.spelling(id).map(|token| self.spelling.bytes(&token)),
        }
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Outcome<String> {
        self.pipeline.decode(ids, skip_special).map_err(|e| Failure::invalid(e.to_string()))
    }
}

/// # Safety
/// `json` points at `size` bytes and `config` at `config_size`: tokenizer.json and tokenizer_config.json. The result is
/// freed with `weft_tokenizer_free`; null after an error.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_from_json(
    json: *const u8,
    size: usize,
    config: *const u8,
    config_size: usize,
    error: *mut WeftError,
) -> *mut WeftTokenizer {
    guard(error, std::ptr::null_mut(), || {
        let mut parts = tokenizer_json::parse(abi::text(json, size)?)?;
        let listed = tokenizer_json::config_tokens(abi::text(config, config_size).unwrap_or_default());
        parts.added.extend(listed.into_iter().map(|(_, token)| token));
        Ok(Box::into_raw(Box::new(WeftTokenizer::build(parts)?)))
    })
}

/// From tokenizer.model (SentencePiece), or with `tekken` from tekken.json.
///
/// # Safety
/// `file` points at `size` bytes and `config` at `config_size`: tokenizer_config.json. Otherwise as above.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_from_pieces(
    file: *const u8,
    size: usize,
    tekken: bool,
    config: *const u8,
    config_size: usize,
    error: *mut WeftError,
) -> *mut WeftTokenizer {
    guard(error, std::ptr::null_mut(), || {
        let config = abi::text(config, config_size).unwrap_or_default();
        let flags = Flags::of(config);
        let (mut parts, ends) = if tekken {
            tekken::parts(abi::text(file, size)?, &flags)?
        } else {
            sentencepiece::parts(abi::slice(file, size), &flags, &tokenizer_json::config_tokens(config))?
        };
        parts.added.extend(tokenizer_json::config_tokens(config).into_iter().map(|(_, token)| token));
        let tokenizer = WeftTokenizer { ends, ..WeftTokenizer::build(parts)? };
        Ok(Box::into_raw(Box::new(tokenizer)))
    })
}

/// The token at the beginning of a text, or with `end` at its end, that the tokenizer's own file names; -1: none.
#[no_mangle]
pub extern "C" fn weft_tokenizer_end_token(tokenizer: &WeftTokenizer, end: bool) -> i64 {
    tokenizer.ends[usize::from(end)].map_or(-1, i64::from)
}

/// # Safety
/// The arrays of `vocabulary` are as long as it says. Otherwise as above.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_from_gguf(
    vocabulary: &WeftGgufVocabulary,
    error: *mut WeftError,
) -> *mut WeftTokenizer {
    guard(error, std::ptr::null_mut(), || {
        let parts = gguf::parts(vocabulary)?;
        Ok(Box::into_raw(Box::new(WeftTokenizer::build(parts)?)))
    })
}

/// # Safety
/// `tokenizer` came from one of the functions above and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_free(tokenizer: *mut WeftTokenizer) {
    drop(Box::from_raw(tokenizer));
}

#[no_mangle]
pub extern "C" fn weft_tokenizer_end_id(tokenizer: &WeftTokenizer) -> u32 {
    tokenizer.end_id
}

/// # Safety
/// `text` points at `size` bytes; `ids` and `error` are writable. False after an error.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_encode(
    tokenizer: &WeftTokenizer,
    text: *const u8,
    size: usize,
    add_special: bool,
    parse_special: bool,
    most: usize,
    ids: *mut WeftIds,
    error: *mut WeftError,
    stop: *const u8,
) -> bool {
    guard_stop(stop, error, false, || {
        let text = abi::text(text, size)?;
        ids.write(tokenizer.encode(&[text], add_special, parse_special, most)?.0.into());
        Ok(true)
    })
}

/// # Safety
/// `texts` are two texts, one behind the other, of `first_size` and `second_size` bytes. Otherwise as above.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_encode_pair(
    tokenizer: &WeftTokenizer,
    texts: *const u8,
    first_size: usize,
    second_size: usize,
    add_special: bool,
    parse_special: bool,
    ids: *mut WeftIds,
    type_ids: *mut WeftIds,
    error: *mut WeftError,
    stop: *const u8,
) -> bool {
    guard_stop(stop, error, false, || {
        let first = abi::text(texts, first_size)?;
        let second = abi::text(texts.add(first_size), second_size)?;
        let (found, types) = tokenizer.encode(&[first, second], add_special, parse_special, usize::MAX)?;
        ids.write(found.into());
        type_ids.write(types.into());
        Ok(true)
    })
}

/// # Safety
/// `ids` points at `count` ids; `out` and `error` are writable. False after an error.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_decode(
    tokenizer: &WeftTokenizer,
    ids: *const u32,
    count: usize,
    skip_special: bool,
    out: *mut WeftBytes,
    error: *mut WeftError,
) -> bool {
    guard(error, false, || {
        out.write(tokenizer.decode(abi::slice(ids, count), skip_special)?.into());
        Ok(true)
    })
}

/// The bytes of a token in the middle of a text; empty for an unknown id.
#[no_mangle]
pub extern "C" fn weft_tokenizer_token_bytes(tokenizer: &WeftTokenizer, id: u32) -> WeftBytes {
    tokenizer.token_bytes(id).unwrap_or_default().into()
}

/// The vocabulary's spelling of a token; empty for an unknown id.
#[no_mangle]
pub extern "C" fn weft_tokenizer_token_text(tokenizer: &WeftTokenizer, id: u32) -> WeftBytes {
    tokenizer.pipeline.id_to_token(id).unwrap_or_default().into()
}

/// The id of a token by its spelling, or -1.
///
/// # Safety
/// `text` points at `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_find(tokenizer: &WeftTokenizer, text: *const u8, size: usize) -> i64 {
    abi::text(text, size).ok().and_then(|text| tokenizer.pipeline.token_to_id(text)).map_or(-1, i64::from)
}

#[no_mangle]
pub extern "C" fn weft_tokenizer_is_special(tokenizer: &WeftTokenizer, id: u32) -> bool {
    tokenizer.is_special(id)
}
