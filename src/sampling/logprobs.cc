#include <algorithm>

#include "sampling/choose.h"

namespace weft {

std::string raw_logprobs(std::span<const float> logits, int32_t token, int k, Scratch& scratch, std::vector<TokenLogprob>& out) {
  const LogitScan scan = scan_logits(logits, scratch.group_max);
  if (!scan.finite || scan.max == -std::numeric_limits<float>::infinity()) return kNotFinite;
  const double log_sum = exact_log(static_cast<double>(total_mass(logits, scan.max, 1.0f)) * (1.0 / kMassOne));
  const auto logprob = [&](int32_t id) {
    const float logit = id >= 0 && id < static_cast<int32_t>(logits.size()) ? logits[id] : -std::numeric_limits<float>::infinity();
    // JSON has no infinity: a probability of zero shows as the least float.
    return std::max(static_cast<float>(static_cast<double>(logit - scan.max) - log_sum), std::numeric_limits<float>::lowest());
  };
  out.clear();
  out.push_back({token, logprob(token)});
  if (k <= 0) return "";
  // The k-th largest group maximum bounds the k best from below.
  const size_t want = std::min<size_t>(k, logits.size());
  float threshold = -std::numeric_limits<float>::infinity();
  if (want <= scratch.group_order.size()) {
    std::copy(scratch.group_max.begin(), scratch.group_max.end(), scratch.group_order.begin());
    std::nth_element(scratch.group_order.begin(), scratch.group_order.begin() + static_cast<std::ptrdiff_t>(want - 1), scratch.group_order.end(),
                     std::greater<>());
    threshold = scratch.group_order[want - 1];
  }
  std::vector<int32_t>& ids = scratch.ids;
  ids.clear();
  for (size_t g = 0; g < scratch.group_max.size(); ++g) {
    if (scratch.group_max[g] < threshold) continue;
    for (size_t i = g * Scratch::kGroup; i < std::min(logits.size(), (g + 1) * Scratch::kGroup); ++i)
      if (logits[i] >= threshold && logits[i] > -std::numeric_limits<float>::infinity()) ids.push_back(static_cast<int32_t>(i));
  }
  const size_t found = std::min(want, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(found), ids.end(), InOrder{logits.data()});
  for (size_t i = 0; i < found; ++i) out.push_back({ids[i], logprob(ids[i])});
  return "";
}

std::string row_logprobs(SampleRow& row, Scratch& scratch) {
  const std::span<const float> raw = row.raw_logits.empty() ? row.logits : row.raw_logits;
  return raw_logprobs(raw, row.token, row.state->params().logprobs, scratch, *row.logprobs);
}

void processed_logprobs(std::span<const int32_t> kept, const float* logits, float max, const RowFilters& f, int32_t token, int k,
                        std::vector<TokenLogprob>& out) {
  Mass total = 0;
  for (int32_t id : kept) total += mass_at(logits[id], max, f);
  const double log_sum = exact_log(static_cast<double>(total) * (1.0 / kMassOne));
  const auto logprob = [&](int32_t id) { return static_cast<float>(static_cast<double>(scaled(logits[id], max, f.inverse_temperature)) - log_sum); };
  out.clear();
  out.push_back({token, logprob(token)});
  for (size_t i = 0; i < std::min(kept.size(), static_cast<size_t>(std::max(k, 0))); ++i) out.push_back({kept[i], logprob(kept[i])});
}

}  // namespace weft
