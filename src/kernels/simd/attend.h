// Softmax attention over the paged cache, and writing into it.
//
// An item's queries (rows times the query heads of one kv head) go over the keys together, split by split: scores of
// all keys of a split (tiles of 16 keys, the keys in lanes), their softmax against the split's own maximum, then the
// weighted values (the head's dimensions in lanes, keys in ascending order). Splits are joined in ascending order. Keys
// that a query may not see get weight zero, which leaves its sums as they are, so the result of a query does not depend
// on the queries beside it.
#pragma once

#include "kernels/layout.h"
#include "kernels/simd/cache_tiles.h"
#include "kernels/simd/math.h"
#include "kernels/simd/rows.h"

namespace weft::kernels {
namespace {

constexpr int kBlockQueries = 4;          // queries that share one load of keys or values
constexpr int kMostTiles = Ahead::kMost;  // tiles of keys that are scored at once
constexpr int kAheadDims = 16;            // dimensions of keys that are multiplied between two prefetches

[[maybe_unused]] static inline int item_queries(int heads, const CacheView& cache) {
  const int group = heads / cache.kv_heads;
  return (kItemQueries / group > 0 ? kItemQueries / group : 1) * group;
}
constexpr size_t in_lines(size_t floats) { return (floats + 15) / 16 * 16; }

// From a query's scores of a split to the next one's. Rows that lie a power of two apart would share few sets of the L1
// cache.
constexpr int kScoreStride = kSplitTokens + 16;

// What a thread works in.
struct AttendScratch {
  float* arranged;         // blocks of N queries, [k_dim, N] of each
  float* scores;           // [queries, kScoreStride]
  float *max, *sum, *acc;  // of all splits so far: [queries], [queries], [queries, v_dim]
  float *split_max, *split_sum, *split_acc;
  float* scales;    // SplitScales
  std::byte* tile;  // a gathered tile, for blocks of fewer than 16 tokens

