// Finds stop strings in a stream of text pieces. Text that may still turn out to be the start of one is held back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

// One per stream; one thread at a time. Cost is linear in the text, whatever the number of stop strings.
class StopStrings {
 public:
  // Empty stop strings are ignored. With `include` the matched stop string is part of the text.
  explicit StopStrings(std::vector<std::string> stops, bool include = false);
  ~StopStrings();
  StopStrings(const StopStrings&);
  StopStrings(StopStrings&&) noexcept;
  StopStrings& operator=(StopStrings&&) noexcept;

  struct Output {
    std::string text;               // may be sent now
    std::optional<size_t> matched;  // index into `stops`; nothing after it is part of the answer
  };
  // The first match in the text counts; of several that end at the same byte, the longest (it begins first). After a
  // match, further pieces are ignored.
  Output push(std::string_view piece);
  // The text held back, when the stream ends without a match.
  std::string finish();

 private:
  struct Node;
  void build();
  size_t step(size_t node, uint8_t c) const;

  std::vector<std::string> stops_;
  bool include_;
  std::vector<Node> nodes_;  // node 0 is the root
  size_t state_ = 0;
  std::string held_;  // between calls, the text of state_
  std::optional<size_t> matched_;
};

}  // namespace weft
