#include "sampling/draft_choice.h"

#include <algorithm>
#include <cmath>

#include "sampling/parameters.h"
#include "sampling/philox.h"

namespace weft {
namespace {

constexpr size_t kRun = 64;          // logits that are looked at together
constexpr double kMostNoise = 34.0;  // gumbel_noise is below

float largest_of(std::span<const float> logits) {
  float lanes[8];
  std::fill_n(lanes, 8, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + 8 <= logits.size(); i += 8)
    for (size_t lane = 0; lane < 8; ++lane)
      lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
  for (; i < logits.size(); ++i) lanes[0] = std::max(lanes[0], logits[i]);
  return *std::max_element(lanes, lanes + 8);
}

}  // namespace

DraftChoice choose_draft(std::span<const float> logits, int32_t first_id, std::span<const int32_t> target_ids,
                         const DraftNoise& noise, int64_t position) {
  const float largest = largest_of(logits);
  const auto at = std::find(logits.begin(), logits.end(), largest);
  if (at == logits.end()) return {};  // nothing there, or no numbers
  DraftChoice best{largest, first_id + static_cast<int32_t>(at - logits.begin())};
  if (noise.temperature < kGreedyTemperature) return best;
  const double scale = 1.0 / noise.temperature;
  const auto id_of = [&](int32_t token) { return target_ids.empty() ? token : target_ids[token]; };
  best.score = largest * scale + gumbel_noise(noise.seed, position, id_of(best.token));
  for (size_t begin = 0; begin < logits.size(); begin += kRun) {
    const std::span<const float> run = logits.subspan(begin, std::min(kRun, logits.size() - begin));
    if (largest_of(run) * scale + kMostNoise < best.score) continue;
    for (size_t i = 0; i < run.size(); ++i) {
      const double x = run[i] * scale;
      if (x + kMostNoise < best.score) continue;
      const int32_t token = first_id + static_cast<int32_t>(begin + i);
      // x + noise >= best for v <= 1 - exp(-p), p = exp(x - best), which is less than p; v's 16 high bits alone rule
      // out nearly every token.
      if (noise_high16(noise.seed, position, id_of(token)) * 0x1p-16 > std::exp(x - best.score)) continue;
      best = std::max(best, DraftChoice{x + gumbel_noise(noise.seed, position, id_of(token)), token});
    }
  }
  return best;
}

}  // namespace weft