  static size_t floats(int queries, const CacheView& c) {
    const auto q = static_cast<size_t>(queries);
    return in_lines(q * c.k_dim) + q * kScoreStride + 2 * (2 * in_lines(q) + in_lines(q * c.v_dim)) +
           SplitScales::kFloats + in_lines(16 * static_cast<size_t>(c.k_dim + c.v_dim + 2));
  }
  AttendScratch(std::byte* memory, int queries, const CacheView& c) {
    const auto q = static_cast<size_t>(queries);
    arranged = reinterpret_cast<float*>(memory);
    scores = arranged + in_lines(q * c.k_dim);
    max = scores + q * kScoreStride, sum = max + in_lines(q), acc = sum + in_lines(q);
    split_max = acc + in_lines(q * c.v_dim), split_sum = split_max + in_lines(q), split_acc = split_sum + in_lines(q);
    scales = split_acc + in_lines(q * c.v_dim);
    tile = reinterpret_cast<std::byte*>(scales + SplitScales::kFloats);
  }
};

// Adds the products of dimensions d and, if kBoth, d + 1 of bf16 keys; otherwise as multiply_keys().
template <class V, int N, int T, bool kBoth>
WEFT_INLINE void multiply_pair(const float* q, const std::byte* const* tiles, int d,
                               typename V::F (*acc)[T * kTileTokens / V::kLanes]) {
  constexpr int kVectors = kTileTokens / V::kLanes;  // of a tile
#pragma GCC unroll 8
  for (int v = 0; v < T * kVectors; ++v) {
    const auto* keys =
        reinterpret_cast<const uint16_t*>(tiles[v / kVectors]) + static_cast<size_t>(v % kVectors) * 2 * V::kLanes;
    const typename V::Bits bits = V::load_bits(keys + key_index(DType::bf16, d, 0));
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      acc[i][v] = V::fma(V::set1(q[d * N + i]), V::even(bits), acc[i][v]);
      if (kBoth) acc[i][v] = V::fma(V::set1(q[(d + 1) * N + i]), V::odd(bits), acc[i][v]);
    }
  }
}

// Adds the products of N queries and the keys of T tiles that follow each other over dimensions [first, last), in
// ascending order; an accumulator is a vector of keys. q: [k_dim, N].
template <class V, DType type, int N, int T>
WEFT_INLINE void multiply_keys(const float* q, const std::byte* const* tiles, int first, int last,
                               typename V::F (*acc)[T * kTileTokens / V::kLanes]) {
  if constexpr (type == DType::bf16) {
    int d = first;
    for (; d + 1 < last; d += 2) multiply_pair<V, N, T, true>(q, tiles, d, acc);
    if (d < last) multiply_pair<V, N, T, false>(q, tiles, d, acc);
    return;
  }
  constexpr int kVectors = kTileTokens / V::kLanes;
  for (int d = first; d < last; ++d) {
#pragma GCC unroll 8
    for (int v = 0; v < T * kVectors; ++v) {
      const typename V::F k = Elements<V, type>::load(
          tiles[v / kVectors], key_index(type, d, 0) + static_cast<size_t>(v % kVectors) * V::kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) acc[i][v] = V::fma(V::set1(q[d * N + i]), k, acc[i][v]);
    }
  }
}

// Scores of N queries and the keys of T tiles, numbers [t, t + T) of `tiles`: scores[i][key] = scales[key] * sum of
// q[i][d] * key[d] over `dims`, added to what is there unless these begin at 0. Scores of queries are kScoreStride
// apart.
template <class V, DType type, int N, int T>
WEFT_INLINE void score_tiles(const float* q, const std::byte* const* tiles, int t, Range dims, const Ahead& ahead,
                             const float* scales, float* scores) {
  constexpr int kVectors = T * kTileTokens / V::kLanes;
  typename V::F acc[N][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[i][v] = V::zero();
  const int first = static_cast<int>(dims.first), last = static_cast<int>(dims.last),
            pieces = (last - first + kAheadDims - 1) / kAheadDims;
  for (int piece = 0, d = first; piece < pieces; ++piece, d += kAheadDims) {
    Ahead::fetch(ahead, t, t + T, piece, pieces);
    multiply_keys<V, type, N, T>(q, tiles + t, d, d + kAheadDims < last ? d + kAheadDims : last, acc);
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const typename V::F factor = V::load(scales + v * V::kLanes);
      float* out = scores + i * kScoreStride + v * V::kLanes;
      V::store(out, first == 0 ? V::mul(acc[i][v], factor) : V::fma(acc[i][v], factor, V::load(out)));
    }
}

// N queries' weighted sums of values, C vectors of columns of which the first `columns` elements count.
template <class V, int N, int C>
struct ValueSums {
  typename V::F at[N][C];
  int columns;

  // Elements of vector c that count, from kLanes on all.
  WEFT_INLINE int count(const ValueSums& s, int c) { return s.columns - c * V::kLanes; }
  // From rows of floats; null: zeros.
  WEFT_INLINE void load(ValueSums& s, const float* from, size_t stride) {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c)
        s.at[i][c] = from && count(s, c) > 0 ? load_upto<V>(from + i * stride + c * V::kLanes, count(s, c)) : V::zero();
  }
  WEFT_INLINE void store(const ValueSums& s, float* to, size_t stride) {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c)
        if (count(s, c) > 0) store_operand<V>(to + i * stride, c * V::kLanes, Operand::f32, s.at[i][c], count(s, c));
  }
};

// Elements [column, column + n) of token j of a tile of values.
template <class V, DType type>
WEFT_INLINE typename V::F load_values(const std::byte* tile, int v_dim, int j, int column, int n) {
  if constexpr (type == DType::bf16) {
    const uint16_t* pairs = reinterpret_cast<const uint16_t*>(tile) + value_index(type, v_dim, column, j & ~1);
    const typename V::Bits bits = n >= V::kLanes ? V::load_bits(pairs) : V::load_bits_n(pairs, n);
    return j % 2 ? V::odd(bits) : V::even(bits);
  } else {
    return Elements<V, type>::load_upto(tile, value_index(type, v_dim, column, j), n);
  }
}

// sums[i] += sum over keys [first, last) of the tile of p[i][key] * value[key] from `column` on, keys ascending; p[i]
// are kScoreStride apart. kFull: all elements of all vectors count.
template <class V, DType type, bool kFull, int N, int C>
WEFT_INLINE void weigh_tile(const float* p, const std::byte* tile, int v_dim, int column, int first, int last,
                            ValueSums<V, N, C>& sums) {
  for (int j = first; j < last; ++j) {
    typename V::F value[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const int n = kFull ? V::kLanes : ValueSums<V, N, C>::count(sums, c);
      value[c] = kFull || n > 0 ? load_values<V, type>(tile, v_dim, j, column + c * V::kLanes, n) : V::zero();
    }
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const typename V::F weight = V::set1(p[i * kScoreStride + j]);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sums.at[i][c] = V::fma(weight, value[c], sums.at[i][c]);
    }
  }
}

