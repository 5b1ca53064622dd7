// The readable sampler: copies the logits, sorts the vocabulary, and applies one parameter after the other.
#include <algorithm>

#include "sampling/choose.h"
#include "sampling/stages.h"

namespace weft {
namespace {

void keep_min_p(std::vector<Candidate>& order, float max, const RowFilters& f) {
  const auto below = [&](const Candidate& c) { return scaled(c.logit, max, f.inverse_temperature) < f.least_x; };
  order.erase(std::find_if(order.begin() + 1, order.end(), below), order.end());
}

void keep_top_k(std::vector<Candidate>& order, const RowFilters& f) {
  if (f.top_k > 0 && order.size() > static_cast<size_t>(f.top_k)) order.resize(f.top_k);
}

void keep_top_p(std::vector<Candidate>& order, float max, const RowFilters& f) {
  if (f.top_p >= 1.0f) return;
  Mass total = 0;
  for (const Candidate& c : order) total += mass_at(c.logit, max, f);
  if (const size_t size = nucleus(order, max, f, total); size > 0) order.resize(size);
}

bool all_finite(std::span<const float> logits) {
  return std::all_of(logits.begin(), logits.end(), [](float l) { return l <= std::numeric_limits<float>::max(); });
}

}  // namespace

void sample_reference(SampleRow& row, Scratch& scratch) {
  if (!all_finite(row.logits)) return void(row.error = kNotFinite);
  row.error = apply_stages(row, scratch.logits, scratch);
  if (!row.error.empty()) return;
  if (!all_finite(scratch.logits)) return void(row.error = kNotFinite);

  std::vector<Candidate>& order = scratch.best;
  order.clear();
  for (const float logit : scratch.logits) order.push_back({static_cast<int32_t>(order.size()), logit});
  std::sort(order.begin(), order.end(), in_order);
  const float max = order[0].logit;
  if (max == -std::numeric_limits<float>::infinity()) return void(row.error = kNothingAllowed);
  std::erase_if(order, [](const Candidate& c) { return c.logit == -std::numeric_limits<float>::infinity(); });

  const RowFilters f = filters_of(row);
  keep_min_p(order, max, f);
  keep_top_k(order, f);
  keep_top_p(order, max, f);
  row.token = f.greedy ? order[0].id : draw(order, max, f);

  const SamplingParams& p = row.state->params();
  if (p.logprobs < 0) return;
  if (p.processed_logprobs) processed_logprobs(order, max, f, row.token, p.logprobs, *row.logprobs);
  else row.error = row_logprobs(row, scratch);
}

}  // namespace weft
