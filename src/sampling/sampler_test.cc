#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "sampling/candidates.h"
#include "sampling/philox.h"
#include "sampling/sampler.h"
#include "sampling/validate.h"

namespace weft {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct Sampled {
  int32_t token = -1;
  std::string error;
  std::vector<TokenLogprob> logprobs;
};

// A sequence's parameters with its seed.
struct SeededParams : SamplingParams {
  uint64_t seed = 0;
};

// The candidates of three parts; empty where the row needs all logits.
std::vector<Candidate> candidates_of(const SampleRow& row, Scratch& scratch) {
  const auto count = static_cast<size_t>(candidates_needed(row));
  std::vector<Candidate> candidates(3 * count);
  for (size_t part = 0; count > 0 && part < 3; ++part) {
    const size_t first = row.logits.size() * part / 3, last = row.logits.size() * (part + 1) / 3;
    select_candidates(row.logits.subspan(first, last - first), static_cast<int32_t>(first),
                      std::span(candidates).subspan(part * count, count), scratch);
  }
  return candidates;
}

Sampled sample(SamplerKind kind, const std::vector<float>& logits, const SeededParams& params,
               const std::vector<int32_t>& prompt, const std::vector<int32_t>& output, Scratch& scratch,
               const uint32_t* mask = nullptr, bool in_parts = false) {
  SlotState state(static_cast<int>(logits.size()), 4096);
  state.open(std::make_shared<const SamplingParams>(params), params.seed, prompt, output);
  Sampled result;
  SampleRow row;
  row.logits = logits, row.state = &state, row.mask = mask, row.logprobs = &result.logprobs;
  const std::vector<Candidate> candidates = in_parts ? candidates_of(row, scratch) : std::vector<Candidate>();
  row.candidates = candidates;
  std::vector<SampleRow> rows{row};
  sample_rows(kind, rows, 0, 1, scratch);
  result.token = rows[0].token, result.error = rows[0].error;
  return result;
}

bool operator==(const Sampled& a, const Sampled& b) {
  const auto same = [](const TokenLogprob& x, const TokenLogprob& y) { return x == y; };
  return a.token == b.token && a.error == b.error &&
         std::equal(a.logprobs.begin(), a.logprobs.end(), b.logprobs.begin(), b.logprobs.end(), same);
}

// Published known answers of Philox4x32-10 (Random123's kat_vectors).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, 0, 0), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(ExactMath, AgreesWithTheTrueFunctions) {
  for (double x = -80; x < 80; x += 0.0371)
    EXPECT_NEAR(exact_exp(static_cast<float>(x)) / std::exp(static_cast<double>(static_cast<float>(x))), 1, 4e-7);
  for (double x = 1e-9; x < 1e9; x *= 1.37)
    EXPECT_NEAR(exact_log(x), std::log(x), 4e-16 * std::max(1.0, std::abs(std::log(x))));
}

SeededParams random_params(std::mt19937& rng, int vocab) {
  const auto coin = [&](double p) { return std::uniform_real_distribution<>(0, 1)(rng) < p; };
  const auto pick = [&](int n) { return static_cast<int>(rng() % static_cast<unsigned>(n)); };
  SeededParams p;
  p.temperature = coin(0.2) ? 0.0f : std::array{0.05f, 0.3f, 0.8f, 1.0f, 1.7f, 5.0f}[pick(6)];
  if (coin(0.4)) p.top_k = std::array{1, 2, 5, 40, 500}[pick(5)];
  if (coin(0.4)) p.top_p = std::array{0.01f, 0.5f, 0.9f, 0.99f}[pick(4)];
  if (coin(0.3)) p.min_p = std::array{0.001f, 0.1f, 0.7f, 1.0f}[pick(4)];
  if (coin(0.2)) p.top_p_decay = 0.9f;
  if (coin(0.3)) p.repetition_penalty = 1.3f;
  if (coin(0.2)) p.presence_penalty = 0.7f;
  if (coin(0.2)) p.frequency_penalty = -0.5f;
  if (coin(0.1)) p.prompt_ignore_length = 3;
  if (coin(0.2)) p.no_repeat_ngram_size = 1 + pick(3);
  if (coin(0.2)) p.logit_bias = {{pick(vocab), 5.0f}, {pick(vocab), -100.0f}};
  if (coin(0.1)) p.allowed_token_ids = {pick(vocab), pick(vocab), pick(vocab)};
  if (coin(0.1)) p.bad_words = {{pick(vocab)}, {pick(vocab), pick(vocab)}};
  if (coin(0.2)) p.min_tokens = 4, p.stop_token_ids = {pick(vocab)}, p.eos_token_ids = {pick(vocab), vocab + 5};
  if (coin(0.4)) p.logprobs = std::array{0, 1, 5, 20}[pick(4)];
  p.processed_logprobs = coin(0.3);
  p.max_tokens = 100;
  p.seed = rng();
  return p;
}

