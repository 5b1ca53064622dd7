// Ranks that are groups of threads of one process: they read each other's buffers where they lie.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace weft {

// One communicator for each of `ranks` ranks of `threads` threads each. They may be used while all of them live.
std::vector<std::unique_ptr<Communicator>> make_thread_ranks(int ranks, int threads);

}  // namespace weft
