// What a model drafter proposes: the token that the target would most likely sample if its logits were the draft's. It
// is drawn with the target's own noise (rule 6 of docs/exactness.md), so that the two often agree at any temperature.
// Penalties, masks and filters are left to the target: a draft may be wrong.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace weft {

struct DraftChoice {
  double score = -std::numeric_limits<double>::infinity();
  int32_t token = 0;  // of the draft's vocabulary
  bool operator<(const DraftChoice& other) const {
    return score < other.score || (score == other.score && token > other.token);
  }
};

// What the target draws the sequence's tokens with.
struct DraftNoise {
  float temperature = 1;
  uint64_t seed = 0;
};

// The best of `logits`, the draft's for its tokens from `first_id` on, for the token at `position`. `target_ids`: the
// target's ids of the draft's; empty: they are the same. Ranks and threads may have a part of the vocabulary each; the
// largest of their choices is the draft.
DraftChoice choose_draft(std::span<const float> logits, int32_t first_id, std::span<const int32_t> target_ids,
                         const DraftNoise& noise, int64_t position);

}  // namespace weft