// The softmax of one query over keys [first, last) of a split that begins at key `origin`: scores become weights, zero
// outside of the range and up to the end of the tiles [from, to). Weights of an i8 cache are then multiplied by the
// values' scales.
template <class V, DType type>
WEFT_INLINE void weigh_scores(float* scores, int from, int to, int first, int last, const float* value_scales,
                              float* max_out, float* sum_out) {
  const typename V::F none = V::set1(-__builtin_inff());
  if (first >= last) {
    for (int j = from; j < to; j += V::kLanes) V::store(scores + j, V::zero());
    *max_out = -__builtin_inff(), *sum_out = 0;
    return;
  }
  typename V::F largest = none;
  for (int j = from; j < to; j += V::kLanes)
    largest = V::max(largest, V::select(V::between(first - j, last - j), V::load(scores + j), none));
  const float max = V::largest(largest);
  typename V::F sum = V::zero();
  for (int j = from; j < to; j += V::kLanes) {
    const auto seen = V::between(first - j, last - j);
    typename V::F weight = V::select(seen, exp_of<V>(V::sub(V::load(scores + j), V::set1(max))), V::zero());
    sum = V::add(sum, weight);
    if constexpr (type == DType::i8) weight = V::mul(weight, V::select(seen, V::load(value_scales + j), V::zero()));
    V::store(scores + j, weight);
  }
  *max_out = max, *sum_out = V::sum(sum);
}

template <class V>
WEFT_INLINE float exp_scalar(float x) {
  float lanes[V::kLanes];
  V::store(lanes, exp_of<V>(V::set1(x)));
  return lanes[0];
}

// Joins the state of a later split to the state so far.
template <class V>
WEFT_INLINE void join(float* max, float* sum, float* acc, float split_max, float split_sum, const float* split_acc,
                      int v_dim) {
  if (split_sum == 0) return;
  const float largest = *max > split_max ? *max : split_max;
  const float a = *sum == 0 ? 0.0f : exp_scalar<V>(*max - largest), b = exp_scalar<V>(split_max - largest);
  *max = largest;
  *sum = *sum * a + split_sum * b;
  for (int d = 0; d < v_dim; d += V::kLanes) {
    const int n = v_dim - d;
    const typename V::F joined =
        V::add(V::mul(load_upto<V>(acc + d, n), V::set1(a)), V::mul(load_upto<V>(split_acc + d, n), V::set1(b)));
    store_operand<V>(acc, d, Operand::f32, joined, n);
  }
}

template <class V>
WEFT_INLINE void write_output(const AttendArgs& a, int64_t row, int head, const float* acc, float sum) {
  const int v_dim = a.cache.v_dim;
  void* out = row_at(a.out, row * a.ld_out, a.operand);
  for (int d = 0; d < v_dim; d += V::kLanes)
    store_operand<V>(out, static_cast<int64_t>(head) * v_dim + d, a.operand,
                     V::div(load_upto<V>(acc + d, v_dim - d), V::set1(sum)), v_dim - d);
  if (head == a.heads - 1) end_row(out, a.heads * v_dim, a.operand);
}

// One item and its queries, over a cache of `type`.
template <class V, DType type>
struct AttendItemRun {
  const AttendArgs& a;
  const AttendItem& item;
  const SequenceView& s;
  const AttendScratch& scratch;
  const int group, queries;
  const Range all;  // keys, of all splits
  const SplitScales scales{scratch.scales};

  const float* query(int i) const {
    const int64_t row = s.first_row + item.first_row + i / group;
    return a.q + row * a.ld_q + static_cast<int64_t>(item.kv_head * group + i % group) * a.cache.k_dim;
  }
  Range visible(int i) const {
    return visible_keys(s, s.first_position + item.first_row + i / group, a.mask, a.window, a.chunk);
  }

  // Blocks of queries, each with the same dimension of its queries side by side.
  void arrange_queries() const {
    for (int i = 0; i < queries; ++i) {
      const int block = i / kBlockQueries * kBlockQueries,
                n = queries - block < kBlockQueries ? queries - block : kBlockQueries;
      float* to = scratch.arranged + static_cast<size_t>(block) * a.cache.k_dim + (i - block);
      for (int d = 0; d < a.cache.k_dim; ++d) to[d * n] = query(i)[d];
    }
  }

