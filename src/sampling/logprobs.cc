#include <algorithm>

#include "sampling/choose.h"
#include "sampling/stages.h"

namespace weft {

namespace {

// The best `count` ids in order, fewer if fewer have a probability above zero; stored in scratch.ids. scratch.group_max
// must hold the result of scan_logits() on the same values.
std::span<const int32_t> best_ids(std::span<const float> logits, size_t count, Scratch& scratch) {
  // The count-th largest group maximum bounds the best from below.
  count = std::min(count, logits.size());
  float threshold = -std::numeric_limits<float>::infinity();
  if (count <= scratch.group_order.size()) {
    std::copy(scratch.group_max.begin(), scratch.group_max.end(), scratch.group_order.begin());
    std::nth_element(scratch.group_order.begin(), scratch.group_order.begin() + static_cast<std::ptrdiff_t>(count - 1),
                     scratch.group_order.end(), std::greater<>());
    threshold = scratch.group_order[count - 1];
  }
  std::vector<int32_t>& ids = scratch.ids;
  ids.clear();
  for (size_t g = 0; g < scratch.group_max.size(); ++g) {
    if (scratch.group_max[g] < threshold) continue;
    for (size_t i = g * Scratch::kGroup; i < std::min(logits.size(), (g + 1) * Scratch::kGroup); ++i)
      if (logits[i] >= threshold && logits[i] > -std::numeric_limits<float>::infinity())
        ids.push_back(static_cast<int32_t>(i));
  }
  const size_t found = std::min(count, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(found), ids.end(), InOrder{logits.data()});
  return {ids.data(), found};
}

double log_sum_of(std::span<const float> logits, float max) {
  return exact_log(static_cast<double>(total_mass(logits, max, 1.0f)) * (1.0 / kMassOne));
}

// JSON has no infinity: a probability of zero shows as the least float.
float logprob_of(float logit, float max, double log_sum) {
  return std::max(static_cast<float>(static_cast<double>(logit - max) - log_sum), std::numeric_limits<float>::lowest());
}

// The token's rank: one more than the number of tokens before it in the order.
int rank_of(std::span<const float> logits, int32_t token) {
  const float own = logits[token];
  int before = 0;
  for (const float logit : logits) before += logit > own;
  for (int32_t i = 0; i < token; ++i) before += logits[i] == own;
  return before + 1;
}

}  // namespace

std::string raw_logprobs(std::span<const float> logits, int32_t token, int k, Scratch& scratch,
                         std::vector<TokenLogprob>& out) {
  const LogitScan scan = scan_logits(logits, scratch.group_max);
  if (!scan.finite || scan.max == -std::numeric_limits<float>::infinity()) return kNotFinite;
  const double log_sum = log_sum_of(logits, scan.max);
  const bool in_vocabulary = token >= 0 && token < static_cast<int32_t>(logits.size());
  out.clear();
  out.push_back({token,
                 logprob_of(in_vocabulary ? logits[token] : -std::numeric_limits<float>::infinity(), scan.max, log_sum),
                 in_vocabulary ? rank_of(logits, token) : 0});
  if (k <= 0) return "";
  int rank = 0;
  for (const int32_t id : best_ids(logits, static_cast<size_t>(k), scratch))
    out.push_back({id, logprob_of(logits[id], scan.max, log_sum), ++rank});
  return "";
}

std::string log_softmax(std::span<const float> logits, std::span<float> out, Scratch& scratch) {
  const LogitScan scan = scan_logits(logits, scratch.group_max);
  if (!scan.finite || scan.max == -std::numeric_limits<float>::infinity()) return kNotFinite;
  const double log_sum = log_sum_of(logits, scan.max);
  for (size_t i = 0; i < logits.size(); ++i)
    out[i] = static_cast<float>(static_cast<double>(logits[i] - scan.max) - log_sum);
  return "";
}

void sample_beam(SampleRow& row, Scratch& scratch) {
  SampleRow scored = row;
  if (row.raw_logits.empty()) {
    scratch.logprobs.resize(row.logits.size());
    row.error = log_softmax(row.logits, scratch.logprobs, scratch);
    if (!row.error.empty()) return;
    scored.logits = scratch.logprobs;
  }
  row.error = apply_stages(scored, scratch.logits, scratch);
  if (!row.error.empty()) return;
  const LogitScan scan = scan_logits(scratch.logits, scratch.group_max);
  if (!scan.finite) return void(row.error = kNotFinite);
  if (scan.max == -std::numeric_limits<float>::infinity()) return void(row.error = kNothingAllowed);
  const std::span<const int32_t> best =
      best_ids(scratch.logits, static_cast<size_t>(row.state->params().beam_candidates), scratch);
  row.token = best[0];
  row.logprobs->clear();
  row.logprobs->push_back({best[0], scratch.logits[best[0]], 1});
  for (const int32_t id : best)
    row.logprobs->push_back({id, scratch.logits[id], static_cast<int>(row.logprobs->size())});
}

std::string row_logprobs(SampleRow& row, Scratch& scratch) {
  const std::span<const float> raw = row.raw_logits.empty() ? row.logits : row.raw_logits;
  return raw_logprobs(raw, row.token, row.state->params().logprobs, scratch, *row.logprobs);
}

void processed_logprobs(std::span<const int32_t> kept, const float* logits, float max, const RowFilters& f,
                        int32_t token, int k, std::vector<TokenLogprob>& out) {
  Mass total = 0;
  for (int32_t id : kept) total += mass_at(logits[id], max, f);
  const double log_sum = exact_log(static_cast<double>(total) * (1.0 / kMassOne));
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(scaled(logits[id], max, f.inverse_temperature)) - log_sum);
  };
  out.clear();
  const auto place = std::find(kept.begin(), kept.end(), token);
  out.push_back({token, logprob(token), static_cast<int>(place - kept.begin()) + 1});
  for (size_t i = 0; i < std::min(kept.size(), static_cast<size_t>(std::max(k, 0))); ++i)
    out.push_back({kept[i], logprob(kept[i]), static_cast<int>(i) + 1});
}

}  // namespace weft
