// The scales that fit_row() chooses, against a search in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/kernels.h"
#include "kernels/quantize.h"

namespace weft::kernels {
namespace {

double error_of(const float* x, const float* w, double scale, int half) {
  double sum = 0;
  for (int i = 0; i < kFitGroup; ++i) {
    const double code = scale == 0 ? 0 : std::clamp(std::nearbyint(x[i] / scale), -half * 1.0, half - 1.0);
    const double wrong = x[i] - scale * code;
    sum += w[i] * wrong * wrong;
  }
  return sum;
}

// The least error of 2,000 scales.
double least_error(const float* x, const float* w, int half) {
  double largest = 0, best = INFINITY;
  for (int i = 0; i < kFitGroup; ++i) largest = std::max(largest, std::fabs(double{x[i]}));
  for (int i = 1; i <= 1000; ++i)
    for (const double sign : {-1.0, 1.0})
      best = std::min(best, error_of(x, w, sign * largest * i / (500.0 * half), half));
  return best;
}

class Fit : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Bits, Fit, testing::Values(3, 4));

TEST_P(Fit, ErrorsAreNearTheLeast) {
  const int bits = GetParam(), half = 1 << (bits - 1), groups = 200, k = groups * kFitGroup;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> row(k), ones(k, 1.0f), importance(k);
  for (int i = 0; i < k; ++i)
    row[i] = 0.02f * normal(random), importance[i] = 0.01f + std::exp(1.5f * normal(random)) / 3;
  std::vector<uint8_t> codes(k);
  std::vector<uint16_t> scales(groups);
  double plain = 0, plain_weighed = 0, weighed = 0, least_plain = 0, least_weighed = 0;
  const auto sum = [&](const std::vector<float>& w) {
    double total = 0;
    for (int i = 0; i < k; ++i) {
      EXPECT_LT(codes[i], 2 * half);
      const double wrong = row[i] - double{bf16_to_float(scales[i / kFitGroup])} * (codes[i] - half);
      total += w[i] * wrong * wrong;
    }
    return total;
  };
  fit_row(bits, row.data(), nullptr, k, codes.data(), scales.data());
  plain = sum(ones), plain_weighed = sum(importance);
  fit_row(bits, row.data(), importance.data(), k, codes.data(), scales.data());
  weighed = sum(importance);
  for (int g = 0; g < groups; ++g) {
    least_plain += least_error(&row[g * kFitGroup], &ones[g * kFitGroup], half);
    least_weighed += least_error(&row[g * kFitGroup], &importance[g * kFitGroup], half);
  }
  EXPECT_LT(plain, 1.06 * least_plain);
  EXPECT_LT(weighed, 1.12 * least_weighed);
  EXPECT_LT(weighed, 0.95 * plain_weighed) << "importance is looked at";
}

TEST_P(Fit, EqualImportanceIsNone) {
  const int bits = GetParam(), k = 40 * kFitGroup;
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  std::vector<float> row(k), ones(k, 1.0f);
  for (float& value : row) value = normal(random);
  std::vector<uint8_t> codes(k), other(k);
  std::vector<uint16_t> scales(k / kFitGroup), other_scales(k / kFitGroup);
  fit_row(bits, row.data(), nullptr, k, codes.data(), scales.data());
  fit_row(bits, row.data(), ones.data(), k, other.data(), other_scales.data());
  EXPECT_EQ(codes, other);
  EXPECT_EQ(scales, other_scales);
  if (bits == 4) {
    quantize_row(quantized_format(WeightForm::int4, k, Operand::f32), row.data(), k, other.data(), other_scales.data());
    EXPECT_EQ(codes, other);
    EXPECT_EQ(scales, other_scales);
  }
}

}  // namespace
}  // namespace weft::kernels