  // Scores of N queries and the keys of `count` tiles, from key `at` of the split on.
  template <int N>
  void score_block(int i, const std::byte* const* tiles, int count, const Ahead& ahead, int at) const {
    // As many sums at once as registers allow, so that additions need not wait for each other.
    constexpr int kWanted = 8 * V::kLanes / (N * kTileTokens), kTiles = kWanted < 1            ? 1
                                                                        : kWanted > kMostTiles ? kMostTiles
                                                                                               : kWanted;
    const float* q = scratch.arranged + static_cast<size_t>(i) * a.cache.k_dim;
    for (int row = 0; row < (type == DType::i8 ? key_scale_rows(a.cache) : 1); ++row) {
      const Range dims = type == DType::i8 ? key_part(a.cache, row) : Range{0, a.cache.k_dim};
      const auto score_some = [&]<int T>(int t) __attribute__((always_inline)) {
        const int key = at + t * kTileTokens;
        score_tiles<V, type, N, T>(q, tiles, t, dims, ahead, scales.keys + row * kSplitTokens + key,
                                   scratch.scores + static_cast<size_t>(i) * kScoreStride + key);
      };
      int t = 0;
      for (; t + kTiles <= count; t += kTiles) score_some.template operator()<kTiles>(t);
      for (; t < count; ++t) score_some.template operator()<1>(t);
    }
  }

  void score(const std::byte* const* tiles, int count, const Ahead& ahead, int at) const {
    int i = 0;
    for (; i + kBlockQueries <= queries; i += kBlockQueries)
      score_block<kBlockQueries>(i, tiles, count, i == 0 ? ahead : Ahead(), at);
    if (queries - i == 3) score_block<3>(i, tiles, count, i == 0 ? ahead : Ahead(), at);
    else if (queries - i == 2) score_block<2>(i, tiles, count, i == 0 ? ahead : Ahead(), at);
    else if (queries - i == 1) score_block<1>(i, tiles, count, i == 0 ? ahead : Ahead(), at);
  }

  // Scores of all queries and keys. Prefetches the values of the same keys, which are read next.
  void score_keys(const Tiles& tiles, Range keys, int64_t origin) const {
    const int64_t end = (keys.last + kTileTokens - 1) / kTileTokens;
    for (int64_t t = keys.first / kTileTokens; t < end;) {
      const int count = !tiles.whole() ? 1 : end - t < kMostTiles ? static_cast<int>(end - t) : kMostTiles;
      const std::byte* some[kMostTiles];
      for (int k = 0; k < count; ++k) some[k] = tiles.get(t + k, keys.first, keys.last, false);
      score(some, count, tiles.ahead(t, t + count, true), static_cast<int>(t * kTileTokens - origin));
      t += count;
    }
  }

  // Adds the weighted values of the keys to the accumulators of N queries (`fresh`: which start from zero), C vectors
  // of columns. `latent`: for a latent cache, the values of the one tile that the keys lie in. Prefetches the keys of
  // the next split, which are read next.
  template <int N, int C>
  void weigh_block(const Tiles& tiles, int i, int column, Range keys, int64_t origin, float* acc_out, bool fresh,
                   const std::byte* latent) const {
    const int v_dim = a.cache.v_dim;
    ValueSums<V, N, C> sums;
    sums.columns = v_dim - column < C * V::kLanes ? v_dim - column : C * V::kLanes;
    float* acc = acc_out + static_cast<size_t>(i) * v_dim + column;
    ValueSums<V, N, C>::load(sums, fresh ? nullptr : acc, v_dim);
    const bool full = sums.columns == C * V::kLanes;
    for (int64_t t = keys.first / kTileTokens; t * kTileTokens < keys.last; ++t) {
      const float* p = scratch.scores + static_cast<size_t>(i) * kScoreStride + (t * kTileTokens - origin);
      const int first = keys.first > t * kTileTokens ? static_cast<int>(keys.first - t * kTileTokens) : 0;
      const int last = keys.last < (t + 1) * kTileTokens ? static_cast<int>(keys.last - t * kTileTokens) : kTileTokens;
      const std::byte* tile = latent ? latent : tiles.get(t, keys.first, keys.last, true);
      if (i == 0) {
        const int64_t next = t + kSplitTokens / kTileTokens;
        Ahead::fetch(tiles.ahead(next, next * kTileTokens < all.last ? next + 1 : next, false), 0, 1,
                     column / (C * V::kLanes), (v_dim - 1) / (C * V::kLanes) + 1);
      }
      if (latent && full) weigh_tile<V, DType::f32, true>(p, tile, v_dim, column, first, last, sums);
      else if (latent) weigh_tile<V, DType::f32, false>(p, tile, v_dim, column, first, last, sums);
      else if (full) weigh_tile<V, type, true>(p, tile, v_dim, column, first, last, sums);
      else weigh_tile<V, type, false>(p, tile, v_dim, column, first, last, sums);
    }
    ValueSums<V, N, C>::store(sums, acc, v_dim);
  }

