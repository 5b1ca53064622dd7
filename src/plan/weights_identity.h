// What the bytes of packed weights depend on.
#pragma once

#include "plan/packed_cache.h"
#include "plan/weights.h"

namespace weft {

// `own`: by matrix, then by table of the plan, whether it is packed for this plan and does not lie elsewhere.
PackedIdentity identity_of(const Plan& plan, const std::vector<bool>& own, const Checkpoint& checkpoint,
                           const kernels::CpuTable& table, const LoadOptions& options);

}  // namespace weft
