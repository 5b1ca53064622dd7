// Products of int8 rows with int8 and int4 weights on matrix tiles (Intel AMX): the integer sums of a strip of 32 k, 16 rows by 16 columns at a
// time, then scaled and added as linear_int8.h does, with its bits. A few rows take that way, four at a time.
#pragma once

#include <immintrin.h>

#include "kernels/simd/linear_int8.h"
#include "kernels/simd/linear_tiles.h"

namespace weft::kernels {
namespace {

template <class V, WeightForm form>
struct Int8TileProduct {
  using Block = LinearBlock<V>;
  using Cursor = GroupCursor<V, form>;
  using Vectors = Int8Product<V, form>;
  static constexpr int kColumns = Block::kColumns, kVectors = V::kPanelVectors;
  static_assert(V::kLanes == 16);
  static constexpr int kTileRows = kRegisterRows;
  static constexpr int kBlockTiles = 16;
  static constexpr int kMaxGroup = 16;
  static constexpr int kBlockFloats = 1 << 16;
  static constexpr int kDepth = 512, kStrips = kDepth / kStrip;
  static constexpr ptrdiff_t kLineBytes = kColumns * 4;       // four k of all columns
  static constexpr ptrdiff_t kCodeBytes = kColumns * kStrip;  // of a strip, a byte for each code
  static constexpr ptrdiff_t kSourceBytes = static_cast<ptrdiff_t>(strip_bytes(form, kColumns));

  static constexpr int kFewRows = 8;
  static int depth(int rows, int length) { return rows <= kFewRows ? Vectors::depth(rows, length) : kDepth; }

  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    const QuantizedLayout layout = quantized_layout(b.a.w.form, b.a.w.groups, kColumns, b.a.w.k);
    if (b.tile_count() == 1 && b.row_count() <= kFewRows) return multiply_few(b, layout, begin, end, first, sums);
    alignas(64) float row_scales[kBlockTiles][kStrips][kRegisterRows];
    for (int t = b.first_tile; t < b.last_tile; ++t) gather_scales(b, t, begin, end, row_scales[t - b.first_tile]);
    alignas(64) std::byte codes[form == WeightForm::int4 ? kStrips * kCodeBytes : 1];
    int shaped = 0;
    for (int p = 0; p < b.panels(); ++p) {
      const std::byte* w = b.panel(p) + begin / kStrip * kSourceBytes;
      if constexpr (form == WeightForm::int4) {
        for (int s = 0; s * kStrip < end - begin; ++s) unpack(w + s * kSourceBytes, codes + s * kCodeBytes);
        w = codes;
      }
      for (int t = b.first_tile; t < b.last_tile; ++t) {
        const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
        if (count != shaped) shape(shaped = count);
        float* out = sums + b.sums_of(row) + static_cast<int64_t>(p) * count * kColumns;
        for (int v = 0; v < kVectors; ++v)
          multiply(b, row, count, Cursor(b.a.w, layout, b.panel(p), begin), v, w + v * 64, row_scales[t - b.first_tile], begin, end, first, out + v * V::kLanes);
      }
    }
    _tile_release();
  }

 private:
  static void multiply_few(const Block& b, const QuantizedLayout& layout, int begin, int end, bool first, float* sums) {
    for (int p = 0; p < b.panels(); ++p) {
      for (int r = 0; r < b.row_count(); r += Vectors::kTileRows) {
        const int count = b.row_count() - r < Vectors::kTileRows ? b.row_count() - r : Vectors::kTileRows;
        Vectors::kMultiply[count - 1](b, layout, b.first_row() + r, p, begin, end, first, sums + (static_cast<ptrdiff_t>(p) * b.row_count() + r) * kColumns);
      }
    }
  }

  // Registers: 0 and 1 sums, 2 and 3 rows, 4 and 5 weights.
  static void shape(int rows) {
    TileShapes shapes;
    for (int i = 0; i < 2; ++i) {
      shapes.rows[i] = shapes.rows[2 + i] = static_cast<uint8_t>(rows), shapes.rows[4 + i] = kStrip / 4;
      shapes.row_bytes[i] = shapes.row_bytes[4 + i] = 64, shapes.row_bytes[2 + i] = kStrip;
    }
    load_shapes(shapes);
  }

