// Parts of the vocabulary with their best tokens give what the readable sampler makes of all logits, to the bit.
#include "sampling/candidates.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace weft {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Sampled {
  int32_t token = -1;
  std::string error;
  std::vector<TokenLogprob> logprobs;
  bool operator==(const Sampled&) const = default;
};

// A row, and its sequence.
struct Case {
  SamplingParams params;
  uint64_t seed = 0;
  std::vector<int32_t> prompt, output, pending;
};

class Rng {
 public:
  explicit Rng(unsigned seed) : engine_(seed) {}
  bool coin(double p) { return std::uniform_real_distribution<>(0, 1)(engine_) < p; }
  int below(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
  float normal(float spread) { return std::normal_distribution<float>(0, spread)(engine_); }
  template <class T, size_t N>
  T of(const T (&values)[N]) {
    return values[below(N)];
  }

 private:
  std::mt19937 engine_;
};

Case random_case(Rng& rng, int vocab) {
  Case c;
  SamplingParams& p = c.params;
  p.temperature = rng.coin(0.3) ? 0.0f : rng.of({0.05f, 0.3f, 0.8f, 1.0f, 1.7f, 5.0f});
  if (rng.coin(0.9)) p.top_k = rng.of({1, 2, 3, 20, 40, 64, 256});
  if (rng.coin(0.4)) p.top_p = rng.of({0.01f, 0.5f, 0.9f, 0.99f});
  if (rng.coin(0.3)) p.min_p = rng.of({0.001f, 0.1f, 0.7f, 1.0f});
  if (rng.coin(0.2)) p.top_p_decay = 0.9f;
  if (rng.coin(0.2)) p.repetition_penalty = rng.of({1.3f, 3.0f});
  if (rng.coin(0.2)) p.presence_penalty = 0.7f;
  if (rng.coin(0.2)) p.frequency_penalty = 0.5f;
  if (rng.coin(0.1)) p.prompt_ignore_length = 3;
  if (rng.coin(0.2)) p.logit_bias = {{rng.below(vocab), -1.0f}, {rng.below(vocab), -100.0f}};
  if (rng.coin(0.1)) p.bad_words = {{rng.below(vocab)}, {rng.below(vocab), rng.below(vocab)}};
  if (rng.coin(0.2)) p.min_tokens = 9, p.stop_token_ids = {rng.below(vocab)}, p.eos_token_ids = {rng.below(vocab)};
  if (rng.coin(0.2)) p.logprobs = rng.of({0, 1, 5, 20}), p.processed_logprobs = true;
  p.max_tokens = 100;
  c.seed = static_cast<uint64_t>(rng.below(1 << 30));
  c.prompt.resize(1 + rng.below(30)), c.output.resize(rng.below(20)), c.pending.resize(rng.below(3));
  for (auto* tokens : {&c.prompt, &c.output, &c.pending})
    for (int32_t& token : *tokens) token = rng.below(vocab);
  return c;
}

std::vector<float> random_logits(Rng& rng, int vocab) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  const float spread = rng.of({0.1f, 2.0f, 10.0f});
  for (float& l : logits) l = rng.normal(spread);
  switch (rng.below(6)) {
    case 0:  // as from a head in bfloat16
      for (float& l : logits) l = std::bit_cast<float>(std::bit_cast<uint32_t>(l) & 0xFFFF0000u);
      break;
    case 1:  // few values, zeros of both signs among them
      for (float& l : logits) l = std::round(l / spread);
      break;
    case 2: std::fill(logits.begin(), logits.end(), rng.of({0.0f, -0.0f, 3.5f, -kInfinity})); break;
    case 3:
      for (float& l : logits)
        if (rng.coin(rng.of({0.3, 0.999}))) l = -kInfinity;
      break;
    default: break;
  }
  if (rng.coin(0.05)) logits[rng.below(vocab)] = rng.of({std::nanf(""), kInfinity, -std::nanf("")});
  return logits;
}

