// Helpers of the readers of streamed text (reasoning.cc, tool_calls.cc).
#pragma once

#include <algorithm>
#include <string_view>

namespace weft {

inline constexpr std::string_view kBlanks = " \t\r\n";

// Length of the longest end of `text` that begins `mark` and is not all of it.
inline size_t held_by(std::string_view text, std::string_view mark) {
  for (size_t length = std::min(text.size(), mark.size() - 1); length > 0; --length)
    if (text.substr(text.size() - length) == mark.substr(0, length)) return length;
  return 0;
}

// The size of `text` without the white space at its end.
inline size_t end_without_blanks(std::string_view text) {
  const size_t last = text.find_last_not_of(kBlanks);
  return last == std::string_view::npos ? 0 : last + 1;
}

}  // namespace weft
