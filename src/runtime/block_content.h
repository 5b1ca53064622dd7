// A block's content as all ranks together have it, so that it can go from ranks to others that share the model out in
// another way, and from blocks to others of another size: layer after layer, tile (kTileTokens positions) after tile,
// the keys of all heads and then their values.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "plan/plan.h"

namespace weft {

// Some layers of the group as recorded, of all ranks; some tiles of a block.
struct BlockPart {
  int first_layer = 0, layers = 0;
  int first_tile = 0, tiles = 0;
};

int block_tiles(int tokens_per_block);
// All of a block.
BlockPart whole_block(const LayerGroup& whole, int tokens_per_block);
// Bytes of a layer's tile.
size_t tile_bytes(const LayerGroup& whole, DType dtype);
inline size_t part_bytes(const LayerGroup& whole, DType dtype, const BlockPart& part) {
  return tile_bytes(whole, dtype) * static_cast<size_t>(part.layers) * static_cast<size_t>(part.tiles);
}

// Between a rank's block and what the rank has, its layers and its heads, of the part's content.
void copy_block_out(const std::byte* block, const LayerGroup& share, const LayerGroup& whole, DType dtype,
                    int tokens_per_block, const BlockPart& part, std::span<std::byte> content);
void copy_block_in(std::span<const std::byte> content, const LayerGroup& share, const LayerGroup& whole, DType dtype,
                   int tokens_per_block, const BlockPart& part, std::byte* block);

// The content of `tiles` tiles (of one layer or several, in any order) of another type, as kernels would have written
// it from the values that these stand for.
std::vector<std::byte> convert_tiles(std::span<const std::byte> content, const LayerGroup& whole, DType from, DType to,
                                     int tiles);

}  // namespace weft
