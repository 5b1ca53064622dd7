// Reading tiles of the paged cache: where the tile of some keys lies, small blocks put together, and elements of each
// of the cache's types as vectors of floats. What is not the float value itself (codes of i8) is brought to it by
// scales of the tokens, which go to the scores and to the softmax's weights (attend.h), so that the inner loops are the
// same for all types.
#pragma once

#include "kernels/layout.h"

namespace weft::kernels {
namespace {

// Elements of a tile that lie side by side, as floats; bf16 lies in pairs, which the loops take apart.
template <class V, DType type>
struct Elements {
  WEFT_INLINE typename V::F load(const std::byte* tile, size_t index) {
    return V::load(reinterpret_cast<const float*>(tile) + index);
  }
  WEFT_INLINE typename V::F load_upto(const std::byte* tile, size_t index, int n) {
    return n >= V::kLanes ? load(tile, index) : V::load_n(reinterpret_cast<const float*>(tile) + index, n);
  }
};
template <class V>
struct Elements<V, DType::i8> {
  WEFT_INLINE typename V::F load(const std::byte* tile, size_t index) { return V::to_float(V::load_i8(tile + index)); }
  // Reads whole vectors: the tile's scales lie behind.
  WEFT_INLINE typename V::F load_upto(const std::byte* tile, size_t index, int) { return load(tile, index); }
};

// Tiles to prefetch into the L2 cache while other tiles are computed with, a part at a time: memory stays busy and the
// processor does not wait for it. All are tiles of keys or all are tiles of values.
struct Ahead {
  static constexpr int kMost = 4;
  const std::byte* tiles[kMost];
  int count = 0;  // of tiles
  int lines = 0;  // of each
  // Prefetches part number `piece` of `pieces` equal parts of the tiles [first_tile, last_tile), as far as these exist.
  WEFT_INLINE void fetch(const Ahead& a, int first_tile, int last_tile, int piece, int pieces) {
    if (first_tile >= a.count) return;
    const int first = a.lines * piece / pieces, last = a.lines * (piece + 1) / pieces;
    for (int t = first_tile; t < last_tile && t < a.count; ++t)
      for (int line = first; line < last; ++line)
        __builtin_prefetch(a.tiles[t] + static_cast<ptrdiff_t>(line) * 64, 0, 2);
  }
};

// The tiles of keys [16 t, 16 t + 16) of a sequence.
struct Tiles {
  const AttendArgs& a;
  const SequenceView& s;
  int kv_head;
  std::byte* gathered;  // room for one tile, and for latent_values()
  const int block_bits = __builtin_ctz(static_cast<unsigned>(a.cache.tokens_per_block));

