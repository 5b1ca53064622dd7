#pragma once

#include <cstddef>

namespace weft {

// Bytes of memory that the system reports as available without swapping (MemAvailable); free memory where it does not
// report that.
size_t available_memory();

}  // namespace weft
