#include "media/account.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/stop_flag.h"

namespace weft {

struct MediaAccount::State {
  explicit State(int64_t most) : limit(most) {}
  const int64_t limit;
  std::mutex mutex;  // guards `held`
  std::condition_variable given_back;
  int64_t held = 0;
};

MediaAccount::MediaAccount(int64_t limit) : state_(std::make_shared<State>(limit)) {}

int64_t MediaAccount::held() const {
  const std::lock_guard lock(state_->mutex);
  return state_->held;
}

// Of bytes that are counted already.
MediaAccount::Share MediaAccount::share(int64_t bytes) const {
  const auto give_back = [state = state_, bytes](const void*) {
    {
      const std::lock_guard lock(state->mutex);
      state->held -= bytes;
    }
    state->given_back.notify_all();
  };
  return Share(state_.get(), give_back);  // gives back as well where there is no memory for the holder
}

Result<MediaAccount::Shares> MediaAccount::take(int64_t kept, int64_t temporary, int wait_ms,
                                                const StopFlag* stop) const {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kLook{5};
  const int64_t bytes = kept + temporary;
  if (bytes > state_->limit)
    return fail(Code::too_large, "the images take ", bytes, " bytes of memory; at most ", state_->limit,
                " are there for the images of all requests (--max-media-memory)");
  const auto until = Clock::now() + std::chrono::milliseconds(wait_ms);
  std::unique_lock lock(state_->mutex);
  while (state_->held + bytes > state_->limit) {
    WEFT_RETURN_IF_ERROR(check_stop(stop));
    if (Clock::now() >= until)
      return fail(Code::resource_exhausted, "the images take ", bytes, " bytes of memory, and those of other requests ",
                  state_->held, "; at most ", state_->limit,
                  " are there for all (--max-media-memory); try again later");
    state_->given_back.wait_for(lock, kLook);
  }
  state_->held += bytes;
  lock.unlock();
  Shares shares;
  shares.kept = share(kept);
  shares.temporary = share(temporary);
  return shares;
}

}  // namespace weft
