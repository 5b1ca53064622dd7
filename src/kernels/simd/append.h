// Writing keys and values into float32 and bfloat16 caches: what ref_append writes, a row at a time and two tokens of a
// pair together.
#pragma once

#include "kernels/layout.h"
#include "kernels/ref.h"

namespace weft::kernels {
namespace {

constexpr int kNarrowed = 256;  // elements of a row that are narrowed at a time

template <class V>
WEFT_INLINE void narrow(const float* from, int count, uint16_t* to) {
  int i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::store_bf16(to + i, V::load(from + i));
  if (i == count) return;
  alignas(64) float tail[V::kLanes] = {};
  for (int j = i; j < count; ++j) tail[j - i] = from[j];
  V::store_bf16(to + i, V::load(tail));
}

// A token's key into its lane of a tile: words of two dimensions (an odd last one with a zero), or floats.
template <class V>
void store_key_row(const CacheView& cache, const float* k, int lane, std::byte* tile) {
  if (cache.dtype == DType::f32) {
    float* out = reinterpret_cast<float*>(tile) + lane;
    for (int d = 0; d < cache.k_dim; ++d) out[static_cast<ptrdiff_t>(d) * kTileTokens] = k[d];
    return;
  }
  alignas(64) uint16_t row[kNarrowed + V::kLanes];
  uint32_t* out = reinterpret_cast<uint32_t*>(tile) + lane;
  for (int first = 0; first < cache.k_dim; first += kNarrowed) {
    const int count = cache.k_dim - first < kNarrowed ? cache.k_dim - first : kNarrowed;
    narrow<V>(k + first, count, row);
    if (count % 2 != 0) row[count] = 0;
    for (int d = 0; d < count; d += 2, out += kTileTokens) *out = row[d] | static_cast<uint32_t>(row[d + 1]) << 16;
  }
}

// The values of a token, or of two whose lanes make a pair (`next` not null).
template <class V>
void store_value_rows(const CacheView& cache, const float* v, const float* next, int lane, std::byte* tile) {
  if (cache.dtype == DType::f32) {
    __builtin_memcpy(reinterpret_cast<float*>(tile) + static_cast<ptrdiff_t>(lane) * cache.v_dim, v,
                     static_cast<size_t>(cache.v_dim) * 4);
    if (next)
      __builtin_memcpy(reinterpret_cast<float*>(tile) + static_cast<ptrdiff_t>(lane + 1) * cache.v_dim, next,
                       static_cast<size_t>(cache.v_dim) * 4);
    return;
  }
  alignas(64) uint16_t row[kNarrowed + V::kLanes], other[kNarrowed + V::kLanes];
  uint16_t* out = reinterpret_cast<uint16_t*>(tile) + value_index(DType::bf16, cache.v_dim, 0, lane);
  for (int first = 0; first < cache.v_dim; first += kNarrowed, out += 2 * kNarrowed) {
    const int count = cache.v_dim - first < kNarrowed ? cache.v_dim - first : kNarrowed;
    narrow<V>(v + first, count, row);
    if (next) {
      narrow<V>(next + first, count, other);
      for (int d = 0; d < count; ++d)
        reinterpret_cast<uint32_t*>(out)[d] = row[d] | static_cast<uint32_t>(other[d]) << 16;
    } else {
      for (int d = 0; d < count; ++d) out[2 * d] = row[d];
    }
  }
}

template <class V>
void compute(const AppendArgs& a, int rows, Part part) {
  const CacheView& cache = a.cache;
  if (cache.dtype == DType::i8) return reference(a, rows, part);
  for (int i = 0; i < a.sequence_count; ++i) {
    const SequenceView& s = a.sequences[i];
    const Range range = share(static_cast<int64_t>(s.rows) * cache.kv_heads, part);
    for (int64_t unit = range.first, count; unit < range.last; unit += count) {
      const int head = static_cast<int>(unit / s.rows), row = static_cast<int>(unit % s.rows),
                position = s.first_position + row;
      const int block = a.block_table[s.table_offset + position / cache.tokens_per_block];
      const int inside = position % cache.tokens_per_block, tile = inside / kTileTokens, lane = inside % kTileTokens;
      // Pairs of lanes do not cross blocks of two tokens or more.
      count = lane % 2 == 0 && row + 1 < s.rows && unit + 1 < range.last && cache.tokens_per_block > 1 ? 2 : 1;
      for (int r = 0; r < count; ++r) {
        const float* k = a.k + (s.first_row + row + r) * a.ld_k + static_cast<int64_t>(head) * cache.k_dim;
        store_key_row<V>(cache, k, lane + r, key_tile(cache, block, head, tile));
      }
      if (cache.latent) continue;
      const float* v = a.v + (s.first_row + row) * a.ld_v + static_cast<int64_t>(head) * cache.v_dim;
      store_value_rows<V>(cache, v, count == 2 ? v + a.ld_v : nullptr, lane, value_tile(cache, block, head, tile));
    }
  }
}

}  // namespace
}  // namespace weft::kernels
