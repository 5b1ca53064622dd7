// JSON read from text that may still be growing. Places are byte offsets into the text given.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace weft {

enum class Found : unsigned char { yes, no, more };  // more: the text ends too early to tell

// Moves `at` behind a JSON value. Strings and brackets only are looked at, so that slightly wrong JSON passes.
Found skip_value(std::string_view text, size_t& at);
// Reads a JSON string and moves `at` behind it.
Found read_string(std::string_view text, size_t& at, std::string& out);

// The beginning of a call object: {"name": NAME, "arguments": ..., with other members and {"function": {...}} around it
// allowed.
struct CallHead {
  std::string name;
  // The arguments: an object that begins at `at` and goes on, or one that is complete, `at` behind it.
  std::optional<std::string> arguments;
  size_t at = 0;
  int braces = 0;  // to be closed behind the arguments
};
// `names`: the functions that count. `at` is the place of the opening brace.
Found read_call_head(std::string_view text, size_t at, const std::vector<std::string>& names, CallHead& out);

}  // namespace weft
