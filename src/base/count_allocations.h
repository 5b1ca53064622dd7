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
  struct From {
    uint64_t n = 0;  // 0: none fails
    bool on = false;
  };
  explicit FailingAllocations(uint64_t n, bool on = false);
  explicit FailingAllocations(From from) : FailingAllocations(from.n, from.on) {}
  ~FailingAllocations();
  FailingAllocations(const FailingAllocations&) = delete;
  FailingAllocations& operator=(const FailingAllocations&) = delete;
  static uint64_t failed();  // of all
};

// While it lives, allocations of this thread neither fail nor count for a FailingAllocations around it.
class SteadyAllocations {
 public:
  SteadyAllocations();
  ~SteadyAllocations();
  SteadyAllocations(const SteadyAllocations&) = delete;
  SteadyAllocations& operator=(const SteadyAllocations&) = delete;

 private:
  const uint64_t until_failure_;
};

}  // namespace weft
