#include "plan/calibration.h"

#include <cmath>

namespace weft {

Result<std::map<std::string, std::vector<float>>> column_importance(PlanTrace& trace) {
  std::map<std::string, TracedValue> values;
  for (TracedValue& value : trace.take()) {
    std::string name = value.name;
    values[std::move(name)] = std::move(value);
  }
  std::map<std::string, std::vector<float>> importance;
  for (const auto& [tensor, input] : trace.product_inputs()) {
    const auto found = values.find(input.value);
    if (found == values.end() || found->second.rows == 0 || found->second.cols % input.cols != 0) continue;
    const std::vector<float>& sums = found->second.values;
    const auto count = static_cast<float>(found->second.rows * (found->second.cols / input.cols));
    std::vector<float> mean(static_cast<size_t>(input.cols));
    for (size_t i = 0; i < sums.size(); ++i) mean[i % mean.size()] += sums[i];
    for (float& value : mean) {
      value /= count;
      if (!std::isfinite(value))
        return fail(Code::data_corrupt, "the inputs of ", tensor, " are not finite, or too large, over this text");
    }
    importance[tensor] = std::move(mean);
  }
  return importance;
}

}  // namespace weft
