// A file of its own, so that no caller sees through to malloc (the compiler would warn of a mismatched pair).
#include "base/count_allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <utility>

namespace {

std::atomic<uint64_t> count{0}, failed_count{0};
thread_local uint64_t until_failure = 0;  // 0: none fails
thread_local bool goes_on = false;

bool fails() {
  if (until_failure == 0 || --until_failure > 0) return false;
  if (goes_on) until_failure = 1;
  ++failed_count;
  return true;
}

}  // namespace

void* operator new(size_t bytes) {
  ++count;
  if (fails()) throw std::bad_alloc();
  if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace weft {

uint64_t allocations() { return count; }

FailingAllocations::FailingAllocations(uint64_t n, bool on) { until_failure = n, goes_on = on; }
FailingAllocations::~FailingAllocations() { until_failure = 0; }
uint64_t FailingAllocations::failed() { return failed_count; }

SteadyAllocations::SteadyAllocations() : until_failure_(std::exchange(until_failure, 0)) {}
SteadyAllocations::~SteadyAllocations() { until_failure = until_failure_; }

}  // namespace weft
