// The memory that the images of all requests share (core/media_limits.h).
#pragma once

#include <cstdint>
#include <memory>

#include "base/result.h"

namespace weft {

class StopFlag;

// Thread-safe. Shares may outlive it.
class MediaAccount {
 public:
  explicit MediaAccount(int64_t limit);

  // Bytes that are held until the last copy is gone.
  using Share = std::shared_ptr<const void>;
  struct Shares {
    Share kept;       // of what is left once the images are prepared
    Share temporary;  // of what preparing them needs besides
  };
  // Both or none, of the bytes given. Waits up to `wait_ms` until they are free. Errors: too_large, more than there are
  // at all; resource_exhausted, others hold them; those of `stop` (may be null).
  Result<Shares> take(int64_t kept, int64_t temporary, int wait_ms, const StopFlag* stop) const;
  int64_t held() const;

 private:
  struct State;
  Share share(int64_t bytes) const;
  std::shared_ptr<State> state_;
};

}  // namespace weft
