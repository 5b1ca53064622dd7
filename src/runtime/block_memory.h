// The memory of the cache's blocks, for those who bring content from outside or take it there (cache_tier.h,
// peer_exchange.h). The simulation has one without a model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/block_content.h"

namespace weft {

// All calls: any thread, beside steps that leave the block alone.
class BlockMemory {
 public:
  virtual ~BlockMemory() = default;
  virtual int layers(int group) const = 0;
  virtual int tiles() const = 0;                         // of a block
  virtual size_t block_tile_bytes(int group) const = 0;  // of a layer's tile
  // Content of another type that has this size for a layer's tile, if there is one: convert() makes it the group's own.
  virtual std::optional<DType> other_type(int group, size_t tile_bytes) const {
    (void)group, (void)tile_bytes;
    return std::nullopt;
  }
  virtual std::vector<std::byte> convert(int group, std::span<const std::byte> content, DType from, int tiles) const {
    (void)group, (void)from, (void)tiles;
    return {content.begin(), content.end()};
  }
  // Of a step that has been submitted: so many layers of the group, from the first on, are written.
  virtual int written_layers(uint64_t step, int group) const = 0;
  // Between a block and the content of a part of it, as block_content.h lays it out.
  virtual void read_block(int home, int group, int32_t block, const BlockPart& part,
                          std::span<std::byte> content) const = 0;
  virtual void write_block(int home, int group, int32_t block, const BlockPart& part,
                           std::span<const std::byte> content) = 0;

  BlockPart whole(int group) const { return {0, layers(group), 0, tiles()}; }
  size_t bytes(int group, const BlockPart& part) const {
    return block_tile_bytes(group) * static_cast<size_t>(part.layers) * static_cast<size_t>(part.tiles);
  }
  size_t block_bytes(int group) const { return bytes(group, whole(group)); }
};

}  // namespace weft
