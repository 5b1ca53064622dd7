// A mixed set of requests for the equivalence tests: greedy and seeded sampling, penalties, logprobs, n > 1, stop
// rules, grammars, logits processors, beams, returned logits, prompts that share beginnings and prompts that end at the
// edges of blocks and chunks.
#pragma once

#include <cstdint>
#include <vector>

#include "api/engine.h"
#include "support/reference_case.h"

namespace weft::testing {

// The same list for the same arguments, on every machine.
std::vector<Request> mixed_requests(const ReferenceCase& reference, int count, uint64_t seed);

}  // namespace weft::testing
