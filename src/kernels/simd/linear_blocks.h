// y = x w^T, cut into blocks: rows into blocks whose accumulators stay in the L2 cache, k into blocks whose
// accumulators are stored and reloaded (exact, so a cut changes no bit), shards of k joined as a balanced tree. What
// multiplies a block is a Product:
//
//   kTileRows            rows of a tile
//   kBlockTiles          tiles of rows of a block
//   kMaxGroup            panels of a block at most
//   kBlockFloats         sums of a block: at least kBlockTiles * kTileRows * the columns of a panel
//   depth(rows, length)  k per block when `rows` rows are multiplied over `length` k
//   multiply_depth(b, begin, end, first, sums)
//                        adds the products of k [begin, end) to the sums of block b (sets them if `first`); sums of a
//                          tile are
//                        [panel][row][kColumns], tiles one after the other
//
// and where that is faster several shards at once, an aligned power of two of them:
//
//   shards_together(rows, length, shards)
//   multiply_shards(b, begin, length, count, sums)   sets the sums to those of `count` shards from k = begin on, joined
//
// Products: linear.h (float32 and bfloat16 weights), linear_widened.h and linear_int8.h (quantised weights).
#pragma once

#include "kernels/layout.h"
#include "kernels/simd/rows.h"

namespace weft::kernels {
namespace {

constexpr int kMaxShardLevels = 3;  // of the tree over at most 8 shards

// Rows are cut into `tiles` tiles as evenly as possible; this is where tile number i begins.
[[maybe_unused]] static inline int tile_row(int rows, int tiles, int64_t i) {
  return static_cast<int>(rows * i / tiles);
}

// A block of work: tiles [first_tile, last_tile) of the rows, panels [first_panel, last_panel) of V's width.
template <class V>
struct LinearBlock {
  static constexpr int kColumns = V::kPanelVectors * V::kLanes;
  const LinearArgs& a;
  int rows, tiles, first_tile, last_tile, first_panel, last_panel;

  int panels() const { return last_panel - first_panel; }
  int tile_count() const { return last_tile - first_tile; }
  int first_row() const { return tile_row(rows, tiles, first_tile); }
  int row_count() const { return tile_row(rows, tiles, last_tile) - first_row(); }
  const std::byte* panel(int p) const { return a.w.data + (first_panel + p) * a.w.panel_bytes; }
  // Offset of a tile's accumulators.
  int64_t sums_of(int row) const { return static_cast<int64_t>(row - first_row()) * panels() * kColumns; }
  int64_t sum_count() const { return sums_of(tile_row(rows, tiles, last_tile)); }
};

// Where row `call_row` of the call is in x, in elements.
[[maybe_unused]] static inline int64_t x_offset(const LinearArgs& a, int call_row) {
  return (a.row_map ? a.row_map[call_row] / a.x_share : call_row) * a.ld_x;
}

// Panels that whole groups of gates and what they gate fill: blocks of a gated product begin and end at such.
template <class V>
constexpr int pair_panels() {
  constexpr int kColumns = LinearBlock<V>::kColumns;
  static_assert(kGateColumns % V::kLanes == 0);
  int panels = 1;
  while (panels * kColumns % (2 * kGateColumns) != 0) ++panels;
  return panels;
}

template <class V, class Product>
struct Linear {
  using Block = LinearBlock<V>;
  static constexpr int kColumns = Block::kColumns;
  static constexpr bool kJoins = requires { Product::kMaxTogether; };

  // y = sums + bias + residual. A vector's columns are of one half.
  static void finish(const Block& b, const float* sums) {
    const LinearArgs a = b.a;
    const int end = b.last_panel * kColumns, last = end < a.w.out ? end : a.w.out;
    for (int t = b.first_tile; t < b.last_tile; ++t) {
      const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
      const int64_t panel_floats = int64_t{count} * kColumns;
      for (int r = 0; r < count; ++r) {
        const int64_t y_row = a.row_map ? a.row_map[row + r] : row + r;
        const float* from = sums + b.sums_of(row) + r * kColumns;
        float* y = a.y + y_row * a.ld_y;
        const float* residual = a.residual ? a.residual + y_row * a.ld_residual : nullptr;
        for (int c = b.first_panel * kColumns; c < last; c += kColumns, from += panel_floats) {
#pragma GCC unroll 4
          for (int v = 0; v < kColumns; v += V::kLanes) {
            const ptrdiff_t apart = a.half > 0 ? column_apart(c + v, a.half) - (c + v) : 0;
            if (c + v < last) finish_vector(a.bias, residual, y + apart, c + v, last - c - v, V::load(from + v));
          }
        }
      }
    }
  }

  // `n` columns from c on.
  WEFT_INLINE void finish_vector(const float* bias, const float* residual, float* y, int c, int n,
                                 typename V::F value) {
    if (n >= V::kLanes) {
      if (bias) value = V::add(value, V::load(bias + c));
      if (residual) value = V::add(value, V::load(residual + c));
      V::store(y + c, value);
    } else {
      if (bias) value = V::add(value, V::load_n(bias + c, n));
      if (residual) value = V::add(value, V::load_n(residual + c, n));
      V::store_n(y + c, value, n);
    }
  }

