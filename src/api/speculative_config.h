// The value of --speculative-config: which tokens are drafted, and how (docs/speculation.md).
#pragma once

#include <string>

#include "base/result.h"
#include "core/speculation.h"

namespace weft {

// A JSON object with weft's own keys, vLLM's, or those of the reference system's YAML files; or a method's name alone.
// Empty text, {}, null, false and "none" are no speculation. Errors name the key as it was given; no key is ignored.
Result<SpeculationOptions> read_speculation(const std::string& config);

// Ranges, for options that a program has set itself.
Status check_speculation(const SpeculationOptions& options);

}  // namespace weft
