#include "checkpoint/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "checkpoint/store_floats.h"

namespace weft {
namespace {

constexpr int kSuper = 256;  // values in a block of the K types

uint8_t byte(int value) { return static_cast<uint8_t>(value); }

void put_half(float value, uint8_t* out) {
  const uint16_t bits = float_to_f16(value);
  std::memcpy(out, &bits, sizeof bits);
}
float as_half(float value) { return f16_to_float(float_to_f16(value)); }

// Sums are kept in lanes, which the compiler turns into vectors.
constexpr int kLanes = 8;
using Lanes = std::array<float, kLanes>;
float sum(const Lanes& lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// To the nearest whole number, ties to even, for magnitudes below 2^22.
float nearest(float value) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: where float32's steps are 1
  return (value + kShift) - kShift;
}
// 1 / scale; 0 where that is no number that values can be multiplied by.
float inverse_of(float scale) { return std::fabs(scale) > 1e-30f ? 1 / scale : 0; }

// How many steps a value is, of those that are stored. Very small steps are float16s far from what was meant.
int nearest_step(float value, float step, int least, int most) {
  if (step == 0) return std::clamp(0, least, most);
  return static_cast<int>(std::lrintf(std::clamp(value / step, static_cast<float>(least), static_cast<float>(most))));
}

void encode_q8_0(const float* x, uint8_t* out) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127, inverse = scale == 0 ? 0 : 1 / scale;
  put_half(scale, out);
  for (int i = 0; i < 32; ++i) out[2 + i] = byte(static_cast<int8_t>(std::roundf(x[i] * inverse)));
}

// ---- q4_k

constexpr int kPart4 = 32;  // values of a part

// Codes 0 to 15 for scale * code - minimum, and the sum of squared errors. A scale of 0 gives codes 0.
float codes_of_4(const float* x, float scale, float minimum, float* codes) {
  const float inverse = inverse_of(scale);
  Lanes error{};
  for (int i = 0; i < kPart4; ++i) {
    codes[i] = nearest(std::min(std::max((x[i] + minimum) * inverse, 0.0f), 15.0f));
    const float off = scale * codes[i] - minimum - x[i];
    error[i % kLanes] += off * off;
  }
  return sum(error);
}

struct Affine {
  float scale = 0, minimum = 0;
};

// The scale and minimum (both >= 0) that are best for codes: least squares, with the minimum held at 0 where it would
// be below.
Affine fit(const float* x, const float* codes) {
  Lanes xs{}, qs{}, qqs{}, xqs{};
  for (int i = 0; i < kPart4; ++i) {
    const int lane = i % kLanes;
    xs[lane] += x[i], qs[lane] += codes[i], qqs[lane] += codes[i] * codes[i], xqs[lane] += x[i] * codes[i];
  }
  const float sum_x = sum(xs), sum_q = sum(qs), sum_qq = sum(qqs), sum_xq = sum(xqs);
  const float spread = kPart4 * sum_qq - sum_q * sum_q;
  Affine best;
  if (spread > 0) {
    best.scale = (kPart4 * sum_xq - sum_x * sum_q) / spread;
    best.minimum = (sum_q * sum_xq - sum_qq * sum_x) / spread;
  }
  if (best.minimum < 0 || spread <= 0) best = {sum_qq > 0 ? sum_xq / sum_qq : 0, 0};
  if (best.scale < 0) best.scale = 0;
  return best;
}

Affine search_4(const float* x) {
  const auto [low, high] = std::minmax_element(x, x + kPart4);
  const float minimum = std::max(0.0f, -*low), range = *high + minimum;
  if (range <= 0) return {0, minimum};  // all are the same, and not above 0
  std::array<float, kPart4> codes{};
  Affine best;
  float least = INFINITY;
  // Ranges a little narrower or wider than that of the values, each improved by two fits.
  for (int step = -5; step <= 10; ++step) {
    Affine now{range / (15.0f + 0.25f * static_cast<float>(step)), minimum};
    for (int round = 0; round < 3; ++round) {
      const float error = codes_of_4(x, now.scale, now.minimum, codes.data());
      if (error < least) least = error, best = now;
      now = fit(x, codes.data());
    }
  }
  return best;
}

void encode_q4_k(const float* x, uint8_t* out) {
  constexpr int kParts = kSuper / kPart4;
  std::array<Affine, kParts> found;
  float top_scale = 0, top_minimum = 0;
  for (int p = 0; p < kParts; ++p) {
    found[p] = search_4(x + p * kPart4);
    top_scale = std::max(top_scale, found[p].scale), top_minimum = std::max(top_minimum, found[p].minimum);
  }
  const float d = as_half(top_scale / 63), d_min = as_half(top_minimum / 63);
  std::array<int, kParts> scales{}, minima{};
  std::array<int, kSuper> codes{};
  for (int p = 0; p < kParts; ++p) {
    const int scale = nearest_step(found[p].scale, d, 0, 63), minimum = nearest_step(found[p].minimum, d_min, 0, 63);
    float least = INFINITY;
    std::array<float, kPart4> now{};
    // Rounding to 6 bits has moved both; the best pair near them counts.
    for (int s = std::max(0, scale - 1); s <= std::min(63, scale + 1); ++s)
      for (int m = std::max(0, minimum - 1); m <= std::min(63, minimum + 1); ++m) {
        const float error =
            codes_of_4(x + p * kPart4, d * static_cast<float>(s), d_min * static_cast<float>(m), now.data());
        if (!(error < least)) continue;
        least = error, scales[p] = s, minima[p] = m;
        for (int i = 0; i < kPart4; ++i) codes[p * kPart4 + i] = static_cast<int>(now[i]);
      }
  }
  put_half(d, out), put_half(d_min, out + 2);
  uint8_t* const packed = out + 4;  // 12 bytes: six bits of each part's scale and minimum
  for (int p = 0; p < 4; ++p) {
    packed[p] = byte(scales[p] | (scales[p + 4] >> 4) << 6);
    packed[p + 4] = byte(minima[p] | (minima[p + 4] >> 4) << 6);
    packed[p + 8] = byte((scales[p + 4] & 15) | (minima[p + 4] & 15) << 4);
  }
  for (int pair = 0; pair < kParts / 2; ++pair)
    for (int i = 0; i < kPart4; ++i)
      out[16 + pair * kPart4 + i] = byte(codes[2 * pair * kPart4 + i] | codes[(2 * pair + 1) * kPart4 + i] << 4);
}

// ---- q6_k

constexpr int kPart6 = 16;

// Codes -32 to 31 for scale * code, and the sum of squared errors.
float codes_of_6(const float* x, float scale, float* codes) {
  const float inverse = inverse_of(scale);
  Lanes error{};
  for (int i = 0; i < kPart6; ++i) {
    codes[i] = nearest(std::min(std::max(x[i] * inverse, -32.0f), 31.0f));
    const float off = scale * codes[i] - x[i];
    error[i % kLanes] += off * off;
  }
  return sum(error);
}

// Of either sign: codes go further down than up.
float search_6(const float* x) {
  float largest = 0;
  for (int i = 0; i < kPart6; ++i)
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  if (largest == 0) return 0;
  std::array<float, kPart6> codes{};
  float best = 0, least = INFINITY;
  for (int step = -8; step <= 8; ++step) {
    float scale = largest / (-32.0f + 0.15f * static_cast<float>(step));
    for (int round = 0; round < 2; ++round) {
      const float error = codes_of_6(x, scale, codes.data());
      if (error < least) least = error, best = scale;
      Lanes xqs{}, qqs{};
      for (int i = 0; i < kPart6; ++i) xqs[i % kLanes] += x[i] * codes[i], qqs[i % kLanes] += codes[i] * codes[i];
      if (sum(qqs) == 0) break;
      scale = sum(xqs) / sum(qqs);
    }
  }
  return best;
}

void encode_q6_k(const float* x, uint8_t* out) {
  constexpr int kParts = kSuper / kPart6;
  std::array<float, kParts> found{};
  float top = 0;
  for (int p = 0; p < kParts; ++p) {
    found[p] = search_6(x + p * kPart6);
    if (std::fabs(found[p]) > std::fabs(top)) top = found[p];
  }
  const float d = as_half(top / -128);
  uint8_t *const low = out, *const high = out + 128, *const scales = out + 192;
  std::array<int, kSuper> codes{};
  for (int p = 0; p < kParts; ++p) {
    const int middle = nearest_step(found[p], d, -128, 127);
    float least = INFINITY;
    std::array<float, kPart6> now{};
    for (int s = std::max(-128, middle - 1); s <= std::min(127, middle + 1); ++s) {
      const float error = codes_of_6(x + p * kPart6, d * static_cast<float>(s), now.data());
      if (!(error < least)) continue;
      least = error, scales[p] = byte(s);
      for (int i = 0; i < kPart6; ++i) codes[p * kPart6 + i] = static_cast<int>(now[i]) + 32;
    }
  }
  put_half(d, out + 208);
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 32; ++i) {
      const int* const c = codes.data() + half * 128 + i;
      low[half * 64 + i] = byte((c[0] & 15) | (c[64] & 15) << 4);
      low[half * 64 + 32 + i] = byte((c[32] & 15) | (c[96] & 15) << 4);
      high[half * 32 + i] = byte(c[0] >> 4 | (c[32] >> 4) << 2 | (c[64] >> 4) << 4 | (c[96] >> 4) << 6);
    }
}

}  // namespace

std::optional<StorageType> encoded_type(std::string_view name) {
  if (name == "Q8_0") return StorageType::q8_0;
  if (name == "Q4_K") return StorageType::q4_k;
  if (name == "Q6_K") return StorageType::q6_k;
  return std::nullopt;
}

void encode_blocks(StorageType type, const float* values, int64_t count, std::byte* out) {
  const auto [size, bytes] = layout(type);
  WEFT_CHECK(count % size == 0) << count << " values as " << name(type);
  for (int64_t block = 0; block < count / size; ++block) {
    const float* const x = values + block * size;
    auto* const to = reinterpret_cast<uint8_t*>(out + block * bytes);
    switch (type) {
      case StorageType::q8_0: encode_q8_0(x, to); break;
      case StorageType::q4_k: encode_q4_k(x, to); break;
      case StorageType::q6_k: encode_q6_k(x, to); break;
      default: WEFT_CHECK(false) << name(type);
    }
  }
}

}  // namespace weft
