// Ranks in several processes: an MPI launcher starts the same command on all of them; rank 0 carries it out, and the
// others compute for it. docs/ranks.md.
#pragma once

#include <optional>
#include <string>

#include "api/options.h"
#include "base/result.h"

namespace weft {

// Whether a launcher's variables say that this process is to follow rank 0 in another one. Joins nothing: for commands
// that load no model, which rank 0 carries out alone.
bool launched_as_follower();

// Whether other processes have been joined. Then one engine can be loaded, and no second one after it.
bool ranks_are_processes();

// To be called before anything that one process alone should do. In a process that is to follow rank 0: does so until
// that ends, and returns the status to exit with. In all others nothing, at once. Errors: MPI cannot be joined.
//
// A follower ignores SIGINT and SIGTERM, which launchers send to all ranks at once: rank 0 finishes what it has begun,
// and lets the others go. It logs errors only, since rank 0 has the same warnings.
Result<std::optional<int>> follow_rank_0(const std::string& model, const EngineOptions& options);

// Where a command ends before follow_rank_0(), or on rank 0 before an engine was loaded, because of `status`: lets the
// other processes go. Whether it is for this process to say why it ended; false: rank 0 does.
bool leave_ranks(const Status& status);

}  // namespace weft