  void weigh(const Tiles& tiles, Range keys, int64_t origin, float* acc, bool fresh, const std::byte* latent) const {
    if (queries <= 2) return weigh_columns<4>(tiles, keys, origin, acc, fresh, latent);
    weigh_columns<2>(tiles, keys, origin, acc, fresh, latent);
  }
  template <int C>
  void weigh_columns(const Tiles& tiles, Range keys, int64_t origin, float* acc, bool fresh,
                     const std::byte* latent) const {
    for (int column = 0; column < a.cache.v_dim; column += C * V::kLanes) {
      int i = 0;
      if constexpr (C == 2) {
        for (; i + kBlockQueries <= queries; i += kBlockQueries)
          weigh_block<kBlockQueries, C>(tiles, i, column, keys, origin, acc, fresh, latent);
        if (queries - i == 3) weigh_block<3, C>(tiles, i, column, keys, origin, acc, fresh, latent);
      }
      if (queries - i == 2) weigh_block<2, C>(tiles, i, column, keys, origin, acc, fresh, latent);
      else if (queries - i == 1) weigh_block<1, C>(tiles, i, column, keys, origin, acc, fresh, latent);
    }
  }

  // All queries over the keys of one split; the states go to the given arrays.
  void run_split(int64_t split, Range keys, float* max, float* sum, float* acc) const {
    const Tiles tiles{a, s, item.kv_head, scratch.tile};
    const int64_t origin = split * kSplitTokens;
    scales.fill(tiles, keys.first, keys.last, origin, a.scale);
    score_keys(tiles, keys, origin);
    const int from = static_cast<int>(keys.first / kTileTokens * kTileTokens - origin);
    const int to = static_cast<int>((keys.last + kTileTokens - 1) / kTileTokens * kTileTokens - origin);
    for (int i = 0; i < queries; ++i) {
      const Range own = visible(i);
      const int64_t first = (own.first > keys.first ? own.first : keys.first) - origin,
                    last = (own.last < keys.last ? own.last : keys.last) - origin;
      float* scores = scratch.scores + static_cast<size_t>(i) * kScoreStride;
      if (a.soft_cap > 0)
        for (int j = from; j < to; j += V::kLanes)
          V::store(scores + j, soft_capped<V>(V::load(scores + j), a.soft_cap));
      weigh_scores<V, type>(scores, from, to, static_cast<int>(first), static_cast<int>(last), scales.values, max + i,
                            sum + i);
    }
    if (!a.cache.latent) return weigh(tiles, keys, origin, acc, true, nullptr);
    // A tile's values are brought into rows once for all heads.
    for (int64_t first = keys.first; first < keys.last;) {
      const int64_t end = (first / kTileTokens + 1) * kTileTokens, last = end < keys.last ? end : keys.last;
      weigh(tiles, {first, last}, origin, acc, first == keys.first, tiles.latent_values(first, last));
      first = last;
    }
  }

