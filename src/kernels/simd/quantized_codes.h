// Codes, scales and offsets of quantised panels as vectors of floats.
#pragma once

#include <type_traits>

#include "kernels/quantized_layout.h"

namespace weft::kernels {
namespace {

// How a value is computed from its code; all give the bits of the definition (WeightForm).
//   centred:     (code - centre) * scale, or without a centre code * scale
//   subtracted:  (code - zero) * scale
//   added:       code * scale + offset with one rounding. With a minimum that is the definition, for the product of a
//                code and a float16 (times an integer) has at most 24 bits and is not rounded. With scales of 16 bits
//                also zero * scale is exact, and then code * scale - zero * scale is (code - zero) * scale, rounded.
enum class Values : uint8_t { centred, subtracted, added };
[[maybe_unused]] constexpr Values values_of(const WeightGroups& g) {
  if (g.offset == OffsetKind::none) return Values::centred;
  return g.offset == OffsetKind::zero && g.scale == ScaleKind::f32 ? Values::subtracted : Values::added;
}

// What the codes of a group are computed with.
template <class V>
struct GroupVectors {
  typename V::F scale, offset;
  typename V::Levels levels;  // what a nibble stands for, where numbers are looked up
};

// The numbers of nibbles, and less the centre of int4.
alignas(64) [[maybe_unused]] constexpr float kNibbles[2][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}};

// int6: a code in the lowest bits of this float is the sum of both.
constexpr float kCodeBase = 0x1p23f;
constexpr int32_t kCodeBaseBits = 0x4b000000;

// Walks the groups of a panel in ascending k.
template <class V, WeightForm form, Values values = Values::centred>
class GroupCursor {
 public:
  static constexpr int kColumns = V::kPanelVectors * V::kLanes;

  GroupCursor(const PackedMatrix& w, const QuantizedLayout& layout, const std::byte* panel, int k)
      : groups_(w.groups), layout_(layout), panel_(panel), group_(k / w.groups.size),
        end_((group_ + 1) * w.groups.size) {
    if constexpr (form == WeightForm::fp4) levels_ = levels_of(w.groups.levels);
  }
  GroupCursor() = default;

  // To the group of k, which is the same one or the next.
  WEFT_INLINE void move_to(GroupCursor& c, int k) {
    if (k >= c.end_) ++c.group_, c.end_ += c.groups_.size;
  }
  // The vectors of columns [v * kLanes, ...) for a group; `k` is any in it.
  WEFT_INLINE GroupVectors<V> load(const GroupCursor& c, int k, int v) {
    const size_t column = static_cast<size_t>(v) * V::kLanes, group = static_cast<size_t>(c.group_) * kColumns + column;
    const std::byte* scales = c.panel_ + c.layout_.scales;
    const std::byte* offsets = c.panel_ + c.layout_.offsets;
    GroupVectors<V> g;
    g.offset = V::set1(static_cast<float>(code_center(form)));
    if constexpr (form == WeightForm::fp4) g.levels = V::load_levels(c.levels_);
    if constexpr (form == WeightForm::int4 && V::kLooksUp)
      g.levels = V::load_levels(kNibbles[values == Values::centred]);
    switch (c.groups_.scale) {
      case ScaleKind::f32: g.scale = V::load(reinterpret_cast<const float*>(scales) + group); break;
      case ScaleKind::f16: g.scale = V::load_f16(scales + group * 2); break;
      case ScaleKind::bf16: g.scale = V::load_bf16(scales + group * 2); break;
      case ScaleKind::super: {
        const size_t at = static_cast<size_t>(k / kSuper) * kColumns + column;
        const std::byte* factors = c.panel_ + c.layout_.factors + group;
        g.scale = V::mul(V::load_f16(scales + at * 2),
                         V::to_float(form == WeightForm::int6 ? V::load_i8(factors) : V::load_u8(factors)));
        if (c.groups_.offset == OffsetKind::minimum) {
          const typename V::F factor = V::to_float(V::load_u8(c.panel_ + c.layout_.offset_factors + group));
          g.offset = V::negate(V::mul(V::load_f16(offsets + at * 2), factor));
        }
        return g;
      }
    }
    if (c.groups_.offset == OffsetKind::zero) {
      g.offset = V::to_float(V::load_u8(offsets + group));
      if constexpr (values == Values::added) g.offset = V::negate(V::mul(g.offset, g.scale));
    }
    if (c.groups_.offset == OffsetKind::minimum) g.offset = V::load_f16(offsets + group * 2);
    return g;
  }
  // Where the scales alone are, if they are bfloat16.
  WEFT_INLINE const std::byte* scales_of(const GroupCursor& c, int v) {
    return c.panel_ + c.layout_.scales +
           (static_cast<size_t>(c.group_) * kColumns + static_cast<size_t>(v) * V::kLanes) * 2;
  }

