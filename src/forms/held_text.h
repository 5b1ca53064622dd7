// Helpers of the readers of streamed text, which may end in the middle of anything. Places are byte offsets.
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

// The first place from `at` on that is no white space (the text's size if there is none).
inline size_t skip_blanks(std::string_view text, size_t at) {
  const size_t found = text.find_first_not_of(kBlanks, at);
  return found == std::string_view::npos ? text.size() : found;
}

// The size of `text` without the white space at its end.
inline size_t end_without_blanks(std::string_view text) {
  const size_t last = text.find_last_not_of(kBlanks);
  return last == std::string_view::npos ? 0 : last + 1;
}

// `word` stands at `at`.
inline bool begins(std::string_view text, size_t at, std::string_view word) {
  return text.substr(at, word.size()) == word;
}

// The text ends at `at` or in the middle of `word`, which may stand there.
inline bool may_begin(std::string_view text, size_t at, std::string_view word) {
  return text.size() - at < word.size() && word.starts_with(text.substr(at));
}

}  // namespace weft
