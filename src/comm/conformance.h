// What every carrier of Communicator must do, as checks that the tests of the carriers run: on ranks that are threads
// (comm_test.cc) and on ranks that are processes (tests/ranks/process_test.cc).
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "comm/stage_line.h"

namespace weft::testing {

constexpr size_t kScratchBytes = size_t{5} << 20;

// Two buffers to fill in turn; those of a rank, for all of its threads.
struct Scratch {
  std::vector<std::byte> buffers[2] = {std::vector<std::byte>(kScratchBytes), std::vector<std::byte>(kScratchBytes)};
};

class Carrier {
 public:
  using Work = std::function<void(Communicator&, Communicator::Thread, Scratch&)>;
  virtual ~Carrier() = default;
  virtual int ranks() const = 0;
  // Makes the group of `members` and calls `work` on `threads` threads of each of its ranks; where ranks are processes,
  // of this process's rank if it is a member. Returns when they are done.
  virtual void on_group(std::vector<int> members, int threads, const Work& work) = 0;
  void on_all(int threads, const Work& work);
};

// Calls `work` on `threads` threads of one rank. Other ranks may read `scratch` until they have returned as well.
void run_rank(Communicator& communicator, int threads, Scratch& scratch, const Carrier::Work& work);

void check_gather(Carrier& carrier, int threads);
// Sums have the bits of the balanced binary tree over the ranks. ranks() is a power of two.
void check_reduce(Carrier& carrier, int threads);
void check_reduce_pieces(Carrier& carrier, int threads);
void check_exchange(Carrier& carrier, int threads);
void check_broadcast(Carrier& carrier, int threads);
// All calls in a random order, while threads and ranks fall behind by chance.
void check_random_calls(Carrier& carrier, int threads);
// Groups of some of the ranks, at work at the same time.
void check_groups(Carrier& carrier, int threads);

// Both ends of a line between pipeline stages, each called by `threads` threads. What the first sends, while it may be
// several messages ahead, is what the second gets.
void send_messages(StageLine& line, int threads);
void check_messages(StageLine& line, int threads);

}  // namespace weft::testing
