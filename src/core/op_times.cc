#include "core/op_times.h"

#include <algorithm>
#include <map>

namespace weft {

std::vector<OpTime> OpTimes::read(bool decode) const {
  std::map<std::string, OpTime> by_name;
  for (size_t i = 0; i < names_.size(); ++i) {
    const Sum& sum = sums_[decode][i];
    OpTime& time = by_name[names_[i]];
    time.op = names_[i];
    time.runs += sum.runs;
    time.seconds += static_cast<double>(sum.run) / 1e9, time.wait_seconds += static_cast<double>(sum.wait) / 1e9;
  }
  std::vector<OpTime> times;
  for (auto& [name, time] : by_name)
    if (time.runs > 0) times.push_back(std::move(time));
  std::sort(times.begin(), times.end(),
            [](const OpTime& a, const OpTime& b) { return a.seconds + a.wait_seconds > b.seconds + b.wait_seconds; });
  return times;
}

}  // namespace weft
