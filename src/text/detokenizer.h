// Turns the ids of one stream into text piece by piece. A piece is final once it is returned: it never ends inside a
// character, and the pieces joined are Tokenizer::decode() of all ids. The cost of a token does not grow with the
// length of the stream.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text/tokenizer.h"

struct WeftDetokenizer;

namespace weft {

// One per stream; one thread at a time.
class Detokenizer {
 public:
  // With skip_special the text of special tokens is left out, except of those in `kept` (names; what is no special
  // token is ignored).
  Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special, const std::vector<std::string>& kept = {});
  ~Detokenizer();
  Detokenizer(Detokenizer&&) noexcept;
  Detokenizer& operator=(Detokenizer&&) noexcept;

  // The text that is certain now and was not before; often empty in the middle of a character.
  std::string push(int32_t id);
  // The held rest when the stream ends: incomplete characters as U+FFFD. The object is then as new.
  std::string finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  WeftDetokenizer* state_ = nullptr;
};

}  // namespace weft
