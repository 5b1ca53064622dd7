// Ranks in several processes: an MPI launcher starts the same command on all of them; rank 0 carries it out, and the
// others compute for it. docs/ranks.md.
#pragma once

#include <optional>
#include <string>

#include "api/options.h"
#include "base/result.h"

namespace weft {

// To be called before anything that one process alone should do. In a process that is to follow rank 0: does so until
// that ends, and returns the status to exit with. In all others nothing, at once. Errors: MPI cannot be joined.
Result<std::optional<int>> follow_rank_0(const std::string& model, const EngineOptions& options);

// On rank 0, at the end of a command: lets the followers go if no engine was ever loaded, because of `status`.
void leave_rank_0(const Status& status);

}  // namespace weft
