// Addresses inside packed weights and the key/value cache, shared by all tables.
//
// Included by files that are compiled for one instruction set, so everything here has internal linkage: the linker must
// never pick an AVX-512 copy of a function for the rest of the program.
#pragma once

#include "kernels/kernels.h"

// For functions that belong inside a kernel's loop.
#define WEFT_INLINE [[gnu::always_inline, maybe_unused]] static inline

namespace weft::kernels {
namespace {

constexpr size_t bytes_of(WeightForm form) { return form == WeightForm::bf16 ? 2 : 4; }

// [first, last) of `count` units that fall to this part: contiguous, as even as possible.
struct Range {
  int64_t first, last;
};
[[maybe_unused]] constexpr Range share(int64_t count, Part part) {
  return {count * part.index / part.count, count * (part.index + 1) / part.count};
}

// When all parts share few rows, each part multiplies some of the panels. Panels are dealt out in groups of
// panel_unit(): four where there are plenty, since a single row is multiplied with four panels at a time.
constexpr int panel_unit(int64_t panels, int parts) { return panels >= int64_t{16} * parts ? 4 : 1; }
[[maybe_unused]] constexpr Range share_panels(int64_t panels, Part part) {
  const int unit = panel_unit(panels, part.count);
  const Range units = share((panels + unit - 1) / unit, part);
  return {units.first * unit, units.last * unit < panels ? units.last * unit : panels};
}

// LinearArgs::half: where column n of w goes in y.
[[maybe_unused]] constexpr int64_t column_apart(int64_t n, int half) {
  const int64_t chunk = n / kGateColumns;
  return chunk / 2 * kGateColumns + n % kGateColumns + (chunk % 2 != 0 ? half : 0);
}

// ---- Packed weights: f32 [k][columns], bf16 [ceil(k / 2)][columns][2] in each panel ---------------------------------

[[maybe_unused]] constexpr size_t packed_panel_bytes(WeightForm form, int columns, int k) {
  const size_t padded_k = form == WeightForm::bf16 ? (static_cast<size_t>(k) + 1) / 2 * 2 : static_cast<size_t>(k);
  const size_t bytes = padded_k * static_cast<size_t>(columns) * bytes_of(form);
  return (bytes + 63) / 64 * 64;
}
// Index of element k of a column, in elements of the form.
[[maybe_unused]] constexpr size_t packed_index(WeightForm form, int columns, int column, int k) {
  if (form == WeightForm::f32) return static_cast<size_t>(k) * columns + column;
  return (static_cast<size_t>(k / 2) * columns + column) * 2 + (k & 1);
}

// ---- Cache ----------------------------------------------------------------------------------------------------------

[[maybe_unused]] constexpr int tiles_per_block(int tokens_per_block) {
  return tokens_per_block <= kTileTokens ? 1 : tokens_per_block / kTileTokens;
}
[[maybe_unused]] constexpr size_t element_bytes(DType dtype) {
  return dtype == DType::i8 ? 1 : dtype == DType::bf16 ? 2 : 4;
}
// Rows of scales [16 tokens] behind a tile's elements.
[[maybe_unused]] constexpr int key_scale_rows(const CacheView& cache) {
  return cache.dtype != DType::i8 ? 0 : cache.latent ? 2 : 1;
}
[[maybe_unused]] constexpr int value_scale_rows(const CacheView& cache) {
  return cache.dtype == DType::i8 && !cache.latent ? 1 : 0;
}
[[maybe_unused]] constexpr size_t tile_bytes(DType dtype, int elements, int scale_rows) {
  return (static_cast<size_t>(elements) * element_bytes(dtype) + static_cast<size_t>(scale_rows) * sizeof(float)) *
         kTileTokens;
}
[[maybe_unused]] constexpr size_t key_tile_bytes(const CacheView& cache) {
  return tile_bytes(cache.dtype, cache.dtype == DType::bf16 ? (cache.k_dim + 1) / 2 * 2 : cache.k_dim,
                    key_scale_rows(cache));
}
[[maybe_unused]] constexpr size_t value_tile_bytes(const CacheView& cache) {
  return cache.latent ? 0 : tile_bytes(cache.dtype, cache.v_dim, value_scale_rows(cache));
}
// Where the values start in a layer's part of a block.
[[maybe_unused]] constexpr size_t values_offset(const CacheView& cache) {
  return key_tile_bytes(cache) * static_cast<size_t>(tiles_per_block(cache.tokens_per_block) * cache.kv_heads);
}
[[maybe_unused]] inline std::byte* key_tile(const CacheView& cache, int block, int kv_head, int tile) {
  const size_t index = static_cast<size_t>(kv_head) * tiles_per_block(cache.tokens_per_block) + tile;
  return cache.base + static_cast<size_t>(block) * cache.block_stride_bytes + index * key_tile_bytes(cache);
}
[[maybe_unused]] inline std::byte* value_tile(const CacheView& cache, int block, int kv_head, int tile) {
  const size_t index = static_cast<size_t>(kv_head) * tiles_per_block(cache.tokens_per_block) + tile;
  // of a cache that is not latent
  return cache.base + static_cast<size_t>(block) * cache.block_stride_bytes + values_offset(cache) +
         index * value_tile_bytes(cache);
}
// The scales of a tile of i8.
[[maybe_unused]] inline float* key_scales(const CacheView& cache, std::byte* tile, int row) {
  return reinterpret_cast<float*>(tile + tile_bytes(cache.dtype, cache.k_dim, row));
}
[[maybe_unused]] inline float* value_scales(const CacheView& cache, std::byte* tile) {
  return reinterpret_cast<float*>(tile + tile_bytes(cache.dtype, cache.v_dim, 0));
}
// The elements of a key that scale row `row` of an i8 cache applies to: all of them; in a latent cache row 0 is for the
// elements that are also the value, row 1 for the others.
[[maybe_unused]] constexpr Range key_part(const CacheView& cache, int row) {
  if (!cache.latent) return {0, cache.k_dim};
  return row == 0 ? Range{0, cache.v_dim} : Range{cache.v_dim, cache.k_dim};
}
// Index of dimension d of a token (lane 0..15) in its tile, in elements of the cache's type.
[[maybe_unused]] constexpr size_t key_index(DType dtype, int d, int lane) {
  return dtype == DType::bf16 ? (static_cast<size_t>(d / 2) * kTileTokens + lane) * 2 + (d & 1)
                              : static_cast<size_t>(d) * kTileTokens + lane;
}
[[maybe_unused]] constexpr size_t value_index(DType dtype, int v_dim, int d, int lane) {
  return dtype == DType::bf16 ? (static_cast<size_t>(lane / 2) * v_dim + d) * 2 + (lane & 1)
                              : static_cast<size_t>(lane) * v_dim + d;
}

// At most this many queries (rows times query heads of a kv head) make one item of attention work, or one row if that
// has more.
[[maybe_unused]] constexpr int kItemQueries = 48;

// Keys [first, last) that a query at `position` may read.
[[maybe_unused]] inline Range visible_keys(const SequenceView& sequence, int position, Mask mask, int window,
                                           int chunk) {
  const int row = position - sequence.first_position;
  if (sequence.starts) return {sequence.starts[row], sequence.ends[row]};
  if (mask == Mask::none) return {0, sequence.ends ? sequence.ends[row] : sequence.first_position + sequence.rows};
  int first = 0;
  if (window > 0 && position - window + 1 > first) first = position - window + 1;
  if (chunk > 0 && position / chunk * chunk > first) first = position / chunk * chunk;
  return {first, sequence.ends ? sequence.ends[row] : position + 1};
}

// The keys that any of the rows [first_row, first_row + rows) may read, and what lies between.
[[maybe_unused]] inline Range keys_of_rows(const SequenceView& s, int first_row, int rows, Mask mask, int window,
                                           int chunk) {
  Range all = visible_keys(s, s.first_position + first_row, mask, window, chunk);
  // Without `ends` what a row reads moves on from row to row, so the first and the last row decide.
  for (int r = s.ends ? 1 : rows - 1; r < rows; ++r) {
    if (r < 1) continue;
    const Range own = visible_keys(s, s.first_position + first_row + r, mask, window, chunk);
    all = {own.first < all.first ? own.first : all.first, own.last > all.last ? own.last : all.last};
  }
  return all;
}

}  // namespace
}  // namespace weft::kernels
