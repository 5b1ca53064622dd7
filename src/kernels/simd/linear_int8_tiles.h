// Products of int8 rows with int8 and int4 weights on matrix tiles (Intel AMX): the integer sums of a strip of 32 k, 16
// rows by 16 columns at a time, then scaled and added as linear_int8.h does, with its bits. A few rows take that way.
//
// Tile and vector instructions do not overlap here, so a product costs the sum of both: pairs of 16 rows by pairs of
// vectors of columns, so that each register that is loaded is used twice, and sums that pass through little memory.
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
  static_assert(V::kLanes == 16 && kVectors == 4);
  static constexpr int kTileRows = 2 * kRegisterRows;
  static constexpr int kBlockTiles = 8;
  static constexpr int kMaxGroup = 16;
  static constexpr int kBlockFloats = 1 << 16;
  static constexpr int kDepth = 512, kStrips = kDepth / kStrip;  // k of a block of several tiles
  static constexpr int kStreamStrips = kBlockTiles * kStrips;    // of a block of one
  static constexpr int kFewRows = 8;                             // that vectors multiply
  static constexpr int kTogether = 2;                            // strips whose sums are added at once
  static constexpr ptrdiff_t kLineBytes = kColumns * 4;          // four k of all columns
  static constexpr ptrdiff_t kCodeBytes = kColumns * kStrip;     // of a strip, a byte for each code
  static constexpr ptrdiff_t kSourceBytes = static_cast<ptrdiff_t>(strip_bytes(form, kColumns));
  static constexpr ptrdiff_t kFetchBytes = 4096;  // ahead of a panel that is read once

  static int depth(int rows, int length) {
    if (rows <= kFewRows) return Vectors::depth(rows, length);
    const int most = rows <= kTileRows ? kStreamStrips * kStrip : kDepth, blocks = (length + most - 1) / most;
    return static_cast<int>(strip_count((length + blocks - 1) / blocks)) * kStrip;
  }

  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    if (b.rows <= kFewRows) return Vectors::multiply_depth(b, begin, end, first, sums);
    const QuantizedLayout layout = quantized_layout(b.a.w.form, b.a.w.groups, kColumns, b.a.w.k);
    const int strips = static_cast<int>(strip_count(end - begin)), tiles = b.tile_count();
    alignas(64) float row_scales[kStreamStrips * kTileRows];
    alignas(64) int8_t gathered[kStreamStrips * kStrip * kTileRows];
    for (int t = 0; t < tiles; ++t)
      gather_scales(b, b.first_tile + t, begin, strips, row_scales + t * strips * kTileRows);
    if (b.a.row_map) gather_rows(b, begin, strips, gathered);
    alignas(64) std::byte unpacked[form == WeightForm::int4 ? kStrips * kCodeBytes : 1];
    const bool unpacks_once = form == WeightForm::int4 && tiles > 1;  // for all tiles
    int shaped = 0;
    for (int p = 0; p < b.panels(); ++p) {
      const std::byte* source = b.panel(p) + begin / kStrip * kSourceBytes;
      if (unpacks_once)
        for (int s = 0; s < strips; ++s) unpack<0, kVectors>(source + s * kSourceBytes, unpacked + s * kCodeBytes);
      for (int t = 0; t < tiles; ++t) {
        const int row = tile_row(b.rows, b.tiles, b.first_tile + t),
                  count = tile_row(b.rows, b.tiles, b.first_tile + t + 1) - row;
        if (count != shaped) shape_tiles(shaped = count, kStrip / 4);
        const Tile tile{.x = b.a.row_map ? gathered + static_cast<ptrdiff_t>(row - b.first_row()) * strips * kStrip
                                         : static_cast<const int8_t*>(b.a.x) + row * b.a.ld_x + begin,
                        .ld = b.a.row_map ? strips * kStrip : static_cast<ptrdiff_t>(b.a.ld_x),
                        .rows = count,
                        .scales = row_scales + t * strips * kTileRows,
                        .sums = sums + b.sums_of(row) + static_cast<ptrdiff_t>(p) * count * kColumns};
        multiply(tile, {.codes = unpacks_once ? unpacked : source,
                        .unpacks = form == WeightForm::int4 && !unpacks_once,
                        .fetches = tiles == 1,
                        .begin = begin,
                        .strips = strips,
                        .cursor = Cursor(b.a.w, layout, b.panel(p), begin),
                        .first = first,
                        .next = static_cast<ptrdiff_t>(b.a.w.panel_bytes) - strips * kSourceBytes});
      }
    }
    _tile_release();
  }

 private:
  struct Tile {
    const int8_t* x;
    ptrdiff_t ld;
    int rows;
    const float* scales;  // [strip][kTileRows]
    float* sums;          // [row][kColumns]
  };
  struct Panel {
    const std::byte* codes;  // of the first strip
    bool unpacks;            // int4 codes as in memory; else bytes
    bool fetches;            // kFetchBytes ahead
    int begin, strips;
    Cursor cursor;
    bool first;
    ptrdiff_t next;  // bytes from the last strip's end to the next panel's first
  };

  // Scales of a tile's rows by strip; rows that the tile lacks get the last one's.
  static void gather_scales(const Block& b, int tile, int begin, int strips, float* scales) {
    const int row = tile_row(b.rows, b.tiles, tile), count = tile_row(b.rows, b.tiles, tile + 1) - row;
    for (int r = 0; r < kTileRows; ++r) {
      const float* of =
          strip_scales(static_cast<const int8_t*>(b.a.x) + x_offset(b.a, row + (r < count ? r : count - 1)), b.a.w.k) +
          begin / kStrip;
      for (int s = 0; s < strips; ++s) scales[s * kTileRows + r] = of[s];
    }
  }
  // Rows of a mapped call lie anywhere: they are put together.
  static void gather_rows(const Block& b, int begin, int strips, int8_t* to) {
    for (int r = 0; r < b.row_count(); ++r)
      __builtin_memcpy(to + static_cast<ptrdiff_t>(r) * strips * kStrip,
                       static_cast<const int8_t*>(b.a.x) + x_offset(b.a, b.first_row() + r) + begin,
                       static_cast<size_t>(strips) * kStrip);
  }

  // Vectors of a strip of int4 codes as signed bytes: each word's low halves come before its high ones.
  template <int first, int count>
  static void unpack(const std::byte* from, std::byte* to) {
    const __m512i nibbles = _mm512_set1_epi8(15),
                  centre = _mm512_set1_epi8(static_cast<char>(code_center(WeightForm::int4)));
    for (int word = 0; word < 4; ++word) {
      for (int v = first; v < first + count; ++v) {
        const __m512i both = _mm512_loadu_si512(from + word * kLineBytes + v * 64);
        std::byte* low = to + 2 * word * kLineBytes + v * 64;
        _mm512_storeu_si512(low, _mm512_sub_epi8(_mm512_and_si512(both, nibbles), centre));
        _mm512_storeu_si512(low + kLineBytes,
                            _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), nibbles), centre));
      }
    }
  }

  static void multiply(const Tile& tile, const Panel& panel) {
    if (tile.rows > kRegisterRows)
      return multiply_grid<2, 2, 16, 0>(tile, panel), multiply_grid<2, 2, 16, 2>(tile, panel);
    tile.rows > 8 ? multiply_grid<1, 4, 16, 0>(tile, panel) : multiply_grid<1, 4, 8, 0>(tile, panel);
  }

  // NR registers of rows, of which `rows` count, by NV vectors of columns from first_v on.
  template <int NR, int NV, int rows, int first_v>
  [[gnu::noinline]] static void multiply_grid(const Tile& tile, const Panel& panel) {
    constexpr int kTiles = NR * NV;
    alignas(64) int32_t integers[kTogether][kTiles][kRegisterRows][16];
    alignas(64) std::byte unpacked[form == WeightForm::int4 ? kTogether * kCodeBytes : 1];
    Cursor cursor = panel.cursor;
    for (int strip = 0; strip < panel.strips; strip += kTogether) {
      const int count = panel.strips - strip < kTogether ? panel.strips - strip : kTogether;
      typename V::F scales[kTogether][NV];
      for (int s = 0; s < count; ++s) {
        const std::byte* codes = panel.codes + (strip + s) * (panel.unpacks ? kSourceBytes : kCodeBytes);
        if (panel.fetches)
          fetch<NV, first_v>(codes + kFetchBytes +
                             ((strip + s) * kSourceBytes + kFetchBytes < panel.strips * kSourceBytes ? 0 : panel.next));
        if constexpr (form == WeightForm::int4)
          if (panel.unpacks) {
            unpack<first_v, NV>(codes, unpacked + s * kCodeBytes);
            codes = unpacked + s * kCodeBytes;
            __asm__ volatile("" : : : "memory");
          }
        product<NR>(tile.x + (strip + s) * kStrip, tile.ld, codes + first_v * 64, integers[s]);
        Cursor::move_to(cursor, panel.begin + (strip + s) * kStrip);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) scales[s][v] = V::load_bf16(Cursor::scales_of(cursor, first_v + v));
      }
#pragma GCC unroll 4
      for (int i = 0; i < kTiles; ++i) {
        const int upper = i / NV * kRegisterRows, present = tile.rows - upper;
        float* sums = tile.sums + upper * kColumns + (first_v + i % NV) * V::kLanes;
        typename V::F acc[rows];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
          acc[r] = (panel.first && strip == 0) || r >= present ? V::zero() : V::load(sums + r * kColumns);
        for (int s = 0; s < count; ++s) {
          const float* row_scales = tile.scales + (strip + s) * kTileRows + upper;
#pragma GCC unroll 16
          for (int r = 0; r < rows; ++r)
            acc[r] = V::fma(V::to_float(V::load_bits(integers[s][i][r])),
                            V::mul(scales[s][i % NV], V::set1(row_scales[r])), acc[r]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
          if (r < present) V::store(sums + r * kColumns, acc[r]);
      }
    }
  }

  template <int NV, int first_v>
  WEFT_INLINE void fetch(const std::byte* strip) {
#pragma GCC unroll 8
    for (ptrdiff_t line = 0; line < kSourceBytes / kLineBytes; ++line)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v)
        _mm_prefetch(reinterpret_cast<const char*>(strip + line * kLineBytes + (first_v + v) * 64), _MM_HINT_T0);
  }

  // Registers: 0-3 sums, 4 and 5 rows, 6 and 7 weights.
  template <int NR>
  WEFT_INLINE void product(const int8_t* x, ptrdiff_t ld, const std::byte* w, int32_t (*to)[kRegisterRows][16]) {
    _tile_loadd(4, x, ld);
    _tile_loadd(6, w, kLineBytes);
    _tile_loadd(7, w + 64, kLineBytes);
    _tile_zero(0);
    _tile_dpbssd(0, 4, 6);
    _tile_zero(1);
    _tile_dpbssd(1, 4, 7);
    _tile_zero(2);
    _tile_zero(3);
    if constexpr (NR == 2) {
      _tile_loadd(5, x + kRegisterRows * ld, ld);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_loadd(6, w + 128, kLineBytes);
      _tile_loadd(7, w + 192, kLineBytes);
      _tile_dpbssd(2, 4, 6);
      _tile_dpbssd(3, 4, 7);
    }
    _tile_stored(0, to[0], 64);
    _tile_stored(1, to[1], 64);
    _tile_stored(2, to[2], 64);
    _tile_stored(3, to[3], 64);
  }
};

}  // namespace
}  // namespace weft::kernels
