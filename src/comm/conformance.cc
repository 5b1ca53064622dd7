#include "comm/conformance.h"

#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>

#include "base/thread_team.h"

namespace weft::testing {
namespace {

size_t index(int i) { return static_cast<size_t>(i); }

uint32_t mixed(uint64_t a) {
  a = (a ^ (a >> 31)) * 0x9E3779B97F4A7C15ull;
  return static_cast<uint32_t>((a ^ (a >> 29)) >> 16);
}

// Byte i of what `rank` sends in a round.
std::byte byte_of(int rank, int round, size_t i) {
  return static_cast<std::byte>(i * 7 + index(rank) * 31 + index(round) * 13);
}

// Numbers of many sizes and both signs, so that their sum depends on the order.
float number_of(int rank, int round, size_t i) {
  const uint32_t bits = mixed(i * 64 + index(rank) * 7 + index(round) * 1000003);
  const float number = 1.0f + static_cast<float>(bits % 8191) / 8192;
  return std::ldexp((bits & 0x10000) != 0 ? number : -number, static_cast<int>((bits >> 20) % 24));
}

template <class Values>
float tree(Values value, int first, int count) {
  if (count == 1) return value(first);
  return tree(value, first, count / 2) + tree(value, first + count / 2, count / 2);
}

// One rank's thread in a sequence of calls: fills its share of the rank's buffer, calls, and checks what came. It does
// not wait for the rank's other threads: the calls do.
class Caller {
 public:
  Caller(Communicator& comm, Communicator::Thread thread, Scratch& scratch)
      : comm_(comm), thread_(thread), scratch_(scratch),
        chance_(static_cast<unsigned>(comm.rank() * 64 + thread.index)) {}

  void gather(int round, size_t scale) {
    const auto bytes_of = [&](int rank) {
      return (index(rank) + index(round)) % 5 == 0 ? 0 : (index(rank) * 37 + index(round) * 101) % 997 * scale + 1;
    };
    std::vector<size_t> bytes;
    for (int r = 0; r < comm_.size(); ++r) bytes.push_back(bytes_of(r));
    const std::byte* mine = fill(round, bytes[index(comm_.rank())]);
    const Communicator::Parts parts = comm_.gather(mine, bytes, thread_);
    ASSERT_EQ(parts.size(), bytes.size());
    for (int r = 0; r < comm_.size(); ++r) expect_bytes(parts[index(r)], r, round, 0, bytes[index(r)]);
  }

  void gather_set(int round, size_t scale) {
    std::vector<int> divisors;
    for (int d = 1; d <= comm_.size(); ++d)
      if (comm_.size() % d == 0) divisors.push_back(d);
    const int ranks = divisors[index(round) % divisors.size()];
    const size_t bytes = index(round) * 101 % 997 * scale;
    const std::byte* mine = fill(round, bytes);
    const Communicator::Parts parts = comm_.gather_set(mine, bytes, ranks, thread_);
    ASSERT_EQ(parts.size(), index(ranks));
    for (int r = 0; r < ranks; ++r) expect_bytes(parts[index(r)], comm_.rank() / ranks * ranks + r, round, 0, bytes);
  }

  void exchange(int round, size_t scale) {
    const auto bytes_of = [&](int from, int to) {
      const size_t bytes = (index(from) * 1009 + index(to) * 77 + index(round) * 13) % 3001 * scale;
      return (from * 5 + to * 3 + round) % 4 == 0 ? 0 : bytes;
    };
    std::vector<size_t> offsets{0}, received;
    for (int r = 0; r < comm_.size(); ++r) {
      offsets.push_back(offsets.back() + bytes_of(comm_.rank(), r));
      received.push_back(bytes_of(r, comm_.rank()));
    }
    const std::byte* mine = fill(round, offsets.back());
    const Communicator::Parts parts = comm_.exchange(mine, offsets, received, thread_);
    ASSERT_EQ(parts.size(), received.size());
    for (int from = 0; from < comm_.size(); ++from) {
      size_t begin = 0;  // of the piece in its sender's buffer
      for (int to = 0; to < comm_.rank(); ++to) begin += bytes_of(from, to);
      expect_bytes(parts[index(from)], from, round, begin, received[index(from)]);
    }
  }

  void broadcast(int round, int from, size_t bytes) {
    const std::byte* mine = comm_.rank() == from ? fill(round, bytes) : nullptr;
    expect_bytes(comm_.broadcast(from, mine, bytes, thread_), from, round, 0, bytes);
  }

  void reduce(int round, size_t floats) {
    auto* const mine = reinterpret_cast<float*>(buffer());
    for (size_t i = index(thread_.index); i < floats; i += index(thread_.count))
      mine[i] = number_of(comm_.rank(), round, i);
    fall_behind();
    expect_sums(comm_.reduce(mine, floats, thread_), round, floats);
  }