  // act(gates) * others: what activate() makes of y.
  template <Activation act>
  static void finish_gated(const Block& b, const float* sums) {
    const LinearArgs a = b.a;
    const int begin = b.first_panel * kColumns, end = b.last_panel * kColumns, last = end < a.w.out ? end : a.w.out;
    for (int t = b.first_tile; t < b.last_tile; ++t) {
      const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
      const int64_t panel_floats = int64_t{count} * kColumns;
      for (int r = 0; r < count; ++r) {
        const float* from = sums + b.sums_of(row) + r * kColumns;
        void* out = row_at(a.gate.out, (a.row_map ? a.row_map[row + r] : row + r) * a.gate.ld_out, a.gate.operand);
        const auto sum = [&](int c) __attribute__((always_inline)) {
          const typename V::F value = V::load(from + (c - begin) / kColumns * panel_floats + (c - begin) % kColumns);
          return a.bias ? V::add(value, V::load(a.bias + c)) : value;
        };
        for (int c = begin; c < last; c += 2 * kGateColumns)
#pragma GCC unroll 2
          for (int v = 0; v < kGateColumns; v += V::kLanes)
            store_operand<V>(out, c / 2 + v, a.gate.operand,
                             V::mul(activated<V, act>(sum(c + v)), sum(c + kGateColumns + v)), V::kLanes);
      }
    }
  }
  static void finish_gated(const Block& b, const float* sums) {
    with_activation(b.a.gate.act, [&]<Activation act>() { finish_gated<act>(b, sums); });
  }

  static void add_into(float* to, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += V::kLanes) V::store(to + i, V::add(V::load(from + i), V::load(to + i)));
  }

  // All of k for one block. Shards are joined like the carries of a binary counter, which is the balanced tree.
  [[gnu::noinline]] static void run_block(const Block& b) {
    alignas(64) float buffers[1 + kMaxShardLevels][Product::kBlockFloats];
    float* levels[kMaxShardLevels] = {buffers[1], buffers[2], buffers[3]};
    float* sums = buffers[0];
    const int length = b.a.w.k / b.a.w.shards;
    const int depth = Product::depth(b.rows, length);
    int together = 1;
    if constexpr (kJoins) together = Product::shards_together(b.rows, length, b.a.w.shards);
    const int units = b.a.w.shards / together;
    for (int unit = 0; unit < units; ++unit) {
      const int begin = unit * together * length, end = begin + length;
      if constexpr (kJoins)
        if (together > 1) Product::multiply_shards(b, begin, length, together, sums);
      for (int k = begin; together == 1 && k < end; k += depth)
        Product::multiply_depth(b, k, k + depth < end ? k + depth : end, k == begin, sums);
      int level = 0;
      for (; unit >> level & 1; ++level) add_into(sums, levels[level], b.sum_count());
      if (unit + 1 == units) break;
      float* joined = sums;
      sums = levels[level];
      levels[level] = joined;
    }
    b.a.gate.out ? finish_gated(b, sums) : finish(b, sums);
  }

  static void run_range(const LinearArgs& a, int rows, int tiles, Range tile_range, Range panel_range) {
    // Without shards to join, all of run_block's memory is for one block's sums.
    constexpr int64_t kFloats = Product::kBlockFloats;
    const int64_t floats = a.w.shards == 1 ? kFloats * (1 + kMaxShardLevels) : kFloats;
    static_assert(kFloats >= Product::kBlockTiles * Product::kTileRows * kColumns);
    for (int64_t t = tile_range.first; t < tile_range.last; t += Product::kBlockTiles) {
      const int64_t last_tile = t + Product::kBlockTiles < tile_range.last ? t + Product::kBlockTiles : tile_range.last;
      const int block_rows = tile_row(rows, tiles, last_tile) - tile_row(rows, tiles, t);
      int64_t group = floats / (int64_t{block_rows} * kColumns);
      if (group > Product::kMaxGroup) group = Product::kMaxGroup;
      if (a.gate.out) group = group / pair_panels<V>() * pair_panels<V>();
      for (int64_t p = panel_range.first; p < panel_range.last; p += group) {
        const int64_t last_panel = p + group < panel_range.last ? p + group : panel_range.last;
        run_block({a, rows, tiles, static_cast<int>(t), static_cast<int>(last_tile), static_cast<int>(p),
                   static_cast<int>(last_panel)});
      }
    }
  }
};

// How evenly `units` fall on `parts`, in parts per thousand.
[[maybe_unused]] inline int64_t evenness(int64_t units, int parts) {
  const int64_t largest = (units + parts - 1) / parts;
  return units * 1000 / (largest * parts);
}

// The whole product by this part's threads.
template <class V, class Product>
void linear_by(const LinearArgs& a, int rows, Part part) {
  using L = Linear<V, Product>;
  const int tiles = (rows + Product::kTileRows - 1) / Product::kTileRows;
  const int64_t panels = (a.w.out + L::kColumns - 1) / L::kColumns;
  int unit = panel_unit(panels, part.count);
  if (a.gate.out && unit < pair_panels<V>()) unit = pair_panels<V>();
  const int64_t units = (panels + unit - 1) / unit;
  // A grid of `across` parts over the panels by `down` parts over the rows: the most even one, and the widest of these.
  int across = part.count;
  for (int n = part.count - 1; n > 0; --n) {
    if (part.count % n != 0) continue;
    if (evenness(units, n) * evenness(tiles, part.count / n) >
        evenness(units, across) * evenness(tiles, part.count / across))
      across = n;
  }
  const Range unit_range = share(units, {part.index % across, across});
  const Range panel_range{unit_range.first * unit, unit_range.last * unit < panels ? unit_range.last * unit : panels};
  L::run_range(a, rows, tiles, share(tiles, {part.index / across, part.count / across}), panel_range);
}

}  // namespace
}  // namespace weft::kernels
