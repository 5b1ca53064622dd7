// Reads plain data from bytes that may come from anybody: lengths are checked against what is there before memory is
// taken. For messages of this program's own processes see bytes.h, whose format this is too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace weft {

// After the first fault everything is zero and empty, and failed() is true.
class CheckedReader {
 public:
  explicit CheckedReader(std::span<const std::byte> bytes) : left_(bytes) {}
  bool failed() const { return failed_; }
  bool at_end() const { return left_.empty(); }
  void fail() { failed_ = true, left_ = {}; }
  template <class T>
  T take() {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool> && !std::is_enum_v<T>,
                  "not every byte is one of these");
    T value{};
    copy(&value, sizeof value);
    return value;
  }
  bool take_bool() {
    const auto value = take<uint8_t>();
    if (value > 1) fail();
    return value == 1;
  }
  // The number of elements, which is at most `most`, then these.
  template <class T>
  std::vector<T> take_all(size_t most) {
    const size_t count = take_count(most, sizeof(T));
    std::vector<T> values(count);
    copy(values.data(), count * sizeof(T));
    return values;
  }
  std::string take_text(size_t most) {
    std::string text(take_count(most, 1), '\0');
    copy(text.data(), text.size());
    return text;
  }
  std::span<const std::byte> take_span(size_t most) {
    const std::span<const std::byte> span = left_.first(take_count(most, 1));
    left_ = left_.subspan(span.size());
    return span;
  }

 private:
  size_t take_count(size_t most, size_t size) {
    const auto count = take<uint64_t>();
    if (count <= most && count <= left_.size() / size) return static_cast<size_t>(count);
    fail();
    return 0;
  }
  void copy(void* to, size_t size) {
    if (size > left_.size()) return fail();
    if (size > 0) std::memcpy(to, left_.data(), size);
    left_ = left_.subspan(size);
  }
  std::span<const std::byte> left_;
  bool failed_ = false;
};

}  // namespace weft
