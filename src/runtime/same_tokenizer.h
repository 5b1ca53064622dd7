// Whether two checkpoints name their tokens alike, as a draft and its target must.
#pragma once

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace weft {

// An error names the first id that stands for different tokens. Ids that only one of the two names (padding of the
// vocabulary) are not compared, and nothing is where one of the two has no tokenizer.
Status check_same_tokens(const Checkpoint& draft, const Checkpoint& target);

}  // namespace weft
