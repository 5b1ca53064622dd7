//! Decoding of one stream, token by token. Byte-level and byte-fallback decoders, which all large models use, are run
//! as small state machines over bytes; any other decoder is run over a window of the last tokens, as the crate's own
//! DecodeStream does.
use tokenizers::{Decoder, DecoderWrapper};

use crate::abi::WeftBytes;
use crate::tokenizer::{byte_level_bytes, byte_token, WeftTokenizer};

/// The kind of stream that a tokenizer's decoder allows.
pub enum Streaming {
    /// The text is the lossy UTF-8 of the tokens' bytes one behind the other.
    Bytes,
    /// Replacements within a token, then runs of byte tokens ("<0xE2>"), then at most `strip` characters off the start.
    ByteFallback {
        replacements: Vec<DecoderWrapper>,
        strip: Option<(char, usize)>,
    },
    Window,
}

impl Streaming {
    pub fn of(decoder: Option<&DecoderWrapper>) -> Self {
        let steps = match decoder {
            Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
            Some(single) => std::slice::from_ref(single),
            None => return Streaming::Window,
        };
        if let [DecoderWrapper::ByteLevel(_)] = steps {
            return Streaming::Bytes;
        }
        let count = steps.iter().take_while(|d| matches!(d, DecoderWrapper::Replace(_))).count();
        let strip = match &steps[count..] {
            [DecoderWrapper::ByteFallback(_), DecoderWrapper::Fuse(_)] => None,
            [DecoderWrapper::ByteFallback(_), DecoderWrapper::Fuse(_), DecoderWrapper::Strip(s)] if s.stop == 0 => {
                Some((s.content, s.start))
            }
            _ => return Streaming::Window,
        };
        Streaming::ByteFallback { replacements: steps[..count].to_vec(), strip }
    }
}

/// At most this many tokens are held back while the text ends with U+FFFD, which later tokens may turn into a
/// character; after that the text is returned as it is.
const MAX_HELD: usize = 32;

#[derive(Default)]
pub struct WeftDetokenizer {
    skip_special: bool,
    kept: Vec<u32>, // special tokens whose text stays all the same
    held: String,   // text that ends with U+FFFD or with the characters before an incomplete one (Bytes, ByteFallback)
    held_tokens: usize,
    bytes: Vec<u8>, // held bytes of a character (Bytes, ByteFallback)
    broken: bool,   // the present run of byte tokens is not UTF-8 (ByteFallback)
    started: bool,  // past the characters that are stripped off the start (ByteFallback)
    stripped: usize,
    window: Vec<u32>,   // ids since the last but one piece of text (Window)
    sent: String,       // the text of `window` that was returned already
    sent_tokens: usize, // how many ids of `window` it stands for
}

impl WeftDetokenizer {
    fn push(&mut self, tokenizer: &WeftTokenizer, id: u32) -> String {
        if self.skip_special && tokenizer.is_special(id) && !self.kept.contains(&id) {
            return String::new();
        }
        let Some(token) = tokenizer.spelling(id) else { return String::new() };
        let piece = match &tokenizer.streaming {
            Streaming::Bytes => {
                self.bytes.extend_from_slice(&byte_level_bytes(&token));
                take_utf8(&mut self.bytes)
            }
            Streaming::ByteFallback { replacements, strip } => {
                let token = replacements.iter().fold(token, |token, d| d.decode(vec![token]).unwrap_or_default());
                let text = self.push_fallback(&token);
                self.strip(text, *strip)
            }
            Streaming::Window => return self.push_window(tokenizer, id),
        };
        // The pieces are cut where the reference's stream cuts them: at the end of a token that ends a character.
        self.held.push_str(&piece);
        if self.held_tokens < MAX_HELD && (!self.bytes.is_empty() || self.held.ends_with('\u{FFFD}')) {
            self.held_tokens += 1;
            return String::new();
        }
        self.held_tokens = 0;
        std::mem::take(&mut self.held)
    }

