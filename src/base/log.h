// One-line key=value logging to stderr. INFO is for start-up and state changes only; what happens per request is a
// metric.
#pragma once

#include <sstream>
#include <string_view>

namespace weft {

enum class LogLevel : unsigned char { error, warning, info };

// Lines above this level are dropped. Default: warning; servers set info.
void set_log_level(LogLevel level);
// Writes "weft LEVEL text\n" as one write; safe from any thread.
void write_log(LogLevel level, std::string_view text);

// log_warning("unused_tensor", " name=", name)
template <class... Parts>
void log_info(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  write_log(LogLevel::info, text.str());
}
template <class... Parts>
void log_warning(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  write_log(LogLevel::warning, text.str());
}

}  // namespace weft
