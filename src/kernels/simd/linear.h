// y = x w^T: tiles of up to six rows by one panel (more panels for fewer rows), k cut into blocks whose accumulators are stored and
// reloaded (exact, so a cut changes no bit), rows cut into blocks whose accumulators stay in the second cache.
//
// One tile of rows or less (decode) streams a group of panels at a time, with prefetch. More rows: the rows of a block are copied
// next to each other (rows that lie a power of two apart would evict each other), then for each panel, which now stays in the first
// cache, all tiles pass. With enough tiles a bfloat16 panel is widened to float32 once for all of them; the products are the same.
#pragma once

#include "kernels/layout.h"
#include "kernels/simd/dot_tile.h"

namespace weft::kernels {
namespace {

constexpr int kTileRows = 6;
constexpr int kBlockTiles = 16;
constexpr int kSumFloats = kBlockTiles * kTileRows * 128;  // accumulators of one block of rows by one group of panels
constexpr int kMaxShardLevels = 3;                         // of the tree over at most 8 shards

template <class V, WeightForm form>
struct Linear {
  static constexpr int kColumns = V::kPanelVectors * V::kLanes;
  static constexpr int kUnit = kPairs<V, form> ? 2 : 1;      // k per element of the left operand
  static constexpr int kDepth = 256 * kUnit;                 // k per block: a panel's block is about half the first cache
  static constexpr ptrdiff_t kLdCopy = kDepth / kUnit + 16;  // of copied rows, which must not fall on the same cache sets
  static constexpr bool kWidens = form == WeightForm::bf16 && !V::kDot;
  static constexpr int kWidenTiles = 4;  // so many tiles make widening a panel worth while

  // sums of a tile are [panel][MR][kColumns].
  template <int MR, int NP, int kFetchBytes>
  [[gnu::noinline]] static void multiply(const float* x, const std::byte* w, size_t panel_bytes, int k, bool first, float* sums) {
    Accumulators<V, MR, NP, V::kPanelVectors> acc;
    clear(acc);
    if (!first) {
#pragma GCC unroll 32
      for (int i = 0; i < NP * MR * V::kPanelVectors; ++i) {
        acc.at[i / V::kPanelVectors % MR][i / V::kPanelVectors / MR][i % V::kPanelVectors] = V::load(sums + i * V::kLanes);
      }
    }
    TileOperands<NP> o{.x = x, .ld_x = kLdCopy, .step_bytes = kColumns * 4};
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) o.w[p] = w + p * panel_bytes;
    accumulate<V, form, kFetchBytes>(acc, o, k);
#pragma GCC unroll 32
    for (int i = 0; i < NP * MR * V::kPanelVectors; ++i) {
      V::store(sums + i * V::kLanes, acc.at[i / V::kPanelVectors % MR][i / V::kPanelVectors / MR][i % V::kPanelVectors]);
    }
  }

  // One tile of rows over panels that come from memory.
  template <int MR>
  static void stream(const float* x, const std::byte* w, size_t panel_bytes, int panels, int k, bool first, float* sums) {
    constexpr int kFit = V::kFreeRegisters / (MR * V::kPanelVectors);
    constexpr int NP = kFit > 4 ? 4 : kFit < 1 ? 1 : kFit;
    int p = 0;
    for (; p + NP <= panels; p += NP)
      multiply<MR, NP, 3072>(x, w + p * panel_bytes, panel_bytes, k, first, sums + p * MR * kColumns);
    for (; p < panels; ++p) multiply<MR, 1, 3072>(x, w + p * panel_bytes, panel_bytes, k, first, sums + p * MR * kColumns);
  }
  using Stream = void (*)(const float*, const std::byte*, size_t, int, int, bool, float*);
  static constexpr Stream kStream[kTileRows] = {stream<1>, stream<2>, stream<3>, stream<4>, stream<5>, stream<6>};

  // One tile of rows by one panel, from memory or from the cache.
  using Multiply = void (*)(const float*, const std::byte*, size_t, int, bool, float*);
  static constexpr Multiply kFetching[kTileRows] = {multiply<1, 1, 3072>, multiply<2, 1, 3072>, multiply<3, 1, 3072>,
                                                    multiply<4, 1, 3072>, multiply<5, 1, 3072>, multiply<6, 1, 3072>};
  static constexpr Multiply kCached[kTileRows] = {multiply<1, 1, 0>, multiply<2, 1, 0>, multiply<3, 1, 0>,
                                                  multiply<4, 1, 0>, multiply<5, 1, 0>, multiply<6, 1, 0>};

  // Rows are cut into `tiles` tiles as evenly as possible; this is where tile number i begins.
  static int tile_row(int rows, int tiles, int64_t i) { return static_cast<int>(rows * i / tiles); }