    fn push_fallback(&mut self, token: &str) -> String {
        let Some(byte) = byte_token(token) else {
            let mut text = self.end_run();
            text.push_str(token);
            return text;
        };
        self.bytes.push(byte);
        if !self.broken {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    let text = text.to_string();
                    self.bytes.clear();
                    return text;
                }
                Err(e) => self.broken = e.error_len().is_some(),
            }
        }
        if self.broken {
            // The reference turns each byte of such a run into U+FFFD; text that was returned before the bad byte
            // stays.
            "\u{FFFD}".repeat(std::mem::take(&mut self.bytes).len())
        } else {
            String::new()
        }
    }

    fn end_run(&mut self) -> String {
        self.broken = false;
        "\u{FFFD}".repeat(std::mem::take(&mut self.bytes).len())
    }

    fn strip(&mut self, text: String, rule: Option<(char, usize)>) -> String {
        let Some((content, count)) = rule.filter(|_| !self.started) else { return text };
        let mut rest = text.as_str();
        while self.stripped < count && rest.starts_with(content) {
            rest = &rest[content.len_utf8()..];
            self.stripped += 1;
        }
        self.started = !rest.is_empty() || self.stripped == count;
        rest.to_string()
    }

    fn push_window(&mut self, tokenizer: &WeftTokenizer, id: u32) -> String {
        self.window.push(id);
        let text = tokenizer.decode(&self.window, false).unwrap_or_default();
        let held = self.window.len() - self.sent_tokens > MAX_HELD;
        if text.len() <= self.sent.len() || (text.ends_with('\u{FFFD}') && !held) {
            return String::new();
        }
        let fresh = self.fresh(&text);
        self.window.drain(..self.sent_tokens);
        self.sent_tokens = self.window.len();
        self.sent = tokenizer.decode(&self.window, false).unwrap_or_default();
        fresh
    }

    /// What `text` has beyond the text sent so far.
    fn fresh(&self, text: &str) -> String {
        let common =
            self.sent.chars().zip(text.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum::<usize>();
        text[common..].to_string()
    }

    fn finish(&mut self, tokenizer: &WeftTokenizer) -> String {
        let rest = match &tokenizer.streaming {
            Streaming::Bytes => String::from_utf8_lossy(&self.bytes).into_owned(),
            Streaming::ByteFallback { strip, .. } => {
                let text = self.end_run();
                self.strip(text, *strip)
            }
            Streaming::Window => {
                let text = tokenizer.decode(&self.window, false).unwrap_or_default();
                self.fresh(&text)
            }
        };
        let text = std::mem::take(&mut self.held) + &rest;
        *self = WeftDetokenizer {
            skip_special: self.skip_special,
            kept: std::mem::take(&mut self.kept),
            ..Default::default()
        };
        text
    }
}

/// Takes all whole characters off the front; bytes that can never become one turn into U+FFFD as in `from_utf8_lossy`.
fn take_utf8(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut start = 0;
    loop {
        match std::str::from_utf8(&bytes[start..]) {
            Ok(rest) => {
                text.push_str(rest);
                bytes.clear();
                return text;
            }
            Err(e) => {
                let valid = &bytes[start..start + e.valid_up_to()];
                text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                start += e.valid_up_to();
                match e.error_len() {
                    Some(bad) => {
                        text.push('\u{FFFD}');
                        start += bad;
                    }
                    None => {
                        bytes.drain(..start);
                        return text;
                    }
                }
            }
        }
    }
}

#[no_mangle]
pub extern "C" fn weft_detokenizer_new(skip_special: bool) -> *mut WeftDetokenizer {
    Box::into_raw(Box::new(WeftDetokenizer { skip_special, ..Default::default() }))
}

#[no_mangle]
pub extern "C" fn weft_detokenizer_keep(state: &mut WeftDetokenizer, id: u32) {
    state.kept.push(id);
}

/// # Safety
/// `state` came from `weft_detokenizer_new` and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn weft_detokenizer_free(state: *mut WeftDetokenizer) {
    drop(Box::from_raw(state));
}

/// Never fails: a panic of a decoder gives an empty text.
#[no_mangle]
pub extern "C" fn weft_detokenizer_push(state: &mut WeftDetokenizer, tokenizer: &WeftTokenizer, id: u32) -> WeftBytes {
    crate::abi::catch(|| Ok(state.push(tokenizer, id))).unwrap_or_default().into()
}

#[no_mangle]
pub extern "C" fn weft_detokenizer_finish(state: &mut WeftDetokenizer, tokenizer: &WeftTokenizer) -> WeftBytes {
    crate::abi::catch(|| Ok(state.finish(tokenizer))).unwrap_or_default().into()
}