  bool whole() const { return a.cache.tokens_per_block >= kTileTokens; }
  int in_block(int64_t position) const { return static_cast<int>(position) & (a.cache.tokens_per_block - 1); }
  // The tile that a position's token lies in; in a small block it lies in lane in_block().
  std::byte* tile_of(int64_t position, bool values) const {
    const int block = a.block_table[s.table_offset + (position >> block_bits)], tile = in_block(position) / kTileTokens;
    return values ? value_tile(a.cache, block, kv_head, tile) : key_tile(a.cache, block, kv_head, tile);
  }
  // Tiles [first, last) of keys or values, at most Ahead::kMost; none where reading them ahead does not pay.
  Ahead ahead(int64_t first, int64_t last, bool values) const {
    Ahead some;
    if (!whole() || a.cache.latent) return some;
    some.lines = static_cast<int>((values ? value_tile_bytes(a.cache) : key_tile_bytes(a.cache)) / 64);
    for (int64_t t = first; t < last && some.count < Ahead::kMost; ++t)
      some.tiles[some.count++] = tile_of(t * kTileTokens, values);
    return some;
  }
  const std::byte* get(int64_t t, int64_t first, int64_t last, bool values) const {
    if (whole()) return tile_of(t * kTileTokens, values);
    if (a.cache.dtype == DType::bf16) return gather<uint16_t>(t, first, last, values);
    return a.cache.dtype == DType::i8 ? gather<int8_t>(t, first, last, values) : gather<float>(t, first, last, values);
  }
  // Small blocks use the first lanes of one tile each: their lanes are put side by side. Only keys below `last` exist.
  template <class Element>
  const std::byte* gather(int64_t t, int64_t first, int64_t last, bool values) const {
    const DType dtype = a.cache.dtype;
    const int dim = values ? a.cache.v_dim : a.cache.k_dim;
    Element* out = reinterpret_cast<Element*>(gathered);
    const int64_t begin = t * kTileTokens > first ? t * kTileTokens : first;
    for (int64_t position = begin; position < last && position < (t + 1) * kTileTokens; ++position) {
      const int from_lane = in_block(position), lane = static_cast<int>(position % kTileTokens);
      const Element* from = reinterpret_cast<const Element*>(tile_of(position, values));
      for (int d = 0; d < dim; ++d)
        out[values ? value_index(dtype, dim, d, lane) : key_index(dtype, d, lane)] =
            from[values ? value_index(dtype, dim, d, from_lane) : key_index(dtype, d, from_lane)];
      if (!values && dtype == DType::bf16 && dim % 2 != 0) out[key_index(dtype, dim, lane)] = 0;
    }
    return gathered;
  }
  // The elements that are values of a latent cache's keys [first, last), which lie in one tile, as float32 [16
  // tokens][v_dim].
  const std::byte* latent_values(int64_t first, int64_t last) const {
    const int64_t t = first / kTileTokens;
    const std::byte* tile = get(t, first, last, false);
    const int v_dim = a.cache.v_dim;
    float* values = reinterpret_cast<float*>(gathered) + static_cast<size_t>(kTileTokens) * (a.cache.k_dim + 2);
    for (int lane = static_cast<int>(first - t * kTileTokens); lane < last - t * kTileTokens; ++lane) {
      float* row = values + static_cast<size_t>(lane) * v_dim;
      for (int d = 0; d < v_dim; ++d) {
        const size_t at = key_index(a.cache.dtype, d, lane);
        if (a.cache.dtype == DType::bf16) {
          const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(tile)[at]) << 16;
          row[d] = __builtin_bit_cast(float, bits);
        } else if (a.cache.dtype == DType::i8) {
          row[d] = static_cast<float>(reinterpret_cast<const int8_t*>(tile)[at]);
        } else {
          row[d] = reinterpret_cast<const float*>(tile)[at];
        }
      }
    }
    return reinterpret_cast<const std::byte*>(values);
  }
};

// The scales of a split's tokens. keys[part of the key][token] times the sum over that part's elements gives the score;
// values[token] times the softmax weight gives the weight of the value's elements. Filled for the keys that are read.
struct SplitScales {
  float* keys;    // [2][kSplitTokens]; the second is used by latent i8 caches alone
  float* values;  // [kSplitTokens], i8 alone

  static constexpr size_t kFloats = 3 * static_cast<size_t>(kSplitTokens);
  explicit SplitScales(float* memory) : keys(memory), values(memory + 2 * static_cast<size_t>(kSplitTokens)) {}

  // Of keys [first, last) in the split that begins at `origin`. `scale`: of all scores.
  void fill(const Tiles& tiles, int64_t first, int64_t last, int64_t origin, float scale) const {
    const CacheView& cache = tiles.a.cache;
    if (cache.dtype != DType::i8) {
      for (int64_t i = first - origin; i < last - origin; ++i) keys[i] = scale;
      return;
    }
    const int lanes = tiles.whole() ? kTileTokens : cache.tokens_per_block;
    for (int64_t position = first; position < last;) {
      const int lane = static_cast<int>(position % lanes),
                count = static_cast<int>(last - position < lanes - lane ? last - position : lanes - lane);
      std::byte* tile = tiles.tile_of(position, false);
      for (int row = 0; row < key_scale_rows(cache); ++row)
        copy(keys + row * kSplitTokens + (position - origin), key_scales(cache, tile, row) + lane, count, scale);
      const float* value =
          cache.latent ? key_scales(cache, tile, 0) : value_scales(cache, tiles.tile_of(position, true));
      copy(values + (position - origin), value + lane, count, 1.0f);
      position += count;
    }
  }
  static void copy(float* to, const float* from, int count, float factor) {
    for (int i = 0; i < count; ++i) to[i] = from[i] * factor;
  }
};

}  // namespace
}  // namespace weft::kernels