  // Scales of a tile's rows by strip; rows that the tile lacks get the last one's.
  static void gather_scales(const Block& b, int tile, int begin, int end, float (*scales)[kRegisterRows]) {
    const int row = tile_row(b.rows, b.tiles, tile), count = tile_row(b.rows, b.tiles, tile + 1) - row;
    for (int r = 0; r < kRegisterRows; ++r) {
      const float* of = strip_scales(static_cast<const int8_t*>(b.a.x) + x_offset(b.a, row + (r < count ? r : count - 1)), b.a.w.k) + begin / kStrip;
      for (int s = 0; s * kStrip < end - begin; ++s) scales[s][r] = of[s];
    }
  }

  // A strip of int4 codes as signed bytes: each word's low halves come before its high ones.
  static void unpack(const std::byte* from, std::byte* to) {
    const __m512i nibbles = _mm512_set1_epi8(15), centre = _mm512_set1_epi8(static_cast<char>(code_center(WeightForm::int4)));
    for (int word = 0; word < 4; ++word) {
      for (int v = 0; v < kVectors; ++v) {
        const __m512i both = _mm512_loadu_si512(from + word * kLineBytes + v * 64);
        std::byte* low = to + 2 * word * kLineBytes + v * 64;
        _mm512_storeu_si512(low, _mm512_sub_epi8(_mm512_and_si512(both, nibbles), centre));
        _mm512_storeu_si512(low + kLineBytes, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), nibbles), centre));
      }
    }
  }

  // sums += a tile of rows by 16 columns.
  [[gnu::noinline]] static void multiply(const Block& b, int row, int count, Cursor cursor, int v, const std::byte* w, const float (*row_scales)[kRegisterRows],
                                         int begin, int end, bool first, float* sums) {
    // Rows of a mapped call lie anywhere: they are put together.
    alignas(64) int8_t gathered[kRegisterRows * kDepth];
    const int8_t* x = static_cast<const int8_t*>(b.a.x) + x_offset(b.a, row) + begin;
    ptrdiff_t ld = b.a.ld_x;
    if (b.a.row_map) {
      for (int r = 0; r < count; ++r) __builtin_memcpy(gathered + r * kDepth, static_cast<const int8_t*>(b.a.x) + x_offset(b.a, row + r) + begin, static_cast<size_t>(strip_count(end - begin)) * kStrip);
      x = gathered, ld = kDepth;
    }
    typename V::F acc[kRegisterRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRegisterRows; ++r) acc[r] = first || r >= count ? V::zero() : V::load(sums + r * kColumns);
    alignas(64) int32_t integers[2][kRegisterRows][16];
    constexpr ptrdiff_t kSource = form == WeightForm::int4 ? kCodeBytes : kSourceBytes;
    const int strips = static_cast<int>(strip_count(end - begin));
    product<0>(x, ld, w, integers[0]);
    for (int s = 0; s < strips; ++s) {
      if (s + 1 < strips) s % 2 ? product<0>(x + (s + 1) * kStrip, ld, w + (s + 1) * kSource, integers[0]) : product<1>(x + (s + 1) * kStrip, ld, w + (s + 1) * kSource, integers[1]);
      Cursor::move_to(cursor, begin + s * kStrip);
      const typename V::F scale = Cursor::load_bf16(cursor, v);
#pragma GCC unroll 16
      for (int r = 0; r < kRegisterRows; ++r)
        acc[r] = V::fma(V::to_float(V::load_bits(integers[s % 2][r])), V::mul(scale, V::set1(row_scales[s][r])), acc[r]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRegisterRows; ++r)
      if (r < count) V::store(sums + r * kColumns, acc[r]);
  }
  template <int bank>
  WEFT_INLINE void product(const int8_t* x, ptrdiff_t ld, const std::byte* w, int32_t (*to)[16]) {
    if constexpr (bank == 0) {
      _tile_zero(0); _tile_loadd(2, x, ld); _tile_loadd(4, w, kLineBytes); _tile_dpbssd(0, 2, 4); _tile_stored(0, to, 64);
    } else {
      _tile_zero(1); _tile_loadd(3, x, ld); _tile_loadd(5, w, kLineBytes); _tile_dpbssd(1, 3, 5); _tile_stored(1, to, 64);
    }
  }
};

}  // namespace
}  // namespace weft::kernels
