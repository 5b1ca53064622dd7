#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <thread>

#include "comm/thread_ranks.h"

namespace weft {
namespace {

// Calls work(communicator, thread) on every thread of every rank.
void on_all(int ranks, int threads, const std::function<void(Communicator&, Communicator::Thread)>& work) {
  const auto group = make_thread_ranks(ranks, threads);
  std::vector<std::thread> running;
  for (const auto& rank : group)
    for (int t = 0; t < threads; ++t) running.emplace_back([&, t] { work(*rank, {t, threads}); });
  for (std::thread& thread : running) thread.join();
}

TEST(ThreadRanks, every_rank_sees_every_ranks_numbers) {
  for (const int ranks : {1, 2, 4})
    on_all(ranks, 2, [&](Communicator& comm, Communicator::Thread thread) {
      static std::array<std::array<int, 2>, 4> buffers;
      for (int round = 0; round < 100; ++round) {
        int& mine = buffers[static_cast<size_t>(comm.rank())][static_cast<size_t>(round % 2)];
        if (thread.index == 0) mine = round * 10 + comm.rank();
        const std::vector<size_t> bytes(static_cast<size_t>(ranks), sizeof(int));
        const Communicator::Parts parts = comm.gather(&mine, bytes, thread);
        for (int r = 0; r < ranks; ++r)
          ASSERT_EQ(*reinterpret_cast<const int*>(parts[static_cast<size_t>(r)]), round * 10 + r);
      }
    });
}

}  // namespace
}  // namespace weft
