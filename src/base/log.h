// One-line key=value logging to stderr. INFO is for start-up and state changes only; what happens per request is a
// metric. A line is at most 4000 bytes, and control characters in it are escaped, so that no part of a request can
// begin a line of its own or steer a terminal.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>

namespace weft {

enum class LogLevel : unsigned char { error, warning, info };

// Lines above this level are dropped. Default: warning; servers set info.
void set_log_level(LogLevel level);
// From here on a thread of its own writes the lines, so that nobody who logs waits for whoever reads stderr (a full
// pipe, a stopped terminal). Up to 1 MiB waits for it; what comes beyond that is dropped, and a line says how many.
// Servers call it. At exit(), lines have a second to be written.
void log_in_background();
// Waits until all lines so far are written, for that long at most.
void flush_log(std::chrono::milliseconds limit);
// Writes "weft LEVEL text\n" as one write; safe from any thread.
void write_log(LogLevel level, std::string_view text);
// `text` with control characters as \n, \t, \x1b, and cut to `most` bytes with "..." behind it.
std::string log_text(std::string_view text, size_t most);

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

// Warnings that others can cause as often as they like: `burst` at once and then one in `pause`; a line says how many
// were left out before it. One object for each place that warns; any thread.
class WarningLimit {
 public:
  explicit WarningLimit(int burst = 20, std::chrono::milliseconds pause = std::chrono::seconds(3))
      : burst_(burst), pause_(pause) {}
  template <class... Parts>
  void warn(const Parts&... parts) {
    uint64_t left_out = 0;
    if (!admit(left_out)) return;
    std::ostringstream text;
    (text << ... << parts);
    if (left_out > 0) text << " (" << left_out << " more were left out)";
    write_log(LogLevel::warning, text.str());
  }

 private:
  bool admit(uint64_t& left_out);

  const int64_t burst_;
  const std::chrono::nanoseconds pause_;
  // As if every warning took `pause_`: the time at which all so far are over.
  std::atomic<int64_t> over_ns_{0};
  std::atomic<uint64_t> left_out_{0};
};

}  // namespace weft
