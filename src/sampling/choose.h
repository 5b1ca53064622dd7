// What both samplers share once tokens are in order: the parameters of a row, the filters on a sorted prefix, and the
// draw.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>

#include "sampling/exact_math.h"
#include "sampling/parameters.h"
#include "sampling/philox.h"
#include "sampling/sampler.h"
#include "sampling/scan.h"

namespace weft {

constexpr const char* kNotFinite = "the model's logits are not finite";
constexpr const char* kNothingAllowed = "no token is allowed here: masks and penalties forbid the whole vocabulary";

struct RowFilters {
  bool greedy = false;
  float inverse_temperature = 1;
  int top_k = 0;  // 0: off
  float top_p = 1;
  float least_x = -std::numeric_limits<float>::infinity();  // min_p
  uint64_t seed = 0;
  int64_t position = 0;
};

inline RowFilters filters_of(const SampleRow& row) {
  const SamplingParams& p = row.state->params();
  RowFilters f;
  f.greedy = p.temperature < kGreedyTemperature;
  f.inverse_temperature = f.greedy ? 1.0f : 1.0f / p.temperature;
  f.top_k = p.top_k > 0 && p.top_k < row.state->vocab_size() ? p.top_k : 0;
  f.top_p = row.state->top_p_after(row.pending);
  if (p.min_p > 0) f.least_x = static_cast<float>(exact_log(p.min_p));
  f.seed = row.state->seed();
  f.position = static_cast<int64_t>(row.state->tokens().size() + row.pending.size());
  return f;
}

// Whether the row's logprobs are those of the tokens that it was drawn from.
inline bool lists_processed(const SamplingParams& p) { return p.logprobs >= 0 && p.processed_logprobs; }

// The tokens of the order that decide the row, if so many are enough whatever the logits are; 0: they may not be.
inline int most_kept(const SampleRow& row, const RowFilters& f) {
  return f.greedy && !lists_processed(row.state->params()) ? 1 : f.top_k;
}

inline Mass mass_at(float logit, float max, const RowFilters& f) {
  return mass_of(exact_exp(scaled(logit, max, f.inverse_temperature)));
}

// The shortest prefix of `order` whose mass exceeds top_p of `total`; 0 if the whole list does not.
inline size_t nucleus(std::span<const Candidate> order, float max, const RowFilters& f, Mass total) {
  const double target = static_cast<double>(f.top_p) * static_cast<double>(total);
  Mass sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    sum += mass_at(order[i].logit, max, f);
    if (static_cast<double>(sum) > target) return i + 1;
  }
  return 0;
}

inline double score(const Candidate& c, float max, const RowFilters& f) {
  return static_cast<double>(scaled(c.logit, max, f.inverse_temperature)) + gumbel_noise(f.seed, f.position, c.id);
}

// The kept token with the largest score, ties to the lower id.
inline int32_t draw(std::span<const Candidate> kept, float max, const RowFilters& f) {
  int32_t best = kept[0].id;
  double best_score = -std::numeric_limits<double>::infinity();
  for (const Candidate& c : kept) {
    const double s = score(c, max, f);
    if (s > best_score || (s == best_score && c.id < best)) best = c.id, best_score = s;
  }
  return best;
}

// Leaves the first `size` of some tokens, in order. True if there were more.
inline bool sort_best(std::vector<Candidate>& tokens, size_t size) {
  const bool cut = tokens.size() > size;
  if (cut) {
    std::nth_element(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(size), tokens.end(), in_order);
    tokens.resize(size);
  }
  std::sort(tokens.begin(), tokens.end(), in_order);
  return cut;
}

// The first `size` tokens of the order, in order, in scratch.best: fewer if fewer are above -inf and `kept`, which is
// asked about logits and true for the beginning of the order. Token `first_id` has logits[0]. scratch.maxima() must be
// what scan_logits() made of the same logits. True if no token is kept besides these.
template <class Kept>
bool find_best(std::span<const float> logits, size_t size, const Kept& kept, Scratch& scratch, int32_t first_id = 0) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const std::span<const float> maxima = scratch.maxima(logits.size());
  std::vector<Candidate>& best = scratch.best;
  float threshold = kNone;
  if (size <= maxima.size()) {  // the size-th largest group maximum: at least that many tokens reach it
    const auto order = scratch.group_order.begin(), nth = order + static_cast<std::ptrdiff_t>(size) - 1;
    std::copy(maxima.begin(), maxima.end(), order);
    std::nth_element(order, nth, order + static_cast<std::ptrdiff_t>(maxima.size()), std::greater<>());
    threshold = *nth;
  }
  best.clear();
  for (size_t g = 0; g < maxima.size(); ++g) {
    if (maxima[g] < threshold || !kept(maxima[g])) continue;
    const size_t end = std::min(logits.size(), (g + 1) * Scratch::kGroup);
    for (size_t i = g * Scratch::kGroup; i < end; ++i)
      if (logits[i] >= threshold && logits[i] != kNone && kept(logits[i]))
        best.push_back({first_id + static_cast<int32_t>(i), logits[i]});
  }
  return !sort_best(best, size) && threshold == kNone;
}

// Logprobs of the distribution that was sampled from: the kept tokens, renormalised. `kept` is in order.
void processed_logprobs(std::span<const Candidate> kept, float max, const RowFilters& f, int32_t token, int k,
                        std::vector<TokenLogprob>& out);
// The logprobs that the row's parameters ask for, from raw logits.
std::string row_logprobs(SampleRow& row, Scratch& scratch);

}  // namespace weft
