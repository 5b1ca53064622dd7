// The program's operator new: as the library's, but what it throws says how many bytes there were to be.
#include "allocation.h"

#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include "base/out_of_memory.h"

namespace {

bool throws = false;

// For destructors that need memory while an exception of missing memory passes: without it the process would end. Such
// is a coroutine of Asio's that cannot go on: its destructor posts the end of its frames.
constexpr std::size_t kBlock = 512, kBlocks = 64;
alignas(std::max_align_t) char reserve[kBlocks][kBlock];
std::atomic<uint64_t> taken{0};  // a bit for each block

void* from_reserve(std::size_t bytes) noexcept {
  if (bytes > kBlock || std::uncaught_exceptions() == 0) return nullptr;
  for (uint64_t now = taken; now != ~uint64_t{0};) {
    const int block = std::countr_one(now);
    if (taken.compare_exchange_weak(now, now | uint64_t{1} << block)) return reserve[block];
  }
  return nullptr;
}

void give_back(void* memory) noexcept {
  const auto offset = reinterpret_cast<uintptr_t>(memory) - reinterpret_cast<uintptr_t>(reserve);
  if (offset >= sizeof reserve) return std::free(memory);
  taken &= ~(uint64_t{1} << (offset / kBlock));
}

[[noreturn]] void give_up(std::size_t bytes) {
  const weft::OutOfMemory problem(bytes);
  if (!throws) {
    char line[200];
    const int size = std::snprintf(line, sizeof line, "weft: %s (at the start)\n", problem.what());
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line, static_cast<std::size_t>(size));
    ::_exit(1);
  }
  throw problem;
}

// From malloc, again as long as a handler promises more.
template <class Allocate>
void* allocate(std::size_t bytes, Allocate from, bool plain = true) {
  for (;;) {
    if (void* const memory = from()) return memory;
    const std::new_handler handler = std::get_new_handler();
    if (!handler) {
      if (void* const memory = plain ? from_reserve(bytes) : nullptr) return memory;
      give_up(bytes);
    }
    handler();
  }
}

}  // namespace

void weft::throw_out_of_memory() noexcept { throws = true; }

void* operator new(std::size_t bytes) {
  return allocate(bytes, [=] { return std::malloc(bytes ? bytes : 1); });
}

void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto unit = static_cast<std::size_t>(alignment);
  return allocate(
      bytes, [=] { return std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit); },
      unit <= alignof(std::max_align_t));
}

void operator delete(void* memory) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { give_back(memory); }
