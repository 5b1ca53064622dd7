// Products of int8 rows with int8 and int4 weights on the byte dot instructions: whole strips of 32 k are summed as integers, which
// is exact in any order, then each strip's sum is scaled and added in ascending order.
#pragma once

#include "kernels/simd/linear_blocks.h"
#include "kernels/simd/quantized_codes.h"

namespace weft::kernels {
namespace {

template <class V, WeightForm form>
struct Int8Product {
  using Block = LinearBlock<V>;
  using Cursor = GroupCursor<V, form>;
  static constexpr int kColumns = Block::kColumns;
  static constexpr int kTileRows = 4;
  static constexpr int kBlockTiles = 16;
  static constexpr int kMaxGroup = 16;
  static constexpr int kBlockFloats = kBlockTiles * kTileRows * 192;
  static constexpr int kDepth = form == WeightForm::int4 ? 1024 : 512;
  static constexpr int kFetchBytes = 4096;
  static constexpr size_t kStripBytes = strip_bytes(form, kColumns);
  static constexpr int kVectors = V::kPanelVectors;

  static int depth(int rows, int length) { return rows <= kTileRows ? length : kDepth; }

  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    const QuantizedLayout layout = quantized_layout(b.a.w.form, b.a.w.groups, kColumns, b.a.w.k);
    for (int p = 0; p < b.panels(); ++p) {
      for (int t = b.first_tile; t < b.last_tile; ++t) {
        const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
        kMultiply[count - 1](b, layout, row, p, begin, end, first, sums + b.sums_of(row) + static_cast<int64_t>(p) * count * kColumns);
      }
    }
  }

  template <int MR>
  struct Integers {
    typename V::Bits at[MR][kVectors];
  };

  // The sums of a strip's products of codes, the weights' codes being centred.
  template <int MR>
  WEFT_INLINE void strip_int8(Integers<MR>& acc, const std::byte* strip, const int8_t* const (&x)[MR], ptrdiff_t k) {
    for (int word = 0; word < 8; ++word) {
      typename V::Bits w[kVectors], u[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        w[v] = V::load_bits(strip + (word * kColumns + v * V::kLanes) * 4);
        u[v] = V::unsigned_i8(w[v]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < MR; ++r) {
        const typename V::Bits a = four_codes(x[r] + k + word * 4);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) V::dot_i8(acc.at[r][v], w[v], u[v], a);
      }
    }
  }
  template <int MR>
  WEFT_INLINE void strip_int4(Integers<MR>& acc, const std::byte* strip, const int8_t* const (&x)[MR], ptrdiff_t k) {
    for (int word = 0; word < 4; ++word) {
      typename V::Bits low[kVectors], high[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const typename V::Bits w = V::load_bits(strip + (word * kColumns + v * V::kLanes) * 4);
        low[v] = V::and_bits(w, 0x0f0f0f0fu);
        high[v] = V::and_bits(V::template shift_right<4>(w), 0x0f0f0f0fu);
      }
#pragma GCC unroll 4
      for (int r = 0; r < MR; ++r) {
        const typename V::Bits a = four_codes(x[r] + k + word * 8), next = four_codes(x[r] + k + word * 8 + 4);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          V::dot_u4(acc.at[r][v], low[v], a);
          V::dot_u4(acc.at[r][v], high[v], next);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc.at[r][v] = V::sum_u4(acc.at[r][v]);
    }
  }
  WEFT_INLINE typename V::Bits four_codes(const int8_t* x) {
    int32_t word;
    __builtin_memcpy(&word, x, 4);
    return V::set1_bits(word);
  }

  // How far the integer sums of a row's codes are to be shifted to give what the weights' bias added to the products; -1: no bias.
  static constexpr int kBias = form == WeightForm::int4 ? code_center(form) : V::kBiasI8;
  static constexpr int kBiasShift = kBias == 128 ? 7 : kBias == 8 ? 3 : -1;
  static_assert(kBias == 0 || kBias == 1 << (kBiasShift & 31));

  // sums += the strips of one tile of rows by one panel.
  template <int MR>
  [[gnu::noinline]] static void multiply(const Block& b, const QuantizedLayout& layout, int row, int p, int begin, int end, bool first,
                                         float* sums) {
    const ptrdiff_t scales_at = strip_count(b.a.w.k) * kStrip, sums_at = scales_at + strip_count(b.a.w.k) * 4;
    const int8_t* x[MR];
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) x[r] = static_cast<const int8_t*>(b.a.x) + x_offset(b.a, row + r);
    const std::byte* panel = b.panel(p);
    const std::byte* strip = panel + static_cast<size_t>(begin / kStrip) * kStripBytes;
    Cursor cursor(b.a.w, layout, panel, begin);
    if (first) {
      for (int i = 0; i < MR * kVectors; ++i) V::store(sums + i * V::kLanes, V::zero());
    }
    for (ptrdiff_t k = begin; k < end; k += kStrip, strip += kStripBytes) {
#pragma GCC unroll 32
      for (size_t line = 0; line < kStripBytes; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(strip) + kFetchBytes + line, _MM_HINT_T0);
      Integers<MR> acc;
#pragma GCC unroll 4
      for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc.at[r][v] = V::set1_bits(0);
      }
      if constexpr (form == WeightForm::int4) strip_int4<MR>(acc, strip, x, k);
      else strip_int8<MR>(acc, strip, x, k);
      Cursor::move_to(cursor, static_cast<int>(k));
      typename V::F scales[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) scales[v] = Cursor::load_bf16(cursor, v);
#pragma GCC unroll 4
      for (int r = 0; r < MR; ++r) {
        const typename V::F row_scale = V::set1(*reinterpret_cast<const float*>(x[r] + scales_at + k / kStrip * 4));
        typename V::Bits bias{};
        if constexpr (kBias != 0) bias = V::template shift_left<kBiasShift>(V::set1_bits(*reinterpret_cast<const int32_t*>(x[r] + sums_at + k / kStrip * 4)));
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          typename V::Bits integer = acc.at[r][v];
          if constexpr (kBias != 0) integer = V::sub_bits(integer, bias);
          float* sum = sums + (r * kVectors + v) * V::kLanes;
          V::store(sum, V::fma(V::to_float(integer), V::mul(scales[v], row_scale), V::load(sum)));
        }
      }
    }
  }
  using Multiply = void (*)(const Block&, const QuantizedLayout&, int, int, int, int, bool, float*);
  static constexpr Multiply kMultiply[kTileRows] = {multiply<1>, multiply<2>, multiply<3>, multiply<4>};
};

}  // namespace
}  // namespace weft::kernels
