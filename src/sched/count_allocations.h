// For tests: how often the process has allocated with operator new, which count_allocations.cc replaces, and
// allocations that fail.
#pragma once

#include <cstdint>

namespace weft {

uint64_t allocations();

// While it lives, the n-th allocation of this thread throws std::bad_alloc (n counts from 1), with `on` all that follow
// as well.
class FailingAllocations {
 public:
  explicit FailingAllocations(uint64_t n, bool on = false);
  ~FailingAllocations();
  FailingAllocations(const FailingAllocations&) = delete;
  FailingAllocations& operator=(const FailingAllocations&) = delete;
  static uint64_t failed();  // of all
};

}  // namespace weft
