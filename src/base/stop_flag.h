// Tells work on a request that nobody needs it any more: the client has left, its time is over, or the server ends.
// Long work (tokenizing, templates, grammars, fetching and decoding) looks at it between pieces of some milliseconds.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"

namespace weft {

enum class StopReason : uint8_t {
  none,         // go on
  client_left,  // nobody will read the answer
  out_of_time,  // the request has had the time that it may take
  shutdown,
};

// Set by one thread and looked at by others; the first reason counts, and it stays.
class StopFlag {
 public:
  void set(StopReason why) {
    uint8_t none = 0;
    reason_.compare_exchange_strong(none, static_cast<uint8_t>(why), std::memory_order_relaxed);
  }
  StopReason reason() const { return static_cast<StopReason>(reason_.load(std::memory_order_relaxed)); }
  // ok, or what to answer: cancelled, deadline_exceeded.
  Status check() const {
    switch (reason()) {
      case StopReason::none: break;
      case StopReason::client_left: return fail(Code::cancelled, "the client has left");
      case StopReason::out_of_time:
        return fail(Code::deadline_exceeded, "the request took longer to prepare than this server allows");
      case StopReason::shutdown: return fail(Code::cancelled, "the server is shutting down");
    }
    return {};
  }
  // For code behind a C interface: a byte that is not 0 once work is to stop.
  const uint8_t* byte() const { return reinterpret_cast<const uint8_t*>(&reason_); }

 private:
  std::atomic<uint8_t> reason_{0};
  static_assert(sizeof(std::atomic<uint8_t>) == 1 && std::atomic<uint8_t>::is_always_lock_free);
};

// Of work that may have no flag.
inline Status check_stop(const StopFlag* stop) { return stop ? stop->check() : Status(); }

}  // namespace weft