// 1 to 8 parts, all sizes from nothing on.
std::vector<int> random_bounds(Rng& rng, int vocab) {
  std::vector<int> bounds{0, vocab};
  for (int more = rng.below(8); more > 0; --more)
    bounds.push_back(rng.coin(0.3) ? rng.below(std::min(vocab, 9)) : rng.below(vocab));
  std::sort(bounds.begin(), bounds.end());
  return bounds;
}

class Rows {
 public:
  explicit Rows(int vocab) : vocab_(vocab), scratch_(vocab, 4096), state_(vocab, 4096) {}

  // Opens the case; how many candidates it needs.
  int open(const Case& c) {
    state_.open(std::make_shared<const SamplingParams>(c.params), c.seed, c.prompt, c.output);
    row_ = {};
    row_.state = &state_, row_.pending = c.pending;
    return candidates_needed(row_);
  }
  Sampled from_all(const std::vector<float>& logits) {
    SampleRow row = row_;
    row.logits = logits;
    return sample(SamplerKind::reference, row);
  }
  Sampled from_parts(const std::vector<float>& logits, const std::vector<int>& bounds, int needed) {
    std::vector<Candidate> candidates;
    const auto count = static_cast<size_t>(needed);
    for (size_t part = 0; part + 1 < bounds.size(); ++part) {
      candidates.resize(candidates.size() + count);
      select_candidates(std::span(logits).subspan(bounds[part], bounds[part + 1] - bounds[part]), bounds[part],
                        std::span(candidates).last(count), scratch_);
    }
    SampleRow row = row_;
    row.candidates = candidates;
    return sample(SamplerKind::fused, row);
  }

 private:
  Sampled sample(SamplerKind kind, SampleRow row) {
    Sampled result;
    row.logprobs = &result.logprobs;
    sample_rows(kind, {&row, 1}, 0, 1, scratch_);
    result.token = row.token, result.error = row.error;
    return result;
  }
  const int vocab_;
  Scratch scratch_;
  SlotState state_;
  SampleRow row_;
};

TEST(Candidates, PartsGiveTheTokenOfAllLogits) {
  Rng rng(5);
  for (const auto& [vocab, rounds] : {std::pair(17, 6000), {300, 6000}, {1000, 3000}, {50257, 100}, {128256, 60}}) {
    Rows rows(vocab);
    int answered = 0, failed = 0;
    for (int round = 0; round < rounds; ++round) {
      const Case c = random_case(rng, vocab);
      const std::vector<float> logits = random_logits(rng, vocab);
      const std::vector<int> bounds = random_bounds(rng, vocab);
      const int needed = rows.open(c);
      if (needed == 0) continue;
      const Sampled all = rows.from_all(logits), parts = rows.from_parts(logits, bounds, needed);
      ASSERT_TRUE(all == parts) << "vocab " << vocab << " round " << round << ", " << bounds.size() - 1
                                << " parts, needed " << needed << ": " << all.token << " " << all.error << " / "
                                << parts.token << " " << parts.error;
      ++answered, failed += !all.error.empty();
    }
    EXPECT_GT(answered, rounds / 3);
    EXPECT_GT(failed, 0);
  }
}

// One less than what is said to be needed is too few: the most likely token is penalised in the only part.
TEST(Candidates, AreAsFewAsCanBe) {
  Rows rows(4);
  Case c;
  c.params.temperature = 0, c.params.presence_penalty = 9;
  c.prompt = {0}, c.output = {1};
  const std::vector<float> logits = {1, 4, 3, 2};
  ASSERT_EQ(rows.open(c), 2);
  EXPECT_EQ(rows.from_all(logits).token, 2);
  EXPECT_EQ(rows.from_parts(logits, {0, 4}, 2).token, 2);
  EXPECT_EQ(rows.from_parts(logits, {0, 4}, 1).token, 1);
}

TEST(Candidates, TiesAcrossPartsGoToTheLowerId) {
  Rows rows(6);
  Case c;
  c.params.temperature = 0;
  c.prompt = {0};
  ASSERT_EQ(rows.open(c), 1);
  EXPECT_EQ(rows.from_parts({1, -0.0f, 0, 3, 2, 3}, {0, 2, 4, 6}, 1).token, 3);
  EXPECT_EQ(rows.from_parts({-1, 0, -0.0f, 0, -2, 0}, {0, 2, 4, 6}, 1).token, 1);
}

