// The readable sampler: copies the logits, sorts the vocabulary, and applies one parameter after the other.
#include <algorithm>
#include <numeric>

#include "sampling/choose.h"
#include "sampling/stages.h"

namespace weft {
namespace {

void keep_min_p(std::vector<int32_t>& order, const float* logits, float max, const RowFilters& f) {
  const auto below = [&](int32_t token) { return scaled(logits[token], max, f.inverse_temperature) < f.least_x; };
  order.erase(std::find_if(order.begin() + 1, order.end(), below), order.end());
}

void keep_top_k(std::vector<int32_t>& order, const RowFilters& f) {
  if (f.top_k > 0 && order.size() > static_cast<size_t>(f.top_k)) order.resize(f.top_k);
}

void keep_top_p(std::vector<int32_t>& order, const float* logits, float max, const RowFilters& f) {
  if (f.top_p >= 1.0f) return;
  Mass total = 0;
  for (int32_t token : order) total += mass_at(logits[token], max, f);
  if (const size_t size = nucleus(order, logits, max, f, total); size > 0) order.resize(size);
}

bool all_finite(std::span<const float> logits) {
  return std::all_of(logits.begin(), logits.end(), [](float l) { return l <= std::numeric_limits<float>::max(); });
}

}  // namespace

void sample_reference(SampleRow& row, Scratch& scratch) {
  if (!all_finite(row.logits)) return void(row.error = kNotFinite);
  row.error = apply_stages(row, scratch.logits, scratch);
  if (!row.error.empty()) return;
  const float* logits = scratch.logits.data();
  if (!all_finite(scratch.logits)) return void(row.error = kNotFinite);

  std::vector<int32_t>& order = scratch.ids;
  order.resize(row.logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), InOrder{logits});
  const float max = logits[order[0]];
  if (max == -std::numeric_limits<float>::infinity()) return void(row.error = kNothingAllowed);
  std::erase_if(order, [&](int32_t token) { return logits[token] == -std::numeric_limits<float>::infinity(); });

  const RowFilters f = filters_of(row);
  keep_min_p(order, logits, max, f);
  keep_top_k(order, f);
  keep_top_p(order, logits, max, f);
  row.token = f.greedy ? order[0] : draw(order, logits, max, f);

  const SamplingParams& p = row.state->params();
  if (p.logprobs < 0) return;
  if (p.processed_logprobs) processed_logprobs(order, logits, max, f, row.token, p.logprobs, *row.logprobs);
  else row.error = row_logprobs(row, scratch);
}

}  // namespace weft
