// Values that a model wrote as bare text, turned into JSON as the schema of their parameter says.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace weft {

// The schema of the parameter `name` in the schema of a function's arguments; null if it says nothing of it.
const Json* parameter_schema(const Json& parameters, std::string_view name);

// A value as JSON text: the first of these that the schema allows: JSON that is no string, true, false and null in any
// case, a Python list, dict or word, the text itself, a Python number, an integer written with a point, a string in
// quotes. If none is allowed: JSON, or else the text. `schema` may be null (all is allowed); `parameters` is what its
// references point into.
std::string typed_value(std::string_view text, const Json* schema, const Json& parameters);

}  // namespace weft
