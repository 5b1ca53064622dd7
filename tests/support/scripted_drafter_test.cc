// The drafter that other tests rely on: how often it is right, and which of the recorded sequences it follows.
#include "support/scripted_drafter.h"

#include <gtest/gtest.h>

namespace weft::testing {
namespace {

using Tokens = std::vector<int32_t>;

Tokens propose(ScriptedDrafter& drafter, const Tokens& tokens, int most, std::optional<uint64_t> seed = {}) {
  const SamplingParams params;
  Tokens drafts;
  drafter.propose({.slot = 0,
                   .tokens = tokens,
                   .prompt_tokens = 1,
                   .params = seed ? &params : nullptr,
                   .seed = seed.value_or(0),
                   .media = nullptr},
                  most, drafts);
  return drafts;
}

TEST(ScriptedDrafter, IsRightAsOftenAsAsked) {
  Tokens text;
  for (int i = 0; i < 4000; ++i) text.push_back(i * i % 97);
  for (const double right : {0.0, 0.3, 0.8, 1.0}) {
    ScriptedDrafter drafter(right, 5, 97), other_seed(right, 6, 97);
    drafter.record(text), other_seed.record(text);
    int hits = 0, differ = 0;
    for (size_t at = 3990; at < text.size(); ++at) {
      const Tokens before(text.begin(), text.begin() + static_cast<ptrdiff_t>(at));
      EXPECT_EQ(propose(drafter, before, 16).size(), std::min<size_t>(16, text.size() - at));
    }
    const Tokens drafts = propose(drafter, {text[0]}, 3999), others = propose(other_seed, {text[0]}, 3999);
    for (size_t i = 0; i < drafts.size(); ++i) {
      EXPECT_TRUE(drafts[i] >= 0 && drafts[i] < 97);
      hits += drafts[i] == text[i + 1], differ += drafts[i] != others[i];
    }
    EXPECT_NEAR(hits / 3999.0, right, 0.03);
    EXPECT_EQ(differ > 0, right < 1);
    EXPECT_EQ(propose(drafter, {text[0]}, 20), Tokens(drafts.begin(), drafts.begin() + 20));
  }
}

TEST(ScriptedDrafter, FollowsTheSequenceThatBeganSo) {
  ScriptedDrafter drafter(1, 0, 10);
  drafter.record(Tokens{1, 2, 3, 4}, 70), drafter.record(Tokens{1, 2, 5, 6}, 80), drafter.record(Tokens{9, 2, 7});
  EXPECT_EQ(propose(drafter, {1, 2, 5}, 4), Tokens({6}));
  EXPECT_EQ(propose(drafter, {9, 2}, 4), Tokens({7}));
  EXPECT_EQ(propose(drafter, {8, 2}, 4), Tokens());
  EXPECT_EQ(propose(drafter, {1, 2, 3, 4}, 4), Tokens());
  EXPECT_EQ(propose(drafter, {1, 2}, 4, 80), Tokens({5, 6}));
  EXPECT_EQ(propose(drafter, {1, 2}, 4, 90), Tokens({3, 4}));
}

}  // namespace
}  // namespace weft::testing
