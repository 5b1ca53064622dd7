#include <algorithm>

#include "sampling/choose.h"
#include "sampling/stages.h"

namespace weft {

namespace {

// The best `count` tokens in order, fewer if fewer have a probability above zero; in scratch.best. scratch.group_max
// must hold the result of scan_logits() on the same values.
std::span<const Candidate> best_of(std::span<const float> logits, int count, Scratch& scratch) {
  find_best(logits, static_cast<size_t>(count), [](float) { return true; }, scratch);
  return scratch.best;
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
  for (const Candidate& c : best_of(logits, k, scratch))
    out.push_back({c.id, logprob_of(c.logit, scan.max, log_sum), ++rank});
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
  const std::span<const Candidate> best = best_of(scratch.logits, row.state->params().beam_candidates, scratch);
  row.token = best[0].id;
  row.logprobs->clear();
  row.logprobs->push_back({best[0].id, best[0].logit, 1});
  for (const Candidate& c : best) row.logprobs->push_back({c.id, c.logit, static_cast<int>(row.logprobs->size())});
}

std::string row_logprobs(SampleRow& row, Scratch& scratch) {
  const std::span<const float> raw = row.raw_logits.empty() ? row.logits : row.raw_logits;
  return raw_logprobs(raw, row.token, row.state->params().logprobs, scratch, *row.logprobs);
}

void processed_logprobs(std::span<const Candidate> kept, float max, const RowFilters& f, int32_t token, int k,
                        std::vector<TokenLogprob>& out) {
  Mass total = 0;
  for (const Candidate& c : kept) total += mass_at(c.logit, max, f);
  const double log_sum = exact_log(static_cast<double>(total) * (1.0 / kMassOne));
  const auto add = [&](size_t i) {
    const auto x = static_cast<double>(scaled(kept[i].logit, max, f.inverse_temperature));
    out.push_back({kept[i].id, static_cast<float>(x - log_sum), static_cast<int>(i) + 1});
  };
  out.clear();
  const auto place = std::find_if(kept.begin(), kept.end(), [&](const Candidate& c) { return c.id == token; });
  add(static_cast<size_t>(place - kept.begin()));
  for (size_t i = 0; i < std::min(kept.size(), static_cast<size_t>(std::max(k, 0))); ++i) add(i);
}

}  // namespace weft
