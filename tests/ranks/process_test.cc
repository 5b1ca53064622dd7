// Ranks that are processes do what every carrier must (comm/conformance.h), and their messages arrive. Every process of
// the launcher runs all of this program's tests; under_mpirun starts them.
#include <gtest/gtest.h>

#include <iostream>

#include "comm/conformance.h"
#include "comm/process_ranks.h"

namespace weft::testing {
namespace {

std::unique_ptr<ProcessRanks> ranks;

class ProcessCarrier : public Carrier {
 public:
  int ranks() const override { return weft::testing::ranks->size(); }
  void on_group(std::vector<int> members, int threads, const Work& work) override {
    const auto group = weft::testing::ranks->communicator(std::move(members), threads);
    Scratch scratch;
    if (group) run_rank(*group, threads, scratch, work);
  }
};

class Processes : public ::testing::TestWithParam<int> {
 protected:
  ProcessCarrier carrier_;
};

TEST_P(Processes, gather) { check_gather(carrier_, GetParam()); }
TEST_P(Processes, reduce) { check_reduce(carrier_, GetParam()); }
TEST_P(Processes, reduce_pieces) { check_reduce_pieces(carrier_, GetParam()); }
TEST_P(Processes, exchange) { check_exchange(carrier_, GetParam()); }
TEST_P(Processes, broadcast) { check_broadcast(carrier_, GetParam()); }
TEST_P(Processes, random_calls) { check_random_calls(carrier_, GetParam()); }
TEST_P(Processes, groups) { check_groups(carrier_, GetParam()); }
INSTANTIATE_TEST_SUITE_P(Threads, Processes, ::testing::Values(1, 2));

TEST(Messages, arrive_in_order_and_whole) {
  // around the 3072 bytes that travel at once, and some that are large
  for (const size_t bytes : {0, 1, 100, 3071, 3072, 3073, 0, 70001, 10'000'000, 5}) {
    std::vector<std::byte> wanted(bytes);
    for (size_t i = 0; i < bytes; ++i) wanted[i] = static_cast<std::byte>(i * 5 + bytes);
    if (ranks->rank() == 0) {
      ranks->send(wanted);
      continue;
    }
    const auto got = ranks->receive();
    ASSERT_TRUE(got.has_value());
    ASSERT_EQ(std::vector<std::byte>(got->begin(), got->end()), wanted) << bytes << " bytes";
  }
}

// The messages of some steps may be taken later, with their rests.
TEST(Messages, are_kept_for_ranks_that_fall_behind) {
  const auto group = ranks->communicator({0, 1}, 1);
  for (int i = 0; i < 8; ++i) {
    const std::vector<int> message(static_cast<size_t>(i) * 700, i);
    if (ranks->rank() == 0) ranks->send(std::as_bytes(std::span(message)));
  }
  if (group) group->broadcast(0, nullptr, 0, {0, 1});
  for (int i = 0; i < 8 && ranks->rank() != 0; ++i) {
    const std::vector<int> message(static_cast<size_t>(i) * 700, i);
    const auto wanted = std::as_bytes(std::span(message));
    const auto got = ranks->receive();
    ASSERT_TRUE(got.has_value());
    ASSERT_TRUE(std::ranges::equal(*got, wanted)) << "message " << i;
  }
}

TEST(StageLines, give_what_was_sent) {
  for (const int threads : {1, 2}) {
    auto pair = ranks->communicator({0, 1}, threads);
    if (!pair) continue;
    const auto line = make_process_line(std::move(pair));
    if (ranks->rank() == 0) send_messages(*line, threads);
    else check_messages(*line, threads);
  }
}

// Rank 0 says where things go, does something else, and finds them there; lanes may be taken in any order.
TEST(Deliveries, arrive_beside_other_messages) {
  constexpr int kLanes = 3, kRounds = 40;
  std::vector<int> all;
  for (int r = 0; r < ranks->size(); ++r) all.push_back(r);
  const auto group = ranks->communicator(all, 1);
  const auto delivery = ranks->delivery(kLanes);
  const auto bytes_of = [](int rank, int step) {
    return static_cast<size_t>(step % 5 == 0 ? 0 : rank * 100 + step * 9973);
  };
  const auto value_of = [](int rank, int step) { return static_cast<std::byte>(rank * 50 + step); };
  std::vector<std::vector<std::vector<std::byte>>> places(kLanes, std::vector<std::vector<std::byte>>(all.size()));
  for (int round = 0; round < kRounds; ++round) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int step = round * kLanes + lane;
      for (int r = 1; r < ranks->size() && ranks->rank() == 0; ++r) {
        auto& place = places[static_cast<size_t>(lane)][static_cast<size_t>(r)];
        place.assign(bytes_of(r, step), std::byte{0});
        delivery->expect(lane, r, place.data(), place.size());
      }
      group->broadcast(0, nullptr, 0, {0, 1});
      if (ranks->rank() == 0) continue;
      const std::vector<std::byte> mine(bytes_of(ranks->rank(), step), value_of(ranks->rank(), step));
      delivery->deliver(mine.data(), mine.size());
    }
    for (int lane = kLanes; lane-- > 0 && ranks->rank() == 0;) {
      const int step = round * kLanes + lane;
      delivery->wait(lane);
      for (int r = 1; r < ranks->size(); ++r)
        ASSERT_EQ(places[static_cast<size_t>(lane)][static_cast<size_t>(r)],
                  std::vector<std::byte>(bytes_of(r, step), value_of(r, step)));
    }
  }
}

