// Reasoning models write their thoughts between "<think>" and "</think>" before the answer. Where an answer stands in
// that respect is decided by the end of its prompt (text/answer_format.h) and matters to grammars and to the server.
#pragma once

#include <cstdint>

namespace weft {

enum class Thinking : uint8_t {
  none,      // the answer begins at once
  may_open,  // the answer may begin with "<think>"
  open,      // the prompt ends inside the thinking: all is thought up to "</think>"
};

}  // namespace weft
