#include "runtime/block_content.h"

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
void each_run(const LayerGroup& share, const LayerGroup& whole, DType dtype, int tokens_per_block, Copy copy) {
  const CacheSpec own = stored(share, dtype), all = stored(whole, dtype);
  const kernels::CacheHeadRuns own_runs = kernels::cache_head_runs(own, tokens_per_block),
                               all_runs = kernels::cache_head_runs(all, tokens_per_block);
  const size_t own_layer = kernels::cache_layer_bytes(own, tokens_per_block),
               all_layer = kernels::cache_layer_bytes(all, tokens_per_block);
  const auto heads = static_cast<size_t>(own.kv_heads), first = static_cast<size_t>(share.first_kv_head);
  for (int layer = 0; layer < share.layers; ++layer) {
    const size_t mine = static_cast<size_t>(layer) * own_layer,
                 theirs = static_cast<size_t>(share.first_layer + layer) * all_layer;
    copy(mine, theirs + first * own_runs.key_bytes, heads * own_runs.key_bytes);
    copy(mine + own_runs.values_at, theirs + all_runs.values_at + first * own_runs.value_bytes,
         heads * own_runs.value_bytes);
  }
}

}  // namespace

size_t block_content_bytes(const LayerGroup& whole, DType dtype, int tokens_per_block) {
  return kernels::cache_layer_bytes(stored(whole, dtype), tokens_per_block) * static_cast<size_t>(whole.layers);
}

void copy_block_out(const std::byte* block, const LayerGroup& share, const LayerGroup& whole, DType dtype,
                    int tokens_per_block, std::span<std::byte> content) {
  each_run(share, whole, dtype, tokens_per_block, [&](size_t mine, size_t theirs, size_t bytes) {
    if (bytes > 0) std::memcpy(content.data() + theirs, block + mine, bytes);
  });
}

void copy_block_in(std::span<const std::byte> content, const LayerGroup& share, const LayerGroup& whole, DType dtype,
                   int tokens_per_block, std::byte* block) {
  each_run(share, whole, dtype, tokens_per_block, [&](size_t mine, size_t theirs, size_t bytes) {
    if (bytes > 0) std::memcpy(block + mine, content.data() + theirs, bytes);
  });
}

}  // namespace weft
