// The reference table's cache and attention: one query row and head at a time, one key after the other.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/layout.h"
#include "kernels/ref.h"

namespace weft::kernels {
namespace {

// Block and place of a position of a sequence.
struct Place {
  int block, tile, lane;
};
Place place_of(const CacheView& cache, const int32_t* block_table, const SequenceView& s, int position) {
  const int number = position / cache.tokens_per_block, inside = position % cache.tokens_per_block;
  return {block_table[s.table_offset + number], inside / kTileTokens, inside % kTileTokens};
}

float load(const std::byte* tile, DType dtype, size_t index) {
  if (dtype == DType::i8) return static_cast<float>(reinterpret_cast<const int8_t*>(tile)[index]);
  return dtype == DType::bf16 ? bf16_to_float(reinterpret_cast<const uint16_t*>(tile)[index])
                              : reinterpret_cast<const float*>(tile)[index];
}
void store(std::byte* tile, DType dtype, size_t index, float value) {
  if (dtype == DType::bf16) reinterpret_cast<uint16_t*>(tile)[index] = float_to_bf16(value);
  else reinterpret_cast<float*>(tile)[index] = value;
}

void store_key(const CacheView& cache, std::byte* tile, int lane, const float* k) {
  int8_t* codes = reinterpret_cast<int8_t*>(tile);
  for (int row = 0; row < key_scale_rows(cache); ++row) {
    const Range part = key_part(cache, row);
    const auto first = static_cast<int>(part.first), count = static_cast<int>(part.last - part.first);
    key_scales(cache, tile, row)[lane] =
        ref_int8_codes(k + first, count, codes + key_index(cache.dtype, first, lane), kTileTokens);
  }
  if (cache.dtype == DType::i8) return;
  for (int d = 0; d < cache.k_dim; ++d) store(tile, cache.dtype, key_index(cache.dtype, d, lane), k[d]);
  if (cache.dtype == DType::bf16 && cache.k_dim % 2 != 0)
    store(tile, cache.dtype, key_index(cache.dtype, cache.k_dim, lane), 0);
}

void store_value(const CacheView& cache, std::byte* tile, int lane, const float* v) {
  if (cache.dtype == DType::i8) {
    int8_t* codes = reinterpret_cast<int8_t*>(tile);
    value_scales(cache, tile)[lane] =
        ref_int8_codes(v, cache.v_dim, codes + value_index(cache.dtype, cache.v_dim, 0, lane), 1);
    return;
  }
  for (int d = 0; d < cache.v_dim; ++d) store(tile, cache.dtype, value_index(cache.dtype, cache.v_dim, d, lane), v[d]);
}

void append_token(const AppendArgs& a, const SequenceView& s, int row, int head) {
  const CacheView& cache = a.cache;
  const Place place = place_of(cache, a.block_table, s, s.first_position + row);
  const float* k = a.k + (s.first_row + row) * a.ld_k + static_cast<int64_t>(head) * cache.k_dim;
  store_key(cache, key_tile(cache, place.block, head, place.tile), place.lane, k);
  if (cache.latent) return;
  const float* v = a.v + (s.first_row + row) * a.ld_v + static_cast<int64_t>(head) * cache.v_dim;
  store_value(cache, value_tile(cache, place.block, head, place.tile), place.lane, v);
}

// q . k of the token in a lane.
float key_dot(const CacheView& cache, std::byte* tile, int lane, const float* q) {
  const bool scaled = cache.dtype == DType::i8;
  float score = 0;
  for (int row = 0; row < (scaled ? key_scale_rows(cache) : 1); ++row) {
    const Range part = scaled ? key_part(cache, row) : Range{0, cache.k_dim};
    float dot = 0;
    for (auto d = static_cast<int>(part.first); d < part.last; ++d)
      dot = std::fma(q[d], load(tile, cache.dtype, key_index(cache.dtype, d, lane)), dot);
    score += scaled ? dot * key_scales(cache, tile, row)[lane] : dot;
  }
  return score;
}

// max, sum and accumulator [v_dim] of one query over some keys.
struct State {
  float* max;
  float* sum;
  float* acc;
};

void clear(State s, int v_dim) {
  *s.max = -std::numeric_limits<float>::infinity();
  *s.sum = 0;
  std::fill_n(s.acc, v_dim, 0.0f);
}

// Adds the keys of a later split.
void join(State total, State split, int v_dim) {
  if (*split.sum == 0) return;
  const float max = std::max(*total.max, *split.max);
  const float a = *total.sum == 0 ? 0.0f : std::exp(*total.max - max), b = std::exp(*split.max - max);
  *total.max = max;
  *total.sum = *total.sum * a + *split.sum * b;
  for (int d = 0; d < v_dim; ++d) total.acc[d] = total.acc[d] * a + split.acc[d] * b;
}

// A query (row of the sequence, query head) over keys [first, last), which lie in one split.
void walk_split(const AttendArgs& a, const SequenceView& s, int row, int head, Range keys, State state) {
  const CacheView& cache = a.cache;
  const int kv_head = head / (a.heads / cache.kv_heads);
  const float* q = a.q + (s.first_row + row) * a.ld_q + static_cast<int64_t>(head) * cache.k_dim;
  clear(state, cache.v_dim);
  const int count = static_cast<int>(std::max<int64_t>(0, keys.last - keys.first));
  float scores[kSplitTokens];
  for (int j = 0; j < count; ++j) {
    const Place place = place_of(cache, a.block_table, s, static_cast<int>(keys.first) + j);
    scores[j] = key_dot(cache, key_tile(cache, place.block, kv_head, place.tile), place.lane, q) * a.scale;
    if (a.soft_cap > 0) scores[j] = a.soft_cap * std::tanh(scores[j] / a.soft_cap);
    *state.max = std::max(*state.max, scores[j]);
  }
  for (int j = 0; j < count; ++j) {
    const Place place = place_of(cache, a.block_table, s, static_cast<int>(keys.first) + j);
    std::byte* tile = (cache.latent ? key_tile : value_tile)(cache, place.block, kv_head, place.tile);
    float p = std::exp(scores[j] - *state.max);
    *state.sum += p;
    if (cache.dtype == DType::i8)
      p *= (cache.latent ? key_scales(cache, tile, 0) : value_scales(cache, tile))[place.lane];
    for (int d = 0; d < cache.v_dim; ++d) {
      const size_t at =
          cache.latent ? key_index(cache.dtype, d, place.lane) : value_index(cache.dtype, cache.v_dim, d, place.lane);
      state.acc[d] = std::fma(p, load(tile, cache.dtype, at), state.acc[d]);
    }
  }
}

void write_result(const AttendArgs& a, const SequenceView& s, int row, int head, State total) {
  const int v_dim = a.cache.v_dim;
  const int64_t start = (s.first_row + row) * a.ld_out;
  for (int d = 0; d < v_dim; ++d)
    ref_store(a.out, start + static_cast<int64_t>(head) * v_dim + d, a.operand, total.acc[d] / *total.sum);
  if (head == a.heads - 1) ref_end_row(a.out, start, a.heads * v_dim, a.operand);
}

// Entries of the partial buffer: for each query head of the kv head max, sum, then the accumulators.
State partial_state(const AttendArgs& a, int entry, int head_in_group) {
  const int group = a.heads / a.cache.kv_heads;
  float* floats = a.partials + static_cast<size_t>(entry) * partial_floats(a.heads, a.cache);
  return {floats + head_in_group, floats + group + head_in_group,
          floats + 2 * group + static_cast<size_t>(head_in_group) * a.cache.v_dim};
}

State scratch_state(const AttendArgs& a, Part part, int number) {
  float* floats = reinterpret_cast<float*>(a.scratch + static_cast<size_t>(part.index) * a.scratch_bytes) +
                  number * (a.cache.v_dim + 2);
  return {floats, floats + 1, floats + 2};
}

Range clip(Range keys, int split) {
  return {std::max<int64_t>(keys.first, static_cast<int64_t>(split) * kSplitTokens),
          std::min<int64_t>(keys.last, (split + 1ll) * kSplitTokens)};
}

void attend_query(const AttendArgs& a, const AttendItem& item, int row, int head, Part part) {
  const SequenceView& s = a.sequences[item.sequence];
  const Range keys = visible_keys(s, s.first_position + row, a.mask, a.window, a.chunk);
  if (item.partial >= 0) {
    const int group = a.heads / a.cache.kv_heads;
    for (int i = 0; i < item.splits; ++i) {
      walk_split(a, s, row, head, clip(keys, item.first_split + i), partial_state(a, item.partial + i, head % group));
    }
    return;
  }
  const State total = scratch_state(a, part, 0), split = scratch_state(a, part, 1);
  clear(total, a.cache.v_dim);
  for (int64_t i = keys.first / kSplitTokens; i * kSplitTokens < keys.last; ++i) {
    walk_split(a, s, row, head, clip(keys, static_cast<int>(i)), split);
    join(total, split, a.cache.v_dim);
  }
  write_result(a, s, row, head, total);
}

}  // namespace

void reference(const AppendArgs& a, int, Part part) {
  for (int i = 0; i < a.sequence_count; ++i) {
    const SequenceView& s = a.sequences[i];
    const Range range = share(static_cast<int64_t>(s.rows) * a.cache.kv_heads, part);
    for (int64_t unit = range.first; unit < range.last; ++unit) {
      append_token(a, s, static_cast<int>(unit % s.rows), static_cast<int>(unit / s.rows));
    }
  }
}

void reference(const AttendArgs& a, int, Part part) {
  const int group = a.heads / a.cache.kv_heads;
  for (int i = a.plan->begin[part.index]; i < a.plan->begin[part.index + 1]; ++i) {
    const AttendItem& item = a.plan->items[i];
    for (int row = item.first_row; row < item.first_row + item.rows; ++row) {
      for (int g = 0; g < group; ++g) attend_query(a, item, row, item.kv_head * group + g, part);
    }
  }
}

void reference(const AttendCombineArgs& args, int, Part part) {
  const AttendArgs& a = args.attend;
  const int group = a.heads / a.cache.kv_heads;
  const Range range = share(static_cast<int64_t>(a.plan->combines.size()) * group, part);
  for (int64_t unit = range.first; unit < range.last; ++unit) {
    const AttendPlan::Combine& combine = a.plan->combines[unit / group];
    const int g = static_cast<int>(unit % group);
    const State total = scratch_state(a, part, 0);
    clear(total, a.cache.v_dim);
    for (int split = 0; split < combine.splits; ++split)
      join(total, partial_state(a, combine.partial + split, g), a.cache.v_dim);
    write_result(a, a.sequences[combine.sequence], 0, combine.kv_head * group + g, total);
  }
}

size_t ref_attend_scratch_bytes(int, const CacheView& cache) {
  return (static_cast<size_t>(cache.v_dim + 2) * 2 * sizeof(float) + 63) / 64 * 64;
}

}  // namespace weft::kernels
