// Addresses inside the panels of quantised matrices, shared by all tables.
//
// A panel of C columns holds k in strips of 32, k padded with zero codes to whole strips. First all codes, strip after
// strip:
//   fp8, int8  [8][C][4]   a 32-bit word has four consecutive k of a column
//   int4, fp4  [4][C][4]   byte b of word o: k 8 o + b in the low nibble, k 8 o + 4 + b in the high one
//   int6       the low four bits as int4, then [2][C][4]: byte b of word h has the two high bits of k 16 h + 4 i + b at
//     bit 2 i
// then, each on a boundary of 64 bytes: scales [groups][C], offsets [groups][C], and for super scales factors
// [groups][C] and offset factors [groups][C] in bytes, scales and offsets being one per 256 k then.
//
// Internal linkage throughout; see layout.h.
#pragma once

#include "kernels/layout.h"

namespace weft::kernels {
namespace {

constexpr int kSuper = 256;  // k that share the float16 of a super scale

constexpr size_t round_up_64(size_t bytes) { return (bytes + 63) / 64 * 64; }

// A byte holds two codes.
[[maybe_unused]] constexpr bool has_nibbles(WeightForm form) {
  return form == WeightForm::int4 || form == WeightForm::fp4;
}

[[maybe_unused]] constexpr size_t strip_bytes(WeightForm form, int columns) {
  return static_cast<size_t>(columns) * (has_nibbles(form) ? 16 : form == WeightForm::int6 ? 24 : 32);
}

struct QuantizedLayout {
  size_t strip = 0;  // bytes of a strip's codes
  int groups = 0, supers = 0;
  size_t scales = 0, offsets = 0, factors = 0, offset_factors = 0;  // where these begin
  size_t bytes = 0;                                                 // of the panel
};

[[maybe_unused]] constexpr QuantizedLayout quantized_layout(WeightForm form, const WeightGroups& g, int columns,
                                                            int k) {
  QuantizedLayout l;
  const size_t c = static_cast<size_t>(columns), strips = static_cast<size_t>(strip_count(k));
  l.strip = strip_bytes(form, columns);
  l.groups = (k + g.size - 1) / g.size;
  l.supers = (k + kSuper - 1) / kSuper;
  const bool super = g.scale == ScaleKind::super;
  const size_t scale_rows = static_cast<size_t>(super ? l.supers : l.groups);
  l.scales = round_up_64(l.strip * strips);
  l.offsets = l.scales + round_up_64(scale_rows * c * (g.scale == ScaleKind::f32 ? 4 : 2));
  l.factors = l.offsets + round_up_64(scale_rows * c *
                                      (g.offset == OffsetKind::zero      ? 1
                                       : g.offset == OffsetKind::minimum ? 2
                                                                         : 0));
  const size_t factor_bytes = super ? round_up_64(static_cast<size_t>(l.groups) * c) : 0;
  l.offset_factors = l.factors + factor_bytes;
  l.bytes = l.offset_factors + (g.offset == OffsetKind::minimum ? factor_bytes : 0);
  return l;
}

// The byte that holds (the low bits of) element k of a column, and for int4, fp4 and int6 whether it is the high
// nibble.
struct CodePlace {
  size_t byte;
  bool high_nibble;
};
[[maybe_unused]] constexpr CodePlace code_place(WeightForm form, int columns, int column, int k) {
  const size_t strip = static_cast<size_t>(k / kStrip) * strip_bytes(form, columns),
               in_strip = static_cast<size_t>(k % kStrip);
  const bool nibbles = has_nibbles(form) || form == WeightForm::int6;
  const size_t word = in_strip / (nibbles ? 8 : 4);
  return {strip + (word * static_cast<size_t>(columns) + static_cast<size_t>(column)) * 4 + in_strip % 4,
          nibbles && in_strip % 8 >= 4};
}
// int6: the byte with the high bits of element k, and the bit they begin at.
struct HighPlace {
  size_t byte;
  int bit;
};
[[maybe_unused]] constexpr HighPlace high_place(int columns, int column, int k) {
  const size_t strip = static_cast<size_t>(k / kStrip) * strip_bytes(WeightForm::int6, columns),
               in_strip = static_cast<size_t>(k % kStrip);
  const size_t word = in_strip / 16 * static_cast<size_t>(columns) + static_cast<size_t>(column);
  return {strip + static_cast<size_t>(columns) * 16 + word * 4 + in_strip % 4, static_cast<int>(in_strip % 16 / 4 * 2)};
}

// What is subtracted from the codes of int4 and int6 without zero points.
[[maybe_unused]] constexpr int code_center(WeightForm form) {
  return form == WeightForm::int4 ? 8 : form == WeightForm::int6 ? 32 : 0;
}

// e4m3fn's bits, all but the sign moved into float32's places, are the value times 2^-120; the scales of fp8 matrices
// are stored times this power, which is exact for scales below 2^8.
constexpr float kFp8Scale = 0x1p120f;

// A strip of activations whose largest magnitude is not above this is zero in int8 form.
constexpr float kSmallestStrip = 1e-30f;

// The row of an int8 operand: codes, scales, sums.
[[maybe_unused]] inline const float* strip_scales(const int8_t* row, int64_t k) {
  return reinterpret_cast<const float*>(row + strip_count(k) * kStrip);
}
[[maybe_unused]] inline const int32_t* strip_sums(const int8_t* row, int64_t k) {
  return reinterpret_cast<const int32_t*>(row + strip_count(k) * (kStrip + 4));
}

}  // namespace
}  // namespace weft::kernels
