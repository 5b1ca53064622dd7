// Softmax attention over the paged cache, and writing into it.
//
// An item's queries (rows times the query heads of one kv head) go over the keys together, split by split: scores of all keys of a
// split (tiles of 16 keys, the keys in lanes), their softmax against the split's own maximum, then the weighted values (the head's
// dimensions in lanes, keys in ascending order). Splits are joined in ascending order. Keys that a query may not see get weight
// zero, which leaves its sums as they are, so the result of a query does not depend on the queries beside it.
#pragma once

#include "kernels/layout.h"
#include "kernels/simd/math.h"
#include "kernels/simd/rows.h"

namespace weft::kernels {
namespace {

constexpr int kBlockQueries = 4;    // queries that share one load of keys or values

[[maybe_unused]] static inline int item_queries(int heads, const CacheView& cache) {
  const int group = heads / cache.kv_heads;
  return (kItemQueries / group > 0 ? kItemQueries / group : 1) * group;
}
constexpr size_t in_lines(size_t floats) { return (floats + 15) / 16 * 16; }

// What a thread works in.
struct AttendScratch {
  float* scores;             // [queries, kSplitTokens]
  float *max, *sum, *acc;    // of all splits so far: [queries], [queries], [queries, v_dim]
  float *split_max, *split_sum, *split_acc;
  std::byte* tile;           // a gathered tile, for blocks of fewer than 16 tokens

  static size_t floats(int queries, const CacheView& c) {
    const auto q = static_cast<size_t>(queries);
    return q * kSplitTokens + 2 * (2 * in_lines(q) + in_lines(q * c.v_dim)) + in_lines(16 * static_cast<size_t>(c.k_dim + c.v_dim + 2));
  }
  AttendScratch(std::byte* memory, int queries, const CacheView& c) {
    const auto q = static_cast<size_t>(queries);
    scores = reinterpret_cast<float*>(memory);
    max = scores + q * kSplitTokens, sum = max + in_lines(q), acc = sum + in_lines(q);
    split_max = acc + in_lines(q * c.v_dim), split_sum = split_max + in_lines(q), split_acc = split_sum + in_lines(q);
    tile = reinterpret_cast<std::byte*>(split_acc + in_lines(q * c.v_dim));
  }
};

// The tile that holds keys [16 t, 16 t + 16) of a sequence.
struct Tiles {
  const AttendArgs& a;
  const SequenceView& s;
  int kv_head;
  std::byte* gathered;

  int block(int64_t position) const { return a.block_table[s.table_offset + position / a.cache.tokens_per_block - s.first_block]; }
  const std::byte* direct(int64_t t, bool values) const {
    const int64_t position = t * kTileTokens;
    const int tile = static_cast<int>(position % a.cache.tokens_per_block) / kTileTokens;
    return values ? value_tile(a.cache, block(position), kv_head, tile) : key_tile(a.cache, block(position), kv_head, tile);
  }
  // Small blocks use the first lanes of one tile each: their lanes are put side by side. Only keys below `last` exist.
  const std::byte* gather(int64_t t, int64_t first, int64_t last, bool values) const {
    const int dim = values ? a.cache.v_dim : a.cache.k_dim;
    const int64_t begin = t * kTileTokens > first ? t * kTileTokens : first;
    for (int64_t position = begin; position < last && position < (t + 1) * kTileTokens; ++position) {
      const int from_lane = static_cast<int>(position % a.cache.tokens_per_block), lane = static_cast<int>(position % kTileTokens);
      const std::byte* from = values ? value_tile(a.cache, block(position), kv_head, 0) : key_tile(a.cache, block(position), kv_head, 0);
      for (int d = 0; d < dim; ++d) {
        const size_t at = values ? value_index(a.cache.dtype, dim, d, from_lane) : key_index(a.cache.dtype, d, from_lane);
        const size_t to = values ? value_index(a.cache.dtype, dim, d, lane) : key_index(a.cache.dtype, d, lane);
        if (a.cache.dtype == DType::bf16) reinterpret_cast<uint16_t*>(gathered)[to] = reinterpret_cast<const uint16_t*>(from)[at];
        else reinterpret_cast<float*>(gathered)[to] = reinterpret_cast<const float*>(from)[at];
      }
      if (!values && a.cache.dtype == DType::bf16 && dim % 2 != 0)
        reinterpret_cast<uint16_t*>(gathered)[key_index(a.cache.dtype, dim, lane)] = 0;
    }
    return gathered;
  }
  const std::byte* get(int64_t t, int64_t first, int64_t last, bool values) const {
    return a.cache.tokens_per_block >= kTileTokens ? direct(t, values) : gather(t, first, last, values);
  }
  // The values of a latent cache's keys [first, last), which lie in one tile, as float32 [16 tokens][v_dim].
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
        } else {
          row[d] = reinterpret_cast<const float*>(tile)[at];
        }
      }
    }
    return reinterpret_cast<const std::byte*>(values);
  }
};

