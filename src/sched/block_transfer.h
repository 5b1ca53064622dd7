// Blocks on their way between the cache and a store outside. The scheduler says which, and holds them meanwhile;
// whoever moves the bytes (runtime/cache_tier.h) does so beside the steps.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/cache_manager.h"

namespace weft {

struct BlockTransfer {
  int home = 0;
  std::vector<int32_t> tokens;  // that the blocks are of, from position 0 on
  CacheSequence cache;          // the blocks' keys, and the blocks that are held
  int blocks = 0;               // whole blocks of the prefix
  // Coming in: blocks to be filled. They may be written once the steps up to `after` are finished: those in flight may
  // still have to do with their former content.
  std::vector<CacheManager::Blank> blanks;
  uint64_t after = 0;
  int64_t bytes = 0;  // going out: held for it
  // A lease. Per group, the blocks before these are in the cache's index. Positions below `certain` are computed.
  std::vector<int> indexed;
  int certain = 0;
  // Blocks before `end` (and behind what is certain) will be whole when this step has run.
  struct Computing {
    int end = 0;
    uint64_t step = 0;
  };
  std::vector<Computing> computing;
};

}  // namespace weft
