// Rounding of weights to 8, 4 and 3 bits. The scale is rounded to bfloat16 before codes are chosen, so that a code's
// value is what the kernels compute from it.
#include "kernels/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace weft::kernels {
namespace {

constexpr int kInt8Group = 64;

// The nearest bfloat16 that is not below a positive value.
uint16_t bf16_above(float value) {
  const uint16_t bits = float_to_bf16(value);
  return bf16_to_float(bits) < value ? static_cast<uint16_t>(bits + 1) : bits;
}

// Everything below is compiled twice, for AVX2 and for any processor. Products and sums are not fused
// (-ffp-contract=off), and sums run in a fixed number of lanes, so both give the same codes.
#define WEFT_QUANTIZE_INLINE [[gnu::always_inline]] inline

// To the nearest whole number, ties to even, for |value| < 2^22; adding the constant leaves no room for a fraction.
WEFT_QUANTIZE_INLINE float whole(float value) { return (value + 0x1.8p23f) - 0x1.8p23f; }
WEFT_QUANTIZE_INLINE int nearest(float value) { return static_cast<int>(whole(value)); }

// The bits of the largest magnitude: they are in the order of the magnitudes, and those of what is not finite are the
// largest.
WEFT_QUANTIZE_INLINE uint32_t largest_bits(const float* x, int count) {
  uint32_t largest = 0;
  for (int i = 0; i < count; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return largest;
}

WEFT_QUANTIZE_INLINE uint16_t quantize_int8(const float* x, int count, float largest, uint8_t* codes) {
  const uint16_t bits = bf16_above(largest / 127.0f);
  const float scale = bf16_to_float(bits), inverse = scale > 0 ? 1.0f / scale : 0.0f;
  if (!std::isfinite(inverse)) {  // too small for a scale to represent
    std::fill_n(codes, count, uint8_t{0});
    return 0;
  }
  for (int i = 0; i < count; ++i)
    codes[i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(nearest(x[i] * inverse), -127, 127)));
  return bits;
}

// The inverses that are tried for codes -half ... half - 1: -(half + 0.15 step), steps -6 ... 8.
constexpr int kSteps = 15, kFirstStep = -6;
typedef float Steps8 __attribute__((vector_size(32)));
typedef int32_t Bits8 __attribute__((vector_size(32)));

// Searches the scale of a group. Each inverse that is tried rounds x to codes q; for given codes the error sum(w (x -
// scale q)^2) is least at scale = sum(w x q) / sum(w q q), which takes sum(w x q)^2 / sum(w q q) off sum(w x^2).
// Returns the scale of the inverse that takes off most, or 0 if none takes off anything. Vectors run over the inverses.
// Each sums every eighth value, then these eight sums. `w` null: all 1.
WEFT_QUANTIZE_INLINE float fit_scale(const float (&x)[kFitGroup], const float* w, int half) {
  constexpr int kParts = 8;
  const auto range = static_cast<float>(half);
  const Bits8 low = Bits8{} + std::bit_cast<int32_t>(0x1.8p23f - range),
              high = Bits8{} + std::bit_cast<int32_t>(0x1.8p23f + range - 1.0f);
  float explained[16], scales[16];
  for (int part8 = 0; part8 < 2; ++part8) {
    Steps8 inverse, xq{}, qq{};
    for (int i = 0; i < 8; ++i) inverse[i] = -(range + 0.15f * static_cast<float>(kFirstStep + 8 * part8 + i));
    for (int part = 0; part < kParts; ++part) {
      Steps8 part_xq{}, part_qq{};
      for (int i = part; i < kFitGroup; i += kParts) {
        // whole(), limited to the codes while it is a whole number in the last bits of a positive float.
        Bits8 bits = reinterpret_cast<Bits8>(x[i] * inverse + 0x1.8p23f);
        bits = bits < low ? low : bits;
        bits = bits > high ? high : bits;
        const Steps8 q = reinterpret_cast<Steps8>(bits) - 0x1.8p23f;
        if (w) {
          const Steps8 wq = w[i] * q;
          part_xq += x[i] * wq, part_qq += q * wq;
        } else {
          part_xq += x[i] * q, part_qq += q * q;
        }
      }
      xq += part_xq, qq += part_qq;
    }
    const Steps8 scale = xq / qq, gain = xq * scale;
    for (int i = 0; i < 8; ++i) scales[8 * part8 + i] = scale[i], explained[8 * part8 + i] = qq[i] > 0 ? gain[i] : 0;
  }
  float best = 0, best_scale = 0;
  for (int step = 0; step < kSteps; ++step)
    if (explained[step] > best) best = explained[step], best_scale = scales[step];
  return best_scale;
}

// The first value of the largest magnitude, with its sign: the code range reaches further down than up.
WEFT_QUANTIZE_INLINE float peak_of(const float* x, int count, float largest) {
  for (int i = 0; i < count; ++i)
    if (std::fabs(x[i]) == largest) return x[i];
  return 0;
}

WEFT_QUANTIZE_INLINE uint16_t fit_group(int half, const float* x, const float* importance, int count, float largest,
                                        uint8_t* codes) {
  std::fill_n(codes, count, static_cast<uint8_t>(half));
  if (!(largest > 1e-30f)) return 0;
  const float peak = peak_of(x, count, largest);
  // Weights near 1, so that their squares are floats.
  float scaled[kFitGroup] = {}, weights[kFitGroup] = {};
  for (int i = 0; i < count; ++i) scaled[i] = x[i] / peak;
  if (importance) std::copy_n(importance, count, weights);
  const uint16_t bits = float_to_bf16(fit_scale(scaled, importance ? weights : nullptr, half) * peak);
  const float scale = bf16_to_float(bits);
  if (scale == 0) return 0;
  for (int i = 0; i < count; ++i)
    codes[i] = static_cast<uint8_t>(std::clamp(nearest(x[i] / scale), -half, half - 1) + half);
  return bits;
}

// A row in groups of `size`. half 0: int8, else codes -half ... half - 1.
struct RowToQuantize {
  int half, size, k;
  const float *row, *importance;
};

WEFT_QUANTIZE_INLINE void quantize_groups(const RowToQuantize& r, uint8_t* codes, uint16_t* scales) {
  for (int first = 0; first < r.k; first += r.size) {
    const int count = std::min(r.size, r.k - first);
    const float* x = r.row + first;
    const uint32_t bits = largest_bits(x, count);
    const float largest = std::bit_cast<float>(bits);
    if (bits >= 0x7f800000u) {
      std::fill_n(codes + first, count, uint8_t{0});
      *scales++ = 0x7fc0;
    } else if (r.half == 0) {
      *scales++ = quantize_int8(x, count, largest, codes + first);
    } else {
      *scales++ = fit_group(r.half, x, r.importance ? r.importance + first : nullptr, count, largest, codes + first);
    }
  }
}

using QuantizeGroups = void (*)(const RowToQuantize& row, uint8_t* codes, uint16_t* scales);

#if defined(__x86_64__)
[[gnu::target("avx2")]] void quantize_groups_avx2(const RowToQuantize& row, uint8_t* codes, uint16_t* scales) {
  quantize_groups(row, codes, scales);
}
#endif
void quantize_groups_plain(const RowToQuantize& row, uint8_t* codes, uint16_t* scales) {
  quantize_groups(row, codes, scales);
}

QuantizeGroups choose_quantize() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return quantize_groups_avx2;
#endif
  return quantize_groups_plain;
}

void quantize(const RowToQuantize& row, uint8_t* codes, uint16_t* scales) {
  static const QuantizeGroups groups = choose_quantize();
  groups(row, codes, scales);
}

}  // namespace

WeightFormat quantized_format(WeightForm form, int k, Operand operand) {
  const int group = form == WeightForm::int8 ? kInt8Group : kFitGroup;
  const int whole = static_cast<int>(strip_count(k)) * kStrip;
  return {form, {std::min(group, whole), ScaleKind::bf16, OffsetKind::none}, operand};
}

void quantize_row(const WeightFormat& format, const float* row, int k, uint8_t* codes, uint16_t* scales) {
  quantize({format.form == WeightForm::int8 ? 0 : 8, format.groups.size, k, row, nullptr}, codes, scales);
}

void fit_row(int bits, const float* row, const float* importance, int k, uint8_t* codes, uint16_t* scales) {
  quantize({1 << (bits - 1), kFitGroup, k, row, importance}, codes, scales);
}

}  // namespace weft::kernels
