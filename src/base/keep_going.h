// For the outermost function of a thread: an exception that leaves it would end the process.
#pragma once

#include <chrono>
#include <exception>
#include <thread>

#include "base/log.h"

namespace weft {

// Runs `body`, of which nothing depends: a line for the log, for which there may be no memory.
template <class Body>
void keep_quiet(Body body) noexcept {
  try {
    body();
  } catch (const std::exception&) {
  }
}

// Runs `body` until it returns; after an exception (no memory, no descriptor), which is said in the log, once more. So
// `body` is a loop that can begin anew.
template <class Body>
void keep_going(const char* name, Body body) noexcept {
  for (;;) {
    try {
      return body();
    } catch (const std::exception& thrown) {
      keep_quiet([&] { log_warning(name, " goes on after an exception: ", thrown.what()); });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace weft
