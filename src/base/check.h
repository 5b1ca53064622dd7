// WEFT_CHECK(condition) << facts: ends the process on a bug of ours. Never reachable from what a user sent.
#pragma once

#include <sstream>

namespace weft {

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  template <class T>
  CheckFailure& operator<<(const T& fact) {
    facts_ << fact;
    return *this;
  }

 private:
  std::ostringstream facts_;
};

#define WEFT_CHECK(condition) \
  if (condition) [[likely]] { \
  } else ::weft::CheckFailure(__FILE__, __LINE__, #condition)

}  // namespace weft
