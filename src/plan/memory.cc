#include "plan/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/out_of_memory.h"

namespace weft {

Result<Memory> Memory::reserve(size_t bytes, bool huge) {
  Memory memory;
  if (bytes == 0) return memory;
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    return fail(Code::resource_exhausted, "cannot reserve ", bytes, " bytes of memory: ", std::strerror(errno));
  if (huge) ::madvise(data, bytes, MADV_HUGEPAGE);
  memory.data_ = static_cast<std::byte*>(data);
  memory.bytes_ = bytes;
  return memory;
}

Memory reserve_or_throw(size_t bytes) {
  auto memory = Memory::reserve(bytes, true);
  if (!memory.ok()) throw OutOfMemory(bytes, "a step of the model");
  return std::move(memory).value();
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Memory::~Memory() {
  if (data_) ::munmap(data_, bytes_);
}

void Memory::release(size_t offset, size_t bytes) const {
  constexpr size_t kPage = 4096;
  const size_t begin = (offset + kPage - 1) / kPage * kPage, end = (offset + bytes) / kPage * kPage;
  if (begin < end) ::madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

}  // namespace weft
