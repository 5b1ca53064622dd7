// Softmax attention over a bfloat16 or int8 cache on matrix tiles (Intel AMX): both products run on them, queries and
// weights rounded to bfloat16. Items, splits and joining are those of attend.h. Codes of int8, which bfloat16 holds
// exactly, are widened tile by tile.
//
// A tile of keys (16 tokens, pairs of dimensions) is what the instruction reads. Values are multiplied 32 keys at a
// time, at absolute multiples of 32; where these do not lie together in the cache, or not all of them may be read, they
// are brought together with zeros in the place of what is missing. A register's 16 rows may hold more rows than there
// are queries: what comes out there is not read.
#pragma once

#include <immintrin.h>

#include "kernels/simd/attend.h"
#include "kernels/simd/linear_tiles.h"

namespace weft::kernels {
namespace {

constexpr int kValueKeys = 32;                    // keys of one product with values
constexpr int kGatheredGroups = 4;                // of kValueKeys, brought together at a time
constexpr int kWeightStride = kSplitTokens + 32;  // from a query's weights to the next one's; see kScoreStride

// What a thread works in: AttendScratch for queries rounded up to whole registers, and the operands of the tiles.
struct TileScratch : AttendScratch {
  uint16_t* q;           // [registers of 16 queries][steps][16][32]
  uint16_t* weights;     // [queries, kWeightStride]
  std::byte* values;     // [kGatheredGroups][16 pairs of keys][v_dim][2]
  std::byte* last_keys;  // [2][16 pairs of dimensions][16 tokens][2]: the last dimensions, where they are not 32
  std::byte* wide_keys;  // [2][steps][16 pairs of dimensions][16 tokens][2]: of int8

  static int padded(int queries) { return (queries + kRegisterRows - 1) / kRegisterRows * kRegisterRows; }
  static int steps(const CacheView& c) { return (c.k_dim + kTileDepth - 1) / kTileDepth; }
  static size_t floats(int queries, const CacheView& c) {
    const auto rows = static_cast<size_t>(padded(queries));
    return in_lines(AttendScratch::floats(padded(queries), c)) + rows * static_cast<size_t>(steps(c)) * 16 +
           rows * kWeightStride / 2 + in_lines(static_cast<size_t>(kGatheredGroups) * 16 * c.v_dim) + 2 * 256 +
           2 * 256 * static_cast<size_t>(steps(c));
  }
  TileScratch(std::byte* memory, int queries, const CacheView& c) : AttendScratch(memory, padded(queries), c) {
    const auto rows = static_cast<size_t>(padded(queries));
    q = reinterpret_cast<uint16_t*>(memory) + 2 * in_lines(AttendScratch::floats(padded(queries), c));
    weights = q + rows * static_cast<size_t>(steps(c)) * kTileDepth;
    values = reinterpret_cast<std::byte*>(weights + rows * kWeightStride);
    last_keys = values + in_lines(static_cast<size_t>(kGatheredGroups) * 16 * c.v_dim) * 4;
    wide_keys = last_keys + 2 * 1024;
  }
};

// Sixteen rows of 64 bytes in every register; the sums and values of the second shape have `columns` columns.
[[maybe_unused]] static inline void shape_attention(int columns) {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    shapes.rows[tile] = kRegisterRows;
    shapes.row_bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? 64 : columns * 4);
  }
  load_shapes(shapes);
}