  // A block of work: tiles [first_tile, last_tile) of the rows, panels [first_panel, last_panel).
  struct Block {
    const LinearArgs& a;
    int rows, tiles, first_tile, last_tile, first_panel, last_panel;

    int panels() const { return last_panel - first_panel; }
    int first_row() const { return tile_row(rows, tiles, first_tile); }
    // Offset of a tile's accumulators.
    int64_t sums_of(int row) const { return static_cast<int64_t>(row - first_row()) * panels() * kColumns; }
    int64_t sum_count() const { return sums_of(tile_row(rows, tiles, last_tile)); }
  };

  static void copy_row(const float* from, int count, float* to) {
    int i = 0;
    for (; i + V::kLanes <= count; i += V::kLanes) V::store(to + i, V::load(from + i));
    for (; i < count; ++i) to[i] = from[i];
  }

  // sums (=, or += unless first) the products of k [begin, end).
  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    alignas(64) float copy[kBlockTiles * kTileRows * kLdCopy];
    const int rows = tile_row(b.rows, b.tiles, b.last_tile) - b.first_row();
    const float* x = row_of(b.a, b.first_row()) + begin / kUnit;
    if (rows > 1) {
      for (int r = 0; r < rows; ++r) {
        copy_row(row_of(b.a, b.first_row() + r) + begin / kUnit, (end - begin + kUnit - 1) / kUnit, copy + r * kLdCopy);
      }
      x = copy;
    }
    const std::byte* w =
        b.a.w.data + b.first_panel * b.a.w.panel_bytes + static_cast<size_t>(begin) / kStepLength<form> * kColumns * 4;
    if (b.last_tile - b.first_tile == 1) return kStream[rows - 1](x, w, b.a.w.panel_bytes, b.panels(), end - begin, first, sums);
    for (int p = 0; p < b.panels(); ++p) multiply_panel(b, p, x, w + p * b.a.w.panel_bytes, end - begin, first, sums);
  }

  // All tiles of the block by one panel.
  static void multiply_panel(const Block& b, int panel, const float* x, const std::byte* w, int k, bool first, float* sums) {
    alignas(64) float wide[kWidens ? kColumns * kDepth : 1];
    const Multiply* multiplies = kCached;
    if constexpr (kWidens) {
      if (b.last_tile - b.first_tile >= kWidenTiles) {
        widen(w, k, wide);
        w = reinterpret_cast<const std::byte*>(wide);
        multiplies = Linear<V, WeightForm::f32>::kCached;
      }
    }
    for (int t = b.first_tile; t < b.last_tile; ++t) {
      const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
      const bool fetch = t == b.first_tile && b.last_tile - t < kWidenTiles;
      (fetch ? kFetching : multiplies)[count - 1](x + (row - b.first_row()) * kLdCopy, w, 0, k, first,
                                                  sums + b.sums_of(row) + static_cast<int64_t>(panel) * count * kColumns);
    }
  }

  // A panel's block of bfloat16 pairs as float32, [k][kColumns].
  static void widen(const std::byte* w, int k, float* wide) {
    for (int i = 0; i < k; i += 2) {
#pragma GCC unroll 8
      for (int v = 0; v < V::kPanelVectors; ++v) {
        const typename V::Bits pairs = V::load_bits(w + (static_cast<ptrdiff_t>(i) / 2 * kColumns + v * V::kLanes) * 4);
        V::store(wide + static_cast<ptrdiff_t>(i) * kColumns + v * V::kLanes, V::even(pairs));
        V::store(wide + (static_cast<ptrdiff_t>(i) + 1) * kColumns + v * V::kLanes, V::odd(pairs));
      }
    }
  }

  // Rows in units of the left operand's elements, which are read as floats and never computed with as such when they are pairs.
  static const float* row_of(const LinearArgs& a, int call_row) {
    const int64_t row = a.row_map ? a.row_map[call_row] / a.x_share : call_row;
    return reinterpret_cast<const float*>(static_cast<const std::byte*>(a.x) + row * a.ld_x * (kUnit == 2 ? 2 : 4));
  }

  // y = sums + bias + residual.
  static void finish(const Block& b, const float* sums) {
    const LinearArgs& a = b.a;
    for (int t = b.first_tile; t < b.last_tile; ++t) {
      const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
      const float* from = sums + b.sums_of(row);
      for (int p = b.first_panel; p < b.last_panel; ++p) {
        for (int r = 0; r < count; ++r, from += kColumns) {
          const int64_t y_row = a.row_map ? a.row_map[row + r] : row + r;
          for (int c = p * kColumns; c < p * kColumns + kColumns && c < a.w.out; c += V::kLanes)
            finish_vector(a, y_row, c, from + (c - p * kColumns));
        }
      }
    }
  }