TEST(Candidates, WhatIsNotFiniteInAnyPartFailsTheRow) {
  Rows rows(6);
  Case c;
  c.params.temperature = 0;
  c.prompt = {0};
  ASSERT_EQ(rows.open(c), 1);
  for (const float bad : {std::nanf(""), kInfinity})
    for (size_t at = 0; at < 6; ++at) {
      std::vector<float> logits(6, 1.0f);
      logits[at] = bad;
      EXPECT_EQ(rows.from_parts(logits, {0, 2, 4, 6}, 1).error, "the model's logits are not finite");
      EXPECT_TRUE(rows.from_parts(logits, {0, 2, 4, 6}, 1) == rows.from_all(logits));
    }
}

// Which rows the candidates answer.
TEST(Candidates, NeededByParameters) {
  Rows rows(100);
  const auto needed = [&](auto change) {
    Case c;
    c.params.temperature = 0, c.prompt = {1, 2, 2}, c.output = {3, 3}, c.pending = {};
    change(c.params);
    return rows.open(c);
  };
  using P = SamplingParams;
  EXPECT_EQ(needed([](P&) {}), 1);
  EXPECT_EQ(needed([](P& p) { p.top_k = 40, p.top_p = 0.5f; }), 1);
  EXPECT_EQ(needed([](P& p) { p.temperature = 1, p.top_k = 40, p.top_p = 0.5f, p.min_p = 0.1f; }), 40);
  EXPECT_EQ(needed([](P& p) { p.top_k = 7, p.logprobs = 3, p.processed_logprobs = true; }), 7);
  EXPECT_EQ(needed([](P& p) { p.min_tokens = 3, p.stop_token_ids = {4}, p.eos_token_ids = {5, 6}; }), 4);
  EXPECT_EQ(needed([](P& p) { p.min_tokens = 2, p.stop_token_ids = {4}, p.eos_token_ids = {5, 6}; }), 1);
  EXPECT_EQ(needed([](P& p) { p.presence_penalty = 1; }), 3);
  EXPECT_EQ(needed([](P& p) { p.repetition_penalty = 1.1f; }), 4);
  EXPECT_EQ(needed([](P& p) { p.logit_bias = {{3, -1.0f}}, p.bad_words = {{7}}; }), 3);
  // All logits.
  EXPECT_EQ(needed([](P& p) { p.temperature = 1; }), 0);
  EXPECT_EQ(needed([](P& p) { p.temperature = 1, p.top_p = 0.5f; }), 0);
  EXPECT_EQ(needed([](P& p) { p.temperature = 1, p.top_k = 100; }), 0);  // no filter
  EXPECT_EQ(needed([](P& p) { p.logprobs = 0, p.top_k = 7; }), 0);
  EXPECT_EQ(needed([](P& p) { p.logprobs = 0, p.processed_logprobs = true; }), 0);
  EXPECT_EQ(needed([](P& p) { p.generation_logits = true; }), 0);
  EXPECT_EQ(needed([](P& p) { p.beam_candidates = 4; }), 0);
  EXPECT_EQ(needed([](P& p) { p.logit_bias = {{3, 1.0f}}; }), 0);
  EXPECT_EQ(needed([](P& p) { p.presence_penalty = -1; }), 0);
  EXPECT_EQ(needed([](P& p) { p.repetition_penalty = 0.9f; }), 0);
  EXPECT_EQ(needed([](P& p) { p.frequency_penalty = -1; }), 0);
  EXPECT_EQ(needed([](P& p) { p.no_repeat_ngram_size = 2; }), 0);
  EXPECT_EQ(needed([](P& p) { p.allowed_token_ids = {1}; }), 0);
  EXPECT_EQ(needed([](P& p) { p.logits_processors = {{"any"}}; }), 0);
  EXPECT_EQ(needed([](P& p) { p.bad_words.assign(256, {3}); }), 0);  // too many
}

}  // namespace
}  // namespace weft
