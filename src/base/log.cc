#include "base/log.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>

namespace weft {
namespace {

constexpr size_t kMostLine = 4000;  // with its end below PIPE_BUF: lines of several processes stay apart
constexpr size_t kMostWaiting = size_t{1} << 20;

std::atomic<LogLevel> log_level{LogLevel::warning};

// All of it, or what stderr takes.
void put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written > 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (written < 0 && errno == EAGAIN) {  // somebody made it non-blocking
      pollfd wait{STDERR_FILENO, POLLOUT, 0};
      if (::poll(&wait, 1, -1) < 0 && errno != EINTR) return;
    } else if (written == 0 || errno != EINTR) {
      return;
    }
  }
}

// Lines on their way to the thread that writes them.
class Queue {
 public:
  void add(std::string line) {
    const std::lock_guard lock(mutex_);
    if (bytes_ + line.size() > kMostWaiting) {
      ++dropped_;
      return;
    }
    bytes_ += line.size();
    lines_.push_back(std::move(line));
    changed_.notify_all();
  }

  void flush(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, limit, [&] { return lines_.empty() && !writing_ && dropped_ == 0; });
  }

  [[noreturn]] void write_all() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return !lines_.empty() || dropped_ > 0; });
      std::string line;
      if (!lines_.empty()) {
        line = std::move(lines_.front());
        lines_.pop_front();
        bytes_ -= line.size();
      } else {
        line = "weft warning: " + std::to_string(dropped_) + " lines of the log were lost: stderr was not read\n";
        dropped_ = 0;
      }
      writing_ = true;
      lock.unlock();
      put(line);
      lock.lock();
      writing_ = false;
      changed_.notify_all();
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> lines_;
  size_t bytes_ = 0;
  uint64_t dropped_ = 0;
  bool writing_ = false;
};

std::atomic<Queue*> background{nullptr};  // never freed: its thread has no end

}  // namespace

void set_log_level(LogLevel level) { log_level = level; }

void log_in_background() {
  static std::once_flag once;
  std::call_once(once, [] {
    auto* const queue = new Queue;
    std::thread([queue] { queue->write_all(); }).detach();
    background = queue;
    std::atexit([] { flush_log(std::chrono::seconds(1)); });
  });
}

void flush_log(std::chrono::milliseconds limit) {
  if (Queue* const queue = background.load()) queue->flush(limit);
}

std::string log_text(std::string_view text, size_t most) {
  std::string out;
  out.reserve(std::min(text.size(), most) + 8);
  char code[8];
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // C1 controls, two bytes in UTF-8, steer terminals as well.
    const bool c1 = c == 0xc2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xe0) == 0x80;
    std::string_view piece = text.substr(i, 1);
    if (c == '\n') piece = "\\n";
    else if (c == '\r') piece = "\\r";
    else if (c == '\t') piece = "\\t";
    else if (c < 0x20 || c == 0x7f || c1)
      piece = {code, static_cast<size_t>(std::snprintf(code, sizeof code, "\\x%02x",
                                                       c1 ? static_cast<unsigned char>(text[++i]) : unsigned{c}))};
    if (out.size() + piece.size() > most) {
      while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
      if (!out.empty() && (static_cast<unsigned char>(out.back()) & 0x80) != 0) out.pop_back();
      return out + "...";
    }
    out += piece;
  }
  return out;
}

void write_log(LogLevel level, std::string_view text) {
  if (level > log_level.load(std::memory_order_relaxed)) return;
  static const char* const names[] = {"error", "warning", "info"};
  static_assert(std::size(names) == static_cast<size_t>(LogLevel::info) + 1);
  std::string line = std::string("weft ") + names[static_cast<int>(level)] + ": " + log_text(text, kMostLine) + "\n";
  if (Queue* const queue = background.load()) queue->add(std::move(line));
  else put(line);
}

bool WarningLimit::admit(uint64_t& left_out) {
  const int64_t now = std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  int64_t over = over_ns_;
  for (;;) {
    const int64_t next = std::max(over, now) + pause_.count();
    if (next > now + burst_ * pause_.count()) {
      ++left_out_;
      return false;
    }
    if (over_ns_.compare_exchange_weak(over, next)) break;
  }
  left_out = left_out_.exchange(0);
  return true;
}

}  // namespace weft