// scores[i][0 .. 16) = scale * q[i] . keys of the tile, for N queries.
template <class V, int N, bool kPairs>
WEFT_INLINE void score_tile(const float* const* q, const std::byte* tile, int k_dim, float scale, float* const* scores) {
  constexpr int kVectors = kTileTokens / V::kLanes;
  typename V::F acc[N][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) acc[i][v] = V::zero();
  if constexpr (kPairs) {
    const uint16_t* keys = reinterpret_cast<const uint16_t*>(tile);
    for (int d = 0; d < k_dim; d += 2, keys += 2 * kTileTokens) {
      const bool pair = d + 1 < k_dim;
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const typename V::Bits bits = V::load_bits(keys + v * V::kLanes * 2);
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i) {
          acc[i][v] = V::fma(V::set1(q[i][d]), V::even(bits), acc[i][v]);
          if (pair) acc[i][v] = V::fma(V::set1(q[i][d + 1]), V::odd(bits), acc[i][v]);
        }
      }
    }
  } else {
    const float* keys = reinterpret_cast<const float*>(tile);
    for (int d = 0; d < k_dim; ++d, keys += kTileTokens) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const typename V::F k = V::load(keys + v * V::kLanes);
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i) acc[i][v] = V::fma(V::set1(q[i][d]), k, acc[i][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) V::store(scores[i] + v * V::kLanes, V::mul(acc[i][v], V::set1(scale)));
}

