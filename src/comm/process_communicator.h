// A group of ranks that are processes, one rank per process: what communicator.h says, over the transfers of
// process_link.h.
//
// Ranks send to each other directly, in one round, rather than through MPI's own collectives: a wait can then be given
// a deadline and name the ranks that it waits for, and sums have the order that weft needs, whatever the MPI.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/process_link.h"

namespace weft {

// Pieces of a sum (Communicator::written) that are under way at once, and tags of a group: one, and one for each.
constexpr int kMovingPieces = 4;
constexpr int kGroupTags = 1 + kMovingPieces;

// `members` are ranks of the link, this process's own among them; rank() and size() of the result count in them. Its
// collectives are called by `threads` threads. kGroupTags tags from `tag` on are the group's own. `deadline` is in
// seconds. The link outlives it.
std::unique_ptr<Communicator> make_process_communicator(ProcessLink& link, std::vector<int> members, int threads,
                                                        int tag, double deadline);

}  // namespace weft
