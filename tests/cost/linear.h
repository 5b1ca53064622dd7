// What the tests of counted work share: sizes that double, and texts of any size.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "counter.h"

namespace weft {

// n log n doubles to less than this; n^2 to nearly 4.
constexpr double kMost = 2.6;
constexpr size_t kSmall = 1500;

inline uint64_t work_of(const std::function<void()>& run) {
  run();  // what is done once
  const uint64_t before = work_done;
  run();
  return work_done - before;
}

// `run(n)` does the work for size n.
inline void expect_linear(const std::string& what, const std::function<void(size_t)>& run, size_t small = kSmall) {
  const uint64_t one = work_of([&] { run(small); }), two = work_of([&] { run(2 * small); });
  // A constant part hides nothing at these sizes: what is square has millions.
  EXPECT_LT(static_cast<double>(two), kMost * static_cast<double>(one) + 20000)
      << what << ": " << one << " for " << small << ", " << two << " for " << 2 * small;
}

struct Shape {
  const char* name;
  std::function<std::string(size_t)> make;
};

inline std::string numbered(size_t i) { return "name" + std::to_string(i * 7919 % 1000003); }

inline std::string list_of(size_t n, const std::function<std::string(size_t)>& item) {
  std::string text = "[";
  for (size_t i = 0; i < n; ++i) text += (i ? "," : "") + item(i);
  return text + "]";
}

inline std::string object_of(size_t n, const std::function<std::string(size_t)>& key,
                             const std::function<std::string(size_t)>& value) {
  std::string text = "{";
  for (size_t i = 0; i < n; ++i) text += (i ? ",\"" : "\"") + key(i) + "\":" + value(i);
  return text + "}";
}

}  // namespace weft
