// Memory that was not to be had, with what is known of it. std::bad_alloc says neither what for nor how much; where
// both are known, this is thrown instead.
#pragma once

#include <cstddef>
#include <cstdio>
#include <new>

namespace weft {

class OutOfMemory : public std::bad_alloc {
 public:
  // "cannot allocate 4096 bytes of memory"; with `what_for` "... for the weights" (cut where it is long).
  explicit OutOfMemory(size_t bytes, const char* what_for = "") noexcept {
    std::snprintf(text_, sizeof text_, "cannot allocate %zu bytes of memory%s%s", bytes, *what_for ? " for " : "",
                  what_for);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[160];
};

}  // namespace weft
