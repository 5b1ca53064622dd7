// Products of int8 rows with int8 and int4 weights on the byte dot instructions: whole strips of 32 k are summed as
// integers, which is exact in any order, then each strip's sum is scaled and added in ascending order.
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
  static constexpr int kStreams = 4;        // panels side by side where a row's weights are read once
  static constexpr int kFetchBytes = 2048;  // ahead of each
  static constexpr size_t kStripBytes = strip_bytes(form, kColumns);
  static constexpr int kVectors = V::kPanelVectors;

  static int depth(int rows, int length) { return rows <= kTileRows ? length : kDepth; }

  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    const QuantizedLayout layout = quantized_layout(b.a.w.form, b.a.w.groups, kColumns, b.a.w.k);
    for (int p = 0; p < b.panels();) {
      const bool stream = b.tile_count() == 1 && b.panels() - p >= kStreams;
      for (int t = b.first_tile; t < b.last_tile; ++t) {
        const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
        float* out = sums + b.sums_of(row) + static_cast<int64_t>(p) * count * kColumns;
        // Tiles of more than kTileRows are those of products that leave a few rows to this one.
        for (int r = 0; r < count; r += kTileRows, out += kTileRows * kColumns) {
          const int rows = count - r < kTileRows ? count - r : kTileRows;
          const Place at{row + r, p, begin, end, static_cast<ptrdiff_t>(count) * kColumns};
          stream ? multiply_rows<kStreams>(b, layout, rows, at, first, out)
                 : multiply_rows<1>(b, layout, rows, at, first, out);
        }
      }
      p += stream ? kStreams : 1;
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

  // Codes of weights are multiplied with a bias added to them (kBias), so kBias times the sum of a row's codes must be
  // subtracted from a product. kBias is a power of two: 2^kBiasShift; shift -1: no bias.
  static constexpr int kBias = form == WeightForm::int4 ? code_center(form) : V::kBiasI8;
  static constexpr int kBiasShift = kBias == 128 ? 7 : kBias == 8 ? 3 : -1;
  static_assert(kBias == 0 || kBias == 1 << (kBiasShift & 31));

  // Which rows and panels a tile covers: `row` is its first row in the call; the sums of its panels lie `panel_sums`
  // floats apart.
  struct Place {
    int row, panel, begin, end;
    ptrdiff_t panel_sums;
  };

  // sums += the strips of MR rows by NP panels. These are read side by side: several streams use more of the memory's
  // bandwidth than one does.
  template <int MR, int NP>
  [[gnu::noinline]] static void multiply(const Block& b, const QuantizedLayout& layout, const Place& at, bool first,
                                         float* sums) {
    const ptrdiff_t scales_at = strip_count(b.a.w.k) * kStrip, sums_at = scales_at + strip_count(b.a.w.k) * 4;
    const int8_t* x[MR];
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) x[r] = static_cast<const int8_t*>(b.a.x) + x_offset(b.a, at.row + r);
    const ptrdiff_t panel_bytes = static_cast<ptrdiff_t>(b.a.w.panel_bytes), next_panels = NP * panel_bytes;
    const std::byte *panel = b.panel(at.panel), *codes = panel + static_cast<size_t>(at.begin / kStrip) * kStripBytes;
    const ptrdiff_t code_bytes = strip_count(at.end - at.begin) * static_cast<ptrdiff_t>(kStripBytes);
    Cursor cursor(b.a.w, layout, panel, at.begin);
    if (first) {
      for (int i = 0; i < NP; ++i)
        for (int v = 0; v < MR * kVectors; ++v) V::store(sums + i * at.panel_sums + v * V::kLanes, V::zero());
    }
    for (ptrdiff_t k = at.begin, done = 0; k < at.end; k += kStrip, done += kStripBytes) {
      Cursor::move_to(cursor, static_cast<int>(k));
      typename V::F row_scale[MR];
      typename V::Bits bias[MR];
#pragma GCC unroll 4
      for (int r = 0; r < MR; ++r) {
        row_scale[r] = V::set1(*reinterpret_cast<const float*>(x[r] + scales_at + k / kStrip * 4));
        bias[r] = V::set1_bits(0);
        if constexpr (kBias != 0)
          bias[r] = V::template shift_left<kBiasShift>(
              V::set1_bits(*reinterpret_cast<const int32_t*>(x[r] + sums_at + k / kStrip * 4)));
      }
      const ptrdiff_t ahead = done + kFetchBytes < code_bytes ? kFetchBytes : kFetchBytes + next_panels - code_bytes;
#pragma GCC unroll 4
      for (int i = 0; i < NP; ++i) {
        const std::byte* strip = codes + i * panel_bytes + done;
#pragma GCC unroll 32
        for (size_t line = 0; line < kStripBytes; line += 64)
          _mm_prefetch(reinterpret_cast<const char*>(strip) + ahead + line, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(Cursor::scales_of(cursor, 0)) + next_panels + i * panel_bytes,
                     _MM_HINT_T0);
        Integers<MR> acc;
#pragma GCC unroll 4
        for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) acc.at[r][v] = V::set1_bits(0);
        }
        if constexpr (form == WeightForm::int4) strip_int4<MR>(acc, strip, x, k);
        else strip_int8<MR>(acc, strip, x, k);
        typename V::F scales[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) scales[v] = V::load_bf16(Cursor::scales_of(cursor, v) + i * panel_bytes);
#pragma GCC unroll 4
        for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            typename V::Bits integer = acc.at[r][v];
            if constexpr (kBias != 0) integer = V::sub_bits(integer, bias[r]);
            float* sum = sums + i * at.panel_sums + (r * kVectors + v) * V::kLanes;
            V::store(sum, V::fma(V::to_float(integer), V::mul(scales[v], row_scale[r]), V::load(sum)));
          }
        }
      }
    }
  }
  template <int NP>
  static void multiply_rows(const Block& b, const QuantizedLayout& layout, int rows, const Place& at, bool first,
                            float* sums) {
    switch (rows) {
      case 1: return multiply<1, NP>(b, layout, at, first, sums);
      case 2: return multiply<2, NP>(b, layout, at, first, sums);
      case 3: return multiply<3, NP>(b, layout, at, first, sums);
      default: return multiply<4, NP>(b, layout, at, first, sums);
    }
  }
};

}  // namespace
}  // namespace weft::kernels
