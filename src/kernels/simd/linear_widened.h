// Products of float rows with quantised weights: the values of the codes are computed in registers, in the order that
// WeightForm states, and multiplied as float32 weights are, so that the result has the bits of the product with the
// widened matrix.
//
// Few rows: straight from the registers. More: some k of one or a few panels are widened into the L1 cache, and the
// tiles of the float32 product pass over them.
#pragma once

#include "kernels/simd/linear.h"
#include "kernels/simd/quantized_codes.h"

namespace weft::kernels {
namespace {

template <class V, WeightForm form, Values values>
struct WidenedProduct {
  using Block = LinearBlock<V>;
  using Float = FloatProduct<V, WeightForm::f32>;
  using Cursor = GroupCursor<V, form, values>;
  using Word = CodeWord<V, form>;
  static constexpr int kColumns = Block::kColumns;
  static constexpr int kTileRows = Float::kTileRows, kBlockTiles = Float::kBlockTiles,
                       kBlockFloats = Float::kBlockFloats, kMaxGroup = Float::kMaxGroup;
  static constexpr int kDepth = Float::kDepth;
  static constexpr int kNarrow = 64;  // k widened at a time when one tile of rows passes over several panels
  static constexpr int kFewRows = 4;  // rows of a tile that are multiplied with each value at once,
  static constexpr int kFewTiles = has_nibbles(form) ? 2 : 1;  // and tiles where that is still faster than widening
  static constexpr int kFetchBytes = 2048;
  static constexpr size_t kStripBytes = strip_bytes(form, kColumns);
  static_assert(kDepth % kSuper == 0 && kNarrow % kStrip == 0);

  // With two tiles of few rows, the second one finds the codes in the L1 cache.
  static int depth(int rows, int length) { return rows <= kFewRows ? length : kDepth; }
  static bool are_few(const Block& b) { return b.rows <= kFewTiles * kFewRows && b.rows <= b.tiles * kFewRows; }

  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    const QuantizedLayout layout = quantized_layout(b.a.w.form, b.a.w.groups, kColumns, b.a.w.k);
    if (are_few(b)) return multiply_few(b, layout, begin, end, first, sums);
    alignas(64) float copy[kBlockTiles * kTileRows * Float::kLdCopy];
    for (int r = 0; r < b.row_count(); ++r)
      copy_row<V>(x_row(b, b.first_row() + r) + begin, end - begin, copy + r * Float::kLdCopy);
    if (b.tile_count() == 1) return kTile[b.row_count() - 1](b, layout, copy, begin, end, first, sums);
    alignas(64) float wide[kColumns * kDepth];
    for (int p = 0; p < b.panels(); ++p) {
      widen(b, layout, p, begin, end, wide);
      for (int t = b.first_tile; t < b.last_tile; ++t) {
        const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
        Float::kCached[count - 1](copy + (row - b.first_row()) * Float::kLdCopy,
                                  reinterpret_cast<const std::byte*>(wide), 0, end - begin, first,
                                  sums + b.sums_of(row) + static_cast<int64_t>(p) * count * kColumns);
      }
    }
  }

  static const float* x_row(const Block& b, int row) { return static_cast<const float*>(b.a.x) + x_offset(b.a, row); }

  // k [begin, end) of a panel as float32, [k][kColumns]; `begin` is at a strip, and whole strips are written.
  [[gnu::noinline]] static void widen(const Block& b, const QuantizedLayout& layout, int p, int begin, int end,
                                      float* wide) {
    const std::byte* panel = b.panel(p);
    Cursor cursor(b.a.w, layout, panel, begin);
    for (int k = begin; k < end; k += Word::kGroup) {
      const std::byte* strip = panel + static_cast<size_t>(k / kStrip) * kStripBytes;
      Cursor::move_to(cursor, k);
#pragma GCC unroll 4
      for (int v = 0; v < V::kPanelVectors; ++v) {
        const GroupVectors<V> group = Cursor::load(cursor, k, v);
#pragma GCC unroll 2
        for (int word = 0; word < Word::kGroup / Word::kLength; ++word) {
          const int in_strip = k % kStrip / Word::kLength + word;
          const Word codes = Word::load(strip, in_strip, v);
          _mm_prefetch(reinterpret_cast<const char*>(strip) + kFetchBytes + (in_strip * kColumns + v * V::kLanes) * 4,
                       _MM_HINT_T0);
          float* out = wide + static_cast<ptrdiff_t>(k - begin + word * Word::kLength) * kColumns + v * V::kLanes;
          each_constant<Word::kLength>([&](auto i) {
            V::store(out + i * kColumns, Word::template value<i, values>(codes, group, word % 2 != 0));
          });
        }
      }
    }
  }

