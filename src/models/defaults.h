// Values of keys that a configuration leaves out.
#pragma once

#include <string_view>

#include "base/json.h"

namespace weft::models {

// For the language model of an architecture; `kind`: its model_type, where the architecture takes several.
Json text_defaults(std::string_view architecture, std::string_view kind);

}  // namespace weft::models
