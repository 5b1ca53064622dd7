// The program's operator new: as the library's, but what it throws says how many bytes there were to be.
#include "allocation.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <new>

#include "base/out_of_memory.h"

namespace {

bool throws = false;

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
void* allocate(std::size_t bytes, Allocate from) {
  for (;;) {
    if (void* const memory = from()) return memory;
    const std::new_handler handler = std::get_new_handler();
    if (!handler) give_up(bytes);
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
  return allocate(bytes, [=] { return std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit); });
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
