// Prompts of the benchmarks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace weft {

// Token ids from a linear congruential generator: the same for every run, and no two prompts begin alike.
class Prompts {
 public:
  explicit Prompts(int vocabulary) : vocabulary_(static_cast<uint64_t>(std::max(vocabulary, 2))) {}
  std::vector<int32_t> next(int length) {
    std::vector<int32_t> ids;
    for (int i = 0; i < length; ++i) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      ids.push_back(static_cast<int32_t>((state_ >> 33) % vocabulary_));
    }
    return ids;
  }

 private:
  const uint64_t vocabulary_;
  uint64_t state_ = 1;
};

}  // namespace weft
