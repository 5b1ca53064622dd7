// Memory of a carrier: it grows and is never cleared.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

namespace weft {

class CommBuffer {
 public:
  // At least `bytes` bytes; what was in it is lost when it grows.
  std::byte* room(size_t bytes) {
    if (bytes > size_) {
      size_ = std::max(bytes, size_ * 2);
      memory_.reset(static_cast<std::byte*>(::operator new(size_, std::align_val_t{kLine})));
    }
    return memory_.get();
  }
  std::byte* bytes() const { return memory_.get(); }
  float* floats() const { return reinterpret_cast<float*>(memory_.get()); }

  static constexpr size_t kLine = 64;  // bytes of a cache line

 private:
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{kLine}); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t size_ = 0;
};

}  // namespace weft