// acc[i][0 .. n) += sum over keys [first, last) of the tile of p[i][key] * value[key][0 .. n), n <= 2 vectors, keys ascending.
template <class V, int N, bool kPairs>
WEFT_INLINE void weigh_tile(const float* const* p, const std::byte* tile, int v_dim, int column, int n, int first, int last, typename V::F (*acc)[2]) {
  const int n0 = n < V::kLanes ? n : V::kLanes, n1 = n - n0;
  for (int j = first; j < last; ++j) {
    typename V::F value[2] = {V::zero(), V::zero()};
    if constexpr (kPairs) {
      const uint16_t* row = reinterpret_cast<const uint16_t*>(tile) + (static_cast<size_t>(j / 2) * v_dim + column) * 2;
      const typename V::Bits low = n0 == V::kLanes ? V::load_bits(row) : V::load_bits_n(row, n0);
      value[0] = j % 2 ? V::odd(low) : V::even(low);
      if (n1 > 0) {
        const typename V::Bits high = n1 == V::kLanes ? V::load_bits(row + 2 * V::kLanes) : V::load_bits_n(row + 2 * V::kLanes, n1);
        value[1] = j % 2 ? V::odd(high) : V::even(high);
      }
    } else {
      const float* row = reinterpret_cast<const float*>(tile) + static_cast<size_t>(j) * v_dim + column;
      value[0] = load_upto<V>(row, n0);
      if (n1 > 0) value[1] = load_upto<V>(row + V::kLanes, n1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const typename V::F weight = V::set1(p[i][j]);
      acc[i][0] = V::fma(weight, value[0], acc[i][0]);
      if (n1 > 0) acc[i][1] = V::fma(weight, value[1], acc[i][1]);
    }
  }
}

// The softmax of one query over keys [first, last) of a split that begins at key `origin`: scores become weights, zero outside of
// the range and up to the end of the tiles [from, to).
template <class V>
WEFT_INLINE void weigh_scores(float* scores, int from, int to, int first, int last, float* max_out, float* sum_out) {
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
    const typename V::F weight =
        V::select(V::between(first - j, last - j), exp_of<V>(V::sub(V::load(scores + j), V::set1(max))), V::zero());
    V::store(scores + j, weight);
    sum = V::add(sum, weight);
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
WEFT_INLINE void join(float* max, float* sum, float* acc, float split_max, float split_sum, const float* split_acc, int v_dim) {
  if (split_sum == 0) return;
  const float largest = *max > split_max ? *max : split_max;
  const float a = *sum == 0 ? 0.0f : exp_scalar<V>(*max - largest), b = exp_scalar<V>(split_max - largest);
  *max = largest;
  *sum = *sum * a + split_sum * b;
  for (int d = 0; d < v_dim; d += V::kLanes) {
    const int n = v_dim - d;
    const typename V::F joined = V::add(V::mul(load_upto<V>(acc + d, n), V::set1(a)), V::mul(load_upto<V>(split_acc + d, n), V::set1(b)));
    store_operand<V>(acc, d, Operand::f32, joined, n);
  }
}

template <class V>
WEFT_INLINE void write_output(const AttendArgs& a, int64_t row, int head, const float* acc, float sum) {
  const int v_dim = a.cache.v_dim;
  void* out = row_at(a.out, row * a.ld_out, a.operand);
  for (int d = 0; d < v_dim; d += V::kLanes)
    store_operand<V>(out, static_cast<int64_t>(head) * v_dim + d, a.operand, V::div(load_upto<V>(acc + d, v_dim - d), V::set1(sum)), v_dim - d);
  if (head == a.heads - 1) end_row(out, a.heads * v_dim, a.operand);
}

// One item and its queries.
template <class V, bool kPairs>
struct AttendItemRun {
  const AttendArgs& a;
  const AttendItem& item;
  const SequenceView& s;
  const AttendScratch& scratch;
  const int group, queries;

  const float* query(int i) const {
    const int64_t row = s.first_row + item.first_row + i / group;
    return a.q + row * a.ld_q + static_cast<int64_t>(item.kv_head * group + i % group) * a.cache.k_dim;
  }
  Range visible(int i) const { return visible_keys(s, s.first_position + item.first_row + i / group, a.mask, a.window, a.chunk); }

  template <int N>
  void score_block(int i, const std::byte* tile, int at) const {
    const float* q[N];
    float* out[N];
    for (int k = 0; k < N; ++k) q[k] = query(i + k), out[k] = scratch.scores + static_cast<size_t>(i + k) * kSplitTokens + at;
    score_tile<V, N, kPairs>(q, tile, a.cache.k_dim, a.scale, out);
  }

  void score(const std::byte* tile, int at) const {
    int i = 0;
    for (; i + kBlockQueries <= queries; i += kBlockQueries) score_block<kBlockQueries>(i, tile, at);
    if (queries - i == 3) score_block<3>(i, tile, at);
    else if (queries - i == 2) score_block<2>(i, tile, at);
    else if (queries - i == 1) score_block<1>(i, tile, at);
  }

  // Adds the weighted values of the keys to the accumulators of N queries (`fresh`: which start from zero), two vectors of columns.
  // `latent`: the values of the one tile that the keys of a latent cache lie in.
  template <int N>
  void weigh_block(const Tiles& tiles, int i, int column, Range keys, int64_t origin, float* acc_out, bool fresh, const std::byte* latent) const {
    const int v_dim = a.cache.v_dim, n = v_dim - column < 2 * V::kLanes ? v_dim - column : 2 * V::kLanes;
    typename V::F acc[N][2];
    for (int k = 0; k < N; ++k) {
      const float* from = acc_out + static_cast<size_t>(i + k) * v_dim + column;
      acc[k][0] = fresh ? V::zero() : load_upto<V>(from, n);
      acc[k][1] = fresh || n <= V::kLanes ? V::zero() : load_upto<V>(from + V::kLanes, n - V::kLanes);
    }
    for (int64_t t = keys.first / kTileTokens; t * kTileTokens < keys.last; ++t) {
      const float* p[N];
      for (int k = 0; k < N; ++k) p[k] = scratch.scores + static_cast<size_t>(i + k) * kSplitTokens + (t * kTileTokens - origin);
      const int first = keys.first > t * kTileTokens ? static_cast<int>(keys.first - t * kTileTokens) : 0;
      const int last = keys.last < (t + 1) * kTileTokens ? static_cast<int>(keys.last - t * kTileTokens) : kTileTokens;
      if (latent) weigh_tile<V, N, false>(p, latent, v_dim, column, n, first, last, acc);
      else weigh_tile<V, N, kPairs>(p, tiles.get(t, keys.first, keys.last, true), v_dim, column, n, first, last, acc);
    }
    for (int k = 0; k < N; ++k) {
      float* out = acc_out + static_cast<size_t>(i + k) * v_dim + column;
      store_operand<V>(out, 0, Operand::f32, acc[k][0], n);
      if (n > V::kLanes) store_operand<V>(out, V::kLanes, Operand::f32, acc[k][1], n - V::kLanes);
    }
  }

  void weigh(const Tiles& tiles, Range keys, int64_t origin, float* acc, bool fresh, const std::byte* latent) const {
    for (int column = 0; column < a.cache.v_dim; column += 2 * V::kLanes) {
      int i = 0;
      for (; i + kBlockQueries <= queries; i += kBlockQueries) weigh_block<kBlockQueries>(tiles, i, column, keys, origin, acc, fresh, latent);
      if (queries - i == 3) weigh_block<3>(tiles, i, column, keys, origin, acc, fresh, latent);
      else if (queries - i == 2) weigh_block<2>(tiles, i, column, keys, origin, acc, fresh, latent);
      else if (queries - i == 1) weigh_block<1>(tiles, i, column, keys, origin, acc, fresh, latent);
    }
  }

  // All queries over the keys of one split; the states go to the given arrays.
  void run_split(int64_t split, Range keys, float* max, float* sum, float* acc) const {
    const Tiles tiles{a, s, item.kv_head, scratch.tile};
    const int64_t origin = split * kSplitTokens;
    const int64_t first_tile = keys.first / kTileTokens, end_tile = (keys.last + kTileTokens - 1) / kTileTokens;
    for (int64_t t = first_tile; t < end_tile; ++t)
      score(tiles.get(t, keys.first, keys.last, false), static_cast<int>(t * kTileTokens - origin));
    const int from = static_cast<int>(first_tile * kTileTokens - origin), to = static_cast<int>(end_tile * kTileTokens - origin);
    for (int i = 0; i < queries; ++i) {
      const Range own = visible(i);
      const int64_t first = (own.first > keys.first ? own.first : keys.first) - origin, last = (own.last < keys.last ? own.last : keys.last) - origin;
      weigh_scores<V>(scratch.scores + static_cast<size_t>(i) * kSplitTokens, from, to, static_cast<int>(first), static_cast<int>(last), max + i, sum + i);
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
    run([this](int64_t split, Range keys, float* max, float* sum, float* acc) { run_split(split, keys, max, sum, acc); });
  }
  // `one_split` does what run_split does.
  template <class OneSplit>
  void run(OneSplit one_split) const {
    const Range keys = keys_of_rows(s, item.first_row, item.rows, a.mask, a.window, a.chunk);
    const auto clip = [&](int64_t split) {
      const int64_t begin = split * kSplitTokens, end = begin + kSplitTokens;
      return Range{keys.first > begin ? keys.first : begin, keys.last < end ? keys.last : end};
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
    for (int64_t split = keys.first / kSplitTokens; split * kSplitTokens < keys.last; ++split) {
      one_split(split, clip(split), scratch.split_max, scratch.split_sum, scratch.split_acc);
      for (int i = 0; i < queries; ++i)
        join<V>(scratch.max + i, scratch.sum + i, scratch.acc + static_cast<size_t>(i) * v_dim, scratch.split_max[i], scratch.split_sum[i],
                scratch.split_acc + static_cast<size_t>(i) * v_dim, v_dim);
    }
    for (int i = 0; i < queries; ++i)
      write_output<V>(a, s.first_row + item.first_row + i / group, item.kv_head * group + i % group, scratch.acc + static_cast<size_t>(i) * v_dim,
                      scratch.sum[i]);
  }

  size_t partial_entry() const { return in_lines(static_cast<size_t>(group) * (a.cache.v_dim + 2)); }
};

// Calls work with this part's items.
template <class V, bool kPairs, class Work>
void each_item(const AttendArgs& a, Part part, const AttendScratch& scratch, Work work) {
  const int group = a.heads / a.cache.kv_heads;
  for (int i = a.plan->begin[part.index]; i < a.plan->begin[part.index + 1]; ++i) {
    const AttendItem& item = a.plan->items[i];
    work(AttendItemRun<V, kPairs>{a, item, a.sequences[item.sequence], scratch, group, item.rows * group});
  }
}

template <class V>
void attend(const AttendArgs& a, int, Part part) {
  const AttendScratch scratch(a.scratch + static_cast<size_t>(part.index) * a.scratch_bytes, item_queries(a.heads, a.cache), a.cache);
  const auto work = [](const auto& run) { run.run(); };
  if (a.cache.dtype == DType::bf16) each_item<V, true>(a, part, scratch, work);
  else each_item<V, false>(a, part, scratch, work);
}

template <class V>
void attend_combine(const AttendArgs& a, int, Part part) {
  const int group = a.heads / a.cache.kv_heads, v_dim = a.cache.v_dim;
  const AttendScratch scratch(a.scratch + static_cast<size_t>(part.index) * a.scratch_bytes, item_queries(a.heads, a.cache), a.cache);
  const size_t entry_floats = in_lines(static_cast<size_t>(group) * (v_dim + 2));
  const Range range = share(static_cast<int64_t>(a.plan->combines.size()) * group, part);
  for (int64_t unit = range.first; unit < range.last; ++unit) {
    const AttendPlan::Combine& combine = a.plan->combines[static_cast<size_t>(unit / group)];
    const int g = static_cast<int>(unit % group);
    float max = -__builtin_inff(), sum = 0;
    for (int d = 0; d < v_dim; ++d) scratch.acc[d] = 0;
    for (int split = 0; split < combine.splits; ++split) {
      const float* entry = a.partials + static_cast<size_t>(combine.partial + split) * entry_floats;
      join<V>(&max, &sum, scratch.acc, entry[g], entry[group + g], entry + 2 * group + static_cast<size_t>(g) * v_dim, v_dim);
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