  // One tile of rows over all panels of the block, a few at a time so that there are enough sums to keep the
  // multipliers busy.
  template <int MR>
  static void tile(const Block& b, const QuantizedLayout& layout, const float* x, int begin, int end, bool first,
                   float* sums) {
    constexpr int kFit = V::kFreeRegisters / (MR * V::kPanelVectors);
    constexpr int NP = kFit > 4 ? 4 : kFit < 1 ? 1 : kFit;
    int p = 0;
    for (; p + NP <= b.panels(); p += NP) tile_panels<MR, NP>(b, layout, x, p, begin, end, first, sums);
    for (; p < b.panels(); ++p) tile_panels<MR, 1>(b, layout, x, p, begin, end, first, sums);
  }
  template <int MR, int NP>
  static void tile_panels(const Block& b, const QuantizedLayout& layout, const float* x, int p, int begin, int end,
                          bool first, float* sums) {
    alignas(64) float wide[NP * kNarrow * kColumns];
    for (int k = begin; k < end; k += kNarrow) {
      const int last = k + kNarrow < end ? k + kNarrow : end;
      for (int i = 0; i < NP; ++i) widen(b, layout, p + i, k, last, wide + i * kNarrow * kColumns);
      Float::template multiply<MR, NP, 0>(x + (k - begin), reinterpret_cast<const std::byte*>(wide),
                                          kNarrow * kColumns * 4, last - k, first && k == begin,
                                          sums + static_cast<ptrdiff_t>(p) * MR * kColumns);
    }
  }
  using Tile = void (*)(const Block&, const QuantizedLayout&, const float*, int, int, bool, float*);
  static constexpr Tile kTile[kTileRows] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

  struct Place {
    int row, panel, begin, end;  // first row in the call, first panel in the block, k
  };
  // Each value is multiplied with all rows while it is in a register.
  template <int MR, int NP>
  [[gnu::noinline]] static void rows_by_panels(const Block& b, const QuantizedLayout& layout, const Place& at,
                                               bool first, float* out) {
    constexpr int VP = V::kPanelVectors;
    typename V::F acc[MR][NP * VP];
    Cursor cursors[NP];
#pragma GCC unroll 4
    for (int i = 0; i < NP; ++i) cursors[i] = Cursor(b.a.w, layout, b.panel(at.panel + i), at.begin);
    const auto place = [&](int r, int i) { return out + (i / VP * MR + r) * kColumns + i % VP * V::kLanes; };
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < NP * VP; ++i) acc[r][i] = first ? V::zero() : V::load(place(r, i));
    }
    alignas(64) float tail[MR][kStrip] = {};
    for (int k = at.begin; k < at.end; k += Word::kGroup) {
      const float* from[MR];
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) {
        from[r] = x_row(b, at.row + r) + k;
        if (k + Word::kGroup > at.end) {  // the codes behind the end are zero, but the row may hold anything there
          for (int i = 0; i < at.end - k; ++i) tail[r][i] = from[r][i];
          from[r] = tail[r];
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < NP; ++i) Cursor::move_to(cursors[i], k);
      const ptrdiff_t strip = static_cast<ptrdiff_t>(k / kStrip) * static_cast<ptrdiff_t>(kStripBytes);
      GroupVectors<V> groups[NP * VP];
#pragma GCC unroll 8
      for (int i = 0; i < NP * VP; ++i) groups[i] = Cursor::load(cursors[i / VP], k, i % VP);
#pragma GCC unroll 2
      for (int word = 0; word < Word::kGroup / Word::kLength; ++word) {
        const int in_strip = k % kStrip / Word::kLength + word;
        Word codes[NP * VP];
#pragma GCC unroll 8
        for (int i = 0; i < NP * VP; ++i) {
          const std::byte* from_codes = b.panel(at.panel + i / VP) + strip;
          codes[i] = Word::load(from_codes, in_strip, i % VP);
          _mm_prefetch(
              reinterpret_cast<const char*>(from_codes) + kFetchBytes + (in_strip * kColumns + i % VP * V::kLanes) * 4,
              _MM_HINT_T0);
        }
        each_constant<Word::kLength>([&](auto e) {
          typename V::F a[MR];
#pragma GCC unroll 8
          for (int r = 0; r < MR; ++r) a[r] = V::set1(from[r][word * Word::kLength + e]);
#pragma GCC unroll 8
          for (int i = 0; i < NP * VP; ++i) {
            const typename V::F value = Word::template value<e, values>(codes[i], groups[i], word % 2 != 0);
#pragma GCC unroll 8
            for (int r = 0; r < MR; ++r) V::accumulate(acc[r][i], a[r], value);
          }
        });
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < NP * VP; ++i) V::store(place(r, i), acc[r][i]);
    }
  }
  using Few = void (*)(const Block&, const QuantizedLayout&, const Place&, bool, float*);
  static constexpr Few kFew[] = {rows_by_panels<1, 1>, rows_by_panels<2, 1>, rows_by_panels<3, 1>,
                                 rows_by_panels<4, 1>};
  static_assert(std::size(kFew) == kFewRows);

  static void multiply_few(const Block& b, const QuantizedLayout& layout, int begin, int end, bool first, float* sums) {
    const int together = b.rows == 1 && V::kPanelVectors == 2 ? 2 : 1;
    for (int p = 0; p < b.panels();) {
      const int panels = b.panels() - p < together ? 1 : together;
      for (int t = b.first_tile; t < b.last_tile; ++t) {
        const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
        float* out = sums + b.sums_of(row) + static_cast<int64_t>(p) * count * kColumns;
        const Few few = panels == 2 ? rows_by_panels<1, 2> : kFew[count - 1];
        few(b, layout, {row, p, begin, end}, first, out);
      }
      p += panels;
    }
  }
};

}  // namespace
}  // namespace weft::kernels
