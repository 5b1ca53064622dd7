// Large anonymous memory: zero until written, taken from the system page by page as it is touched, on huge pages where
// allowed.
#pragma once

#include <cstddef>

#include "base/result.h"

namespace weft {

class Memory {
 public:
  Memory() = default;
  // Address space for `bytes`; resource_exhausted when even that is refused. `huge`: asks for transparent huge pages.
  static Result<Memory> reserve(size_t bytes, bool huge);
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // Gives the pages inside back to the system; they read as zero afterwards.
  void release(size_t offset, size_t bytes) const;

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// The same, on huge pages, with OutOfMemory where it is refused: for constructors.
Memory reserve_or_throw(size_t bytes);

}  // namespace weft
