// The line from a rank of one pipeline stage to its place in the next one: messages go one way, first in, first out. A
// stage may send those of the next step while the other still reads those of the step before.
//
// Each end is called by all threads of its rank, thread `part.index` of `part.count`, in the same order and with the
// same arguments; sizes are known to both ends. Errors are those of communicator.h: none are returned.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "comm/communicator.h"

namespace weft {

class StageLine {
 public:
  using Thread = Communicator::Thread;

  virtual ~StageLine() = default;
  // Waits for all threads of the rank, so no barrier is needed in front; `data` may be written again once all of them
  // have returned.
  virtual void send(const void* data, size_t bytes, Thread thread) = 0;
  // Waits for the next message. It stays as it is until the rank's next call.
  virtual const std::byte* receive(size_t bytes, Thread thread) = 0;
};

// Both ends in one process, of ranks with `threads` threads each: what is sent is copied once, and read where it lies.
std::pair<std::unique_ptr<StageLine>, std::unique_ptr<StageLine>> make_thread_line(int threads);
// This process's end. `pair` are the two ranks, the sender first. A send returns when the other end has taken it, or
// the network has.
std::unique_ptr<StageLine> make_process_line(std::unique_ptr<Communicator> pair);

}  // namespace weft
