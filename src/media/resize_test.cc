// The resize against the same convolution in floating point (the oracle tests in tests/media hold it to torchvision's
// bits), and what must not change.
#include "media/resize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace weft {
namespace {

Image noise(int height, int width, unsigned seed) {
  std::mt19937 random(seed);
  Image image(height, width);
  for (uint8_t& v : image.rgb) v = static_cast<uint8_t>(random());
  return image;
}

// Keys, "Cubic convolution interpolation for digital image processing" (1981), with a = -1/2; and the triangle.
double kernel(double x, Filter filter) {
  x = std::fabs(x);
  if (filter == Filter::bilinear) return std::max(0.0, 1 - x);
  if (x <= 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
  return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

// One pass along columns over doubles, weights over all inputs; rounded and clamped to a byte.
Image pass(const Image& in, int width, Filter filter) {
  Image out(in.height, width);
  const double scale = static_cast<double>(in.width) / width, stretch = std::max(1.0, scale);
  for (int x = 0; x < width; ++x) {
    std::vector<double> weights(in.width);
    double sum = 0;
    for (int j = 0; j < in.width; ++j) sum += weights[j] = kernel((j + 0.5 - scale * (x + 0.5)) / stretch, filter);
    for (int y = 0; y < in.height; ++y) {
      for (int c = 0; c < 3; ++c) {
        double value = 0;
        for (int j = 0; j < in.width; ++j) value += weights[j] / sum * in.row(y)[3 * j + c];
        out.row(y)[3 * x + c] = static_cast<uint8_t>(std::clamp(std::floor(value + 0.5), 0.0, 255.0));
      }
    }
  }
  return out;
}

Image transposed(const Image& in) {
  Image out(in.width, in.height);
  for (int y = 0; y < in.height; ++y) {
    for (int x = 0; x < in.width; ++x) std::copy_n(in.row(y) + 3 * x, 3, out.row(x) + 3 * y);
  }
  return out;
}

TEST(Resize, IsTheConvolutionOfEachAxisRoundedInBetween) {
  const Image in = noise(23, 31, 1);
  int differ = 0, all = 0;
  for (const Filter filter : {Filter::bilinear, Filter::bicubic}) {
    for (const auto& [height, width] :
         {std::pair{23, 7}, {23, 70}, {5, 31}, {61, 31}, {9, 14}, {50, 64}, {1, 1}, {9, 64}, {64, 9}, {22, 32}}) {
      Image want = width == in.width ? in : pass(in, width, filter);
      if (height != in.height) want = transposed(pass(transposed(want), height, filter));
      const Image got = resize(in, height, width, filter);
      ASSERT_EQ(got.height, height);
      ASSERT_EQ(got.width, width);
      for (size_t i = 0; i < got.rgb.size(); ++i, ++all) {
        ASSERT_NEAR(got.rgb[i], want.rgb[i], 2) << height << " x " << width;  // one level of rounding in each pass
        differ += got.rgb[i] != want.rgb[i];
      }
    }
  }
  EXPECT_LT(differ, all / 50);  // 15-bit weights change a rounding now and then
}

TEST(Resize, SameSizeIsTheSameImage) {
  const Image in = noise(9, 11, 2);
  EXPECT_EQ(resize(in, 9, 11, Filter::bicubic).rgb, in.rgb);
}

TEST(Resize, OnePixelFillsTheResult) {
  Image in(1, 1);
  in.rgb = {12, 200, 255};
  const Image out = resize(in, 5, 7, Filter::bicubic);
  for (size_t i = 0; i < out.rgb.size(); ++i) ASSERT_EQ(out.rgb[i], in.rgb[i % 3]);
}

TEST(Resize, ThinImages) {
  EXPECT_EQ(resize(noise(1, 3000, 3), 28, 28, Filter::bicubic).rgb.size(), size_t{3} * 28 * 28);
  EXPECT_EQ(resize(noise(3000, 1, 4), 1, 28, Filter::bilinear).rgb.size(), size_t{3} * 28);
}

}  // namespace
}  // namespace weft
