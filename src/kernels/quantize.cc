// Rounding of weights to 8 and 4 bits. The scale is rounded to bfloat16 before codes are chosen, so that a code's value
// is what the kernels compute from it.
#include "kernels/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace weft::kernels {
namespace {

constexpr int kInt8Group = 64, kInt4Group = 32;

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

// The inverses that are tried for int4: -(8 + 0.15 step), steps -6 ... 8.
constexpr int kSteps = 15, kFirstStep = -6;
typedef float Steps8 __attribute__((vector_size(32)));
typedef int32_t Bits8 __attribute__((vector_size(32)));

// Searches the scale of a group. Each inverse that is tried rounds x to codes q; for given codes the error sum((x -
// scale q)^2) is least at scale = sum(x q) / sum(q q), which takes sum(x q)^2 / sum(q q) off sum(x^2). Returns the
// scale of the inverse that takes off most, or 0 if none takes off anything. Vectors run over the inverses. Each sums
// every eighth value, then these eight sums.
WEFT_QUANTIZE_INLINE float fit_int4(const float (&x)[kInt4Group]) {
  constexpr int kParts = 8;
  const Bits8 low = Bits8{} + std::bit_cast<int32_t>(0x1.8p23f - 8.0f),
              high = Bits8{} + std::bit_cast<int32_t>(0x1.8p23f + 7.0f);
  float explained[16], scales[16];
  for (int half = 0; half < 2; ++half) {
    Steps8 inverse, xq{}, qq{};
    for (int i = 0; i < 8; ++i) inverse[i] = -(8.0f + 0.15f * static_cast<float>(kFirstStep + 8 * half + i));
    for (int part = 0; part < kParts; ++part) {
      Steps8 part_xq{}, part_qq{};
      for (int i = part; i < kInt4Group; i += kParts) {
        // whole(), limited to the codes while it is a whole number in the last bits of a positive float.
        Bits8 bits = reinterpret_cast<Bits8>(x[i] * inverse + 0x1.8p23f);
        bits = bits < low ? low : bits;
        bits = bits > high ? high : bits;
        const Steps8 q = reinterpret_cast<Steps8>(bits) - 0x1.8p23f;
        part_xq += x[i] * q, part_qq += q * q;
      }
      xq += part_xq, qq += part_qq;
    }
    const Steps8 scale = xq / qq, gain = xq * scale;
    for (int i = 0; i < 8; ++i) scales[8 * half + i] = scale[i], explained[8 * half + i] = qq[i] > 0 ? gain[i] : 0;
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

WEFT_QUANTIZE_INLINE uint16_t quantize_int4(const float* x, int count, float largest, uint8_t* codes) {
  std::fill_n(codes, count, uint8_t{8});
  if (!(largest > 1e-30f)) return 0;
  const float peak = peak_of(x, count, largest);
  // Weights near 1, so that their squares are floats.
  float scaled[kInt4Group] = {};
  for (int i = 0; i < count; ++i) scaled[i] = x[i] / peak;
  const uint16_t bits = float_to_bf16(fit_int4(scaled) * peak);
  const float scale = bf16_to_float(bits);
  if (scale == 0) return 0;
  for (int i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(std::clamp(nearest(x[i] / scale), -8, 7) + 8);
  return bits;
}

WEFT_QUANTIZE_INLINE void quantize_groups(WeightForm form, int size, const float* row, int k, uint8_t* codes,
                                          uint16_t* scales) {
  for (int first = 0; first < k; first += size) {
    const int count = std::min(size, k - first);
    const float* x = row + first;
    const uint32_t bits = largest_bits(x, count);
    const float largest = std::bit_cast<float>(bits);
    if (bits >= 0x7f800000u) {
      std::fill_n(codes + first, count, uint8_t{0});
      *scales++ = 0x7fc0;
    } else if (form == WeightForm::int8) {
      *scales++ = quantize_int8(x, count, largest, codes + first);
    } else {
      *scales++ = quantize_int4(x, count, largest, codes + first);
    }
  }
}

using QuantizeGroups = void (*)(WeightForm form, int size, const float* row, int k, uint8_t* codes, uint16_t* scales);

#if defined(__x86_64__)
[[gnu::target("avx2")]] void quantize_groups_avx2(WeightForm form, int size, const float* row, int k, uint8_t* codes,
                                                  uint16_t* scales) {
  quantize_groups(form, size, row, k, codes, scales);
}
#endif
void quantize_groups_plain(WeightForm form, int size, const float* row, int k, uint8_t* codes, uint16_t* scales) {
  quantize_groups(form, size, row, k, codes, scales);
}

QuantizeGroups choose_quantize() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return quantize_groups_avx2;
#endif
  return quantize_groups_plain;
}

}  // namespace

WeightFormat quantized_format(WeightForm form, int k, Operand operand) {
  const int group = form == WeightForm::int8 ? kInt8Group : kInt4Group;
  const int whole = static_cast<int>(strip_count(k)) * kStrip;
  return {form, {std::min(group, whole), ScaleKind::bf16, OffsetKind::none}, operand};
}

void quantize_row(const WeightFormat& format, const float* row, int k, uint8_t* codes, uint16_t* scales) {
  static const QuantizeGroups quantize = choose_quantize();
  quantize(format.form, format.groups.size, row, k, codes, scales);
}

}  // namespace weft::kernels
