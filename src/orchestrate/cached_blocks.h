// The blocks that a server has in its KV cache, as its events tell (POST /kv_cache_events).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace weft {

// A block's key, the first half of its digest: enough to find out where a prompt is cached.
using BlockName = std::array<uint64_t, 2>;

// From 64 hexadecimal digits. An error for anything else.
Result<BlockName> read_block_name(std::string_view hex);

// Not thread-safe.
class CachedBlocks {
 public:
  // Blocks that are kept for a server (about 50 bytes each); those beyond are not known here.
  static constexpr size_t kMost = size_t{1} << 19;

  // Applies an answer of /kv_cache_events that was asked for from event() on; events that were lost empty the set. An
  // error if it is no such answer; the set is empty then.
  Status apply(const Json& answer);
  // How many of a prompt's blocks are there, from the first one on.
  int64_t leading(std::span<const BlockName> prompt) const;
  // The id of the event to ask for next.
  uint64_t event() const { return event_; }
  size_t size() const { return counts_.size(); }
  uint64_t lost() const { return lost_; }  // events, since the start
  // As of a server that has just started.
  void restart() { counts_.clear(), event_ = 0; }

 private:
  struct Hash {
    size_t operator()(const BlockName& name) const { return name[0]; }  // of a cryptographic digest
  };
  Status apply_event(const Json& event);

  // In how many caches of the server (groups of layers, homes) the block is.
  std::unordered_map<BlockName, uint32_t, Hash> counts_;
  uint64_t event_ = 0, lost_ = 0;
};

}  // namespace weft