  // Every thread writes its share of the pieces without waiting for the others, and the first one of a rank sometimes
  // says so late.
  void reduce_pieces(int round, size_t floats, size_t piece) {
    auto* const mine = reinterpret_cast<float*>(buffer());
    const Communicator::Pieces sum{mine, floats, piece};
    for (size_t p = 0; p < sum.count(); ++p) {
      for (size_t i = sum.begin(p) + index(thread_.index); i < sum.end(p); i += index(thread_.count))
        mine[i] = number_of(comm_.rank(), round, i);
      fall_behind();
      if (chance_() % 3 != 0) comm_.written(sum, p + 1, thread_);
      for (unsigned again = chance_() % 3; thread_.index == 0 && again > 0; --again) comm_.written(sum, p + 1, thread_);
    }
    if (chance_() % 2 == 0) comm_.written(sum, sum.count(), thread_);
    expect_sums(comm_.reduce_pieces(sum, thread_), round, floats);
  }

 private:
  void expect_sums(Communicator::Parts parts, int round, size_t floats) {
    const int count = static_cast<int>(parts.size());
    ASSERT_TRUE(std::has_single_bit(parts.size()) && count <= comm_.size());
    // Every thread looks at every number of a short sum, and at its share of a long one.
    const size_t step = floats > 5000 ? index(thread_.count) : 1;
    for (size_t i = step == 1 ? 0 : index(thread_.index); i < floats; i += step) {
      const auto part = [&](int p) { return reinterpret_cast<const float*>(parts[index(p)])[i]; };
      const float got = tree(part, 0, count);
      const float wanted = tree([&](int rank) { return number_of(rank, round, i); }, 0, comm_.size());
      ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(wanted))
          << "number " << i << " of " << floats << ": " << got << " for " << wanted;
    }
  }

  std::byte* buffer() { return scratch_.buffers[calls_++ % 2].data(); }

  const std::byte* fill(int round, size_t bytes) {
    EXPECT_LE(bytes, kScratchBytes);
    std::byte* const mine = buffer();
    for (size_t i = index(thread_.index); i < bytes; i += index(thread_.count))
      mine[i] = byte_of(comm_.rank(), round, i);
    fall_behind();
    return mine;
  }

  void expect_bytes(const std::byte* got, int rank, int round, size_t begin, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i)
      ASSERT_EQ(got[i], byte_of(rank, round, begin + i)) << "byte " << i << " of " << bytes << " from rank " << rank;
  }

  // Now and then for up to a millisecond.
  void fall_behind() {
    if (chance_() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(chance_() % 1000));
  }

  Communicator& comm_;
  const Communicator::Thread thread_;
  Scratch& scratch_;
  std::minstd_rand chance_;
  unsigned calls_ = 0;
};

}  // namespace

void Carrier::on_all(int threads, const Work& work) {
  std::vector<int> members(index(ranks()));
  std::iota(members.begin(), members.end(), 0);
  on_group(std::move(members), threads, work);
}

void run_rank(Communicator& communicator, int threads, Scratch& scratch, const Carrier::Work& work) {
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t) running.emplace_back([&, t] { work(communicator, {t, threads}, scratch); });
  for (std::thread& thread : running) thread.join();
}

void check_gather(Carrier& carrier, int threads) {
  carrier.on_all(threads, [](Communicator& comm, Communicator::Thread thread, Scratch& scratch) {
    Caller caller(comm, thread, scratch);
    for (int round = 0; round < 30; ++round) caller.gather(round, round % 10 == 9 ? 999 : 1);
    for (int round = 0; round < 30; ++round) caller.gather_set(round, round % 10 == 9 ? 999 : 1);
  });
}

void check_reduce(Carrier& carrier, int threads) {
  if (carrier.ranks() >= 4) {  // else a sum has one order only
    const auto value = [](int rank) { return number_of(rank, 0, 5); };
    int differ = 0;
    for (int round = 0; round < 100; ++round) {
      const auto number = [&](int rank) { return number_of(rank, round, 5); };
      differ += ((number(0) + number(1)) + number(2)) + number(3) != tree(number, 0, 4);
    }
    ASSERT_GT(differ, 10) << "the numbers do not show the order, for example " << value(0);
  }
  carrier.on_all(threads, [](Communicator& comm, Communicator::Thread thread, Scratch& scratch) {
    Caller caller(comm, thread, scratch);
    int round = 0;
    for (const size_t floats : {0, 1, 2, 3, 15, 16, 17, 1000, 4099, 8191, 8192, 8193, 8197, 100003, 1 << 20})
      caller.reduce(++round, floats);
  });
}

