// For tests: how often the process has allocated with operator new, which count_allocations.cc replaces.
#pragma once

#include <cstdint>

namespace weft {

uint64_t allocations();

}  // namespace weft
