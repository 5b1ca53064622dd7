//! The pre-tokenizers behind the names of `tokenizer.ggml.pre`. The names are those that llama.cpp knows
//! (llama-vocab.cpp); the regular expressions are those of the models' own tokenizer.json files where llama.cpp has
//! them changed for an engine of its own.
use crate::abi::{Failure, Outcome};

#[derive(Clone, Copy)]
pub struct PreTokenizer {
    /// The names that stand for it.
    pub names: &'static [&'static str],
    /// Splits, one after the other.
    pub splits: &'static [&'static str],
    pub ignore_merges: bool,
    pub adds_bos: bool,
    /// To NFC, which the models' own tokenizers do and the format does not say.
    pub normalize: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK3_WORDS: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BB}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}\u{370}-\u{373}",
    r"\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}",
    r"\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}",
    r"\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}",
    r"\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}",
    r"\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}",
    r"\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}",
    r"\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}",
    r"\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}",
    r"\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}",
    r"\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+"
);

const KIMI: &str = concat!(
    r"[\p{Han}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const YOUTU: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const MINICPM: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const JAIS2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|",
    r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|",
    r"\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
);
const SPARK_WORDS: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
);
const BAILING: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|",
    r"\s*[\r\n]|\s+(?!\S)|\s+"
);
const SEED: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|",
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
);
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
);
const CJK: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const HAN_AND_HANGUL: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const WORDS_OF_BLOOM: &str = " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";
const EAST_ASIAN: &str = concat!(
    "[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}",
    "\u{2f00}-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}",
    "\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+"
);
const YOUTU_SCRIPTS: &str = concat!(
    "[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}",
    "\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|[\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"
);
// Groups of three digits from the right.
const THREES: &str = r"\d{1,3}(?=(?:\d{3})*(?!\d))";

const fn plain(names: &'static [&'static str], splits: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, splits, ignore_merges: false, adds_bos: false, normalize: false }
}

/// Words that are in the vocabulary are taken whole, and texts begin with BOS.
const fn whole_words(names: &'static [&'static str], splits: &'static [&'static str], adds_bos: bool) -> PreTokenizer {
    PreTokenizer { ignore_merges: true, adds_bos, ..plain(names, splits) }
}

