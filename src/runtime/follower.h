// A rank that is a process of its own and not the first: it computes its share of every step that rank 0 announces, and
// encodes the images that rank 0 gives it.
#pragma once

#include <memory>

#include "base/result.h"
#include "comm/process_ranks.h"
#include "runtime/model_runner.h"

namespace weft {

// Follows rank 0 until that closes. `draft_ranks`: where a draft is made behind the walk; null: in it.
void follow(ModelRunner& runner, ProcessRanks& processes, const RankTeam* draft_ranks);

}  // namespace weft
