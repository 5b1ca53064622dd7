// For tests: memory of blocks that holds nothing.
#pragma once

#include "runtime/block_memory.h"

namespace weft {

// A layer and a tile of 64 bytes in each block.
class SmallMemory final : public BlockMemory {
 public:
  int layers(int) const override { return 1; }
  int tiles() const override { return 1; }
  size_t block_tile_bytes(int) const override { return 64; }
  int written_layers(uint64_t, int) const override { return 0; }
  void read_block(int, int, int32_t, const BlockPart&, std::span<std::byte>) const override {}
  void write_block(int, int, int32_t, const BlockPart&, std::span<const std::byte>) override {}
};

}  // namespace weft
