// A token with its logit, and the order of tokens.
#pragma once

#include <cstdint>

namespace weft {

struct Candidate {
  int32_t id = -1;
  float logit = 0;
  bool operator==(const Candidate&) const = default;
};

// Descending logits, then ascending ids.
inline bool in_order(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

}  // namespace weft