void check_reduce_pieces(Carrier& carrier, int threads) {
  carrier.on_all(threads, [](Communicator& comm, Communicator::Thread thread, Scratch& scratch) {
    Caller caller(comm, thread, scratch);
    int round = 0;
    for (const auto& [floats, piece] : std::vector<std::pair<size_t, size_t>>{
             {0, 1}, {1, 1}, {5, 2}, {16, 5}, {17, 17}, {17, 100}, {1000, 96}, {4099, 1024}, {100003, 20001}})
      for (int again = 0; again < 3; ++again) caller.reduce_pieces(++round, floats, piece);
    for (const size_t piece : {1 << 16, 1 << 18, 1 << 20}) {
      caller.reduce_pieces(++round, 1 << 20, piece);
      caller.reduce(++round, 1 << 16);
    }
  });
}

void check_exchange(Carrier& carrier, int threads) {
  carrier.on_all(threads, [](Communicator& comm, Communicator::Thread thread, Scratch& scratch) {
    Caller caller(comm, thread, scratch);
    for (int round = 0; round < 30; ++round) caller.exchange(round, round % 10 == 9 ? 100 : 1);
  });
}

void check_broadcast(Carrier& carrier, int threads) {
  carrier.on_all(threads, [](Communicator& comm, Communicator::Thread thread, Scratch& scratch) {
    Caller caller(comm, thread, scratch);
    int round = 0;
    for (const size_t bytes : {0, 1, 17, 4096, 70001, 3000000})
      for (int from = 0; from < comm.size(); ++from) caller.broadcast(++round, from, bytes);
  });
}

void check_random_calls(Carrier& carrier, int threads) {
  carrier.on_all(threads, [](Communicator& comm, Communicator::Thread thread, Scratch& scratch) {
    Caller caller(comm, thread, scratch);
    std::minstd_rand same_everywhere(5);
    for (int round = 0; round < 200; ++round) {
      const size_t size = same_everywhere() % (round % 20 == 19 ? 30000 : 300);
      switch (same_everywhere() % 6) {
        case 5: caller.reduce_pieces(round, size, 1 + size / 7); break;
        case 4: caller.gather_set(round, 1 + size / 100); break;
        case 0: caller.gather(round, 1 + size / 100); break;
        case 1: caller.exchange(round, 1 + size / 10000); break;
        case 2: caller.broadcast(round, static_cast<int>(size) % comm.size(), size); break;
        default: caller.reduce(round, size);
      }
    }
  });
}

void check_groups(Carrier& carrier, int threads) {
  std::vector<std::vector<int>> groups{{0}};
  const int half = carrier.ranks() / 2;
  for (int r = 0; r < carrier.ranks(); ++r) {
    if (r == 0 || r == half) groups.emplace_back();
    groups.back().push_back(r);
  }
  groups.emplace_back();
  for (int r = 1; r < carrier.ranks(); r += 2) groups.back().push_back(r);
  for (const std::vector<int>& members : groups) {
    if (members.empty()) continue;
    carrier.on_group(members, threads, [&](Communicator& comm, Communicator::Thread thread, Scratch& scratch) {
      ASSERT_EQ(comm.size(), static_cast<int>(members.size()));
      Caller caller(comm, thread, scratch);
      for (int round = 0; round < 10; ++round) {
        caller.gather(round, 1), caller.gather_set(round, 1);
        if (std::has_single_bit(members.size())) caller.reduce(round, 100);
      }
    });
  }
}

namespace {

constexpr int kMessages = 200;
size_t message_bytes(int number) {
  return number % 7 == 0 ? 0 : index(number) * 977 % (number % 50 == 49 ? 3000001 : 999);
}

// Calls work(thread, message number) on every thread for each message; threads fall behind by chance.
void for_messages(int threads, const std::function<void(StageLine::Thread, int)>& work) {
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      std::minstd_rand chance(static_cast<unsigned>(t) + 1);
      for (int number = 0; number < kMessages; ++number) {
        if (chance() % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
        work({t, threads}, number);
      }
    });
  for (std::thread& thread : running) thread.join();
}

}  // namespace

void send_messages(StageLine& line, int threads) {
  std::vector<std::byte> data(3000001);
  ThreadBarrier sent(threads);
  for_messages(threads, [&](StageLine::Thread thread, int number) {
    // Each thread fills a part: the line waits for all of them.
    for (size_t i = index(thread.index); i < message_bytes(number); i += index(threads))
      data[i] = byte_of(0, number, i);
    line.send(data.data(), message_bytes(number), thread);
    sent.wait();
  });
}

void check_messages(StageLine& line, int threads) {
  for_messages(threads, [&](StageLine::Thread thread, int number) {
    const std::byte* const got = line.receive(message_bytes(number), thread);
    for (size_t i = 0; i < message_bytes(number); ++i)
      ASSERT_EQ(got[i], byte_of(0, number, i)) << "message " << number << ", byte " << i;
  });
}

}  // namespace weft::testing
