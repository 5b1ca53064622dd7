//! C functions over the crates that weft takes from Rust: `tokenizers`, `minijinja`, `llguidance` and the image
//! decoders. The interface is include/bridge.h; only src/text, src/grammar and src/media call it.
mod abi;
mod context;
mod decimal;
mod detokenizer;
mod fetch;
mod gbnf;
mod gguf;
mod grammar;
mod image;
mod memory;
mod pair_model;
mod piece_model;
mod png_metadata;
mod printf;
mod python;
mod reserve;
mod schema_check;
mod schema_numbers;
mod sentencepiece;
mod string_table;
mod structural_tag;
mod tekken;
mod template;
mod tokenizer;
mod tokenizer_json;
