// Products of bfloat16 rows with bfloat16 weights on matrix tiles (Intel AMX): a tile register holds 16 rows of 64 bytes, and one
// instruction multiplies 16 rows of 32 k by 32 k of 16 columns. Panels are 16 columns wide, so that a tile of weights, 16 pairs of k of
// 16 columns, is 1 KiB of a panel.
//
// What one output adds, in this order: for each kTileDepth of k from the start of its shard, the sum of that piece (the
// instruction's own: even and odd k apart, then both) is added to the sum so far. One row and many take the same pieces, so they
// agree to the bit.
//
// At most 16 rows stream four panels side by side; blocks of more take pairs of 16 rows and pairs of panels, so that each register that
// is loaded is used twice. Rows are copied so that those of a register lie together.
#pragma once

#include <immintrin.h>

#include "kernels/simd/linear_blocks.h"

namespace weft::kernels {
namespace {

constexpr int kRegisterRows = 16;
constexpr int kTileDepth = 32;  // k of one instruction

// The shapes of the eight tile registers, as LDTILECFG reads them.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Registers: 0-3 sums, 4 and 5 rows of x, 6 and 7 weights. `rows` 1 ... 32 and `pairs` of k 1 ... 16 of an instruction.
[[maybe_unused]] static inline void shape_tiles(int rows, int pairs) {
  TileShapes shapes;
  const int upper = rows < kRegisterRows ? rows : kRegisterRows, lower = rows > kRegisterRows ? rows - kRegisterRows : upper;
  const auto set = [&](int tile, int tile_rows, int columns) {
    shapes.rows[tile] = static_cast<uint8_t>(tile_rows);
    shapes.row_bytes[tile] = static_cast<uint16_t>(columns * 4);
  };
  set(0, upper, 16), set(1, upper, 16), set(2, lower, 16), set(3, lower, 16);
  set(4, upper, pairs), set(5, lower, pairs);
  set(6, pairs, 16), set(7, pairs, 16);
  _tile_loadconfig(&shapes);
}

// The vectors of a product on tiles: V's, one of them to a panel.
template <class V>
struct TileVectors : V {
  static constexpr int kPanelVectors = 1;
};

template <class V>
struct TileProduct {
  using Block = LinearBlock<V>;
  static constexpr int kColumns = Block::kColumns;
  static_assert(kColumns == 16 && V::kDot);
  static constexpr int kTileRows = 2 * kRegisterRows;
  static constexpr int kBlockTiles = 8;
  static constexpr int kBlockFloats = 1 << 16;
  static constexpr int kMaxGroup = 64;
  static constexpr int kDepth = 512;  // k per block: two panels' block stays in the first cache, the block's rows in the second
  static constexpr int kCopied = kBlockTiles * kTileRows * kDepth;  // elements of x
  static constexpr ptrdiff_t kTileBytes = 1024;                     // of weights, per instruction
  static constexpr int kAhead = 3;                                  // tiles of weights that are fetched ahead when streaming

  // A tile's sums stay in registers over all of k where its rows can be copied at once.
  static int depth(int rows, int length) { return rows <= kRegisterRows && int64_t{rows} * length <= kCopied ? length : kDepth; }

  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    const int whole = (end - begin) / kTileDepth * kTileDepth;
    if (whole > 0) multiply_steps(b, begin, whole / kTileDepth, kTileDepth / 2, first, sums);
    if (begin + whole < end) multiply_steps(b, begin + whole, 1, (end - begin - whole + 1) / 2, first && whole == 0, sums);
    _tile_release();
  }

 private:
  static int first_row_of(const Block& b, int tile) { return tile_row(b.rows, b.tiles, tile); }