 private:
  WeightGroups groups_;
  QuantizedLayout layout_;
  const std::byte* panel_ = nullptr;
  int group_ = 0, end_ = 0;
  const float* levels_ = nullptr;
};

// One vector of words of codes: kLength consecutive k of kLanes columns.
template <class V, WeightForm form>
struct CodeWord {
  static constexpr int kLength = has_nibbles(form) || form == WeightForm::int6 ? 8 : 4;
  // A group's bounds are multiples of this.
  static constexpr int kGroup = form == WeightForm::int6 || form == WeightForm::fp4 ? 16 : kStrip;
  typename V::Bits bits, high;

  // Word number `word` (of kStrip / kLength) of a strip, vector v of the panel.
  WEFT_INLINE CodeWord load(const std::byte* strip, int word, int v) {
    constexpr int kColumns = V::kPanelVectors * V::kLanes;
    CodeWord w;
    w.bits = V::load_bits(strip + (static_cast<ptrdiff_t>(word) * kColumns + v * V::kLanes) * 4);
    if constexpr (form == WeightForm::int6) {
      w.high = V::load_bits(strip + kColumns * 16 + (static_cast<ptrdiff_t>(word / 2) * kColumns + v * V::kLanes) * 4);
    }
    return w;
  }

  // The value of element i; `odd_word`: that of a word with an odd number in its strip.
  template <int i, Values values>
  WEFT_INLINE typename V::F value(const CodeWord& w, const GroupVectors<V>& g, bool odd_word) {
    constexpr int byte = i % 4, nibble = 8 * byte + (i >= 4 ? 4 : 0);
    if constexpr (form == WeightForm::fp8) {
      const typename V::Bits wide = V::template shift_right_signed<4>(V::template shift_left<24 - 8 * byte>(w.bits));
      return V::mul(V::as_float(V::and_bits(wide, 0x87f00000u)), g.scale);
    } else if constexpr (form == WeightForm::int8) {
      return V::mul(V::to_float(V::template shift_right_signed<24>(V::template shift_left<24 - 8 * byte>(w.bits))),
                    g.scale);
    } else if constexpr (form == WeightForm::fp4) {
      return V::mul(V::level(g.levels, V::template shift_right<nibble>(w.bits)), g.scale);
    } else if constexpr (form == WeightForm::int6) {
      constexpr int high = 8 * byte + (i >= 4 ? 2 : 0);
      const typename V::Bits base = V::set1_bits(kCodeBaseBits),
                             upper = odd_word ? moved_to_4<high + 4>(w.high) : moved_to_4<high>(w.high),
                             code = V::masked_or(V::template shift_right<nibble>(w.bits), 15,
                                                 V::masked_or(upper, 0x30, base));
      constexpr float kLess = kCodeBase + (values == Values::centred ? code_center(form) : 0);
      const typename V::F number = V::sub(V::as_float(code), V::set1(kLess));
      return values == Values::centred ? V::mul(number, g.scale) : V::fma(number, g.scale, g.offset);
    } else {
      const typename V::Bits shifted = V::template shift_right<nibble>(w.bits);
      if constexpr (V::kLooksUp) {
        const typename V::F number = V::level(g.levels, shifted);
        if constexpr (values == Values::centred) return V::mul(number, g.scale);
        return with_offset<values>(number, g);
      } else {
        return with_offset<values>(V::to_float(V::and_bits(shifted, 15)), g);
      }
    }
  }

 private:
  template <Values values>
  WEFT_INLINE typename V::F with_offset(typename V::F number, const GroupVectors<V>& g) {
    return values == Values::added ? V::fma(number, g.scale, g.offset) : V::mul(V::sub(number, g.offset), g.scale);
  }
  // Bit `from` to bit 4.
  template <int from>
  WEFT_INLINE typename V::Bits moved_to_4(typename V::Bits a) {
    if constexpr (from > 4) return V::template shift_right<from - 4>(a);
    if constexpr (from < 4) return V::template shift_left<4 - from>(a);
    return a;
  }
};

// Calls fn with the numbers 0 ... n - 1 as constants.
template <int n, class Fn, int i = 0>
WEFT_INLINE void each_constant(Fn fn) {
  if constexpr (i < n) {
    fn(std::integral_constant<int, i>());
    each_constant<n, Fn, i + 1>(fn);
  }
}

}  // namespace
}  // namespace weft::kernels
