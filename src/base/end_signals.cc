// See the header.
#include "base/end_signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <utility>

#include "base/keep_going.h"
#include "base/log.h"

namespace weft {

namespace {

constexpr int kStatus = 1;
constexpr unsigned char kStop = 0;  // in the pipe: no signal, the object ends

// What the handler may touch.
int signal_pipe = -1;
std::atomic<int> signal_count{0};
static_assert(std::atomic<int>::is_always_lock_free);

// A lost byte would be a signal that nobody hears of.
void send(unsigned char byte) {
  for (int tries = 0; tries < 1000 && ::write(signal_pipe, &byte, 1) != 1; ++tries) {
  }
}

void on_signal(int number) {
  const int saved = errno;
  if (++signal_count > 2) ::_exit(kStatus);
  send(static_cast<unsigned char>(number));
  errno = saved;
}

}  // namespace

// The handler writes to a pipe, and a thread reads from it: so neither the threads that work nor the locks they hold
// matter.
class EndSignals::Watch {
 public:
  Watch(std::function<void()> first, std::string farewell) : first_(std::move(first)), farewell_(std::move(farewell)) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "no pipe for signals");
    read_ = ends[0], signal_pipe = ends[1], signal_count = 0;
    thread_ = std::thread([this] { watch(); });
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGINT, &action, &int_before_);
    ::sigaction(SIGTERM, &action, &term_before_);
  }
  ~Watch() {
    ::sigaction(SIGINT, &int_before_, nullptr);
    ::sigaction(SIGTERM, &term_before_, nullptr);
    send(kStop);
    thread_.join();
    ::close(std::exchange(signal_pipe, -1)), ::close(read_);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  void watch() {
    for (int signals = 0;;) {
      unsigned char byte = kStop;
      const ssize_t got = ::read(read_, &byte, 1);
      if (got < 0) {
        if (errno != EINTR) std::this_thread::sleep_for(std::chrono::milliseconds(10));
        continue;
      }
      if (got != 1 || byte == kStop) return;
      const bool first = ++signals == 1;
      if (first) {
        keep_going("the end of the server", [&] { first_(); });  // tried until there is memory for it
        keep_quiet([&] { log_info("signal", " number=", static_cast<int>(byte), " action=drain"); });
        continue;
      }
      keep_quiet([&] { log_info("signal", " number=", static_cast<int>(byte), " action=end_at_once"); });
      flush_log(std::chrono::milliseconds(500));
      std::fprintf(stderr, "weft: %s\n", farewell_.c_str());
      std::_Exit(kStatus);
    }
  }

  const std::function<void()> first_;
  const std::string farewell_;
  int read_ = -1;
  struct sigaction int_before_ {
  }, term_before_{};
  std::thread thread_;
};

EndSignals::EndSignals(std::function<void()> first, std::string farewell)
    : watch_(std::make_unique<Watch>(std::move(first), std::move(farewell))) {}
EndSignals::~EndSignals() = default;

}  // namespace weft
