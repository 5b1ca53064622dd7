// Products of bfloat16 rows with bfloat16 weights on matrix tiles (Intel AMX): a tile register holds 16 rows of 64
// bytes, and one instruction multiplies 16 rows of 32 k by 32 k of 16 columns. Panels are 16 columns wide, so that a
// tile of weights, 16 pairs of k of 16 columns, is 1 KiB of a panel.
//
// The order in which one output is summed: for each kTileDepth of k from the start of its shard, an instruction sums
// the products of that range in its own way (even and odd k apart, then both), and the result is added to the sum so
// far. One row and many rows use the same ranges, so they agree to the bit.
//
// At most 16 rows stream four panels side by side, at most 32 two; blocks of more take pairs of 16 rows and pairs of
// panels, so that each register that is loaded is used twice.
//
// Rows are copied first, so that those of a register lie together, where the call maps its rows and where their
// distance in memory lets few of them stay in the L2 cache (copies_rows()). Weights in 12 bits are unpacked before they
// are multiplied: tile by tile when streaming, else a block of two panels once for all rows of the block.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "kernels/simd/linear_blocks.h"
#include "kernels/simd/unpack_bf12.h"

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

// GCC 12 says of the intrinsic that it reads eight bytes, and drops what was written to the others.
[[maybe_unused]] static inline void load_shapes(const TileShapes& shapes) {
  __asm__ volatile("" : : "r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
}

// Registers: 0-3 sums, 4 and 5 rows of x, 6 and 7 weights. `rows` 1 ... 32 and `pairs` of k 1 ... 16 of an instruction.
[[maybe_unused]] static inline void shape_tiles(int rows, int pairs) {
  TileShapes shapes;
  const int upper = rows < kRegisterRows ? rows : kRegisterRows,
            lower = rows > kRegisterRows ? rows - kRegisterRows : upper;
  const auto set = [&](int tile, int tile_rows, int columns) {
    shapes.rows[tile] = static_cast<uint8_t>(tile_rows);
    shapes.row_bytes[tile] = static_cast<uint16_t>(columns * 4);
  };
  set(0, upper, 16), set(1, upper, 16), set(2, lower, 16), set(3, lower, 16);
  set(4, upper, pairs), set(5, lower, pairs);
  set(6, pairs, 16), set(7, pairs, 16);
  load_shapes(shapes);
}

// The vectors of a product on tiles: V's, one of them to a panel.
template <class V>
struct TileVectors : V {
  static constexpr int kPanelVectors = 1;
};

template <class V, WeightForm form>
struct TileProduct {
  using Block = LinearBlock<V>;
  static constexpr int kColumns = Block::kColumns;
  static_assert(kColumns == 16 && V::kDot);
  static constexpr int kTileRows = 2 * kRegisterRows;
  static constexpr int kBlockTiles = 8;
  static constexpr int kBlockFloats = 1 << 16;
  static constexpr int kMaxGroup = 64;
  // k per block at most: two panels' part of a block stays in the L1 cache, the block's rows in the L2 cache
  static constexpr int kDepth = 768;
  static constexpr int kCopied = kBlockTiles * kTileRows * kDepth;  // elements of x
  static constexpr ptrdiff_t kTileBytes = 1024;                     // of weights, per instruction
  // in memory
  static constexpr ptrdiff_t kSourceTileBytes = form == WeightForm::bf12 ? kTileBytes * 3 / 4 : kTileBytes;
  // Tiles of weights that are fetched ahead when streaming, of all panels together; 16 rows at most stream fewer
  // than four panels too, but those whose weights are unpacked.
  static constexpr int kAhead = 12;
  static constexpr bool kStreamsFew = form != WeightForm::bf12;
  static constexpr int kPiece = kDepth / kTileDepth;  // steps over one or two panels at a time
  // shards whose sums of two panels are joined in the L1 cache,
  static constexpr int kMaxTogether = 4;
  static constexpr int kJoinedDepth = 512;  // k of all joined shards together, so that they fit there

  // A tile's sums stay in registers over all of k where its rows can be copied at once; else blocks are of about the
  // same size.
  static int depth(int rows, int length) {
    if (rows <= kTileRows && int64_t{rows} * length <= kCopied) return length;
    const int blocks = (length + kDepth - 1) / kDepth,
              steps = (length + kTileDepth * blocks - 1) / (kTileDepth * blocks);
    return steps * kTileDepth;
  }

  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    const int whole = (end - begin) / kTileDepth * kTileDepth;
    if (whole > 0) multiply_steps(b, begin, whole / kTileDepth, kTileDepth / 2, first, sums);
    if (begin + whole < end)
      multiply_steps(b, begin + whole, 1, (end - begin - whole + 1) / 2, first && whole == 0, sums);
    _tile_release();
  }

  static int shards_together(int rows, int length, int shards) {
    int together = 1;
    if (rows > kTileRows && length % kTileDepth == 0)
      while (2 * together <= shards && 2 * together <= kMaxTogether && 2 * together * length <= kJoinedDepth)
        together *= 2;
    return together;
  }
  static void multiply_shards(const Block& b, int begin, int length, int count, float* sums) {
    multiply_steps(b, begin, count * length / kTileDepth, kTileDepth / 2, true, sums, count);
    _tile_release();
  }

 private:
  static int first_row_of(const Block& b, int tile) { return tile_row(b.rows, b.tiles, tile); }

  // A tile's rows: those of the first register and of the second, how many in all, the bytes between them, and from one
  // step to the next.
  struct TileRows {
    const uint16_t *upper, *lower;
    int count;
    ptrdiff_t ld_bytes, upper_step, lower_step;  // steps in elements

    TileRows from_step(int step) const {
      return {upper + step * upper_step, lower + step * lower_step, count, ld_bytes, upper_step, lower_step};
    }
  };

  // Rows that lie a multiple of this apart share few sets of the L2 cache.
  static constexpr int64_t kCrowdedBytes = 8192;
  static bool copies_rows(const Block& b) {
    return b.a.row_map || (b.row_count() > kRegisterRows && b.a.ld_x * 2 % kCrowdedBytes == 0);
  }

  // `steps` instructions deep, each over `pairs` pairs of k. With several `shards` these are joined; then there are at
  // most kPiece steps.
  [[gnu::noinline]] static void multiply_steps(const Block& b, int begin, int steps, int pairs, bool first, float* sums,
                                               int shards = 1) {
    alignas(64) uint16_t copy[kCopied];
    TileRows tiles[kBlockTiles];
    for (int t = b.first_tile; t < b.last_tile; ++t) {
      const int row = first_row_of(b, t), count = first_row_of(b, t + 1) - row,
                upper = count < kRegisterRows ? count : kRegisterRows;
      TileRows& rows = tiles[t - b.first_tile];
      if (copies_rows(b)) {
        uint16_t* to = copy + static_cast<ptrdiff_t>(row - b.first_row()) * steps * kTileDepth;
        copy_rows(b, t, begin, steps, pairs, to);
        rows = {to,
                to + static_cast<ptrdiff_t>(upper) * steps * kTileDepth,
                count,
                64,
                upper * kTileDepth,
                (count - upper) * kTileDepth};
      } else {
        const uint16_t* from = static_cast<const uint16_t*>(b.a.x) + row * b.a.ld_x + begin;
        rows = {from,      from + kRegisterRows * b.a.ld_x, count, static_cast<ptrdiff_t>(b.a.ld_x) * 2, kTileDepth,
                kTileDepth};
      }
    }
    int shaped = 0;
    const bool stream = b.tile_count() == 1 && shards == 1, four = stream && b.row_count() <= kRegisterRows;
    for (int p = 0; p < b.panels();) {
      const int left = b.panels() - p, panels = four && left >= 4 ? 4 : four && kStreamsFew ? left : left >= 2 ? 2 : 1;
      if (stream && (panels == (four ? 4 : 2) || (four && kStreamsFew))) {
        if (shaped == 0) shape_tiles(shaped = b.row_count(), pairs);
        float* out = sums + static_cast<int64_t>(p) * b.row_count() * kColumns;
        four ? stream_panels(b, tiles[0], p, panels, begin, steps, first, out)
             : stream_two(b, tiles[0], p, begin, steps, first, out);
      } else {
        for (int s = 0; s < steps; s += kPiece)
          multiply_piece(b, tiles, {p, panels, begin, s, s + kPiece < steps ? s + kPiece : steps, pairs, shards},
                         first && s == 0, sums, shaped);
      }
      p += panels;
    }
  }

  // Panels that lie `bytes` apart, and what is fetched while they are multiplied: of two panels so many lines at each
  // step, and sums.
  struct Panels {
    const std::byte* w;
    ptrdiff_t bytes;
    const std::byte* ahead;
    ptrdiff_t fetch_bytes = 0;
    int lines;
    const float* next_sums;
  };
  static constexpr int kLinesAhead = 4;  // of the next sums, at each step

  // Steps [first_step, last_step), counted from k = `begin`, of one or two panels; they are those of so many shards.
  struct Piece {
    int panel, panels, begin, first_step, last_step, pairs, shards;
  };
  static void multiply_piece(const Block& b, const TileRows* tiles, const Piece& piece, bool first, float* sums,
                             int& shaped) {
    alignas(64) std::byte unpacked[form == WeightForm::bf12 ? 2 * kPiece * kTileBytes : 1];
    const ptrdiff_t from = source_offset(b, piece.begin + piece.first_step * kTileDepth),
                    panel_bytes = static_cast<ptrdiff_t>(b.a.w.panel_bytes);
    const int steps = piece.last_step - piece.first_step;
    Panels operands{
        .w = b.panel(piece.panel) + from, .bytes = panel_bytes, .ahead = nullptr, .lines = 0, .next_sums = nullptr};
    if constexpr (form == WeightForm::bf12) {
      const Bf12Layout layout = bf12_layout(kColumns, b.a.w.k);
      for (int i = 0; i < piece.panels; ++i) {
        const Bf12Panel panel(b.panel(piece.panel + i), layout);
        for (int s = 0; s < steps; ++s)
          unpack_chunk<kColumns, false>(panel, piece.begin / kTileDepth + piece.first_step + s, 0,
                                        unpacked + (i * kPiece + s) * kTileBytes);
      }
      operands.w = unpacked, operands.bytes = kPiece * kTileBytes;
    }
    // Each tile fetches its share of the next panels' block, and the sums that come next.
    const std::byte* next = b.panel(piece.panel + piece.panels) + from;
    operands.fetch_bytes = panel_bytes,
    operands.lines = static_cast<int>((kSourceTileBytes / 64 + b.tile_count() - 1) / b.tile_count());
    for (int t = b.first_tile; t < b.last_tile; ++t) {
      const int row = first_row_of(b, t), count = first_row_of(b, t + 1) - row;
      if (count != shaped) shape_tiles(shaped = count, piece.pairs);
      const int64_t at = static_cast<int64_t>(piece.panel) * count * kColumns;
      operands.ahead = next + (t - b.first_tile) * steps * kSourceTileBytes / b.tile_count() / 64 * 64;
      operands.next_sums =
          t + 1 < b.last_tile ? sums + b.sums_of(row + count) + at : sums + at + piece.panels * count * kColumns;
      const TileRows rows = tiles[t - b.first_tile].from_step(piece.first_step);
      float* tile_sums = sums + b.sums_of(row) + at;
      piece.shards == 1 ? multiply(rows, operands, piece.panels, steps, first, tile_sums)
                        : multiply_joined(rows, operands, piece.panels, steps, piece.shards, tile_sums);
    }
  }
  // The sums of each shard by itself, then their tree.
  static void multiply_joined(const TileRows& rows, Panels panels, int panel_count, int steps, int shards,
                              float* sums) {
    alignas(64) float parts[kMaxTogether][2 * kTileRows * kColumns];
    const int own = steps / shards;
    for (int i = 0; i < shards; ++i) {
      multiply(rows.from_step(i * own), panels, panel_count, own, true, parts[i]);
      panels.w += own * kTileBytes, panels.ahead += static_cast<ptrdiff_t>(own) * panels.lines * 64,
          panels.next_sums += static_cast<ptrdiff_t>(own) * kLinesAhead * 16;
    }
    const int count = panel_count * rows.count * kColumns;
    for (int i = 0; i < count; i += kColumns) {
      typename V::F sum = V::add(V::load(parts[0] + i), V::load(parts[1] + i));
      if (shards == 4) sum = V::add(sum, V::add(V::load(parts[2] + i), V::load(parts[3] + i)));
      V::store(sums + i, sum);
    }
  }

  // Where the weights from k = `begin` on are in a panel.
  static ptrdiff_t source_offset(const Block& b, int begin) {
    if constexpr (form == WeightForm::bf12)
      return static_cast<ptrdiff_t>(bf12_layout(kColumns, b.a.w.k).bodies) + begin / kTileDepth * kSourceTileBytes;
    return static_cast<ptrdiff_t>(begin) / 2 * kColumns * 4;
  }

  static void multiply(const TileRows& rows, const Panels& panels, int panel_count, int steps, bool first,
                       float* sums) {
    if (rows.count > kRegisterRows)
      return panel_count == 2 ? multiply_two<2, 2>(rows, panels, steps, first, sums)
                              : multiply_two<2, 1>(rows, panels, steps, first, sums);
    panel_count == 2 ? multiply_two<1, 2>(rows, panels, steps, first, sums)
                     : multiply_two<1, 1>(rows, panels, steps, first, sums);
  }

  // The rows of a tile as [register of 16 rows][step][row][32 k], the last register's rows being fewer.
  static void copy_rows(const Block& b, int tile, int begin, int steps, int pairs, uint16_t* to) {
    const int row = first_row_of(b, tile), count = first_row_of(b, tile + 1) - row;
    const auto mask = static_cast<__mmask16>((1u << pairs) - 1u);
    for (int r = 0; r < count; ++r) {
      const int upper = r / kRegisterRows * kRegisterRows,
                rows = count - upper < kRegisterRows ? count - upper : kRegisterRows;
      const uint16_t* from = static_cast<const uint16_t*>(b.a.x) + x_offset(b.a, row + r) + begin;
      uint16_t* out = to + static_cast<ptrdiff_t>(upper) * steps * kTileDepth + (r - upper) * kTileDepth;
      for (int s = 0; s < steps; ++s, from += kTileDepth, out += rows * kTileDepth)
        _mm512_store_si512(out, _mm512_maskz_loadu_epi32(mask, from));
    }
  }

  // The tile of panel p (of `count`) at a step, where a register can load it from. Memory is asked for some tiles
  // before, towards the end of the next panels or, behind the last ones, of the next shard. Unpacked tiles are in a
  // ring of three, less than the 4 KiB after which a store and a load of another place would be taken for the same.
  template <int count>
  struct PlainStream {
    static constexpr int kTilesAhead = kAhead / count;
    const std::byte* w[count];
    ptrdiff_t to_next;  // from behind the last step
    int steps;
    PlainStream(const Block& b, int p, int begin, int step_count) : to_next(0), steps(step_count) {
      if (p + count < b.panels()) to_next = count * static_cast<ptrdiff_t>(b.a.w.panel_bytes) - steps * kTileBytes;
      for (int i = 0; i < count; ++i) w[i] = b.panel(p + i) + source_offset(b, begin);
    }
    void prepare(int, int) {}
    WEFT_INLINE const std::byte* tile(PlainStream& s, int p, int step) {
      const std::byte* at = s.w[p] + step * kTileBytes;
      const std::byte* ahead = at + kTilesAhead * kTileBytes + (step + kTilesAhead < s.steps ? 0 : s.to_next);
#pragma GCC unroll 16
      for (int line = 0; line < 16; ++line) _mm_prefetch(reinterpret_cast<const char*>(ahead + line * 64), _MM_HINT_T0);
      return at;
    }
  };
  template <int count>
  struct Bf12Stream {
    Bf12Panel panels[count];
    ptrdiff_t panel_bytes;
    int steps, chunk, next = 0;
    alignas(64) std::byte ring[3][kTileBytes];
    Bf12Stream(const Block& b, int p, int begin, int step_count)
        : panel_bytes(static_cast<ptrdiff_t>(b.a.w.panel_bytes)), steps(step_count), chunk(begin / kTileDepth) {
      const Bf12Layout layout = bf12_layout(kColumns, b.a.w.k);
      for (int i = 0; i < count; ++i) panels[i] = Bf12Panel(b.panel(p + i), layout);
      prepare(0, 0);
    }
    void prepare(int p, int step) {
      constexpr int kChunksAhead = 2;
      const ptrdiff_t ahead = kChunksAhead * kSourceTileBytes +
                              (step + kChunksAhead < steps ? 0 : count * panel_bytes - steps * kSourceTileBytes);
      unpack_chunk<kColumns, true>(panels[p], chunk + step, ahead, ring[next]);
      next = next == 2 ? 0 : next + 1;
    }
    WEFT_INLINE const std::byte* tile(Bf12Stream& s, int, int) { return s.ring[s.next == 0 ? 2 : s.next - 1]; }
  };

  template <int count>
  using Stream = std::conditional_t<form == WeightForm::bf12, Bf12Stream<count>, PlainStream<count>>;

  // At most 16 rows by up to four panels, which are read side by side: several streams use more of the memory's
  // bandwidth than one does.
  static void stream_panels(const Block& b, const TileRows& rows, int p, int panels, int begin, int steps, bool first,
                            float* sums) {
    if (panels == 4) return stream_few<4>(b, rows, p, begin, steps, first, sums);
    if constexpr (kStreamsFew) {
      if (panels == 3) return stream_few<3>(b, rows, p, begin, steps, first, sums);
      if (panels == 2) return stream_few<2>(b, rows, p, begin, steps, first, sums);
      stream_few<1>(b, rows, p, begin, steps, first, sums);
    }
  }
  template <int count>
  static void stream_few(const Block& b, const TileRows& tile_rows, int p, int begin, int steps, bool first,
                         float* sums) {
    const int rows = b.row_count();
    const uint16_t* x = tile_rows.upper;
    const ptrdiff_t next = static_cast<ptrdiff_t>(rows) * kColumns;
    if (first) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, sums, 64);
      if constexpr (count > 1) _tile_loadd(1, sums + next, 64);
      if constexpr (count > 2) _tile_loadd(2, sums + 2 * next, 64);
      if constexpr (count > 3) _tile_loadd(3, sums + 3 * next, 64);
    }
    Stream<count> stream(b, p, begin, steps);
    // The next tile is unpacked before one is loaded.
    const auto take = [&](int panel, int step) __attribute__((always_inline)) {
      const std::byte* tile = Stream<count>::tile(stream, panel, step);
      if (panel + 1 < count) stream.prepare(panel + 1, step);
      else if (step + 1 < steps) stream.prepare(0, step + 1);
      return tile;
    };
    for (int s = 0; s < steps; ++s, x += tile_rows.upper_step) {
      _tile_loadd(4, x, tile_rows.ld_bytes);
      _tile_loadd(6, take(0, s), 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (count > 1) {
        _tile_loadd(7, take(1, s), 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (count > 2) {
        _tile_loadd(6, take(2, s), 64);
        _tile_dpbf16ps(2, 4, 6);
      }
      if constexpr (count > 3) {
        _tile_loadd(7, take(3, s), 64);
        _tile_dpbf16ps(3, 4, 7);
      }
    }
    _tile_stored(0, sums, 64);
    if constexpr (count > 1) _tile_stored(1, sums + next, 64);
    if constexpr (count > 2) _tile_stored(2, sums + 2 * next, 64);
    if constexpr (count > 3) _tile_stored(3, sums + 3 * next, 64);
  }

  // 17 to 32 rows by two panels.
  static void stream_two(const Block& b, const TileRows& rows, int p, int begin, int steps, bool first, float* sums) {
    float *next = sums + static_cast<ptrdiff_t>(rows.count) * kColumns, *lower_sums = sums + kRegisterRows * kColumns,
          *lower_next = next + kRegisterRows * kColumns;
    if (first) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, sums, 64);
      _tile_loadd(1, next, 64);
      _tile_loadd(2, lower_sums, 64);
      _tile_loadd(3, lower_next, 64);
    }
    Stream<2> stream(b, p, begin, steps);
    const uint16_t *x = rows.upper, *lower = rows.lower;
    for (int s = 0; s < steps; ++s, x += rows.upper_step, lower += rows.lower_step) {
      _tile_loadd(4, x, rows.ld_bytes);
      _tile_loadd(5, lower, rows.ld_bytes);
      const std::byte* tile = Stream<2>::tile(stream, 0, s);
      stream.prepare(1, s);
      _tile_loadd(6, tile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      tile = Stream<2>::tile(stream, 1, s);
      if (s + 1 < steps) stream.prepare(0, s + 1);
      _tile_loadd(7, tile, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, next, 64);
    _tile_stored(2, lower_sums, 64);
    _tile_stored(3, lower_next, 64);
  }

  // NR registers of rows by NP panels.
  template <int NR, int NP>
  static void multiply_two(const TileRows& rows, const Panels& panels, int steps, bool first, float* sums) {
    const uint16_t *x = rows.upper, *lower = rows.lower;
    float *next = sums + static_cast<ptrdiff_t>(rows.count) * kColumns, *lower_sums = sums + kRegisterRows * kColumns,
          *lower_next = next + kRegisterRows * kColumns;
    if (first) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, sums, 64);
      if constexpr (NP == 2) _tile_loadd(1, next, 64);
      if constexpr (NR == 2) _tile_loadd(2, lower_sums, 64);
      if constexpr (NR == 2 && NP == 2) _tile_loadd(3, lower_next, 64);
    }
    const std::byte *w = panels.w, *ahead = panels.ahead;
    const float* next_sums = panels.next_sums;
    // Rows pass through the L1 cache once, weights stay there.
    for (int s = 0; s < steps; ++s, x += rows.upper_step, lower += rows.lower_step, w += kTileBytes) {
      for (int line = 0; line < panels.lines; ++line, ahead += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
        if constexpr (NP == 2) _mm_prefetch(reinterpret_cast<const char*>(ahead + panels.fetch_bytes), _MM_HINT_T1);
      }
#pragma GCC unroll 4
      for (int line = 0; line < kLinesAhead; ++line, next_sums += 16) __builtin_prefetch(next_sums, 1);
      _tile_stream_loadd(4, x, rows.ld_bytes);
      _tile_loadd(6, w, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (NP == 2) {
        _tile_loadd(7, w + panels.bytes, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (NR == 2) {
        _tile_stream_loadd(5, lower, rows.ld_bytes);
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
