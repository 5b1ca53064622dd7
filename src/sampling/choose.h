// What both samplers share once tokens are in order: the parameters of a row, the filters on a sorted prefix, and the
// draw.
#pragma once

#include <cmath>
#include <cstdint>
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
  f.seed = p.seed;
  f.position = static_cast<int64_t>(row.state->tokens().size() + row.pending.size());
  return f;
}

// Descending logits, then ascending ids.
struct InOrder {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); }
};

inline Mass mass_at(float logit, float max, const RowFilters& f) {
  return mass_of(exact_exp(scaled(logit, max, f.inverse_temperature)));
}

// The shortest prefix of `order` whose mass exceeds top_p of `total`; 0 if the whole list does not.
inline size_t nucleus(std::span<const int32_t> order, const float* logits, float max, const RowFilters& f, Mass total) {
  const double target = static_cast<double>(f.top_p) * static_cast<double>(total);
  Mass sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    sum += mass_at(logits[order[i]], max, f);
    if (static_cast<double>(sum) > target) return i + 1;
  }
  return 0;
}

inline double score(int32_t token, float logit, float max, const RowFilters& f) {
  return static_cast<double>(scaled(logit, max, f.inverse_temperature)) + gumbel_noise(f.seed, f.position, token);
}

// The kept token with the largest score, ties to the lower id.
inline int32_t draw(std::span<const int32_t> kept, const float* logits, float max, const RowFilters& f) {
  int32_t best = kept[0];
  double best_score = -std::numeric_limits<double>::infinity();
  for (int32_t token : kept) {
    const double s = score(token, logits[token], max, f);
    if (s > best_score || (s == best_score && token < best)) best = token, best_score = s;
  }
  return best;
}

// Logprobs of the distribution that was sampled from: the kept tokens, renormalised. `kept` is in order.
void processed_logprobs(std::span<const int32_t> kept, const float* logits, float max, const RowFilters& f,
                        int32_t token, int k, std::vector<TokenLogprob>& out);
// The logprobs that the row's parameters ask for, from raw logits.
std::string row_logprobs(SampleRow& row, Scratch& scratch);

}  // namespace weft
