#include "runtime/block_content.h"

#include <algorithm>
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
