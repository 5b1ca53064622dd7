// Where blocks of the KV cache can be kept outside of the engine's memory: files (file_store.h), or another service. A
// store is a cache: what was written may be gone at any time, and what is read is exactly what was written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "cache/block_key.h"
#include "core/metrics.h"

namespace weft {

// All calls: any thread, several at once. They may block for the time of an access to the disk or the network.
class BlockStore {
 public:
  virtual ~BlockStore() = default;
  // Whether the block is there, as far as the store knows: it may have gone since, or turn out to be damaged. Quick
  // enough for the thread that schedules.
  virtual bool has(int group, const BlockKey& key) const = 0;
  // Reads the block's content; `into` has exactly its size. False where the block is not there (any more), damaged,
  // of another size or foreign; `into` then holds anything.
  virtual bool read(int group, const BlockKey& key, std::span<std::byte> into) = 0;
  // Keeps the block; does nothing where it is there already, except that it counts as used. An error (the disk is full,
  // no permission, ...) is returned once: for some seconds after it nothing is tried, and nothing returned either, so
  // every error may be logged. The block is then not kept.
  virtual Status write(int group, const BlockKey& key, std::span<const std::byte> content) = 0;
  virtual StoreMetrics metrics() const = 0;
};

}  // namespace weft