// So does what follows from parts of the vocabulary, where the row is decided by candidates.
TEST(Samplers, FusedEqualsReferenceToTheBit) {
  std::mt19937 rng(7);
  for (int vocab : {17, 128, 512, 1000, 50257}) {
    Scratch scratch(vocab, 4096);
    for (int round = 0; round < (vocab > 10000 ? 400 : 4000); ++round) {
      std::vector<float> logits(vocab);
      const float spread = std::array{0.1f, 2.0f, 10.0f}[round % 3];
      std::normal_distribution<float> normal(0, spread);
      for (float& l : logits) l = normal(rng);
      if (round % 5 == 0)
        for (float& l : logits) l = std::round(l);  // ties
      if (round % 7 == 0)
        for (int i = 0; i < vocab; i += 3) logits[i] = kMinusInfinity;
      if (round % 97 == 0) logits[rng() % vocab] = std::numeric_limits<float>::quiet_NaN();
      if (round % 101 == 0) logits[rng() % vocab] = std::numeric_limits<float>::infinity();
      std::vector<int32_t> prompt(1 + rng() % 30), output(rng() % 20);
      for (int32_t& t : prompt) t = static_cast<int32_t>(rng() % vocab);
      for (int32_t& t : output) t = static_cast<int32_t>(rng() % vocab);
      std::vector<uint32_t> mask((vocab + 31) / 32);
      for (uint32_t& word : mask) word = rng() & rng();
      const uint32_t* grammar = round % 4 == 0 ? mask.data() : nullptr;
      const SeededParams params = random_params(rng, vocab);
      const Sampled a = sample(SamplerKind::reference, logits, params, prompt, output, scratch, grammar);
      const Sampled b = sample(SamplerKind::fused, logits, params, prompt, output, scratch, grammar);
      ASSERT_TRUE(a == b) << "vocab " << vocab << " round " << round << ": " << a.token << " " << a.error << " / "
                          << b.token << " " << b.error;
      const Sampled c = sample(SamplerKind::fused, logits, params, prompt, output, scratch, grammar, true);
      ASSERT_TRUE(a == c) << "in parts, vocab " << vocab << " round " << round << ": " << a.token << " / " << c.token;
    }
  }
}

// Exact probabilities of the filtered distribution, in double and with plain sorting: independent of the samplers'
// code.
std::vector<double> exact_distribution(const std::vector<float>& logits, const SamplingParams& p) {
  std::vector<double> probability(logits.size());
  const double max = *std::max_element(logits.begin(), logits.end());
  for (size_t i = 0; i < logits.size(); ++i) probability[i] = std::exp((logits[i] - max) / p.temperature);
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return probability[a] > probability[b]; });
  size_t kept = order.size();
  if (p.min_p > 0) kept = std::count_if(order.begin(), order.end(), [&](int i) { return probability[i] >= p.min_p; });
  if (p.top_k > 0) kept = std::min<size_t>(kept, p.top_k);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += probability[order[i]];
  if (p.top_p < 1) {
    double sum = 0;
    for (size_t i = 0; i < kept; ++i)
      if ((sum += probability[order[i]]) > p.top_p * total) {
        kept = i + 1;
        break;
      }
  }
  total = 0;
  for (size_t i = 0; i < kept; ++i) total += probability[order[i]];
  std::vector<double> result(logits.size());
  for (size_t i = 0; i < kept; ++i) result[order[i]] = probability[order[i]] / total;
  return result;
}

TEST(Samplers, ChiSquareOfEveryFilterCombination) {
  constexpr int kVocab = 40, kSamples = 20000;
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0, 1.5f);
  std::vector<float> logits(kVocab);
  for (float& l : logits) l = normal(rng);
  Scratch scratch(kVocab, 64);
  for (int combination = 0; combination < 8; ++combination) {
    SeededParams p;
    p.temperature = combination % 2 ? 0.7f : 1.3f;
    if (combination & 1) p.top_k = 12;
    if (combination & 2) p.top_p = 0.85f;
    if (combination & 4) p.min_p = 0.05f;
    const std::vector<double> exact = exact_distribution(logits, p);
    std::vector<int> counts(kVocab);
    for (int i = 0; i < kSamples; ++i) {
      p.seed = static_cast<uint64_t>(i) * 7919 + combination;
      ++counts[sample(SamplerKind::fused, logits, p, {1, 2}, {}, scratch).token];
    }
    double chi = 0;
    int freedom = -1;
    for (int t = 0; t < kVocab; ++t) {
      if (exact[t] == 0) {
        EXPECT_EQ(counts[t], 0) << "token " << t << " is outside of the kept set";
        continue;
      }
      const double expected = exact[t] * kSamples;
      chi += (counts[t] - expected) * (counts[t] - expected) / expected;
      ++freedom;
    }
    // Wilson-Hilferty: the cube root of chi^2 / f is about normal; 4 deviations.
    if (freedom > 0) {
      const double z = (std::cbrt(chi / freedom) - (1 - 2.0 / (9 * freedom))) / std::sqrt(2.0 / (9 * freedom));
      EXPECT_LT(z, 4) << "combination " << combination;
    }
  }
}

