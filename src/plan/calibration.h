// What a text tells of the columns of a model's weights, for quantising them (quantize_checkpoint.h).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "plan/trace.h"

namespace weft {

// By tensor of a product: of each column the mean square of the inputs that it was multiplied with. `trace` kept square
// sums of what ran. Of experts, columns have the mean over all experts of the layer. Errors: a sum is not finite.
Result<std::map<std::string, std::vector<float>>> column_importance(PlanTrace& trace);

}  // namespace weft
