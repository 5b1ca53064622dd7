// A draft is the largest of logit / temperature + noise of the target's ids, whoever looks at which part.
#include "sampling/draft_choice.h"

#include <gtest/gtest.h>

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
      SamplingParams params;
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
        parts = std::max(parts, choose_draft(logits, first, last, ids, params, 77));
      EXPECT_EQ(parts.token, want);
      EXPECT_EQ(choose_draft(logits, 0, kVocab, ids, params, 77).token, want);
    }
}

TEST(DraftChoice, TiesGoToTheLowerId) {
  const std::vector<float> logits{1, 4, 4, 2};
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(choose_draft(logits, 0, 4, {}, params, 0).token, 1);
  EXPECT_EQ(std::max(choose_draft(logits, 2, 4, {}, params, 0), choose_draft(logits, 0, 2, {}, params, 0)).token, 1);
}

TEST(DraftChoice, SurvivesWhatIsNoNumber) {
  const std::vector<float> logits(10, std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(choose_draft(logits, 0, 10, {}, {}, 0).token, 0);
}

}  // namespace
}  // namespace weft
