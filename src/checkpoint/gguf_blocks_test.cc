// Blocks that are written, read by the decoders that other tests hold to the gguf package; tests/tools/
// check_gguf_blocks.py reads them with the package itself.
#include "checkpoint/gguf_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "checkpoint/dequantize.h"
#include "checkpoint/store_floats.h"

namespace weft {
namespace {

std::vector<float> there_and_back(StorageType type, const std::vector<float>& values) {
  const StorageLayout stored = layout(type);
  std::vector<std::byte> blocks(values.size() / static_cast<size_t>(stored.block_values) *
                                static_cast<size_t>(stored.block_bytes));
  encode_blocks(type, values.data(), static_cast<int64_t>(values.size()), blocks.data());
  std::vector<float> read(values.size());
  dequantize(type, blocks.data(), static_cast<int64_t>(read.size()), read.data());
  return read;
}

// Sum of squared errors in units of the sum of squares.
double error_of(StorageType type, const std::vector<float>& values) {
  const std::vector<float> read = there_and_back(type, values);
  double error = 0, all = 0;
  for (size_t i = 0; i < values.size(); ++i)
    error += std::pow(double{read[i]} - values[i], 2), all += std::pow(double{values[i]}, 2);
  return error / all;
}

std::vector<float> normal(size_t count, float mean) {
  std::mt19937 rng(11);
  std::normal_distribution<float> next(mean, 0.02f);
  std::vector<float> values(count);
  for (float& value : values) value = next(rng);
  return values;
}

TEST(GgufBlocks, Q8_0HasTheBytesOfTheReference) {
  // gguf.quants.quantize(x, Q8_0) of gguf 0.19.
  constexpr uint8_t kExpected[] = {240, 35,  129, 22,  169, 62,  210, 0,   250, 141, 34,  181, 75,  222, 115, 6,   153,
                                   46,  194, 87,  234, 127, 18,  165, 58,  206, 99,  246, 137, 30,  177, 71,  218, 111,
                                   252, 0,   2,   146, 44,  187, 85,  229, 127, 15,  158, 56,  200, 98,  241, 129, 27,
                                   171, 69,  212, 110, 254, 141, 40,  183, 81,  225, 123, 10,  154, 52,  196, 94,  237};
  std::vector<float> x(64);
  for (int i = 0; i < 64; ++i) {
    x[static_cast<size_t>(i)] = (static_cast<float>(i * 37 % 64) - 31.5f) / 16;
    if (i >= 32) x[static_cast<size_t>(i)] *= 0.001f;
  }
  x[5] = 0;
  std::vector<std::byte> blocks(68);
  encode_blocks(StorageType::q8_0, x.data(), 64, blocks.data());
  for (size_t i = 0; i < blocks.size(); ++i) EXPECT_EQ(std::to_integer<int>(blocks[i]), kExpected[i]) << i;
}

TEST(GgufBlocks, ErrorsAreThoseOfTheFormats) {
  // A step of 1/15 and 1/63 of a part's range has, evenly distributed, errors of step / sqrt(12). A part of 32 normally
  // distributed values has a range of about 4.1 deviations, one of 16 values a largest of about 1.8 of 31 steps.
  const double step4 = 4.1 / 15, step6 = 2 * 1.8 / 63;
  const std::vector<float> values = normal(1 << 14, 0);
  EXPECT_LT(error_of(StorageType::q4_k, values), 1.05 * step4 * step4 / 12);
  EXPECT_LT(error_of(StorageType::q6_k, values), 1.25 * step6 * step6 / 12);
  EXPECT_LT(error_of(StorageType::q8_0, values), 1e-4);
  EXPECT_GT(error_of(StorageType::q4_k, values), error_of(StorageType::q6_k, values));
  // Of one sign, with a minimum or without.
  for (const float mean : {0.1f, -0.1f}) {
    const std::vector<float> shifted = normal(1 << 12, mean);
    EXPECT_LT(error_of(StorageType::q4_k, shifted), 1e-3) << mean;
    EXPECT_LT(error_of(StorageType::q6_k, shifted), 1e-3) << mean;
  }
}

TEST(GgufBlocks, ValuesThatAreAlikeAreExact) {
  for (const StorageType type : {StorageType::q8_0, StorageType::q4_k, StorageType::q6_k}) {
    EXPECT_EQ(there_and_back(type, std::vector<float>(256, 0)), std::vector<float>(256, 0)) << name(type);
    for (const float value : {0.5f, -0.5f, 1e6f, -1e6f, 1e-3f})
      for (const float read : there_and_back(type, std::vector<float>(256, value)))
        EXPECT_NEAR(read, value, std::fabs(value) * 0.03f) << name(type) << " " << value;
    // Values whose scale is below what float16 holds become 0.
    for (const float read : there_and_back(type, std::vector<float>(256, 1e-12f))) EXPECT_EQ(read, 0) << name(type);
  }
}

// A part that lies far from the others does not take their precision: each has a scale of its own.
TEST(GgufBlocks, AnOutlierCostsItsOwnPart) {
  std::vector<float> values = normal(256, 0);
  values[3] = 0.3f;
  for (const StorageType type : {StorageType::q4_k, StorageType::q6_k}) {
    const std::vector<float> read = there_and_back(type, values);
    EXPECT_NEAR(read[3], values[3], 0.01f) << name(type);
    for (size_t i = 32; i < 256; ++i) EXPECT_NEAR(read[i], values[i], 0.006f) << name(type) << " " << i;
  }
}

TEST(StoreFloats, Float16IsTheNearest) {
  // Every float16 comes back; what lies between two goes to the nearer one, and from the middle to the even one.
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    ASSERT_EQ(float_to_f16(f16_to_float(half)), half);
    ASSERT_EQ(float_to_f16(-f16_to_float(half)), half | 0x8000);
    if (bits + 1 == 0x7c00) break;
    const float low = f16_to_float(half), high = f16_to_float(static_cast<uint16_t>(half + 1)),
                middle = (low + high) / 2;
    ASSERT_EQ(float_to_f16(middle), half % 2 == 0 ? half : half + 1) << bits;
    ASSERT_EQ(float_to_f16(std::nextafter(middle, low)), half) << bits;
    ASSERT_EQ(float_to_f16(std::nextafter(middle, high)), half + 1) << bits;
  }
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-INFINITY), 0xfc00);
  EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(std::nanf("")))));
}

}  // namespace
}  // namespace weft