  // `steps` instructions deep, each over `pairs` pairs of k.
  [[gnu::noinline]] static void multiply_steps(const Block& b, int begin, int steps, int pairs, bool first, float* sums) {
    alignas(64) uint16_t copy[kCopied];
    const ptrdiff_t row_elements = static_cast<ptrdiff_t>(steps) * kTileDepth, panel_bytes = static_cast<ptrdiff_t>(b.a.w.panel_bytes);
    for (int t = b.first_tile; t < b.last_tile; ++t) copy_rows(b, t, begin, steps, pairs, copy + (first_row_of(b, t) - b.first_row()) * row_elements);
    const std::byte* w = b.panel(0) + static_cast<ptrdiff_t>(begin) / 2 * kColumns * 4;
    int shaped = 0;
    const bool stream = b.tile_count() == 1 && b.row_count() <= kRegisterRows;
    for (int p = 0; p < b.panels();) {
      const int panels = stream && b.panels() - p >= 4 ? 4 : b.panels() - p >= 2 ? 2 : 1;
      for (int t = b.first_tile; t < b.last_tile; ++t) {
        const int row = first_row_of(b, t), count = first_row_of(b, t + 1) - row;
        if (count != shaped) shape_tiles(shaped = count, pairs);
        const int64_t at = static_cast<int64_t>(p) * count * kColumns;
        // Each tile fetches its share of the next panels' block, and the sums that come next.
        const ptrdiff_t share = (t - b.first_tile) * steps * kTileBytes / b.tile_count();
        const Panels operands{.w = w, .bytes = panel_bytes, .ahead = w + panels * panel_bytes + share, .lines = (16 + b.tile_count() - 1) / b.tile_count(),
                              .next_sums = t + 1 < b.last_tile ? sums + b.sums_of(row + count) + at : sums + at + panels * count * kColumns};
        multiply(copy + (row - b.first_row()) * row_elements, count, operands, panels, steps, first, sums + b.sums_of(row) + at);
      }
      p += panels, w += panels * panel_bytes;
    }
  }

  // Panels that lie `bytes` apart, and what is fetched while they are multiplied: of two panels so many lines at each step, and sums.
  struct Panels {
    const std::byte* w;
    ptrdiff_t bytes;
    const std::byte* ahead;
    int lines;
    const float* next_sums;
  };
  static void multiply(const uint16_t* x, int rows, const Panels& panels, int panel_count, int steps, bool first, float* sums) {
    if (panel_count == 4) return multiply_four(x, rows, panels, steps, first, sums);
    if (rows > kRegisterRows) return panel_count == 2 ? multiply_two<2, 2>(x, rows, panels, steps, first, sums) : multiply_two<2, 1>(x, rows, panels, steps, first, sums);
    panel_count == 2 ? multiply_two<1, 2>(x, rows, panels, steps, first, sums) : multiply_two<1, 1>(x, rows, panels, steps, first, sums);
  }

  // The rows of a tile as [register of 16 rows][step][row][32 k], the last register's rows being fewer.
  static void copy_rows(const Block& b, int tile, int begin, int steps, int pairs, uint16_t* to) {
    const int row = first_row_of(b, tile), count = first_row_of(b, tile + 1) - row;
    const auto mask = static_cast<__mmask16>((1u << pairs) - 1u);
    for (int r = 0; r < count; ++r) {
      const int upper = r / kRegisterRows * kRegisterRows, rows = count - upper < kRegisterRows ? count - upper : kRegisterRows;
      const uint16_t* from = static_cast<const uint16_t*>(b.a.x) + x_offset(b.a, row + r) + begin;
      uint16_t* out = to + static_cast<ptrdiff_t>(upper) * steps * kTileDepth + (r - upper) * kTileDepth;
      for (int s = 0; s < steps; ++s, from += kTileDepth, out += rows * kTileDepth) _mm512_store_si512(out, _mm512_maskz_loadu_epi32(mask, from));
    }
  }

  WEFT_INLINE void fetch(const std::byte* w) {
#pragma GCC unroll 16
    for (int line = 0; line < 16; ++line) _mm_prefetch(reinterpret_cast<const char*>(w) + line * 64, _MM_HINT_T0);
  }