// scores[queries][tokens] of NQ registers of queries by NK tiles of keys; `last` holds the keys of the last step if
// that is a short one.
template <int NQ, int NK>
static void score_registers(const uint16_t* q, int steps, const std::byte* const* keys, const std::byte* last,
                            float* scores) {
  const ptrdiff_t next_q = static_cast<ptrdiff_t>(steps) * kRegisterRows * kTileDepth;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int s = 0; s < steps; ++s, q += kRegisterRows * kTileDepth) {
    const bool copied = last && s == steps - 1;
    _tile_loadd(4, q, 64);
    if constexpr (NQ == 2) _tile_loadd(5, q + next_q, 64);
    _tile_loadd(6, copied ? last : keys[0] + s * 1024, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (NQ == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (NK == 2) {
      _tile_loadd(7, copied ? last + 1024 : keys[1] + s * 1024, 64);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (NQ == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, scores, kScoreStride * 4);
  if constexpr (NK == 2) _tile_stored(1, scores + kTileTokens, kScoreStride * 4);
  if constexpr (NQ == 2) {
    scores += kRegisterRows * kScoreStride;
    _tile_stored(2, scores, kScoreStride * 4);
    if constexpr (NK == 2) _tile_stored(3, scores + kTileTokens, kScoreStride * 4);
  }
}

// acc[queries][columns] (=, or += unless fresh) the weighted values of `groups` times 32 keys, for NQ registers of
// queries by ND of columns.
template <int NQ, int ND>
static void weigh_registers(const uint16_t* weights, int groups, const std::byte* const* values, int v_dim, int column,
                            bool fresh, float* acc) {
  const ptrdiff_t ld = static_cast<ptrdiff_t>(v_dim) * 4, next_weights = kRegisterRows * kWeightStride;
  float* lower = acc + static_cast<ptrdiff_t>(kRegisterRows) * v_dim;
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, acc + column, ld);
    if constexpr (ND == 2) _tile_loadd(1, acc + column + 16, ld);
    if constexpr (NQ == 2) _tile_loadd(2, lower + column, ld);
    if constexpr (NQ == 2 && ND == 2) _tile_loadd(3, lower + column + 16, ld);
  }
  for (int g = 0; g < groups; ++g, weights += kValueKeys) {
    const std::byte* v = values[g] + static_cast<ptrdiff_t>(column) * 4;
    _tile_loadd(4, weights, kWeightStride * 2);
    if constexpr (NQ == 2) _tile_loadd(5, weights + next_weights, kWeightStride * 2);
    _tile_loadd(6, v, ld);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (NQ == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (ND == 2) {
      _tile_loadd(7, v + 64, ld);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (NQ == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, acc + column, ld);
  if constexpr (ND == 2) _tile_stored(1, acc + column + 16, ld);
  if constexpr (NQ == 2) _tile_stored(2, lower + column, ld);
  if constexpr (NQ == 2 && ND == 2) _tile_stored(3, lower + column + 16, ld);
}

// One query's softmax, as weigh_scores in attend.h, of the sums times the keys' scales, capped there if soft_cap > 0;
// its weights (of int8 times the values' scales) go to `out` as bfloat16. [from, to) are multiples of kValueKeys.
template <class V, DType type>
WEFT_INLINE void weights_of(float* scores, float soft_cap, uint16_t* out, const SplitScales& scales, int from, int to,
                            int first, int last, float* max_out, float* sum_out) {
  const typename V::F none = V::set1(-__builtin_inff());
  const auto score = [&](int j) __attribute__((always_inline)) {
    if (soft_cap > 0) return V::load(scores + j);  // scaled and capped already
    return V::mul(V::load(scores + j), V::load(scales.keys + j));
  };
  if (soft_cap > 0)
    for (int j = from; j < to; j += V::kLanes)
      V::store(scores + j, soft_capped<V>(V::mul(V::load(scores + j), V::load(scales.keys + j)), soft_cap));
  typename V::F largest = none;
  for (int j = first / V::kLanes * V::kLanes; j < last; j += V::kLanes)
    largest = V::max(largest, V::select(V::between(first - j, last - j), score(j), none));
  const float max = first < last ? V::largest(largest) : -__builtin_inff();
  typename V::F sum = V::zero();
  const auto weight = [&](int j) __attribute__((always_inline)) {
    return V::select(V::between(first - j, last - j), exp_of<V>(V::sub(score(j), V::set1(max))), V::zero());
  };
  const auto value_scale = [&](int j) __attribute__((always_inline)) {
    return V::select(V::between(first - j, last - j), V::load(scales.values + j), V::zero());
  };
  for (int j = from; j < to; j += kValueKeys) {
    typename V::F low = weight(j), high = weight(j + V::kLanes);
    sum = V::add(V::add(sum, low), high);
    if constexpr (type == DType::i8) low = V::mul(low, value_scale(j)), high = V::mul(high, value_scale(j + V::kLanes));
    _mm512_store_si512(out + j, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  *max_out = max, *sum_out = V::sum(sum);
}

// Two vectors of codes as pairs of bfloat16, the first in the low halves.
template <class V>
WEFT_INLINE typename V::Bits wide_pairs(const std::byte* low, const std::byte* high) {
  const typename V::Bits first = V::as_bits(Elements<V, DType::i8>::load(low, 0)),
                         second = V::as_bits(Elements<V, DType::i8>::load(high, 0));
  return V::or_bits(V::template shift_right<16>(first), second);
}

// An item and its queries on tiles, over a cache of `type`.
template <class V, DType type>
struct TileItemRun {
  const AttendItemRun<V, type>& item_run;
  const TileScratch& scratch;
  const AttendArgs& a = item_run.a;
  const Tiles tiles{a, item_run.s, item_run.item.kv_head, scratch.tile};
  const int registers = TileScratch::padded(item_run.queries) / kRegisterRows;
  const int steps = TileScratch::steps(a.cache);
  // more rows compute for longer than their keys and values take to read
  const bool reads_ahead = item_run.item.rows == 1;

  void run() const {
    copy_queries();
    item_run.run([this](int64_t split, Range keys, float* max, float* sum, float* acc) {
      run_split(split * kSplitTokens, keys, max, sum);
      if (acc != scratch.split_acc)
        __builtin_memcpy(acc, scratch.split_acc, static_cast<size_t>(item_run.queries) * a.cache.v_dim * 4);
    });
  }

 private:
  void copy_queries() const {
    for (int i = 0; i < item_run.queries; ++i) {
      const float* from = item_run.query(i);
      uint16_t* to =
          scratch.q +
          (static_cast<ptrdiff_t>(i / kRegisterRows) * steps * kRegisterRows + i % kRegisterRows) * kTileDepth;
      for (int d = 0; d < a.cache.k_dim; d += kTileDepth, to += kRegisterRows * kTileDepth) {
        const int n = a.cache.k_dim - d, low = n < 16 ? n : 16, high = n < 16 ? 0 : n < 32 ? n - 16 : 16;
        _mm512_store_si512(
            to, (__m512i)_mm512_cvtne2ps_pbh(V::load_n(from + d + (high ? 16 : 0), high), V::load_n(from + d, low)));
      }
    }
  }

  // The states of all queries over the keys of one split; the sums of values go to scratch.split_acc.
  void run_split(int64_t origin, Range keys, float* max, float* sum) const {
    shape_attention(16);
    item_run.scales.fill(tiles, keys.first, keys.last, origin, a.scale);
    for (int64_t t = keys.first / kTileTokens; t * kTileTokens < keys.last; t += 2) score(t, keys, origin);
    const int from = static_cast<int>(keys.first - origin) / kValueKeys * kValueKeys;
    const int to = (static_cast<int>(keys.last - origin) + kValueKeys - 1) / kValueKeys * kValueKeys;
    for (int i = 0; i < item_run.queries; ++i) {
      const Range own = item_run.visible(i);
      const int64_t first = (own.first > keys.first ? own.first : keys.first) - origin,
                    last = (own.last < keys.last ? own.last : keys.last) - origin;
      weights_of<V, type>(scratch.scores + static_cast<ptrdiff_t>(i) * kScoreStride, a.soft_cap,
                          scratch.weights + static_cast<ptrdiff_t>(i) * kWeightStride, item_run.scales, from, to,
                          static_cast<int>(first), static_cast<int>(last), max + i, sum + i);
    }
    weigh(from, to, keys, origin);
  }

  // The scores of tiles t and t + 1 (if there is such a one).
  void score(int64_t t, Range keys, int64_t origin) const {
    const int pairs = (a.cache.k_dim + 1) / 2, short_pairs = type == DType::i8 ? 0 : pairs % 16;
    const int count = (t + 1) * kTileTokens < keys.last ? 2 : 1;
    const std::byte* tile[2] = {};
    // Keys that are gathered share one buffer, so they are used before the next are.
    const bool together = count == 2 && a.cache.tokens_per_block >= kTileTokens;
    if (reads_ahead) Ahead::fetch(tiles.ahead(t, t + count, true), 0, count, 0, 1);  // the values, which are read next
    for (int i = 0; i < count; ++i) {
      tile[i] = tiles.get(t + i, keys.first, keys.last, false);
      if (type == DType::i8)
        tile[i] = widen_keys(tile[i], scratch.wide_keys + static_cast<ptrdiff_t>(i) * steps * 1024);
      if (short_pairs) {
        std::byte* last = scratch.last_keys + i * 1024;
        __builtin_memcpy(last, tile[i] + (pairs - short_pairs) * 64, static_cast<size_t>(short_pairs) * 64);
        __builtin_memset(last + short_pairs * 64, 0, static_cast<size_t>(16 - short_pairs) * 64);
      }
      if (!together)
        score_one(tile + i, short_pairs ? scratch.last_keys + i * 1024 : nullptr,
                  static_cast<int>((t + i) * kTileTokens - origin));
    }
    if (together)
      score_two(tile, short_pairs ? scratch.last_keys : nullptr, static_cast<int>(t * kTileTokens - origin));
  }
  // A tile of int8 keys in the form of bfloat16, zeros up to whole steps.
  const std::byte* widen_keys(const std::byte* tile, std::byte* out) const {
    const int k_dim = a.cache.k_dim;
    auto* pairs = reinterpret_cast<uint32_t*>(out);
    int d = 0;
    for (; d + 2 <= k_dim; d += 2, pairs += kTileTokens)
      _mm512_store_si512(pairs, wide_pairs<V>(tile + d * kTileTokens, tile + (d + 1) * kTileTokens));
    if (d < k_dim) {
      _mm512_store_si512(
          pairs, V::template shift_right<16>(V::as_bits(Elements<V, DType::i8>::load(tile, key_index(type, d, 0)))));
      d += 2, pairs += kTileTokens;
    }
    for (; d < steps * kTileDepth; d += 2, pairs += kTileTokens) _mm512_store_si512(pairs, _mm512_setzero_si512());
    return out;
  }
  void score_one(const std::byte* const* tile, const std::byte* last, int at) const {
    int r = 0;
    for (; r + 2 <= registers; r += 2) score_registers<2, 1>(q_of(r), steps, tile, last, scores_of(r) + at);
    if (r < registers) score_registers<1, 1>(q_of(r), steps, tile, last, scores_of(r) + at);
  }
  void score_two(const std::byte* const* tile, const std::byte* last, int at) const {
    int r = 0;
    for (; r + 2 <= registers; r += 2) score_registers<2, 2>(q_of(r), steps, tile, last, scores_of(r) + at);
    if (r < registers) score_registers<1, 2>(q_of(r), steps, tile, last, scores_of(r) + at);
  }
  const uint16_t* q_of(int r) const {
    return scratch.q + static_cast<ptrdiff_t>(r) * steps * kRegisterRows * kTileDepth;
  }
  float* scores_of(int r) const { return scratch.scores + static_cast<ptrdiff_t>(r) * kRegisterRows * kScoreStride; }

  void weigh(int from, int to, Range keys, int64_t origin) const {
    const std::byte* values[kSplitTokens / kValueKeys];
    for (int first = from; first < to;) {
      int groups = 0, gathered = 0;
      for (int at = first; at < to; at += kValueKeys, ++groups) {
        const int64_t key = origin + at;
        const bool whole = keys.first <= key && key + kValueKeys <= keys.last;
        const int64_t next = (key + kSplitTokens) / kTileTokens;  // the next split's keys
        if (reads_ahead)
          Ahead::fetch(tiles.ahead(next, (next + 2) * kTileTokens <= item_run.all.last ? next + 2 : next, false), 0, 2,
                       0, 1);
        if (type != DType::i8 && whole && !a.cache.latent && a.cache.tokens_per_block >= kValueKeys) {
          values[groups] = tiles.tile_of(key, true);
        } else {
          if (gathered == kGatheredGroups) break;
          std::byte* to_values = scratch.values + static_cast<ptrdiff_t>(gathered++) * 64 * a.cache.v_dim;
          if constexpr (type == DType::i8) widen_values(key, keys, reinterpret_cast<uint32_t*>(to_values));
          else gather_values(key, keys, reinterpret_cast<uint32_t*>(to_values));
          values[groups] = to_values;
        }
      }
      weigh_groups(first, groups, values, first == from);
      first += groups * kValueKeys;
    }
  }
  void weigh_groups(int at, int groups, const std::byte* const* values, bool fresh) const {
    const int v_dim = a.cache.v_dim;
    int column = 0;
    for (; column + 32 <= v_dim; column += 32) weigh_columns<2>(at, groups, values, column, fresh);
    if (column + 16 <= v_dim) {
      weigh_columns<1>(at, groups, values, column, fresh);
      column += 16;
    }
    if (column == v_dim) return;
    shape_attention(v_dim - column);
    weigh_columns<1>(at, groups, values, column, fresh);
    shape_attention(16);
  }
  template <int ND>
  void weigh_columns(int at, int groups, const std::byte* const* values, int column, bool fresh) const {
    const int v_dim = a.cache.v_dim;
    const auto weights = [&](int r) {
      return scratch.weights + static_cast<ptrdiff_t>(r) * kRegisterRows * kWeightStride + at;
    };
    const auto acc = [&](int r) { return scratch.split_acc + static_cast<ptrdiff_t>(r) * kRegisterRows * v_dim; };
    int r = 0;
    for (; r + 2 <= registers; r += 2) weigh_registers<2, ND>(weights(r), groups, values, v_dim, column, fresh, acc(r));
    if (r < registers) weigh_registers<1, ND>(weights(r), groups, values, v_dim, column, fresh, acc(r));
  }

  // Values of the keys [key, key + 32) that lie in `keys`, zeros for the others: [pair of keys][v_dim], the even key in
  // the low half.
  void gather_values(int64_t key, Range keys, uint32_t* out) const {
    const int v_dim = a.cache.v_dim;
    for (int half = 0; half < 2; ++half, out += 8 * static_cast<ptrdiff_t>(v_dim)) {
      const int64_t t = key / kTileTokens + half, begin = t * kTileTokens;
      const int first = keys.first > begin ? static_cast<int>(keys.first - begin) : 0;
      const int last = keys.last < begin + kTileTokens ? static_cast<int>(keys.last - begin) : kTileTokens;
      const auto* tile = first < last
                             ? reinterpret_cast<const uint32_t*>(tiles.get(t, keys.first, keys.last, !a.cache.latent))
                             : nullptr;
      for (int pair = 0; pair < 8; ++pair) {
        const uint32_t mask = (2 * pair >= first && 2 * pair < last ? 0xffffu : 0) |
                              (2 * pair + 1 >= first && 2 * pair + 1 < last ? 0xffff0000u : 0);
        uint32_t* row = out + static_cast<ptrdiff_t>(pair) * v_dim;
        if (mask == 0) __builtin_memset(row, 0, static_cast<size_t>(v_dim) * 4);
        else if (a.cache.latent) transpose_latent(tile + 2 * pair, mask, row);
        else
          for (int d = 0; d < v_dim; ++d) row[d] = tile[static_cast<ptrdiff_t>(pair) * v_dim + d] & mask;
      }
    }
  }
  // The same of int8. Keys that are not to be read have weight zero, so that their codes may be anything.
  void widen_values(int64_t key, Range keys, uint32_t* out) const {
    const int v_dim = a.cache.v_dim;
    for (int half = 0; half < 2; ++half) {
      const int64_t t = key / kTileTokens + half;
      const bool exists = keys.first < (t + 1) * kTileTokens && t * kTileTokens < keys.last;
      const std::byte* tile = exists ? tiles.get(t, keys.first, keys.last, true) : nullptr;
      for (int pair = 0; pair < 8; ++pair, out += v_dim) {
        if (!exists) {
          __builtin_memset(out, 0, static_cast<size_t>(v_dim) * 4);
          continue;
        }
        const std::byte* row = tile + static_cast<ptrdiff_t>(2 * pair) * v_dim;
        for (int d = 0; d < v_dim; d += V::kLanes)
          store_operand<V>(out, d, Operand::f32, V::as_float(wide_pairs<V>(row + d, row + v_dim + d)), v_dim - d);
      }
    }
  }
  // Two tokens' values from a tile of keys, whose words hold two dimensions of a token.
  void transpose_latent(const uint32_t* tokens, uint32_t mask, uint32_t* row) const {
    for (int d = 0; d < a.cache.v_dim; d += 2, tokens += kTileTokens) {
      row[d] = ((tokens[0] & 0xffffu) | tokens[1] << 16) & mask;
      if (d + 1 < a.cache.v_dim) row[d + 1] = (tokens[0] >> 16 | (tokens[1] & 0xffff0000u)) & mask;
    }
  }
};

template <class V>
void attend_on_tiles(const AttendArgs& a, int rows, Part part) {
  // The two parts of latent int8 keys have scales of their own, so their products would need sums of their own.
  if (a.cache.dtype == DType::f32 || (a.cache.dtype == DType::i8 && a.cache.latent)) return compute<V>(a, rows, part);
  const TileScratch scratch(a.scratch + static_cast<size_t>(part.index) * a.scratch_bytes,
                            item_queries(a.heads, a.cache), a.cache);
  const auto work = [&]<DType type>(const AttendItemRun<V, type>& run) { TileItemRun<V, type>{run, scratch}.run(); };
  if (a.cache.dtype == DType::i8) each_item<V, DType::i8>(a, part, scratch, work);
  else each_item<V, DType::bf16>(a, part, scratch, work);
  _tile_release();
}

template <class V>
size_t attend_on_tiles_scratch_bytes(int heads, const CacheView& cache) {
  return (TileScratch::floats(item_queries(heads, cache), cache) * sizeof(float) + 63) / 64 * 64;
}

}  // namespace
}  // namespace weft::kernels
