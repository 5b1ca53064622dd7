// The two signals, in processes of their own.
#include "base/end_signals.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <mutex>
#include <thread>

namespace weft {
namespace {

// Runs `work` in a child, and returns how it ended. The child must not return from it.
template <class Work>
int status_of(Work work) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(20);  // the test fails instead of hanging
    work();
    ::_exit(77);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(EndSignals, TheFirstAsksAndTheOldHandlersComeBack) {
  const int status = status_of([] {
    std::atomic<int> asked{0};
    {
      const EndSignals signals([&] { ++asked; }, "twice");
      ::raise(SIGTERM);
      while (asked == 0) std::this_thread::yield();
    }
    if (asked != 1) ::_exit(1);
    ::raise(SIGTERM);  // the default again
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
}

// Every other thread is stuck, also the one that the first signal asked.
TEST(EndSignals, TheSecondEndsAProcessThatIsStuck) {
  const int status = status_of([] {
    std::mutex never;
    never.lock();
    std::atomic<bool> asked{false};
    const EndSignals signals([&] { asked = true; }, "twice");
    std::thread stuck([&] { never.lock(); });
    ::raise(SIGINT);
    while (!asked) std::this_thread::yield();
    ::raise(SIGTERM);
    stuck.join();
  });
  EXPECT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

// Even the callback of the first hangs.
TEST(EndSignals, TheThirdEndsItWhateverIsStuck) {
  const int status = status_of([] {
    std::mutex never;
    never.lock();
    const EndSignals signals([&] { never.lock(); }, "twice");
    for (int i = 0; i < 3; ++i) ::raise(SIGTERM);
    for (;;) ::pause();
  });
  EXPECT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

}  // namespace
}  // namespace weft
