#include "runtime/block_content.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/kernels.h"

namespace weft {

namespace {

CacheSpec stored(const LayerGroup& group, DType dtype) {
  CacheSpec spec = group.spec;
  spec.dtype = dtype;
  return spec;
}

// Calls copy(offset in the rank's block, offset in the content, bytes) for every run of bytes that both have.
template <class Copy>
void each_run(const LayerGroup& share, const LayerGroup& whole, DType dtype, int tokens_per_block,
              const BlockPart& part, Copy copy) {
  const CacheSpec own = stored(share, dtype);
  const kernels::CacheHeadRuns runs = kernels::cache_head_runs(own, tokens_per_block),
                               tile = kernels::cache_head_runs(own, kernels::kTileTokens);
  const size_t own_layer = kernels::cache_layer_bytes(own, tokens_per_block), unit = tile_bytes(whole, dtype),
               values = static_cast<size_t>(whole.spec.kv_heads) * tile.key_bytes;
  const int first = std::max(part.first_layer, share.first_layer),
            end = std::min(part.first_layer + part.layers, share.first_layer + share.layers);
  for (int layer = first; layer < end; ++layer)
    for (int t = 0; t < part.tiles; ++t) {
      const size_t theirs = unit * static_cast<size_t>((layer - part.first_layer) * part.tiles + t);
      const size_t mine = own_layer * static_cast<size_t>(layer - share.first_layer);
      const auto at = static_cast<size_t>(part.first_tile + t);
      for (int h = 0; h < own.kv_heads; ++h) {
        const auto head = static_cast<size_t>(h), of_all = static_cast<size_t>(share.first_kv_head + h);
        copy(mine + head * runs.key_bytes + at * tile.key_bytes, theirs + of_all * tile.key_bytes, tile.key_bytes);
        copy(mine + runs.values_at + head * runs.value_bytes + at * tile.value_bytes,
             theirs + values + of_all * tile.value_bytes, tile.value_bytes);
      }
    }
}

}  // namespace

namespace {

constexpr int kTokens = kernels::kTileTokens;

// An element of a tile of keys ([dim][token], bf16 in pairs of dims) or values ([token][dim], bf16 in pairs of tokens).
size_t place_in_tile(bool keys, DType dtype, int dims, int token, int dim) {
  const auto t = static_cast<size_t>(token), d = static_cast<size_t>(dim), n = static_cast<size_t>(dims);
  if (dtype == DType::bf16) return keys ? (d / 2 * kTokens + t) * 2 + d % 2 : (t / 2 * n + d) * 2 + t % 2;
  return keys ? d * kTokens + t : t * n + d;
}

// The values of a head's tile. `second_scale`: the first dim with the scale of the second row (i8); dims: there is one.
void unpack_tile(const std::byte* tile, bool keys, DType dtype, int dims, int second_scale, float* out, int64_t ld) {
  const auto* scales = reinterpret_cast<const float*>(tile + static_cast<size_t>(dims) * kTokens);
  for (int token = 0; token < kTokens; ++token)
    for (int dim = 0; dim < dims; ++dim) {
      const size_t at = place_in_tile(keys, dtype, dims, token, dim);
      float value = 0;
      if (dtype == DType::f32) {
        std::memcpy(&value, tile + at * sizeof value, sizeof value);
      } else if (dtype == DType::bf16) {
        uint16_t half = 0;
        std::memcpy(&half, tile + at * sizeof half, sizeof half);
        value = std::bit_cast<float>(uint32_t{half} << 16);
      } else {
        float scale = 0;
        std::memcpy(&scale, scales + (dim >= second_scale ? kTokens : 0) + token, sizeof scale);
        value = static_cast<float>(static_cast<int8_t>(tile[at])) * scale;
      }
      out[token * ld + dim] = value;
    }
}

}  // namespace

std::vector<std::byte> convert_tiles(std::span<const std::byte> content, const LayerGroup& whole, DType from, DType to,
                                     int tiles) {
  const CacheSpec old_spec = stored(whole, from), spec = stored(whole, to);
  const bool latent = spec.kind == CacheSpec::Kind::latent;
  const int heads = spec.kv_heads, k_dim = spec.k_dim, v_dim = latent ? 0 : spec.v_dim;
  const kernels::CacheHeadRuns runs = kernels::cache_head_runs(old_spec, kTokens);
  const size_t unit = tile_bytes(whole, from), new_unit = tile_bytes(whole, to);
  std::vector<std::byte> result(new_unit * static_cast<size_t>(tiles));
  std::vector<std::byte> block(kernels::cache_layer_bytes(spec, kTokens));  // of one tile, as kernels write it
  std::vector<float> k(static_cast<size_t>(kTokens * heads * k_dim)), v(static_cast<size_t>(kTokens * heads * v_dim));
  LayerGroup one = whole;
  one.layers = 1, one.first_layer = 0;
  for (int t = 0; t < tiles; ++t) {
    const std::byte* const tile = content.data() + unit * static_cast<size_t>(t);
    for (int h = 0; h < heads; ++h) {
      const auto head = static_cast<size_t>(h);
      unpack_tile(tile + head * runs.key_bytes, true, from, k_dim, latent ? spec.v_dim : k_dim, k.data() + h * k_dim,
                  heads * k_dim);
      if (!latent)
        unpack_tile(tile + static_cast<size_t>(heads) * runs.key_bytes + head * runs.value_bytes, false, from, v_dim,
                    v_dim, v.data() + h * v_dim, heads * v_dim);
    }
    const kernels::CacheView view{block.data(), block.size(), kTokens, to, heads, k_dim, spec.v_dim, latent};
    const int32_t table = 0;
    const kernels::SequenceView sequence{.rows = kTokens};
    kernels::cpu_table()->run(kernels::AppendArgs{k.data(), latent ? nullptr : v.data(), heads * k_dim, heads * v_dim,
                                                  view, &table, &sequence, 1},
                              kTokens, {0, 1});
    copy_block_out(block.data(), one, one, to, kTokens, {0, 1, 0, 1},
                   std::span(result).subspan(new_unit * static_cast<size_t>(t), new_unit));
  }
  return result;
}

int block_tiles(int tokens_per_block) { return std::max(1, tokens_per_block / kernels::kTileTokens); }

BlockPart whole_block(const LayerGroup& whole, int tokens_per_block) {
  return {0, whole.layers, 0, block_tiles(tokens_per_block)};
}

size_t tile_bytes(const LayerGroup& whole, DType dtype) {
  const kernels::CacheHeadRuns tile = kernels::cache_head_runs(stored(whole, dtype), kernels::kTileTokens);
  return static_cast<size_t>(whole.spec.kv_heads) * (tile.key_bytes + tile.value_bytes);
}

void copy_block_out(const std::byte* block, const LayerGroup& share, const LayerGroup& whole, DType dtype,
                    int tokens_per_block, const BlockPart& part, std::span<std::byte> content) {
  each_run(share, whole, dtype, tokens_per_block, part, [&](size_t mine, size_t theirs, size_t bytes) {
    if (bytes > 0) std::memcpy(content.data() + theirs, block + mine, bytes);
  });
}

void copy_block_in(std::span<const std::byte> content, const LayerGroup& share, const LayerGroup& whole, DType dtype,
                   int tokens_per_block, const BlockPart& part, std::byte* block) {
  each_run(share, whole, dtype, tokens_per_block, part, [&](size_t mine, size_t theirs, size_t bytes) {
    if (bytes > 0) std::memcpy(block + mine, content.data() + theirs, bytes);
  });
}

}  // namespace weft
