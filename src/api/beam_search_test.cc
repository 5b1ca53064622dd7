// The bookkeeping of beam search on a language of three tokens whose answers can be worked out by hand; agreement with
// transformers on real logits is in tests/engine.
#include "api/beam_search.h"

#include <gtest/gtest.h>

#include <cmath>

namespace weft {
namespace {

using Ids = std::vector<int32_t>;
constexpr int32_t kEnd = 0, kA = 1, kB = 2;

// Logprobs of the next token after `tokens`, best first.
using Model = std::function<std::vector<TokenLogprob>(const Ids& tokens)>;

std::vector<TokenLogprob> sorted(float end, float a, float b) {
  std::vector<TokenLogprob> all = {{kEnd, std::log(end)}, {kA, std::log(a)}, {kB, std::log(b)}};
  std::stable_sort(all.begin(), all.end(), [](const auto& x, const auto& y) { return x.logprob > y.logprob; });
  return all;
}

int search(BeamSearch& beams, const Model& model) {
  int steps = 0;
  for (bool go_on = true; go_on; ++steps) {
    std::vector<std::vector<TokenLogprob>> candidates;
    for (const Beam& beam : beams.running()) candidates.push_back(model(beam.tokens));
    go_on = beams.advance(candidates);
  }
  return steps;
}

// "A" is likelier at first, but "B" goes on better: the greedy answer is not the best one.
std::vector<TokenLogprob> trap(const Ids& tokens) {
  if (tokens.empty()) return sorted(0.02f, 0.58f, 0.40f);
  if (tokens == Ids{kA}) return sorted(0.34f, 0.33f, 0.33f);
  if (tokens == Ids{kB}) return sorted(0.98f, 0.01f, 0.01f);
  return sorted(0.8f, 0.1f, 0.1f);
}

TEST(BeamSearch, FindsWhatGreedyMisses) {
  BeamSearch one({1, 0, EarlyStopping::no, 5, {kEnd}, 0}), two({2, 0, EarlyStopping::no, 5, {kEnd}, 0});
  search(one, trap);
  EXPECT_EQ(one.hypotheses()[0].tokens, (Ids{kA, kEnd}));
  search(two, trap);
  ASSERT_EQ(two.hypotheses().size(), 2u);
  EXPECT_EQ(two.hypotheses()[0].tokens, (Ids{kB, kEnd}));
  EXPECT_NEAR(two.hypotheses()[0].score, std::log(0.40 * 0.98), 1e-6);
  EXPECT_EQ(two.hypotheses()[1].tokens, (Ids{kA, kEnd}));
  EXPECT_NEAR(two.hypotheses()[1].score, std::log(0.58 * 0.34), 1e-6);
}

TEST(BeamSearch, LengthEndsAll) {
  const auto endless = [](const Ids&) { return sorted(1e-6f, 0.7f, 0.3f); };
  BeamSearch beams({2, 1, EarlyStopping::no, 3, {kEnd}, 2});
  EXPECT_EQ(search(beams, endless), 3);
  EXPECT_EQ(beams.hypotheses()[0].tokens, (Ids{kA, kA, kA}));
  EXPECT_NEAR(beams.hypotheses()[0].score, std::log(0.7), 1e-6);  // a third of the sum
  EXPECT_EQ(beams.hypotheses()[0].logprobs[2].size(), 3u);        // its own and two alternatives
}

// After two tokens there are two hypotheses; running beams could still get better, which `yes` does not wait for.
TEST(BeamSearch, EarlyStopping) {
  const auto model = [](const Ids& tokens) {
    if (tokens.size() < 1) return sorted(0.10f, 0.60f, 0.30f);
    if (tokens.size() < 3) return sorted(0.45f, 0.50f, 0.05f);
    return sorted(0.98f, 0.01f, 0.01f);
  };
  const auto steps = [&](EarlyStopping early, float penalty) {
    BeamSearch beams({2, penalty, early, 30, {kEnd}, 0});
    return search(beams, model);
  };
  EXPECT_LT(steps(EarlyStopping::yes, 1), steps(EarlyStopping::no, 1));
  EXPECT_LT(steps(EarlyStopping::no, 1), steps(EarlyStopping::never, 1));
  EXPECT_EQ(steps(EarlyStopping::no, 0), steps(EarlyStopping::never, 0));  // the length makes no difference
}

TEST(BeamSearch, MoreEndsThanIds) {
  BeamSearch beams({2, 0, EarlyStopping::yes, 9, {kEnd}, 0});
  const std::vector<std::vector<TokenLogprob>> first = {sorted(0.1f, 0.5f, 0.4f)};
  EXPECT_FALSE(beams.advance(first, [](int, int32_t token) { return token != kEnd; }));
  ASSERT_EQ(beams.hypotheses().size(), 2u);
  EXPECT_EQ(beams.hypotheses()[0].tokens, Ids{kA});
  EXPECT_EQ(beams.hypotheses()[1].tokens, Ids{kB});
}

TEST(BeamSearch, FewCandidates) {
  BeamSearch beams({4, 1, EarlyStopping::no, 9, {kEnd}, 0});
  EXPECT_EQ(beams.candidates(), 8);
  std::vector<std::vector<TokenLogprob>> one = {{{kA, -0.1f}}};
  EXPECT_TRUE(beams.advance(one));
  one = {{{kEnd, -0.2f}}};
  EXPECT_FALSE(beams.advance(one));
  ASSERT_EQ(beams.hypotheses().size(), 1u);
  EXPECT_EQ(beams.hypotheses()[0].tokens, (Ids{kA, kEnd}));
}

}  // namespace
}  // namespace weft
