#pragma once

#include <cstddef>

namespace weft {

// Bytes that the system could give without swapping, as it says itself; what is free where it does not say.
size_t available_memory();

}  // namespace weft