// Both ends of a line work on while things travel, here on the common stream; large things and small ones, in order.
TEST(PeerLines, carry_both_ways) {
  constexpr int kRounds = 12;
  const auto bytes_of = [](int rank, int round) {
    return static_cast<size_t>(round % 4 == 0 ? 0 : round % 4 == 1 ? 8 : rank * 1000 + round * 99991);
  };
  const auto value_of = [](int rank, int round) { return static_cast<std::byte>(rank * 50 + round); };
  const auto wanted = [&](int rank, int round) { return std::vector(bytes_of(rank, round), value_of(rank, round)); };
  const auto lines = ranks->peer_lines();
  ASSERT_EQ(lines.size(), ranks->rank() == 0 ? static_cast<size_t>(ranks->size()) - 1 : 1u);
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::vector<std::byte>> out, in;
    for (size_t i = 0; i < lines.size(); ++i) {
      const int rank = ranks->rank() == 0 ? static_cast<int>(i) + 1 : ranks->rank();
      out.push_back(wanted(rank, round)), in.emplace_back(bytes_of(rank, round));
    }
    for (size_t i = 0; i < lines.size(); ++i) {
      lines[i]->send(out[i].data(), out[i].size());
      lines[i]->receive(in[i].data(), in[i].size());
    }
    if (ranks->rank() == 0) ranks->send(std::as_bytes(std::span(&round, 1)));
    for (const auto& line : lines)
      while (!line->sent() || !line->received("testing"))
        if (ranks->rank() != 0) (void)ranks->has_message();
    ASSERT_EQ(in, out) << round;
    if (ranks->rank() == 0) continue;
    const auto message = ranks->receive();
    ASSERT_TRUE(message && message->size() == sizeof round);
    ASSERT_EQ(*reinterpret_cast<const int*>(message->data()), round);
  }
}

// Whoever asks beforehand finds the message there, whole; asking again changes nothing.
TEST(Messages, are_seen_before_they_are_received) {
  for (const size_t bytes : {0, 5, 70001}) {
    const std::vector<std::byte> wanted(bytes, std::byte{7});
    if (ranks->rank() == 0) {
      ranks->send(wanted);
      continue;
    }
    while (!ranks->has_message()) {
    }
    ASSERT_TRUE(ranks->has_message());
    const auto got = ranks->receive();
    ASSERT_TRUE(got && std::ranges::equal(*got, wanted)) << bytes << " bytes";
  }
}

TEST(Messages, go_beside_the_collectives) {
  std::vector<int> all;
  for (int r = 0; r < ranks->size(); ++r) all.push_back(r);
  const auto group = ranks->communicator(all, 1);
  float mine[2] = {};
  for (int step = 0; step < 300; ++step) {
    if (ranks->rank() == 0) {
      ranks->send(std::as_bytes(std::span(&step, 1)));
    } else {
      const auto got = ranks->receive();
      ASSERT_TRUE(got.has_value() && got->size() == sizeof step);
      ASSERT_EQ(*reinterpret_cast<const int*>(got->data()), step);
    }
    mine[step % 2] = static_cast<float>(step + ranks->rank());
    const Communicator::Parts parts = group->reduce(&mine[step % 2], 1, {0, 1});
    float sum = 0;  // of small whole numbers: the order does not matter
    for (const std::byte* part : parts) sum += *reinterpret_cast<const float*>(part);
    ASSERT_EQ(sum, static_cast<float>(step * ranks->size() + ranks->size() * (ranks->size() - 1) / 2));
  }
}

TEST(Ranks, know_their_hosts) {
  for (int r = 0; r < ranks->size(); ++r)
    EXPECT_EQ(ranks->host(r), ranks->host(ranks->rank()));  // mpirun on one machine
  EXPECT_NE(ranks->host(0), "unknown host");
}

// The tests of all ranks run side by side: rank 0 prints what runs, the others only what fails.
class FailuresOnly : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.failed())
      std::cout << "rank " << ranks->rank() << ": " << result.file_name() << ":" << result.line_number() << ": "
                << result.message() << std::endl;
  }
};

int run() {
  auto joined = ProcessRanks::join();
  if (!joined.ok() || !*joined) {
    std::cerr << (joined.ok() ? "this program is started by mpirun" : joined.error().to_string()) << "\n";
    return 2;
  }
  ranks = std::move(joined).value();
  if (ranks->rank() != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailuresOnly);
  }
  const Status started = ranks->agree({});
  if (!started.ok()) return 2;
  const int failed = RUN_ALL_TESTS();
  if (ranks->rank() == 0) ranks->close();
  else if (ranks->receive().has_value()) return 3;
  ranks.reset();
  return failed;
}

}  // namespace
}  // namespace weft::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  return weft::testing::run();
}
