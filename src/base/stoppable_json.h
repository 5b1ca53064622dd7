// Reading JSON for somebody who may leave meanwhile.
#pragma once

#include <string_view>

#include "base/json.h"
#include "base/stop_flag.h"

namespace weft {

// parse_json(text, rules) that ends once `stop` is set: cancelled or deadline_exceeded. The flag is looked at for every
// thousand values and keys, some 0.1 ms.
Result<Json> parse_json(std::string_view text, const JsonRules& rules, const StopFlag& stop);

}  // namespace weft