TEST(Samplers, PenaltiesFollowTheirDefinitions) {
  Scratch scratch(4, 64);
  SeededParams p;
  p.temperature = 0;
  p.repetition_penalty = 2;
  // Positive logits are divided, negative ones multiplied; prompt and output count, each id once.
  EXPECT_EQ(sample(SamplerKind::fused, {3.0f, 2.0f, 1.0f, 1.4f}, p, {0}, {}, scratch).token, 1);
  EXPECT_EQ(sample(SamplerKind::fused, {3.0f, 2.0f, 1.0f, 1.4f}, p, {0}, {1, 1}, scratch).token, 0);
  EXPECT_EQ(sample(SamplerKind::fused, {-1.0f, -1.5f, -9.0f, -9.0f}, p, {0}, {}, scratch).token, 1);
  p.prompt_ignore_length = 1;
  EXPECT_EQ(sample(SamplerKind::fused, {3.0f, 2.0f, 1.0f, 1.4f}, p, {0}, {}, scratch).token, 0);
  SeededParams q;
  q.temperature = 0, q.presence_penalty = 1, q.frequency_penalty = 0.5f;
  // the prompt does not count
  EXPECT_EQ(sample(SamplerKind::fused, {3.0f, 2.0f, 1.0f, 1.4f}, q, {0, 0}, {}, scratch).token, 0);
  // 3 - 1 - 0.5 > 1.4
  EXPECT_EQ(sample(SamplerKind::fused, {3.0f, 1.4f, 1.0f, 1.0f}, q, {0}, {0}, scratch).token, 0);
  // 3 - 1 - 1 < 1.4
  EXPECT_EQ(sample(SamplerKind::fused, {3.0f, 1.4f, 1.0f, 1.0f}, q, {0}, {0, 0}, scratch).token, 1);
}

TEST(Samplers, MinTokensMasksEveryEndAndNothingElse) {
  Scratch scratch(6, 64);
  SeededParams p;
  p.temperature = 0, p.min_tokens = 2, p.eos_token_ids = {5, 99}, p.stop_token_ids = {4};
  const std::vector<float> logits{0, 1, 2, 3, 8, 9};
  EXPECT_EQ(sample(SamplerKind::fused, logits, p, {0, 1, 2, 3}, {}, scratch).token, 3);
  EXPECT_EQ(sample(SamplerKind::fused, logits, p, {0, 1, 2, 3}, {3}, scratch).token, 3);
  EXPECT_EQ(sample(SamplerKind::fused, logits, p, {0, 1, 2, 3}, {3, 3}, scratch).token, 5);
  p.ignore_eos = true;  // then the model's ends are tokens like others
  EXPECT_EQ(sample(SamplerKind::fused, logits, p, {0, 1, 2, 3}, {}, scratch).token, 5);
}

// The stages work on logprobs, and nothing is normalised after them: log 0.5 doubled is less than log 0.3.
TEST(Samplers, BeamCandidatesAreLogprobsAfterTheStages) {
  Scratch scratch(4, 64);
  SlotState state(4, 64);
  auto params = std::make_shared<SamplingParams>();
  params->beam_candidates = 3, params->repetition_penalty = 2, params->bad_words = {{3}};
  state.open(params, 0, std::vector<int32_t>{0}, {});
  const float offset = 7;  // logits are not normalised
  const std::vector<float> logits = {std::log(0.5f) + offset, std::log(0.3f) + offset, std::log(0.1f) + offset,
                                     std::log(0.1f) + offset};
  for (SamplerKind kind : {SamplerKind::fused, SamplerKind::reference}) {
    std::vector<TokenLogprob> logprobs;
    SampleRow row;
    row.logits = logits, row.state = &state, row.logprobs = &logprobs;
    sample_rows(kind, {&row, 1}, 0, 1, scratch);
    ASSERT_EQ(row.error, "");
    EXPECT_EQ(row.token, 1);
    ASSERT_EQ(logprobs.size(), 4u);  // the best, and then all that are allowed
    const std::pair<int32_t, double> want[] = {
        {1, std::log(0.3)}, {1, std::log(0.3)}, {0, 2 * std::log(0.5)}, {2, std::log(0.1)}};
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(logprobs[i].token, want[i].first);
      EXPECT_NEAR(logprobs[i].logprob, want[i].second, 1e-6);
    }
  }
}

