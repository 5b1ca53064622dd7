// Elementary functions whose bits depend on nothing but their argument: additions, multiplications and divisions of
// IEEE floats in a fixed order, no libm, no fused multiply-add. The passes over a vocabulary (scan.cc) do the same
// operations in the same order in every lane.
#pragma once

#include <bit>
#include <cstdint>

namespace weft {

// exp in float for x <= 88. Below -87: 0. -inf: 0. At most 2 ulp from the true value.
inline float exact_exp(float x) {
  if (!(x >= -87.0f)) return 0.0f;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;  // ln 2 in two parts; n * the first is exact
  r = r - n * -2.12194440e-4f;
  float y = 1.98412698e-4f;  // Taylor's 1/7! ... : |r| <= 0.347, so the next term is below 6e-9
  y = y * r + 1.38888889e-3f;
  y = y * r + 8.33333333e-3f;
  y = y * r + 4.16666667e-2f;
  y = y * r + 1.66666667e-1f;
  y = y * r + 0.5f;
  y = y * (r * r) + r;
  y = y + 1.0f;
  const uint32_t scale = (std::bit_cast<uint32_t>(shifted) - 0x4B400000u + 127u) << 23;  // 2^n
  return y * std::bit_cast<float>(scale);
}

// Natural logarithm in double for normal positive x; at most 2 ulp from the true value, also relative to it near 1.
// log x = e ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt 2).
inline double exact_log(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  constexpr uint64_t kSqrtHalf = 0x3FE6A09E667F3BCD;
  const int64_t e = static_cast<int64_t>(bits - kSqrtHalf) >> 52;
  const double m = std::bit_cast<double>(bits - (static_cast<uint64_t>(e) << 52));
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double y = 1.0 / 23;
  y = y * z + 1.0 / 21;
  y = y * z + 1.0 / 19;
  y = y * z + 1.0 / 17;
  y = y * z + 1.0 / 15;
  y = y * z + 1.0 / 13;
  y = y * z + 1.0 / 11;
  y = y * z + 1.0 / 9;
  y = y * z + 1.0 / 7;
  y = y * z + 1.0 / 5;
  y = y * z + 1.0 / 3;
  const double tail = 2.0 * s * (z * y);
  const double scale = static_cast<double>(e);
  return scale * 0x1.62e42feep-1 + (2.0 * s + (tail + scale * 0x1.a39ef35793c76p-33));  // ln 2 in two parts
}

// Probability mass as a fixed-point number with 44 fractional bits. Integer sums do not depend on their order, so a
// mass is the same however a pass cut its work. p is at most 1 (the largest token's), so 2^18 tokens, and more, fit in
// 63 bits.
using Mass = int64_t;
constexpr double kMassOne = 0x1p44;

inline Mass mass_of(float p) {
  constexpr int64_t kZero = std::bit_cast<int64_t>(384.0);  // the ulp in [256, 512) is 2^-44
  return std::bit_cast<int64_t>(static_cast<double>(p) + 384.0) - kZero;
}

}  // namespace weft
