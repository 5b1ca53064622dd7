// The vocabulary that grammar tests use, that of tests/data/golden/llama-3.1: 256 bytes, some 240 merges, special
// tokens from 499 on. A mask is compared with what a plain predicate on a token's text says, so the right answers are
// written down by hand.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "grammar/grammar.h"
#include "text/tokenizer.h"

namespace weft {

class Vocabulary {
 public:
  static const Vocabulary& get() {
    static const Vocabulary vocabulary;
    return vocabulary;
  }

  static constexpr int kRows = 512;
  static constexpr int kEnd = 500, kOtherEnd = 501;  // <|end_of_text|>, <|eot_id|>

  std::unique_ptr<GrammarFactory> factory(GrammarLimits limits = {}) const {
    return std::make_unique<GrammarFactory>(tokenizer_->handle(), kRows, std::vector<int32_t>{kEnd, kOtherEnd}, limits);
  }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::vector<int32_t>& byte_ids() const { return byte_ids_; }  // the token of each byte

  // Walks along `text` byte by byte (every byte is a token); false where the grammar does not allow it.
  bool accept(Grammar& grammar, std::string_view text) const {
    for (const char c : text)
      if (!grammar.accept(byte_ids_[static_cast<unsigned char>(c)]).ok()) return false;
    return true;
  }
  // The whole text is an answer.
  bool matches(const Grammar& start, std::string_view text) const {
    const std::unique_ptr<Grammar> grammar = start.clone();
    return accept(*grammar, text) && grammar->may_end();
  }

  // Holds the mask against `allowed` (of the text of a token that is not special) and `may_end`.
  void expect_mask(Grammar& grammar, const std::function<bool(const std::string&)>& allowed, bool may_end) const {
    std::vector<uint32_t> mask(kRows / 32);
    ASSERT_TRUE(grammar.fill(mask).ok());
    for (int id = 0; id < kRows; ++id) {
      const std::string text = tokenizer_->token_bytes(id);
      const bool end = id == kEnd || id == kOtherEnd;
      const bool right = end ? may_end : !text.empty() && !tokenizer_->is_special(id) && allowed(text);
      EXPECT_EQ((mask[static_cast<size_t>(id) / 32] >> (id % 32)) & 1u, right ? 1u : 0u)
          << "token " << id << " \"" << text << '"';
    }
    EXPECT_EQ(grammar.may_end(), may_end);
  }

 private:
  Vocabulary() {
    tokenizer_ = Tokenizer::from_folder(WEFT_TEST_DATA "/golden/llama-3.1").value();
    byte_ids_.assign(256, -1);
    for (int id = 0; id < kRows; ++id)
      if (const std::string text = tokenizer_->token_bytes(id); text.size() == 1 && !tokenizer_->is_special(id))
        byte_ids_[static_cast<unsigned char>(text[0])] = id;
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<int32_t> byte_ids_;
};

inline GrammarSpec spec(GrammarSpec::Kind kind, std::string text, Thinking thinking = Thinking::none) {
  GrammarSpec made;
  made.kind = kind;
  made.text = std::move(text);
  made.thinking = thinking;
  return made;
}

}  // namespace weft
