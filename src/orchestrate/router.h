// Which of several servers a request goes to. Plain functions of numbers.
#pragma once

#include <cstdint>
#include <span>

#include "base/named_enum.h"

namespace weft {

// round_robin: each in turn. load_balancing: the one with the least work ahead. kv_cache_aware: where the prompt would
// be computed first, cached blocks of it left out.
enum class RouterKind : uint8_t { round_robin, load_balancing, kv_cache_aware };
template <>
inline constexpr auto kNames<RouterKind> = names_of_all<RouterKind>("round_robin", "load_balancing", "kv_cache_aware");

struct Candidate {
  double load = 0;            // tokens that it has still to compute, about
  int64_t cached_tokens = 0;  // of the prompt, from its beginning, in its cache
};

// The index of one of the candidates, of which there is at least one. `turn` counts up with each choice; among equals
// it decides, so that they take turns. At a tie of kv_cache_aware the lower load counts.
size_t choose_server(RouterKind kind, std::span<const Candidate> candidates, uint64_t turn);

}  // namespace weft
