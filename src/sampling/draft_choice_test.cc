// A draft is the largest of logit / temperature + noise of the target's ids, whoever looks at which part.
#include "sampling/draft_choice.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>

#include "sampling/philox.h"

namespace weft {
namespace {

std::vector<float> random_logits(int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TEST(DraftChoice, IsTheBestOfAll) {
  constexpr int kVocab = 1000;
  std::vector<int32_t> ids(kVocab);
  for (int i = 0; i < kVocab; ++i) ids[static_cast<size_t>(i)] = 3 * i + 5;
  for (const float temperature : {0.0f, 0.3f, 1.0f, 5.0f})
    for (uint32_t seed = 0; seed < 50; ++seed) {
      const std::vector<float> logits = random_logits(kVocab, seed);
      DraftNoise params;
      params.temperature = temperature, params.seed = seed;
      double most = -1e30;
      int want = -1;
      for (int i = 0; i < kVocab; ++i) {
        const double value = temperature == 0 ? logits[static_cast<size_t>(i)]
                                              : logits[static_cast<size_t>(i)] * (1.0 / temperature) +
                                                    gumbel_noise(seed, 77, ids[static_cast<size_t>(i)]);
        if (value > most) most = value, want = i;
      }
      DraftChoice parts;
      for (const auto& [first, last] : {std::pair(0, 130), std::pair(130, 131), std::pair(131, kVocab)})
        parts = std::max(parts, choose_draft(std::span(logits).subspan(first, last - first), first, ids, params, 77));
      EXPECT_EQ(parts.token, want);
      EXPECT_EQ(choose_draft(logits, 0, ids, params, 77).token, want);
    }
}

TEST(DraftChoice, TiesGoToTheLowerId) {
  const std::vector<float> logits{1, 4, 4, 2};
  DraftNoise params;
  params.temperature = 0;
  EXPECT_EQ(choose_draft(logits, 0, {}, params, 0).token, 1);
  const std::span<const float> all(logits);
  EXPECT_EQ(
      std::max(choose_draft(all.subspan(2), 2, {}, params, 0), choose_draft(all.first(2), 0, {}, params, 0)).token, 1);
}

// Scores too, and where few values are equal to many others: the choice of all is the largest of the parts' choices.
TEST(DraftChoice, OfPartsIsThatOfAll) {
  std::mt19937 random(9);
  for (int round = 0; round < 4000; ++round) {
    const int vocab = 1 + static_cast<int>(random() % 700);
    std::vector<float> logits = random_logits(vocab, random());
    if (round % 3 == 0)
      for (float& logit : logits) logit = std::round(logit / 3);
    if (round % 5 == 0) std::fill(logits.begin(), logits.end(), -0.0f);
    DraftNoise params;
    params.temperature = std::array{0.0f, 0.1f, 1.0f, 9.0f}[round % 4], params.seed = random();
    std::vector<int> bounds{0, vocab};
    for (uint32_t more = random() % 8; more > 0; --more) bounds.push_back(static_cast<int>(random() % vocab));
    std::sort(bounds.begin(), bounds.end());
    DraftChoice parts;
    for (size_t i = 0; i + 1 < bounds.size(); ++i)
      parts = std::max(parts, choose_draft(std::span(logits).subspan(bounds[i], bounds[i + 1] - bounds[i]), bounds[i],
                                           {}, params, round));
    const DraftChoice all = choose_draft(logits, 0, {}, params, round);
    ASSERT_EQ(parts.token, all.token) << round;
    ASSERT_EQ(parts.score, all.score) << round;
  }
}

TEST(DraftChoice, SurvivesWhatIsNoNumber) {
  const std::vector<float> logits(10, std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(choose_draft(logits, 0, {}, {}, 0).token, 0);
}

}  // namespace
}  // namespace weft
