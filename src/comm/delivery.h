// What ranks in other processes have computed, on its way to rank 0. Rank 0 says beforehand where it is to go, so the
// ranks that deliver it do not wait for rank 0, which may be at work on later steps.
#pragma once

#include <cstddef>
#include <vector>

#include "comm/process_link.h"

namespace weft {

class Delivery {
 public:
  // `lanes`: steps whose deliveries may be under way at a time. `tag` is its own. The link outlives it.
  Delivery(ProcessLink& link, int lanes, int tag, double deadline);

  // Rank 0: the next delivery of rank `from` has `bytes` bytes and goes to `into`, which is left alone until wait() has
  // returned. One thread at a time.
  void expect(int lane, int from, void* into, size_t bytes);
  // Rank 0: until everything has come that the lane expects.
  void wait(int lane);
  // Other ranks, one thread. Returns when `data` may be written again.
  void deliver(const void* data, size_t bytes);

 private:
  std::vector<Transfers> lanes_;
  const int tag_;
  const double deadline_;
};

}  // namespace weft
