#include "plan/adapter_table.h"

#include <algorithm>
#include <utility>

namespace weft {

int64_t LoadedAdapter::bytes() const {
  int64_t sum = alone ? alone->bytes : 0;
  for (const AdapterWeights& weights : ranks) sum += weights.bytes;
  return sum;
}

void AdapterTable::put(int number, std::shared_ptr<const LoadedAdapter> adapter,
                       std::shared_ptr<const AdapterFiles> files) {
  adapters_[static_cast<size_t>(number)] = std::move(adapter);
  if (!keeps_changes_) return;
  const std::lock_guard lock(mutex_);
  changes_.push_back({number, std::move(files)});
}

std::vector<AdapterTable::Change> AdapterTable::take_changes() {
  const std::lock_guard lock(mutex_);
  return std::exchange(changes_, {});
}

void group_adapter_rows(StepInputs& in) {
  using Group = StepInputs::AdapterGroup;
  in.adapter_groups.clear();
  const auto group_of = [&](int adapter) { return std::ranges::find(in.adapter_groups, adapter, &Group::adapter); };
  for (int row = 0; row < in.tokens; ++row) {
    const int adapter = in.adapter_of[static_cast<size_t>(row)];
    if (adapter < 0) continue;
    if (const auto group = group_of(adapter); group != in.adapter_groups.end()) ++group->count;
    else in.adapter_groups.push_back({adapter, 0, 1});
  }
  int rows = 0;
  for (Group& group : in.adapter_groups) group.first = rows, rows += group.count, group.count = 0;
  in.adapter_rows.resize(static_cast<size_t>(rows));
  for (int row = 0; row < in.tokens; ++row) {
    const int adapter = in.adapter_of[static_cast<size_t>(row)];
    if (adapter < 0) continue;
    Group& group = *group_of(adapter);
    in.adapter_rows[static_cast<size_t>(group.first + group.count++)] = row;
  }
}

}  // namespace weft