  WEFT_INLINE void finish_vector(const LinearArgs& a, int64_t row, int c, const float* from) {
    const int n = a.w.out - c;
    typename V::F value = V::load(from);
    if (n >= V::kLanes) {
      if (a.bias) value = V::add(value, V::load(a.bias + c));
      if (a.residual) value = V::add(value, V::load(a.residual + row * a.ld_residual + c));
      V::store(a.y + row * a.ld_y + c, value);
    } else {
      if (a.bias) value = V::add(value, V::load_n(a.bias + c, n));
      if (a.residual) value = V::add(value, V::load_n(a.residual + row * a.ld_residual + c, n));
      V::store_n(a.y + row * a.ld_y + c, value, n);
    }
  }

  static void add_into(float* to, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += V::kLanes) V::store(to + i, V::add(V::load(from + i), V::load(to + i)));
  }

  // All of k for one block. Shards are joined like the carries of a binary counter, which is the balanced tree.
  [[gnu::noinline]] static void run_block(const Block& b) {
    alignas(64) float buffers[1 + kMaxShardLevels][kSumFloats];
    float* levels[kMaxShardLevels] = {buffers[1], buffers[2], buffers[3]};
    float* sums = buffers[0];
    const int length = b.a.w.k / b.a.w.shards;
    const int depth = b.rows == 1 ? length : kDepth;
    for (int shard = 0; shard < b.a.w.shards; ++shard) {
      const int end = (shard + 1) * length;
      for (int k = shard * length; k < end; k += depth) {
        multiply_depth(b, k, k + depth < end ? k + depth : end, k == shard * length, sums);
      }
      int level = 0;
      for (; shard >> level & 1; ++level) add_into(sums, levels[level], b.sum_count());
      if (shard + 1 == b.a.w.shards) break;
      float* joined = sums;
      sums = levels[level];
      levels[level] = joined;
    }
    finish(b, sums);
  }

  static void run_range(const LinearArgs& a, int rows, int tiles, Range tile_range, Range panel_range) {
    for (int64_t t = tile_range.first; t < tile_range.last; t += kBlockTiles) {
      const int64_t last_tile = t + kBlockTiles < tile_range.last ? t + kBlockTiles : tile_range.last;
      const int block_rows = tile_row(rows, tiles, last_tile) - tile_row(rows, tiles, t);
      int64_t group = kSumFloats / (block_rows * kColumns);
      if (group > 16) group = 16;
      if (group < 1) group = 1;
      for (int64_t p = panel_range.first; p < panel_range.last; p += group) {
        const int64_t last_panel = p + group < panel_range.last ? p + group : panel_range.last;
        run_block(
            {a, rows, tiles, static_cast<int>(t), static_cast<int>(last_tile), static_cast<int>(p), static_cast<int>(last_panel)});
      }
    }
  }
};

// How evenly `units` fall on `parts`, in parts per thousand.
[[maybe_unused]] inline int64_t evenness(int64_t units, int parts) {
  const int64_t largest = (units + parts - 1) / parts;
  return units * 1000 / (largest * parts);
}

template <class V, WeightForm form>
void linear_form(const LinearArgs& a, int rows, Part part) {
  using L = Linear<V, form>;
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t panels = (a.w.out + L::kColumns - 1) / L::kColumns;
  // Panels are cut in fours where there are plenty, since one row takes them so.
  const int unit = panels >= 16 * part.count ? 4 : 1;
  const int64_t units = (panels + unit - 1) / unit;
  // A grid of `across` parts over the panels by `down` parts over the rows: the most even one, and the widest of these.
  int across = part.count;
  for (int n = part.count - 1; n > 0; --n) {
    if (part.count % n != 0) continue;
    if (evenness(units, n) * evenness(tiles, part.count / n) > evenness(units, across) * evenness(tiles, part.count / across))
      across = n;
  }
  Range panel_range = share(units, {part.index % across, across});
  panel_range = {panel_range.first * unit, panel_range.last * unit < panels ? panel_range.last * unit : panels};
  L::run_range(a, rows, tiles, share(tiles, {part.index / across, part.count / across}), panel_range);
}

template <class V>
void linear(const LinearArgs& a, int rows, Part part) {
  if (rows <= 0) return;
  if (a.w.form == WeightForm::f32) return linear_form<V, WeightForm::f32>(a, rows, part);
  linear_form<V, WeightForm::bf16>(a, rows, part);
}

}  // namespace
}  // namespace weft::kernels
