// See the header.
#include "orchestrate/router.h"

#include <utility>

namespace weft {

size_t choose_server(RouterKind kind, std::span<const Candidate> candidates, uint64_t turn) {
  const size_t count = candidates.size(), first = turn % count;
  if (kind == RouterKind::round_robin) return first;
  const auto cost = [&](const Candidate& candidate) {
    const auto cached = kind == RouterKind::kv_cache_aware ? static_cast<double>(candidate.cached_tokens) : 0.0;
    return std::pair(candidate.load - cached, candidate.load);
  };
  size_t best = first;
  for (size_t i = 1; i < count; ++i) {
    const size_t next = (first + i) % count;
    if (cost(candidates[next]) < cost(candidates[best])) best = next;
  }
  return best;
}

}  // namespace weft
