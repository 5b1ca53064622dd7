#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <string>

namespace weft {

static std::atomic<LogLevel> log_level{LogLevel::warning};

void set_log_level(LogLevel level) { log_level = level; }

void write_log(LogLevel level, std::string_view text) {
  if (level > log_level.load(std::memory_order_relaxed)) return;
  static const char* const names[] = {"error", "warning", "info"};
  static_assert(std::size(names) == static_cast<size_t>(LogLevel::info) + 1);
  std::string line = std::string("weft ") + names[static_cast<int>(level)] + ": " + std::string(text) + "\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace weft
