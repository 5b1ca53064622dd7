#include "sampling/draft_choice.h"

#include <algorithm>
#include <cmath>

#include "sampling/parameters.h"
#include "sampling/philox.h"

namespace weft {
namespace {

constexpr int kRun = 64;             // logits that are looked at together
constexpr double kMostNoise = 34.0;  // gumbel_noise is below

float largest_of(std::span<const float> logits, int first, int last) {
  float lanes[8];
  std::fill_n(lanes, 8, -std::numeric_limits<float>::infinity());
  int i = first;
  for (; i + 8 <= last; i += 8)
    for (int lane = 0; lane < 8; ++lane) lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
  for (; i < last; ++i) lanes[0] = std::max(lanes[0], logits[i]);
  return *std::max_element(lanes, lanes + 8);
}

}  // namespace

DraftChoice choose_draft(std::span<const float> logits, int first, int last, std::span<const int32_t> target_ids,
                         const SamplingParams& params, int64_t position) {
  const float largest = largest_of(logits, first, last);
  const auto at = std::find(logits.begin() + first, logits.begin() + last, largest);
  if (at == logits.begin() + last) return {};  // nothing there, or no numbers
  DraftChoice best{largest, static_cast<int32_t>(at - logits.begin())};
  if (params.temperature < kGreedyTemperature) return best;
  const double scale = 1.0 / params.temperature;
  const auto id_of = [&](int i) { return target_ids.empty() ? i : target_ids[i]; };
  best.score = largest * scale + gumbel_noise(params.seed, position, id_of(best.token));
  for (int begin = first; begin < last; begin += kRun) {
    const int end = std::min(last, begin + kRun);
    if (largest_of(logits, begin, end) * scale + kMostNoise < best.score) continue;
    for (int i = begin; i < end; ++i) {
      const double x = logits[i] * scale;
      if (x + kMostNoise < best.score) continue;
      // x + noise >= best for v <= 1 - exp(-p), p = exp(x - best), which is less than p; v's 16 high bits alone rule
      // out nearly every token.
      if (noise_high16(params.seed, position, id_of(i)) * 0x1p-16 > std::exp(x - best.score)) continue;
      best = std::max(best, DraftChoice{x + gumbel_noise(params.seed, position, id_of(i)), i});
    }
  }
  return best;
}

}  // namespace weft