  // At most 16 rows by four panels, which are read side by side: several streams use more of the memory's bandwidth than one does.
  static void multiply_four(const uint16_t* x, int rows, const Panels& panels, int steps, bool first, float* sums) {
    const ptrdiff_t next = static_cast<ptrdiff_t>(rows) * kColumns;
    if (first) {
      _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    } else {
      _tile_loadd(0, sums, 64); _tile_loadd(1, sums + next, 64); _tile_loadd(2, sums + 2 * next, 64); _tile_loadd(3, sums + 3 * next, 64);
    }
    const std::byte *w = panels.w, *w1 = w + panels.bytes, *w2 = w1 + panels.bytes, *w3 = w2 + panels.bytes;
    for (int s = 0; s < steps; ++s, x += rows * kTileDepth) {
      const ptrdiff_t at = s * kTileBytes, ahead = at + kAhead * kTileBytes;
      _tile_loadd(4, x, 64);
      fetch(w + ahead);
      _tile_loadd(6, w + at, 64);
      _tile_dpbf16ps(0, 4, 6);
      fetch(w1 + ahead);
      _tile_loadd(7, w1 + at, 64);
      _tile_dpbf16ps(1, 4, 7);
      fetch(w2 + ahead);
      _tile_loadd(6, w2 + at, 64);
      _tile_dpbf16ps(2, 4, 6);
      fetch(w3 + ahead);
      _tile_loadd(7, w3 + at, 64);
      _tile_dpbf16ps(3, 4, 7);
    }
    _tile_stored(0, sums, 64); _tile_stored(1, sums + next, 64); _tile_stored(2, sums + 2 * next, 64); _tile_stored(3, sums + 3 * next, 64);
  }

  // NR registers of rows (`rows` in all) by NP panels.
  template <int NR, int NP>
  static void multiply_two(const uint16_t* x, int rows, const Panels& panels, int steps, bool first, float* sums) {
    const int upper = NR == 2 ? kRegisterRows : rows;
    float *next = sums + static_cast<ptrdiff_t>(rows) * kColumns, *lower_sums = sums + kRegisterRows * kColumns, *lower_next = next + kRegisterRows * kColumns;
    if (first) {
      _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    } else {
      _tile_loadd(0, sums, 64);
      if constexpr (NP == 2) _tile_loadd(1, next, 64);
      if constexpr (NR == 2) _tile_loadd(2, lower_sums, 64);
      if constexpr (NR == 2 && NP == 2) _tile_loadd(3, lower_next, 64);
    }
    const uint16_t* lower = x + static_cast<ptrdiff_t>(upper) * steps * kTileDepth;
    const std::byte *w = panels.w, *ahead = panels.ahead;
    const float* next_sums = panels.next_sums;
    // Rows pass through the first cache once, weights stay there.
    for (int s = 0; s < steps; ++s, x += upper * kTileDepth, lower += (rows - upper) * kTileDepth, w += kTileBytes) {
      for (int line = 0; line < panels.lines; ++line, ahead += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
        if constexpr (NP == 2) _mm_prefetch(reinterpret_cast<const char*>(ahead + panels.bytes), _MM_HINT_T1);
      }
#pragma GCC unroll 4
      for (int line = 0; line < 4; ++line, next_sums += 16) __builtin_prefetch(next_sums, 1);
      _tile_stream_loadd(4, x, 64);
      _tile_loadd(6, w, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (NP == 2) {
        _tile_loadd(7, w + panels.bytes, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (NR == 2) {
        _tile_stream_loadd(5, lower, 64);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (NP == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, sums, 64);
    if constexpr (NP == 2) _tile_stored(1, next, 64);
    if constexpr (NR == 2) _tile_stored(2, lower_sums, 64);
    if constexpr (NR == 2 && NP == 2) _tile_stored(3, lower_next, 64);
  }
};

}  // namespace
}  // namespace weft::kernels
