#include "comm/thread_ranks.h"

#include <cstdint>

#include "base/thread_team.h"

namespace weft {
namespace {

// What all ranks of a group share. A call publishes addresses and waits once for all threads; two sets of addresses in
// turn, since one rank may publish for its next call while threads of another still read.
struct Group {
  Group(int ranks, int threads) : ranks(ranks), barrier(ranks * threads) {
    for (auto& list : published) list.resize(static_cast<size_t>(ranks) * static_cast<size_t>(ranks));
  }
  const int ranks;
  ThreadBarrier barrier;
  std::vector<const std::byte*> published[2];  // [reader][owner]
};

class ThreadRank : public Communicator {
 public:
  ThreadRank(std::shared_ptr<Group> group, int rank, int threads)
      : group_(std::move(group)), rank_(rank), turns_(static_cast<size_t>(threads)) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->ranks; }

  Parts gather(const void* mine, std::span<const size_t>, Thread thread) override {
    return publish(thread, [&](int) { return mine; });
  }
  Parts gather_set(const void* mine, size_t, int ranks, Thread thread) override {
    return publish(thread, [&](int) { return mine; })
        .subspan(static_cast<size_t>(rank_ / ranks * ranks), static_cast<size_t>(ranks));
  }
  Parts reduce(const float* mine, size_t, Thread thread) override {
    return publish(thread, [&](int) { return mine; });
  }
  // Ranks read each other's numbers where they lie.
  bool overlaps() const override { return false; }
  void written(const Pieces&, size_t, Thread) override {}
  Parts reduce_pieces(const Pieces& sum, Thread thread) override { return reduce(sum.mine, sum.floats, thread); }
  Parts exchange(const void* mine, std::span<const size_t> offsets, std::span<const size_t>, Thread thread) override {
    return publish(
        thread, [&](int reader) { return static_cast<const std::byte*>(mine) + offsets[static_cast<size_t>(reader)]; });
  }
  const std::byte* broadcast(int from, const void* mine, size_t, Thread thread) override {
    return publish(thread, [&](int) { return mine; })[static_cast<size_t>(from)];
  }

 private:
  struct alignas(64) Turn {
    unsigned next = 0;
  };

  template <class AddressFor>
  Parts publish(Thread thread, AddressFor address_for) {
    std::vector<const std::byte*>& list = group_->published[turns_[static_cast<size_t>(thread.index)].next++ % 2];
    const auto count = static_cast<size_t>(group_->ranks);
    if (thread.index == 0)
      for (size_t reader = 0; reader < count; ++reader)
        list[reader * count + static_cast<size_t>(rank_)] =
            static_cast<const std::byte*>(static_cast<const void*>(address_for(static_cast<int>(reader))));
    group_->barrier.wait();
    return {list.data() + static_cast<size_t>(rank_) * count, count};
  }

  std::shared_ptr<Group> group_;
  const int rank_;
  std::vector<Turn> turns_;  // per thread
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_ranks(int ranks, int threads) {
  const auto group = std::make_shared<Group>(ranks, threads);
  std::vector<std::unique_ptr<Communicator>> all;
  for (int rank = 0; rank < ranks; ++rank) all.push_back(std::make_unique<ThreadRank>(group, rank, threads));
  return all;
}

}  // namespace weft
