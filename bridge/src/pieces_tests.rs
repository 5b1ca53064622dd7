//! Ids against those of the crate, on random texts.
use super::*;
use crate::sentencepiece::{self, Flags};
use crate::tokenizer::WeftTokenizer;
use crate::{tekken, tokenizer_json};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/");

fn load(file: &Path) -> WeftTokenizer {
    let bytes = std::fs::read(file).unwrap();
    let flags = Flags::of("");
    let parts = match file.file_name().unwrap().to_str().unwrap() {
        "tokenizer.model" => sentencepiece::parts(&bytes, &flags, &[]).unwrap().0,
        "tekken.json" => tekken::parts(std::str::from_utf8(&bytes).unwrap(), &flags).unwrap().0,
        _ => tokenizer_json::parse(std::str::from_utf8(&bytes).unwrap()).unwrap(),
    };
    WeftTokenizer::build(parts).unwrap()
}

fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["golden", "tokenizers"] {
        for entry in std::fs::read_dir(format!("{DATA}{folder}")).unwrap() {
            let names = ["tokenizer.json", "llm/tokenizer.json", "tokenizer.model", "tekken.json"];
            found.extend(names.iter().map(|n| entry.as_ref().unwrap().path().join(n)).filter(|p| p.is_file()));
        }
    }
    found.sort();
    found
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Words, spaces, signs, characters of many kinds, added tokens and pieces of the vocabulary, in any order.
fn text(random: &mut Random, tokenizer: &WeftTokenizer, parts: usize) -> String {
    const KINDS: [&[&str]; 6] = [
        &[
            "the",
            "quick",
            "brown",
            "fox's",
            "it'll",
            "I'VE",
            "caf\u{e9}",
            "cafe\u{301}",
            "\u{130}stanbul",
            "na\u{ef}ve",
        ],
        &[" ", "  ", "   ", "\n", "\r\n", "\n\n \n", "\t", "\u{a0}", "\u{3000}", "\u{200b}", "\u{85}"],
        &["!", "...", "::", "--", "'", "\"", "\u{201c}", "\u{2026}", "(", ")", "<", ">", "\u{0}", "_"],
        &["0", "7", "42", "2026", "3.14", "\u{bd}", "\u{661}", "\u{2167}", "\u{216b}"],
        &[
            "\u{4f60}\u{597d}",
            "\u{3053}\u{3093}",
            "\u{304b}\u{3099}",
            "\u{d55c}\u{ae00}",
            "\u{1100}\u{1161}\u{11a8}",
            "\u{645}\u{631}",
            "\u{e2a}\u{e27}",
            "\u{1f600}",
            "\u{1f468}\u{200d}\u{1f469}",
            "\u{fb01}",
            "\u{2126}",
        ],
        &[
            "\u{301}",
            "\u{2581}",
            "\u{120}",
            "\u{feff}",
            "\u{fffd}",
            "\u{10ffff}",
            "<s>",
            "</s>",
            "<|im_end|>",
            "<mask>",
        ],
    ];
    let mut out = String::new();
    for _ in 0..parts {
        match random.below(9) {
            kind @ 0..6 => out.push_str(KINDS[kind][random.below(KINDS[kind].len())]),
            6 => out.push_str(&KINDS[1][0].repeat(random.below(4))),
            7 => {
                let id = random.below(tokenizer.end_id as usize) as u32;
                out.push_str(&String::from_utf8_lossy(&tokenizer.token_bytes(id).unwrap_or_default()));
            }
            _ => out.extend(char::from_u32(random.below(0x3000) as u32)),
        }
    }
    out
}

fn compare(name: &str, tokenizer: &WeftTokenizer, texts: usize, parts: usize) {
    let unknown = name.contains("Digits") && name.contains("first") && !name.starts_with("null");
    assert!(tokenizer.has_pieces() || name.contains("Strip") || unknown, "{name}");
    let mut random = Random(parts as u64);
    for _ in 0..texts {
        let parts = random.below(parts) + 1;
        let text = text(&mut random, tokenizer, parts);
        for (add, parse) in [(true, true), (false, false)] {
            let ids = tokenizer.encode(&[&text], add, parse, usize::MAX).unwrap().0;
            let wanted = tokenizer.reference(&text, add, parse);
            if ids != wanted {
                // The bridge silences what panics say.
                println!("{name}: {text:?}: {ids:?} instead of {wanted:?}");
            }
            assert!(ids == wanted);
        }
    }
}

#[test]
fn ids_are_those_of_the_crate() {
    let files = files();
    assert!(files.len() > 20);
    for file in files {
        let tokenizer = load(&file);
        if !file.to_str().unwrap().contains("bert") {
            compare(file.to_str().unwrap(), &tokenizer, 150, 60);
        }
    }
}

#[test]
fn long_texts_too() {
    for file in files().iter().filter(|f| f.to_str().unwrap().contains("/data/tokenizers/")) {
        compare(file.to_str().unwrap(), &load(file), 3, 60_000);
    }
    for name in ["llama-3.1", "gemma3-1b", "qwen3"] {
        compare(name, &load(Path::new(&format!("{DATA}golden/{name}/tokenizer.json"))), 2, 60_000);
    }
}

