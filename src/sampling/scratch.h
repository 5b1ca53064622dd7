// Memory that a sampling thread works in, allocated once for a vocabulary.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sampling/candidate.h"

namespace weft {

class Scratch {
 public:
  // One per thread.
  explicit Scratch(int vocab_size, int max_seq_len = 0)
      : logits(vocab_size), group_max((vocab_size + kGroup - 1) / kGroup), group_order(group_max.size()) {
    best.reserve(vocab_size);
    tokens.reserve(max_seq_len);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  static constexpr int kGroup = 128;
  // Of the groups of so many logits.
  std::span<float> maxima(size_t logits_size) {
    return std::span(group_max).first((logits_size + kGroup - 1) / kGroup);
  }

  std::vector<float> logits;       // [vocab] processed logits, where a stage changes them
  std::vector<float> logprobs;     // of beam search, grown when first used
  std::vector<float> group_max;    // per group of kGroup tokens
  std::vector<float> group_order;  // room to select among the maxima
  std::vector<Candidate> best;     // the order, or its beginning
  std::vector<int32_t> tokens;     // history with drafts
};

}  // namespace weft
