// Products with float32 and bfloat16 weights: tiles of up to six rows by one panel (more panels for fewer rows).
//
// One tile of rows or less (decode) streams a group of panels at a time, with prefetch. More rows: the rows of a block
// are copied next to each other (rows that lie a power of two apart would evict each other), then for each panel, which
// now stays in the L1 cache, all tiles pass. With enough tiles a bfloat16 panel is widened to float32 once for all of
// them; the products are the same.
#pragma once

#include "kernels/simd/dot_tile.h"
#include "kernels/simd/linear_blocks.h"

namespace weft::kernels {
namespace {

template <class V>
WEFT_INLINE void copy_row(const float* from, int count, float* to) {
  int i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::store(to + i, V::load(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

template <class V, WeightForm form>
struct FloatProduct {
  using Block = LinearBlock<V>;
  static constexpr int kTileRows = 6;
  static constexpr int kBlockTiles = 16;
  static constexpr int kMaxGroup = 16;
  static constexpr int kBlockFloats = kBlockTiles * kTileRows * 128;
  static constexpr int kColumns = V::kPanelVectors * V::kLanes;
  static constexpr int kUnit = kPairs<V, form> ? 2 : 1;  // k per element of the left operand
  static constexpr int kDepth = 256 * kUnit;             // k per block: a panel's block is about half the L1 cache
  // of copied rows, which must not fall on the same cache sets
  static constexpr ptrdiff_t kLdCopy = kDepth / kUnit + 16;
  static constexpr bool kWidens = form == WeightForm::bf16 && !V::kDot;
  static constexpr int kWidenTiles = 4;  // from this many tiles on widening a panel pays

  // sums of a tile are [panel][MR][kColumns].
  template <int MR, int NP, int kFetchBytes>
  [[gnu::noinline]] static void multiply(const float* x, const std::byte* w, size_t panel_bytes, int k, bool first,
                                         float* sums) {
    Accumulators<V, MR, NP, V::kPanelVectors> acc;
    clear(acc);
    if (!first) {
#pragma GCC unroll 32
      for (int i = 0; i < NP * MR * V::kPanelVectors; ++i) {
        acc.at[i / V::kPanelVectors % MR][i / V::kPanelVectors / MR][i % V::kPanelVectors] =
            V::load(sums + i * V::kLanes);
      }
    }
    TileOperands<NP> o{.x = x, .ld_x = kLdCopy, .step_bytes = kColumns * 4};
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) o.w[p] = w + p * panel_bytes;
    accumulate<V, form, kFetchBytes>(acc, o, k);
#pragma GCC unroll 32
    for (int i = 0; i < NP * MR * V::kPanelVectors; ++i) {
      V::store(sums + i * V::kLanes,
               acc.at[i / V::kPanelVectors % MR][i / V::kPanelVectors / MR][i % V::kPanelVectors]);
    }
  }

  // One tile of rows over panels that come from memory.
  template <int MR>
  static void stream(const float* x, const std::byte* w, size_t panel_bytes, int panels, int k, bool first,
                     float* sums) {
    constexpr int kFit = V::kFreeRegisters / (MR * V::kPanelVectors);
    constexpr int NP = kFit > 4 ? 4 : kFit < 1 ? 1 : kFit;
    int p = 0;
    for (; p + NP <= panels; p += NP)
      multiply<MR, NP, 3072>(x, w + p * panel_bytes, panel_bytes, k, first, sums + p * MR * kColumns);
    for (; p < panels; ++p)
      multiply<MR, 1, 3072>(x, w + p * panel_bytes, panel_bytes, k, first, sums + p * MR * kColumns);
  }
  using Stream = void (*)(const float*, const std::byte*, size_t, int, int, bool, float*);
  static constexpr Stream kStream[kTileRows] = {stream<1>, stream<2>, stream<3>, stream<4>, stream<5>, stream<6>};

  // One tile of rows by one panel, from memory or from the cache.
  using Multiply = void (*)(const float*, const std::byte*, size_t, int, bool, float*);
  static constexpr Multiply kFetching[kTileRows] = {multiply<1, 1, 3072>, multiply<2, 1, 3072>, multiply<3, 1, 3072>,
                                                    multiply<4, 1, 3072>, multiply<5, 1, 3072>, multiply<6, 1, 3072>};
  static constexpr Multiply kCached[kTileRows] = {multiply<1, 1, 0>, multiply<2, 1, 0>, multiply<3, 1, 0>,
                                                  multiply<4, 1, 0>, multiply<5, 1, 0>, multiply<6, 1, 0>};

  static int depth(int rows, int length) { return rows == 1 ? length : kDepth; }

  // sums (=, or += unless first) the products of k [begin, end).
  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    alignas(64) float copy[kBlockTiles * kTileRows * kLdCopy];
    const int rows = b.row_count();
    const float* x = row_of(b.a, b.first_row()) + begin / kUnit;
    if (rows > 1) {
      for (int r = 0; r < rows; ++r) {
        copy_row<V>(row_of(b.a, b.first_row() + r) + begin / kUnit, (end - begin + kUnit - 1) / kUnit,
                    copy + r * kLdCopy);
      }
      x = copy;
    }
    const std::byte* w = b.panel(0) + static_cast<size_t>(begin) / kStepLength<form> * kColumns * 4;
    if (b.tile_count() == 1) return kStream[rows - 1](x, w, b.a.w.panel_bytes, b.panels(), end - begin, first, sums);
    for (int p = 0; p < b.panels(); ++p) multiply_panel(b, p, x, w + p * b.a.w.panel_bytes, end - begin, first, sums);
  }

  // All tiles of the block by one panel.
  static void multiply_panel(const Block& b, int panel, const float* x, const std::byte* w, int k, bool first,
                             float* sums) {
    alignas(64) float wide[kWidens ? kColumns * kDepth : 1];
    const Multiply* multiplies = kCached;
    if constexpr (kWidens) {
      if (b.tile_count() >= kWidenTiles) {
        widen(w, k, wide);
        w = reinterpret_cast<const std::byte*>(wide);
        multiplies = FloatProduct<V, WeightForm::f32>::kCached;
      }
    }
    for (int t = b.first_tile; t < b.last_tile; ++t) {
      const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
      const bool fetch = t == b.first_tile && b.last_tile - t < kWidenTiles;
      (fetch ? kFetching : multiplies)[count - 1](
          x + (row - b.first_row()) * kLdCopy, w, 0, k, first,
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

  // Rows in units of the left operand's elements, which are read as floats and never computed with as such when they
  // are pairs.
  static const float* row_of(const LinearArgs& a, int row) {
    return reinterpret_cast<const float*>(static_cast<const std::byte*>(a.x) + x_offset(a, row) * (kUnit == 2 ? 2 : 4));
  }
};

}  // namespace
}  // namespace weft::kernels
