// The adapters of a server: which there are, under which names, and which of them are in memory.
//
// An adapter is read from its path when it is added, and again when a request asks for it after it was evicted; what
// lies there then is what counts, under a new digest if it has changed. Memory is bounded: the adapter that was used
// least recently and that no sequence uses makes room. All of it is for any thread; files are read and packed by the
// caller, beside steps.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "core/adapters.h"
#include "runtime/model.h"

namespace weft {

class AdapterStore {
 public:
  // `model` takes adapters (Model::adapters) and outlives the store. `max_bytes`: of all adapters that are in memory.
  AdapterStore(const Model& model, int64_t max_bytes) : model_(model), max_bytes_(max_bytes), numbers_(kMaxAdapters) {}

  // Reads and checks what lies at `path`, and takes it into memory. Errors: invalid_argument for a name that is there
  // already (unless it has the same path and content) or is not one; those of read_adapter_files(), parse_adapter() and
  // check_adapter(); resource_exhausted where adapters in use leave too little of max_bytes.
  Status add(const std::string& name, const std::string& path);
  // The name is free from here on; sequences that use the adapter go on with it. not_found.
  Status remove(const std::string& name);
  bool has(const std::string& name) const;
  // The adapter for one request, read again if need be. not_found (with the names that there are); the errors of add().
  Result<AdapterLease> use(const std::string& name);
  std::vector<AdapterInfo> list() const;  // by name
  AdapterMetrics metrics() const;

 private:
  struct Loaded {
    AdapterLease lease;
    int64_t bytes = 0;
    int rank = 0;
  };
  struct Entry {
    std::string path;
    Loaded loaded;  // without a lease: not in memory
    Digest digest{};
    uint64_t last_use = 0;
    int64_t uses = 0, added = 0;
  };

  Result<Loaded> load(const std::string& name, const std::string& path, Digest& digest);
  Status make_room(int64_t bytes, const std::string& name);
  void let_go(Loaded& loaded);
  void free_unused();
  Error not_there(const std::string& name) const;

  const Model& model_;
  const int64_t max_bytes_;
  std::mutex loading_;        // held while files are read and packed; taken before mutex_
  mutable std::mutex mutex_;  // of all below
  std::map<std::string, Entry> entries_;
  std::vector<Loaded> removed_;  // that sequences may still use
  std::vector<bool> numbers_;    // that are taken
  int64_t bytes_ = 0;
  uint64_t clock_ = 0;
  int64_t loads_ = 0, evictions_ = 0;
};

}  // namespace weft