/// All of them. The empty name is that of files from before the name was recorded.
pub const PRE_TOKENIZERS: &[PreTokenizer] = &[
    plain(
        &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
            "roberta-bpe",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "gigachat",
            "trillion",
            "granite-docling",
            "exaone4",
            "a.x-4.0",
            "mellum",
        ],
        &[GPT2],
    ),
    whole_words(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        &[LLAMA3],
        true,
    ),
    plain(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], &[LLAMA3]),
    whole_words(&["minicpm5"], &[r"\p{N}{1,3}", MINICPM], false),
    plain(&["jais-2"], &[JAIS2]),
    PreTokenizer { normalize: true, ..plain(&["qwen2", "deepseek-r1-qwen"], &[QWEN2]) },
    plain(&["stablelm2", "hunyuan", "solar-open", "megrez", "grok-2", "kormo", "f2llmv2"], &[QWEN2]),
    PreTokenizer { normalize: true, ..plain(&["qwen35"], &[QWEN35]) },
    plain(&["ufakzeka"], &[UFAKZEKA]),
    plain(&["laguna"], &[r"[^\n]+|[\n]+", QWEN2]),
    plain(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[r"\p{N}", GPT2],
    ),
    plain(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    whole_words(&["granite-embed-multi-97m"], &[GPT4O], false),
    plain(&["tiny_aya", "cohere2moe"], &[THREES, GPT4O]),
    whole_words(&["tekken"], &[TEKKEN], true),
    plain(&["kimi-k2"], &[KIMI]),
    whole_words(&["youtu"], &[YOUTU_SCRIPTS, YOUTU], false),
    plain(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[r"\p{N}{1,3}", CJK, DEEPSEEK3_WORDS]),
    plain(&["spark2_5"], &[r"\p{N}{1,3}", CJK, SPARK_WORDS, r"\p{N}"]),
    plain(&["afmoe"], &[THREES, EAST_ASIAN, DEEPSEEK3_WORDS]),
    plain(
        &["deepseek-llm"],
        &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+",
            r"\s+$",
            HAN_AND_HANGUL,
            r"\p{N}+",
        ],
    ),
    plain(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_AND_HANGUL, r"\p{N}"]),
    plain(&["poro-chat", "bloom", "gpt3-finnish"], &[WORDS_OF_BLOOM]),
    plain(&["viking"], &[WORDS_OF_BLOOM, r"\p{N}"]),
    PreTokenizer {
        adds_bos: true,
        ..plain(
            &["chameleon"],
            &[
                r"<sentinel:[0-9]+>",
                r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2,
            ],
        )
    },
    plain(&["superbpe"], &[r"\p{N}+", THREES]),
    plain(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    plain(&["seed-coder"], &[SEED]),
    plain(&["exaone-moe"], &[EXAONE_MOE]),
    plain(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"]),
    plain(&["", "default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
];

/// Names of llama.cpp whose vocabularies are no byte-level ones, and of no architecture that is read.
const OTHER_FORMS: &[&str] = &["gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"];

/// The pre-tokenizer behind a name of `tokenizer.ggml.pre`.
pub fn pre_tokenizer(name: &str) -> Outcome<PreTokenizer> {
    if let Some(found) = PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)) {
        return Ok(*found);
    }
    Err(Failure::unsupported(if OTHER_FORMS.contains(&name) {
        format!("tokenizer.ggml.pre {name:?} is of a vocabulary without bytes, which is not supported")
    } else {
        format!("tokenizer.ggml.pre {name:?} is not a pre-tokenizer that this build knows")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::split;
    use std::collections::HashSet;
    use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};
    use tokenizers::PreTokenizerWrapper;

    fn pieces(pre: &PreTokenizer, text: &str) -> Vec<String> {
        let mut parts = PreTokenizedString::from(text);
        for regex in pre.splits {
            let splitter: PreTokenizerWrapper = serde_json::from_value(split(regex)).expect(regex);
            splitter.pre_tokenize(&mut parts).expect(regex);
        }
        let splits = parts.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(piece, _, _)| piece.to_string()).collect()
    }

    #[test]
    fn every_expression_is_one_and_loses_nothing() {
        let text =
            "It's 1234567 o'clock,  don't\n\n\tpanic!! na\u{ef}ve \u{4f60}\u{597d}abc \u{ac00}\u{1f600} ABCdef x2  ";
        for pre in PRE_TOKENIZERS {
            let found = pieces(pre, text);
            assert_eq!(found.concat(), text, "{:?}", pre.names);
            assert!(found.len() > 5, "{:?}: {found:?}", pre.names);
        }
    }

    #[test]
    fn names_stand_for_one_each() {
        let names: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert!(pre_tokenizer("gemma4").is_err() && pre_tokenizer("no such").is_err());
    }

    /// docs/gguf.md lists the names.
    #[test]
    fn the_documentation_has_all_names() {
        let docs = include_str!("../../docs/gguf.md");
        for name in PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).filter(|name| !name.is_empty()) {
            assert!(docs.contains(&format!("`{name}`")), "docs/gguf.md lacks `{name}`");
        }
    }

    /// Splits as the expressions' own definitions have them.
    #[test]
    fn digits_and_contractions() {
        let of = |name: &str, text: &str| pieces(&pre_tokenizer(name).ok().unwrap(), text);
        assert_eq!(of("llama-bpe", "a 12345"), ["a", " ", "123", "45"]);
        assert_eq!(of("qwen2", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(of("gpt-2", "don't 123"), ["don", "'t", " 123"]);
        assert_eq!(of("smollm", "a 12"), ["a", " ", "1", "2"]);
        assert_eq!(of("tiny_aya", "1234567"), ["1", "234", "567"]);
        assert_eq!(of("superbpe", "1234567"), ["1", "234", "567"]);
        assert_eq!(of("gpt-4o", "DON'T stop"), ["DON'T", " stop"]);
        assert_eq!(of("tekken", "DON'T 12"), ["DON", "'T", " ", "1", "2"]);
        assert_eq!(of("kimi-k2", "\u{4f60}\u{597d}abc"), ["\u{4f60}\u{597d}", "abc"]);
        assert_eq!(of("seed-coder", "x;\ny"), ["x", ";", "\n", "y"]);
    }
}
