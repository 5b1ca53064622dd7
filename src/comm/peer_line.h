// Messages between rank 0 and one other rank, beside those for all (process_ranks.h). Neither end waits for them on the
// spot: it goes on with its work and looks now and then. Both know what comes next and how large it is.
#pragma once

#include <cstddef>

#include "comm/process_link.h"

namespace weft {

class PeerLine {
 public:
  // The link outlives it.
  PeerLine(ProcessLink& link, int peer, int tag, double deadline)
      : peer_(peer), tag_(tag), deadline_(deadline), sends_(link), receives_(link) {}

  // Memory is the caller's and stays as it is until sent() or received() is true.
  void send(const void* data, size_t bytes) { sends_.send(peer_, tag_, data, bytes); }
  void receive(void* data, size_t bytes) {
    patience_.restart();
    receives_.receive(peer_, tag_, data, bytes);
  }
  // One look: whether all has gone out, or come in. If nothing comes for as long as the deadline, the job fails;
  // `doing` as in Transfers::wait().
  bool sent() { return sends_.finished(); }
  bool received(const char* doing) { return receives_.finished(patience_, doing, deadline_); }

 private:
  const int peer_, tag_;
  const double deadline_;
  Transfers sends_, receives_;
  Patience patience_;
};

}  // namespace weft
