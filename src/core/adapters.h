// Low-rank adapters as requests and operators see them (runtime/adapter_store.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace weft {

// An adapter as a request has it. Whoever holds one keeps the adapter in memory.
struct AdapterUse {
  int number = 0;      // of the AdapterTable, until the last holder is gone
  std::string name;    // by which requests ask for it
  std::string digest;  // 32 bytes: what the bits of its answers depend on
};
// Null: the model as it is.
using AdapterLease = std::shared_ptr<const AdapterUse>;

// The bytes of a lease's digest; none without a lease.
inline std::string adapter_identity(const AdapterLease& lease) { return lease ? lease->digest : std::string(); }

// What is known of one.
struct AdapterInfo {
  std::string name, path;
  bool loaded = false;  // in memory
  int rank = 0;         // the largest of its modules
  int64_t bytes = 0;    // in this process; 0: not in memory
  int64_t uses = 0;     // requests that have asked for it
  int64_t added = 0;    // seconds since 1970
};

// Loads and evictions: since the start.
struct AdapterMetrics {
  int64_t known = 0, loaded = 0, in_use = 0, bytes = 0, loads = 0, evictions = 0;
};

}  // namespace weft
