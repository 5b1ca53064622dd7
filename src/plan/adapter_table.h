// The adapters that are in memory, by number, and the rows of a step that have each.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "plan/adapters.h"
#include "plan/step_inputs.h"

namespace weft {

// Adapters that may be in memory at a time.
constexpr int kMaxAdapters = 1024;

// What the ranks of this process have of an adapter.
struct LoadedAdapter {
  std::vector<AdapterWeights> ranks;    // in their order
  std::optional<AdapterWeights> alone;  // of PlanShares::alone
  int64_t bytes() const;
};

// A number is changed only while no step that is under way, submitted or in preparation has a row with it; what orders
// the change before the step that has the first such row is the caller's.
class AdapterTable {
 public:
  explicit AdapterTable(int size) : adapters_(static_cast<size_t>(size)) {}

  // Null: the number is free. `files`: for ranks in other processes.
  void put(int number, std::shared_ptr<const LoadedAdapter> adapter, std::shared_ptr<const AdapterFiles> files);
  const LoadedAdapter& at(int number) const { return *adapters_[static_cast<size_t>(number)]; }

  // What was put since the last call, in order. Kept only once keep_changes() was called.
  struct Change {
    int number = 0;
    std::shared_ptr<const AdapterFiles> files;
  };
  void keep_changes() { keeps_changes_ = true; }
  std::vector<Change> take_changes();

 private:
  std::vector<std::shared_ptr<const LoadedAdapter>> adapters_;
  bool keeps_changes_ = false;
  std::mutex mutex_;  // of the changes
  std::vector<Change> changes_;
};

// Makes StepInputs::adapter_rows and adapter_groups of adapter_of. Needs no memory.
void group_adapter_rows(StepInputs& inputs);

}  // namespace weft