/// A small tokenizer with these steps.
fn made(normalizer: Value, pre_tokenizer: Value, added: Value) -> WeftTokenizer {
    let mut vocabulary = serde_json::Map::new();
    let alphabet = (33..127).chain(161..600).chain([0x2581, 0x20]).filter_map(char::from_u32);
    let merged =
        ["th", "the", "qu", "\u{2581}t", "\u{2581}th", "\u{2581}\u{2581}", "\u{120}t", "..", "42", "fo", "fox"];
    for piece in alphabet.map(String::from).chain(merged.map(String::from)).chain(["<unk>".to_string()]) {
        let id = vocabulary.len();
        vocabulary.entry(piece).or_insert(json!(id));
    }
    let merges = [
        "t h",
        "th e",
        "q u",
        "\u{2581} t",
        "\u{2581}t h",
        "\u{2581} \u{2581}",
        "\u{120} t",
        ". .",
        "4 2",
        "f o",
        "fo x",
    ];
    let model = json!({"type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": "<unk>", "fuse_unk": true});
    let file = json!({"version": "1.0", "added_tokens": added, "normalizer": normalizer,
                      "pre_tokenizer": pre_tokenizer, "model": model});
    WeftTokenizer::build(tokenizer_json::parse(&file.to_string()).unwrap()).unwrap()
}

fn added(id: u32, content: &str, flags: &[&str]) -> Value {
    let is = |flag: &str| flags.contains(&flag);
    json!({"id": id, "content": content, "special": is("special"), "single_word": is("single_word"),
           "lstrip": is("lstrip"), "rstrip": is("rstrip"), "normalized": is("normalized")})
}

#[test]
fn every_known_step() {
    let split = |pattern: Value, behavior: &str, invert: bool| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert});
    let level = |prefix: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split});
    let sequence = |list: Value| json!({"type": "Sequence", "pretokenizers": list});
    let digits = |single: bool| json!({"type": "Digits", "individual_digits": single});
    let space = json!({"String": " "});
    let words = json!({"Regex": "\\s+|\\w+"});
    let pre_tokenizers = [
        Value::Null,
        level(true, true),
        level(false, true),
        level(true, false),
        metaspace("always", true),
        metaspace("first", true),
        metaspace("never", true),
        metaspace("first", false),
        split(space.clone(), "Isolated", false),
        split(space.clone(), "Removed", false),
        split(space.clone(), "MergedWithPrevious", false),
        split(space.clone(), "MergedWithNext", false),
        split(words.clone(), "Isolated", true),
        split(json!({"Regex": "x*"}), "Isolated", false),
        sequence(json!([digits(true), level(true, true)])),
        sequence(json!([digits(false), level(false, true)])),
        sequence(json!([
            split(json!({"Regex": "\\p{N}{1,3}"}), "Isolated", false),
            split(words, "Isolated", false),
            level(false, false)
        ])),
        sequence(json!([digits(false), metaspace("first", true)])),
    ];
    let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let normalizers = [
        Value::Null,
        json!({"type": "NFC"}),
        json!({"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "Lowercase"}]}),
        json!({"type": "Sequence", "normalizers": [prepend, replace]}),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
    ];
    let tokens = json!([
        added(700, "<s>", &["special"]),
        added(701, "<mask>", &["special", "lstrip", "rstrip"]),
        added(702, "fox", &["single_word"]),
        added(703, "The", &["normalized"]),
        added(704, "...", &[]),
        added(705, "....", &["special"]),
        added(706, "caf\u{e9}", &["normalized", "rstrip"])
    ]);
    for pre_tokenizer in &pre_tokenizers {
        for normalizer in &normalizers {
            for tokens in [&json!([]), &tokens] {
                let tokenizer = made(normalizer.clone(), pre_tokenizer.clone(), tokens.clone());
                compare(&format!("{normalizer} {pre_tokenizer}"), &tokenizer, 60, 40);
            }
        }
    }
    // Normalising in parts.
    for normalizer in &normalizers {
        compare("parts", &made(normalizer.clone(), level(false, true), tokens.clone()), 2, 30_000);
    }
}

#[test]
fn limits_and_flags_end_it() {
    let tokenizer = load(Path::new(&format!("{DATA}golden/llama-3.1/tokenizer.json")));
    let words = "the quick brown fox ".repeat(100_000);
    let failure = tokenizer.encode(&[&words], false, true, 1000).unwrap_err();
    assert_eq!(failure.message, "the text has more than 1000 tokens");
    let run = "a".repeat(MOST_IN_ONE + 2);
    let failure = tokenizer.encode(&[&run], false, true, usize::MAX).unwrap_err();
    assert_eq!(failure.code, crate::abi::Code::TooLarge);
    let set = 1u8;
    // SAFETY: the byte outlives the call.
    let stopped = unsafe { Stop::new(&set) }.within(|| tokenizer.encode(&[&words], false, true, usize::MAX));
    assert_eq!(stopped.unwrap_err().code, crate::abi::Code::Stopped);
}
