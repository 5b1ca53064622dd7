// The inputs of products with quantised weights: in the order of the matrix's columns, scaled, rounded.
#include <algorithm>
#include <cmath>

#include "kernels/layout.h"
#include "kernels/ref.h"

namespace weft::kernels {
namespace {

constexpr float kLargestFp8 = 448.0f, kLargestFp4 = 6.0f;

// The nearest number with `mantissa` bits behind the point and no exponent below `least`, ties to even; |value| is
// limited.
float nearest_float(float value, int mantissa, int least, float largest) {
  const float magnitude = std::min(std::fabs(value), largest);
  const int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), least) : least;
  const float step = std::ldexp(1.0f, exponent - mantissa);
  return std::copysign(std::min(std::nearbyint(magnitude / step) * step, largest), value);
}

float e4m3(float value) { return nearest_float(value, 3, -6, kLargestFp8); }
float e2m1(float value) { return nearest_float(value, 1, 0, kLargestFp4); }

float scale_of(const InputRounding& r, const float* x, int64_t count) {
  if (r.scale != 0) return r.scale;
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  if (r.limit > 0) largest = std::min(largest, r.limit);
  switch (r.kind) {
    case InputRounding::Kind::int8: return largest / 127.0f;
    case InputRounding::Kind::fp8: return largest / kLargestFp8;
    case InputRounding::Kind::fp4: return e4m3(largest / kLargestFp4 / r.outer) * r.outer;
    case InputRounding::Kind::none:
    case InputRounding::Kind::other: break;
  }
  return 0;
}

// A group of columns in place. NaN stays NaN; what is infinite makes its group NaN.
void round_group(const InputRounding& r, float* x, int64_t count) {
  const float scale = scale_of(r, x, count);
  for (int64_t i = 0; i < count; ++i) {
    if (!(scale > 0)) {
      x[i] = x[i] == 0 || scale == 0 ? x[i] * 0.0f : __builtin_nanf("");
      continue;
    }
    const float number = x[i] / scale;
    if (std::isnan(number)) x[i] = number;
    else if (r.kind == InputRounding::Kind::int8) x[i] = std::clamp(std::nearbyint(number), -128.0f, 127.0f) * scale;
    else x[i] = (r.kind == InputRounding::Kind::fp8 ? e4m3(number) : e2m1(number)) * scale;
  }
}

}  // namespace

// Few rows are shared out by columns: pieces of whole groups, or rows whose columns share a scale.
void reference(const ArrangeArgs& a, int rows, Part part) {
  const bool rounds = a.rounding.kind != InputRounding::Kind::none;
  const int64_t group = a.rounding.group > 0 ? a.rounding.group : a.rounding.scale != 0 ? 64 : a.cols;
  const int64_t piece = rounds ? std::max<int64_t>(group, 1) : 64;
  const int64_t pieces = (a.cols + piece - 1) / piece;
  const Range range = share(int64_t{rows} * a.slots * pieces, part);
  for (int64_t i = range.first; i < range.last; ++i) {
    const int64_t row = i / pieces / a.slots, slot = i / pieces % a.slots * a.slot_stride;
    const float* x = a.x + row * a.ld_x + slot;
    float* out = a.out + row * a.ld_out + slot;
    const int64_t first = i % pieces * piece, last = std::min<int64_t>(first + piece, a.cols);
    for (int64_t c = first; c < last; ++c) {
      const float value = x[a.order ? static_cast<int64_t>(a.order[c]) : c];
      out[c] = a.factors ? value * a.factors[c] : value;
    }
    if (rounds) round_group(a.rounding, out + first, last - first);
  }
}

}  // namespace weft::kernels
