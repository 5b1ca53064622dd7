// The time for measuring how long something took.
#pragma once

#include <chrono>

namespace weft {

// Seconds of a clock that never goes backwards.
inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace weft