TEST(Samplers, RanksCountTheOrder) {
  Scratch scratch(5, 64);
  const std::vector<float> logits = {1, 3, 2, 3, 0};
  const int want[] = {4, 1, 3, 2, 5};  // equal ones by id
  for (int32_t token = 0; token < 5; ++token) {
    std::vector<TokenLogprob> out;
    ASSERT_EQ(raw_logprobs(logits, token, 2, scratch, out), "");
    EXPECT_EQ(out[0].rank, want[token]);
    EXPECT_EQ(out[1].rank, 1);
    EXPECT_EQ(out[2].rank, 2);
  }
}

TEST(Samplers, NgramsAndBadWords) {
  Scratch scratch(5, 64);
  SeededParams p;
  p.temperature = 0, p.no_repeat_ngram_size = 2;
  EXPECT_EQ(sample(SamplerKind::fused, {0, 9, 5, 1, 1}, p, {3, 1, 2}, {3}, scratch).token, 2);  // 3 1 occurred
  SeededParams q;
  q.temperature = 0, q.bad_words = {{3, 1}, {2}};
  EXPECT_EQ(sample(SamplerKind::fused, {4, 9, 8, 1, 1}, q, {0}, {3}, scratch).token, 0);
  EXPECT_EQ(sample(SamplerKind::fused, {4, 9, 8, 1, 1}, q, {0}, {4}, scratch).token, 1);
}

TEST(Samplers, ErrorsAreOfTheRow) {
  Scratch scratch(3, 64);
  SeededParams p;
  p.temperature = 0;
  for (SamplerKind kind : {SamplerKind::fused, SamplerKind::reference}) {
    EXPECT_FALSE(sample(kind, {0, std::nanf(""), 0}, p, {0}, {}, scratch).error.empty());
    EXPECT_FALSE(sample(kind, {kMinusInfinity, kMinusInfinity, kMinusInfinity}, p, {0}, {}, scratch).error.empty());
    EXPECT_EQ(sample(kind, {0, 0, 0}, p, {0}, {}, scratch).token, 0);  // ties: the lowest id
  }
}

TEST(Logprobs, AreTheLogSoftmax) {
  std::mt19937 rng(11);
  std::normal_distribution<float> normal(0, 4);
  for (int vocab : {5, 700, 32000}) {
    Scratch scratch(vocab, 64);
    std::vector<float> logits(vocab);
    for (float& l : logits) l = normal(rng);
    double sum = 0;
    for (float l : logits) sum += std::exp(static_cast<double>(l));
    std::vector<TokenLogprob> out;
    EXPECT_EQ(raw_logprobs(logits, 3, 5, scratch, out), "");
    ASSERT_EQ(out.size(), 6u);
    EXPECT_NEAR(out[0].logprob, logits[3] - std::log(sum), 2e-6);
    std::vector<int> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(out[i + 1].token, order[i]);
      EXPECT_NEAR(out[i + 1].logprob, logits[order[i]] - std::log(sum), 2e-6);
    }
  }
}

TEST(Validate, NamesFieldAndValue) {
  const SamplingLimits limits{.vocab_size = 100};
  const auto field = [&](auto change) {
    SeededParams p;
    change(p);
    const Status status = validate(p, limits);
    return status.ok() ? std::string("ok") : status.error().param();
  };
  EXPECT_EQ(field([](SamplingParams&) {}), "ok");
  EXPECT_EQ(field([](SamplingParams& p) { p.temperature = -0.1f; }), "temperature");
  EXPECT_EQ(field([](SamplingParams& p) { p.temperature = std::nanf(""); }), "temperature");
  EXPECT_EQ(field([](SamplingParams& p) { p.top_p = 0; }), "top_p");
  EXPECT_EQ(field([](SamplingParams& p) { p.top_k = -1; }), "ok");
  EXPECT_EQ(field([](SamplingParams& p) { p.top_k = -2; }), "top_k");
  EXPECT_EQ(field([](SamplingParams& p) { p.stop_token_ids = {100}; }), "stop_token_ids");
  EXPECT_EQ(field([](SamplingParams& p) { p.logit_bias = {{3, 101.0f}}; }), "logit_bias");
  EXPECT_EQ(field([](SamplingParams& p) { p.min_tokens = -1; }), "min_tokens");
  EXPECT_EQ(field([](SamplingParams& p) { p.max_tokens = 0; }), "max_tokens");
}

}  // namespace
}  // namespace weft