  void run() const {
    arrange_queries();
    run([this](int64_t split, Range keys, float* max, float* sum, float* acc) {
      run_split(split, keys, max, sum, acc);
    });
  }
  // `one_split` does what run_split does.
  template <class OneSplit>
  void run(OneSplit one_split) const {
    const auto clip = [&](int64_t split) {
      const int64_t begin = split * kSplitTokens, end = begin + kSplitTokens;
      return Range{all.first > begin ? all.first : begin, all.last < end ? all.last : end};
    };
    if (item.partial >= 0) {
      for (int i = 0; i < item.splits; ++i) {
        float* entry = a.partials + static_cast<size_t>(item.partial + i) * partial_entry();
        one_split(item.first_split + i, clip(item.first_split + i), entry, entry + group, entry + 2 * group);
      }
      return;
    }
    const int v_dim = a.cache.v_dim;
    for (int i = 0; i < queries; ++i) scratch.max[i] = -__builtin_inff(), scratch.sum[i] = 0;
    for (size_t d = 0; d < static_cast<size_t>(queries) * v_dim; ++d) scratch.acc[d] = 0;
    for (int64_t split = all.first / kSplitTokens; split * kSplitTokens < all.last; ++split) {
      one_split(split, clip(split), scratch.split_max, scratch.split_sum, scratch.split_acc);
      for (int i = 0; i < queries; ++i)
        join<V>(scratch.max + i, scratch.sum + i, scratch.acc + static_cast<size_t>(i) * v_dim, scratch.split_max[i],
                scratch.split_sum[i], scratch.split_acc + static_cast<size_t>(i) * v_dim, v_dim);
    }
    for (int i = 0; i < queries; ++i)
      write_output<V>(a, s.first_row + item.first_row + i / group, item.kv_head * group + i % group,
                      scratch.acc + static_cast<size_t>(i) * v_dim, scratch.sum[i]);
  }

  size_t partial_entry() const { return in_lines(static_cast<size_t>(group) * (a.cache.v_dim + 2)); }
};

// Calls work with this part's items.
template <class V, DType type, class Work>
void each_item(const AttendArgs& a, Part part, const AttendScratch& scratch, Work work) {
  const int group = a.heads / a.cache.kv_heads;
  for (int i = a.plan->begin[part.index]; i < a.plan->begin[part.index + 1]; ++i) {
    const AttendItem& item = a.plan->items[i];
    const SequenceView& s = a.sequences[item.sequence];
    const Range keys = keys_of_rows(s, item.first_row, item.rows, a.mask, a.window, a.chunk);
    work(AttendItemRun<V, type>{a, item, s, scratch, group, item.rows * group, keys});
  }
}

template <class V>
void compute(const AttendArgs& a, int, Part part) {
  const AttendScratch scratch(a.scratch + static_cast<size_t>(part.index) * a.scratch_bytes,
                              item_queries(a.heads, a.cache), a.cache);
  const auto work = [](const auto& run) { run.run(); };
  if (a.cache.dtype == DType::bf16) each_item<V, DType::bf16>(a, part, scratch, work);
  else if (a.cache.dtype == DType::i8) each_item<V, DType::i8>(a, part, scratch, work);
  else each_item<V, DType::f32>(a, part, scratch, work);
}

template <class V>
void compute(const AttendCombineArgs& args, int, Part part) {
  const AttendArgs& a = args.attend;
  const int group = a.heads / a.cache.kv_heads, v_dim = a.cache.v_dim;
  const AttendScratch scratch(a.scratch + static_cast<size_t>(part.index) * a.scratch_bytes,
                              item_queries(a.heads, a.cache), a.cache);
  const size_t entry_floats = in_lines(static_cast<size_t>(group) * (v_dim + 2));
  const Range range = share(static_cast<int64_t>(a.plan->combines.size()) * group, part);
  for (int64_t unit = range.first; unit < range.last; ++unit) {
    const AttendPlan::Combine& combine = a.plan->combines[static_cast<size_t>(unit / group)];
    const int g = static_cast<int>(unit % group);
    float max = -__builtin_inff(), sum = 0;
    for (int d = 0; d < v_dim; ++d) scratch.acc[d] = 0;
    for (int split = 0; split < combine.splits; ++split) {
      const float* entry = a.partials + static_cast<size_t>(combine.partial + split) * entry_floats;
      join<V>(&max, &sum, scratch.acc, entry[g], entry[group + g], entry + 2 * group + static_cast<size_t>(g) * v_dim,
              v_dim);
    }
    write_output<V>(a, a.sequences[combine.sequence].first_row, combine.kv_head * group + g, scratch.acc, sum);
  }
}

template <class V>
size_t attend_scratch_bytes(int heads, const CacheView& cache) {
  return (AttendScratch::floats(item_queries(heads, cache), cache) * sizeof(float) + 63) / 64 * 64;
}

}  // namespace
}  // namespace weft::kernels
