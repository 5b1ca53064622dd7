// Rounding of weights to 8 and 4 bits. The scale is rounded to bfloat16 before codes are chosen, so that a code's value is what the
// kernels compute from it.
#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>

namespace weft::kernels {
namespace {

constexpr int kInt8Group = 64, kInt4Group = 32;

// The nearest bfloat16 that is not below a positive value.
uint16_t bf16_above(float value) {
  const uint16_t bits = float_to_bf16(value);
  return bf16_to_float(bits) < value ? static_cast<uint16_t>(bits + 1) : bits;
}

// To the nearest whole number, ties to even, for |value| < 2^22; adding the constant leaves no room for a fraction.
float whole(float value) { return (value + 0x1.8p23f) - 0x1.8p23f; }
int nearest(float value) { return static_cast<int>(whole(value)); }

uint16_t quantize_int8(const float* x, int count, uint8_t* codes) {
  float largest = 0;
  for (int i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  const uint16_t bits = bf16_above(largest / 127.0f);
  const float scale = bf16_to_float(bits), inverse = scale > 0 ? 1.0f / scale : 0.0f;
  if (!std::isfinite(inverse)) {  // below what a scale can tell
    std::fill_n(codes, count, uint8_t{0});
    return 0;
  }
  for (int i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(nearest(x[i] * inverse), -127, 127)));
  return bits;
}

// The scale that fits best when x / scale is rounded with this inverse: sum(x q) / sum(q q), which is where the error
// sum((x - scale q)^2) is least. `gain` is how much of sum(x^2) it explains.
struct Fit {
  float scale = 0, gain = 0;
};
Fit fit_int4(const float (&x)[kInt4Group], float inverse) {
  constexpr int kLanes = 8;  // of partial sums, for the compiler to vectorise
  float lanes_xq[kLanes] = {}, lanes_qq[kLanes] = {};
  for (int i = 0; i < kInt4Group; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = x[i + lane], q = std::min(std::max(whole(value * inverse), -8.0f), 7.0f);
      lanes_xq[lane] += value * q;
      lanes_qq[lane] += q * q;
    }
  }
  float xq = 0, qq = 0;
  for (int lane = 0; lane < kLanes; ++lane) xq += lanes_xq[lane], qq += lanes_qq[lane];
  if (!(qq > 0)) return {};
  return {xq / qq, xq * (xq / qq)};
}

uint16_t quantize_int4(const float* x, int count, uint8_t* codes) {
  float peak = 0;  // with its sign: the code range reaches further down than up
  for (int i = 0; i < count; ++i)
    if (std::fabs(x[i]) > std::fabs(peak)) peak = x[i];
  std::fill_n(codes, count, uint8_t{8});
  if (!(std::fabs(peak) > 1e-30f)) return 0;
  // Weights near 1, so that their squares are floats.
  float scaled[kInt4Group] = {};
  for (int i = 0; i < count; ++i) scaled[i] = x[i] / peak;
  Fit best;
  for (int step = -6; step <= 8; ++step) {
    const Fit fit = fit_int4(scaled, -(8.0f + 0.15f * static_cast<float>(step)));
    if (fit.gain > best.gain) best = fit;
  }
  const uint16_t bits = float_to_bf16(best.scale * peak);
  const float scale = bf16_to_float(bits);
  if (scale == 0) return 0;
  for (int i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(std::clamp(nearest(x[i] / scale), -8, 7) + 8);
  return bits;
}

}  // namespace

WeightFormat quantized_format(WeightForm form, int k, Operand operand) {
  const int group = form == WeightForm::int8 ? kInt8Group : kInt4Group;
  const int whole = static_cast<int>(strip_count(k)) * kStrip;
  return {form, {std::min(group, whole), ScaleKind::bf16, OffsetKind::none}, operand};
}

void quantize_row(const WeightFormat& format, const float* row, int k, uint8_t* codes, uint16_t* scales) {
  for (int first = 0; first < k; first += format.groups.size) {
    const int count = std::min(format.groups.size, k - first);
    const bool finite = std::all_of(row + first, row + first + count, [](float value) { return std::isfinite(value); });
    if (!finite) {
      std::fill_n(codes + first, count, uint8_t{0});
      *scales++ = 0x7fc0;
    } else if (format.form == WeightForm::int8) {
      *scales++ = quantize_int8(row + first, count, codes + first);
    } else {
      *scales++ = quantize_int4(row + first, count, codes + first);
    }
  }
}

}  // namespace weft::kernels
