#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"

namespace weft {
namespace {

std::string logged(std::string_view text) {
  ::testing::internal::CaptureStderr();
  write_log(LogLevel::warning, text);
  flush_log(std::chrono::seconds(10));
  return ::testing::internal::GetCapturedStderr();
}

TEST(Log, TextOfOthersStaysInItsLine) {
  EXPECT_EQ(logged("field=a\nweft error: forged\r\x1b[2J\x7f\t\xc2\x9b"
                   "end é"),
            "weft warning: field=a\\nweft error: forged\\r\\x1b[2J\\x7f\\t\\x9bend é\n");
  EXPECT_EQ(logged(std::string_view("a\0b", 3)), "weft warning: a\\x00b\n");
}

TEST(Log, LongLinesAreCutBetweenCharacters) {
  EXPECT_EQ(log_text("abcdef", 6), "abcdef");
  EXPECT_EQ(log_text("abcdefg", 6), "abcdef...");
  EXPECT_EQ(log_text("abc\nd", 4), "abc...");
  EXPECT_EQ(log_text("aé", 2), "a...");
  EXPECT_EQ(logged(std::string(100000, 'x')).size(), std::string_view("weft warning: ...\n").size() + 4000);
}

TEST(Log, WarningsThatOthersCauseAreLimited) {
  WarningLimit limit(3, std::chrono::milliseconds(200));
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 10; ++i) limit.warn("slow ", i);
  std::this_thread::sleep_for(std::chrono::milliseconds(450));
  limit.warn("slow again");
  flush_log(std::chrono::seconds(10));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "weft warning: slow 0\nweft warning: slow 1\nweft warning: slow 2\n"
            "weft warning: slow again (7 more were left out)\n");
}

// Fills the log while its pipe is not read, then reads it, and says on the real stderr what came.
[[noreturn]] void log_into_a_blocked_pipe() {
  int pipe[2] = {};
  if (::pipe(pipe) != 0) ::_exit(1);
  const int before = ::dup(STDERR_FILENO);
  ::dup2(pipe[1], STDERR_FILENO);
  log_in_background();
  const auto begin = std::chrono::steady_clock::now();
  const std::string line(900, 'y');
  for (int i = 0; i < 3000; ++i) log_warning(line);  // 2.7 MB; the pipe takes 64 KiB
  if (std::chrono::steady_clock::now() - begin > std::chrono::seconds(5)) ::_exit(3);
  flush_log(std::chrono::milliseconds(50));
  std::string got;
  std::vector<char> buffer(65536);
  while (got.find("were lost") == std::string::npos) {
    const ssize_t n = ::read(pipe[0], buffer.data(), buffer.size());
    if (n <= 0) ::_exit(2);
    got.append(buffer.data(), static_cast<size_t>(n));
  }
  ::dup2(before, STDERR_FILENO);
  const bool whole = got.starts_with("weft warning: yyy");
  std::fprintf(stderr, "%s %s", whole ? "whole" : "broken", got.substr(got.rfind("weft warning: ")).c_str());
  ::_exit(0);
}

// Callers go on, lines are lost, and a line says so once the pipe is read. In a process of its own, since writing in
// the background has no end.
TEST(LogDeathTest, ABlockedStderrHoldsNobody) {
  EXPECT_EXIT(log_into_a_blocked_pipe(), ::testing::ExitedWithCode(0),
              "whole weft warning: [0-9]+ lines of the log were lost: stderr was not read");
}

[[noreturn]] void fail_with_a_blocked_stderr() {
  int pipe[2] = {};
  if (::pipe(pipe) != 0) ::_exit(1);
  ::fcntl(pipe[1], F_SETFL, O_NONBLOCK);
  const std::vector<char> fill(4096);
  while (::write(pipe[1], fill.data(), fill.size()) > 0) {
  }
  ::fcntl(pipe[1], F_SETFL, 0);
  ::dup2(pipe[1], STDERR_FILENO);
  WEFT_CHECK(fill[0] == 1) << "never seen";
  ::_exit(0);
}

TEST(LogDeathTest, ABlockedStderrDoesNotKeepAFailedCheckFromEnding) {
  EXPECT_EXIT(fail_with_a_blocked_stderr(), ::testing::KilledBySignal(SIGABRT), "");
}

}  // namespace
}  // namespace weft
