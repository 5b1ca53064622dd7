// Memory that a sampling thread works in, allocated once for a vocabulary.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace weft {

class Scratch {
 public:
  // One per thread.
  explicit Scratch(int vocab_size, int max_seq_len = 0)
      : logits(vocab_size), group_max((vocab_size + kGroup - 1) / kGroup), group_order(group_max.size()) {
    ids.reserve(vocab_size);
    tokens.reserve(max_seq_len);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  static constexpr int kGroup = 128;

  std::vector<float> logits;       // [vocab] processed logits, where a stage changes them
  std::vector<float> logprobs;     // of beam search, grown when first used
  std::vector<float> group_max;    // per group of kGroup tokens
  std::vector<float> group_order;  // room to select among the maxima
  std::vector<int32_t> ids;        // candidates
  std::vector<int32_t> tokens;     // history with drafts
};

}  // namespace weft
