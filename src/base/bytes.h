// Plain data as bytes, for messages between processes of one program (same byte order, same types).
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "base/check.h"

namespace weft {

class ByteWriter {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&value, sizeof value);
  }
  // The number of elements, then these.
  template <class T>
  void put_all(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    put(values.size());
    append(values.data(), values.size_bytes());
  }
  template <class T>
  void put_all(const std::vector<T>& values) {
    put_all(std::span<const T>(values));
  }
  std::span<const std::byte> bytes() const { return bytes_; }
  void clear() { bytes_.clear(); }

 private:
  void append(const void* data, size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }
  std::vector<std::byte> bytes_;
};

// Reads what a ByteWriter of the same program has written; anything else is a bug and ends the process.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : left_(bytes) {}
  template <class T>
  T take() {
    T value;
    copy(&value, sizeof value);
    return value;
  }
  // Into the first elements of `values`, which is made larger where it is too small. Returns their number.
  template <class T>
  size_t take_into(std::vector<T>& values) {
    const auto count = take<size_t>();
    if (values.size() < count) values.resize(count);
    copy(values.data(), count * sizeof(T));
    return count;
  }
  template <class T>
  std::vector<T> take_all() {
    std::vector<T> values;
    take_into(values);
    return values;
  }
  bool done() const { return left_.empty(); }

 private:
  void copy(void* to, size_t size) {
    WEFT_CHECK(size <= left_.size()) << "a message ends " << size - left_.size() << " bytes too soon";
    if (size > 0) std::memcpy(to, left_.data(), size);
    left_ = left_.subspan(size);
  }
  std::span<const std::byte> left_;
};

}  // namespace weft
