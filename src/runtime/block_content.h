// A block's content as all ranks together have it: what one rank alone would have in memory, layer after layer. So it
// can go from ranks to others that share the model out in another way.
#pragma once

#include <cstddef>
#include <span>

#include "core/dtype.h"
#include "plan/plan.h"

namespace weft {

// Bytes of it; `whole` as recorded, of all ranks.
size_t block_content_bytes(const LayerGroup& whole, DType dtype, int tokens_per_block);
// Between a rank's block and the part of the content that the rank has: its layers, its heads.
void copy_block_out(const std::byte* block, const LayerGroup& share, const LayerGroup& whole, DType dtype,
                    int tokens_per_block, std::span<std::byte> content);
void copy_block_in(std::span<const std::byte> content, const LayerGroup& share, const LayerGroup& whole, DType dtype,
                   int tokens_per_block, std::byte* block);

}  // namespace weft
