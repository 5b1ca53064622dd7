#include "base/check.h"

#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/log.h"

namespace weft {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  facts_ << file << ":" << line << ": check failed: " << condition << " ";
}

CheckFailure::~CheckFailure() {
  // What led to it first. A stderr that nobody reads does not keep the process from ending.
  flush_log(std::chrono::milliseconds(500));
  const std::string text = facts_.str() + "\n";
  pollfd ready{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&ready, 1, 500) > 0) {
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
  }
  std::abort();
}

}  // namespace weft
