// Ranks that are threads do what every carrier must (conformance.h).
#include <gtest/gtest.h>

#include <thread>
#include <tuple>

#include "comm/conformance.h"
#include "comm/thread_ranks.h"

namespace weft::testing {
namespace {

class ThreadCarrier : public Carrier {
 public:
  explicit ThreadCarrier(int ranks) : ranks_(ranks) {}
  int ranks() const override { return ranks_; }
  void on_group(std::vector<int> members, int threads, const Work& work) override {
    const auto group = make_thread_ranks(static_cast<int>(members.size()), threads);
    std::vector<Scratch> scratches(group.size());
    std::vector<std::thread> running;
    for (size_t r = 0; r < group.size(); ++r)
      running.emplace_back([&, r] { run_rank(*group[r], threads, scratches[r], work); });
    for (std::thread& thread : running) thread.join();
  }

 private:
  const int ranks_;
};

class ThreadRanks : public ::testing::TestWithParam<std::tuple<int, int>> {
 protected:
  ThreadCarrier carrier_{std::get<0>(GetParam())};
  const int threads_ = std::get<1>(GetParam());
};

TEST_P(ThreadRanks, gather) { check_gather(carrier_, threads_); }
TEST_P(ThreadRanks, reduce) { check_reduce(carrier_, threads_); }
TEST_P(ThreadRanks, reduce_pieces) { check_reduce_pieces(carrier_, threads_); }
TEST_P(ThreadRanks, exchange) { check_exchange(carrier_, threads_); }
TEST_P(ThreadRanks, broadcast) { check_broadcast(carrier_, threads_); }
TEST_P(ThreadRanks, random_calls) { check_random_calls(carrier_, threads_); }
TEST_P(ThreadRanks, groups) { check_groups(carrier_, threads_); }

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadRanks, ::testing::Combine(::testing::Values(1, 2, 4, 8), ::testing::Values(1, 2)),
                         [](const auto& info) {
                           return std::to_string(std::get<0>(info.param)) + "x" +
                                  std::to_string(std::get<1>(info.param));
                         });

TEST(ThreadLine, gives_what_was_sent) {
  for (const int threads : {1, 2, 3}) {
    const auto [from, to] = make_thread_line(threads);
    std::thread sender([&, line = from.get()] { send_messages(*line, threads); });
    check_messages(*to, threads);
    sender.join();
  }
}

// A stage may be ahead by as many messages as it likes.
TEST(ThreadLine, keeps_what_is_not_taken_yet) {
  const auto [from, to] = make_thread_line(2);
  send_messages(*from, 2);
  check_messages(*to, 2);
}

}  // namespace
}  // namespace weft::testing
