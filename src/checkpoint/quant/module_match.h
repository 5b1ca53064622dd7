// Which modules the lists and patterns of quantisation settings mean.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace weft {

// Whether a regular expression matches from the start of the name on, as Python's re.match does. Errors: a pattern that
// is no expression, or one that takes too long (name_pattern.h).
Result<bool> matches_regex(const std::string& pattern, const std::string& name);

// Whether a list of compressed-tensors (targets, ignore) names a module: how closely, from 0 (not at all) over its
// class (every quantised module counts as a Linear; an absent list is of that class) and a regular expression
// ("re:...") to its name.
enum class Closeness : uint8_t { none, kind, pattern, name };
Result<Closeness> closeness(const Json* list, const std::string& module);

}  // namespace weft
