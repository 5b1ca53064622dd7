// Tokenizers: text to token ids and back, for Hugging Face folders (tokenizer.json) and for vocabularies inside GGUF
// files. The work is done by the `tokenizers` crate behind bridge/; both sources end in the same object, so that
// nothing above this file knows which one a model came from.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct WeftTokenizer;  // the bridge's handle; see bridge/include/bridge.h

namespace weft {

class StopFlag;

struct EncodeOptions {
  // Adds what the model's post-processor adds: BOS for most decoders, [CLS] and [SEP] for BERT.
  bool add_special_tokens = true;
  // "<|eot_id|>" in the text becomes that token. False: special tokens in the text are ordinary characters (user
  // input).
  bool parse_special = true;
  // Looked at while the text is encoded, about every millisecond (docs/contract-engine.md): cancelled or
  // deadline_exceeded once it is set. Null: never.
  const StopFlag* stop = nullptr;
  // too_large once the text has more tokens than this; the rest is not looked at. Not of pairs.
  size_t most_tokens = SIZE_MAX;
};

struct EncodedPair {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;  // 0 for the first text, 1 for the second (its closing separator included)
};

// The tokenizer part of a GGUF file's metadata ("tokenizer.ggml.*"), as the checkpoint reader finds it. Arrays are
// either empty or as long as `tokens`; absent ids are empty.
struct GgufVocabulary {
  // tokenizer.ggml.model: "gpt2" (byte-level BPE), "llama" (SentencePiece), "bert" (WordPiece), "t5" (unigram)
  std::string model;
  std::string pre;                  // tokenizer.ggml.pre: the pre-tokenizer's name, "llama-bpe", "qwen2", ...
  std::vector<std::string> tokens;  // tokenizer.ggml.tokens
  std::vector<float> scores;        // tokenizer.ggml.scores
  // tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<int32_t> token_types;
  std::vector<std::string> merges;  // tokenizer.ggml.merges: "left right"
  std::optional<int32_t> bos_id, eos_id, unknown_id, padding_id, separator_id, cls_id, mask_id;
  std::string charsmap;  // tokenizer.ggml.precompiled_charsmap, of "t5"
  // tokenizer.ggml.add_bos_token, add_eos_token, add_space_prefix, remove_extra_whitespaces
  std::optional<bool> add_bos, add_eos, add_space_prefix, remove_extra_spaces;
};

// Immutable; all functions may be called from any thread at once.
class Tokenizer {
 public:
  // Reads tokenizer.json, else tokenizer.model (SentencePiece), else tekken.json, and tokenizer_config.json and
  // special_tokens_map.json where they exist (names of special tokens).
  static Result<std::shared_ptr<const Tokenizer>> from_folder(const std::string& folder);
  // Takes the vocabulary by value: moving it in saves a copy of every token.
  static Result<std::shared_ptr<const Tokenizer>> from_gguf(GgufVocabulary vocabulary);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // `text` must be UTF-8 (invalid_argument otherwise).
  Result<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options = {}) const;
  // Two texts for a cross-encoder: [CLS] a [SEP] b [SEP] with type ids 0 and 1.
  Result<EncodedPair> encode_pair(std::string_view a, std::string_view b, EncodeOptions options = {}) const;
  // The text of the ids together, as the reference decodes them; ids outside the vocabulary add nothing. Bytes that are
  // not UTF-8 become U+FFFD.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const;

  // The bytes that the token adds in the middle of a text (" the", half a character, ...); special tokens give their
  // name ("<|eot_id|>"). Empty for ids outside the vocabulary.
  std::string token_bytes(int32_t id) const;
  // The vocabulary's own spelling ("\u0120the", "\u2581the", "##ing"); empty for ids outside the vocabulary.
  std::string token_text(int32_t id) const;
  // The id whose spelling in the vocabulary (added tokens included) is `text`.
  std::optional<int32_t> find_token(std::string_view text) const;

  // One more than the largest id; a model may have more rows than this, or fewer.
  int32_t vocab_size() const { return vocab_size_; }
  bool is_special(int32_t id) const;
  // From tokenizer_config.json or the GGUF metadata. Generation's end ids are another matter: generation_config.json.
  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  std::optional<int32_t> padding_id() const { return padding_id_; }

  // What src/grammar builds its token trie from. Lives as long as any holder.
  std::shared_ptr<const WeftTokenizer> handle() const { return handle_; }

 private:
  explicit Tokenizer(std::shared_ptr<const WeftTokenizer> handle);

  std::shared_ptr<const WeftTokenizer> handle_;
  int32_t vocab_size_ = 0;
  std::optional<int32_t> bos_id_, eos_id_, padding_id_;
};

}  // namespace weft
