// What the tests of the transports share: a handler that keeps all events, and messages whose bytes can be told apart.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "transfer/channel.h"

namespace weft {

using Bytes = std::vector<std::byte>;
using Held = std::shared_ptr<Channel>;

// `bytes` bytes that depend on the number.
inline Bytes content_of(uint64_t number, size_t bytes) {
  Bytes content(bytes);
  uint64_t state = number * 0x9e3779b97f4a7c15u + 1;
  for (std::byte& byte : content) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<std::byte>(state >> 56);
  }
  return content;
}

class Recorder : public ChannelHandler {
 public:
  struct Seen {
    std::vector<Bytes> messages;
    size_t count = 0;
    int drained = 0, closed = 0;
    bool late = false;  // an event came behind on_closed()
    std::string why;
    size_t queued_at_drained = 0;
  };

  // Called before the event is kept. Set before there are channels.
  std::function<void(const Held&)> accepted, drained, closed;
  std::function<void(const Held&, std::span<const std::byte>)> message;
  bool keep_messages = true;

  void on_accepted(const Held& channel) override {
    if (accepted) accepted(channel);
    keep(channel, [&](Seen&) { accepted_.push_back(channel); });
  }
  void on_message(const Held& channel, std::span<const std::byte> bytes) override {
    if (message) message(channel, bytes);
    keep(channel, [&](Seen& seen) {
      ++seen.count;
      if (keep_messages) seen.messages.emplace_back(bytes.begin(), bytes.end());
    });
  }
  void on_drained(const Held& channel) override {
    if (drained) drained(channel);
    keep(channel, [&](Seen& seen) {
      ++seen.drained;
      seen.queued_at_drained = channel->queued_bytes();
    });
  }
  void on_closed(const Held& channel, const Error& why) override {
    if (closed) closed(channel);
    keep(channel, [&](Seen& seen) {
      ++seen.closed;
      seen.why = why.message();
    });
  }

  // Waits until the condition holds of what was seen of the channel.
  bool wait(const Held& channel, const std::function<bool(const Seen&)>& holds, double seconds = 60) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return holds(seen_[channel]); });
  }
  bool wait_closed(const Held& channel, double seconds = 60) {
    return wait(channel, [](const Seen& seen) { return seen.closed > 0; }, seconds);
  }
  bool wait_count(const Held& channel, size_t count, double seconds = 60) {
    return wait(channel, [&](const Seen& seen) { return seen.count >= count; }, seconds);
  }
  // The `index`-th channel that was accepted; null if there is none in time.
  Held wait_accepted(size_t index = 0, double seconds = 60) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return accepted_.size() > index; });
    return accepted_.size() > index ? accepted_[index] : nullptr;
  }
  Seen seen(const Held& channel) {
    const std::lock_guard lock(mutex_);
    return seen_[channel];
  }
  size_t accepted_count() {
    const std::lock_guard lock(mutex_);
    return accepted_.size();
  }

 private:
  template <class Change>
  void keep(const Held& channel, const Change& change) {
    const std::lock_guard lock(mutex_);
    Seen& seen = seen_[channel];
    seen.late = seen.late || seen.closed > 0;
    change(seen);
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Held, Seen> seen_;
  std::vector<Held> accepted_;
};

}  // namespace weft
