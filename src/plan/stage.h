// Cuts a recorded plan into pipeline stages: each has some of the layers, and passes on to the next what ops behind it
// still read (the residual stream, and with drafts what has been kept of earlier layers).
#pragma once

#include "base/result.h"
#include "plan/plan.h"

namespace weft {

// Stage `stage` of `stages`, cut between layers so that the largest share of weights is as small as it can be. What
// follows from the step's inputs alone (rotary angles) is computed by each stage that reads it. The plan's outputs are
// the last stage's; the others have none. Where the
// plan keeps taps, the last stage holds the tables of embeddings too, for a draft that reads both. Errors:
// invalid_argument with the numbers where there are fewer layers.
Result<Plan> cut_stage(const Plan& whole, int stage, int stages);

// Removes the matrices, vectors and tables that `whole` reads and `share` does not; their tensors become Plan::unused.
void drop_unread_weights(Plan& share, const Plan& whole, bool keep_tables = false);

// A rank without a part in the plan, beside ranks that have shares like this one.
Plan without_ops(Plan share);

}  // namespace weft
