// The passes over a whole vocabulary, written so that the compiler makes vector code of them; each is compiled for
// several instruction sets and gives the same bits in all (no contraction, integer sums).
#pragma once

#include <cstdint>
#include <span>

#include "sampling/exact_math.h"

namespace weft {

struct LogitScan {
  float max = 0;
  bool finite = true;  // no NaN and no +inf (-inf is fine)
};
// Also writes the largest of each group of Scratch::kGroup.
LogitScan scan_logits(std::span<const float> logits, std::span<float> group_max);

// x = (l - max) * inverse_temperature, as both samplers compute it.
inline float scaled(float logit, float max, float inverse_temperature) { return (logit - max) * inverse_temperature; }

// Sum of mass_of(exp(x)) over all logits.
Mass total_mass(std::span<const float> logits, float max, float inverse_temperature);

// Bit i of `hits` word i / 32: whether token first + i may have x + noise >= best, judged by the 16 high bits of its
// noise; no token that does is missed. logits[0 .. count) begin at token `first`, a multiple of kNoiseGroup; count <=
// kNoiseGroup. `scale` is slightly more than exp(-best).
void noise_candidates(const float* logits, int count, int32_t first, float max, float inverse_temperature, float scale,
                      uint64_t seed, int64_t position, uint32_t hits[4]);

}  // namespace weft
