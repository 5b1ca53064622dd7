//! C functions over the crates that weft takes from Rust: `tokenizers`, `minijinja` and `llguidance`. The interface is
//! include/bridge.h; only src/text and src/grammar call it.
mod abi;
mod detokenizer;
mod gbnf;
mod gguf;
mod grammar;
mod memory;
mod pair_model;
mod python;
mod schema_check;
mod string_table;
mod structural_tag;
mod template;
mod tokenizer;
mod tokenizer_json;
