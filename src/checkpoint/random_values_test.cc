#include "checkpoint/random_values.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace weft {
namespace {

std::vector<float> values(uint64_t seed, uint64_t first, int64_t count, float center = 0, float width = 1) {
  std::vector<float> out(static_cast<size_t>(count));
  random_values(seed, first, count, center, width, out.data());
  return out;
}

TEST(RandomValues, AnyCutIsTheSame) {
  const uint64_t seed = random_seed("model.layers.3.mlp.up_proj.weight");
  const std::vector<float> whole = values(seed, 0, 1000);
  for (const uint64_t first : {0u, 1u, 7u, 63u, 500u})
    for (const int64_t count : {1, 3, 16, 17, 130}) {
      const std::vector<float> part = values(seed, first, count);
      for (int64_t i = 0; i < count; ++i)
        ASSERT_EQ(part[static_cast<size_t>(i)], whole[first + static_cast<size_t>(i)]) << first << " " << i;
    }
  // Across the end of a 32-bit counter.
  const uint64_t far = (uint64_t{1} << 32) - 5;
  const std::vector<float> across = values(seed, far, 10);
  for (uint64_t i = 0; i < 10; ++i) ASSERT_EQ(across[i], values(seed, far + i, 1)[0]) << i;
  EXPECT_NE(across[5], whole[0]) << "the next 2^32 values are others";
}

// The same on every machine and for every width of vectors.
TEST(RandomValues, AreThese) {
  const std::vector<float> some = values(random_seed("w"), 0, 4, 0.5f, 0.25f);
  const std::vector<float> want = {0x1.78db640000000p-1f, 0x1.8e04060000000p-2f, 0x1.36a20e0000000p-1f,
                                   0x1.12d2580000000p-1f};
  EXPECT_EQ(some, want);
}

TEST(RandomValues, AreEvenlySpreadAndUnrelated) {
  constexpr int kCount = 1 << 18;
  const std::vector<float> a = values(random_seed("a"), 0, kCount), b = values(random_seed("b"), 0, kCount);
  std::vector<int> bins(64);
  double sum = 0, squares = 0, next = 0, other = 0;
  for (size_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(a[i] >= -1 && a[i] < 1);
    ++bins[static_cast<size_t>((a[i] + 1) * 32)];
    sum += a[i], squares += static_cast<double>(a[i]) * a[i];
    next += static_cast<double>(a[i]) * a[(i + 1) % kCount], other += static_cast<double>(a[i]) * b[i];
  }
  EXPECT_NEAR(sum / kCount, 0, 0.005);
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 0.005);
  EXPECT_NEAR(next / kCount, 0, 0.005);
  EXPECT_NEAR(other / kCount, 0, 0.005);
  for (const int bin : bins) EXPECT_NEAR(bin, kCount / 64, 6 * std::sqrt(kCount / 64));
}

}  // namespace
}  // namespace weft
