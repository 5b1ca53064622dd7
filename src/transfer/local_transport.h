// Channels within a process, for tests: several transports that share a network, whose addresses are any names. What
// the network does with a message can be chosen (deliver, drop, duplicate, delay, cut), and events come from a thread,
// or one by one when the test says so, in the order that it chooses.
//
// It keeps channel.h's contract but for the time limits: a dial succeeds or fails with its first event, and who is
// accepted may be silent for ever.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "transfer/channel.h"

namespace weft {

// What becomes of a message.
struct LocalFault {
  enum Kind : unsigned char {
    deliver,
    drop,
    duplicate,
    delay,     // `steps` steps later; those behind it in the channel wait as well
    overtake,  // `steps` steps later; those behind it go first
    cut,       // the connection ends, and what is under way is lost
  };
  Kind kind = deliver;
  int steps = 0;
};

class LocalChannel;
class LocalTransport;

// Lasts longer than its transports. Functions: any thread.
class LocalNetwork {
 public:
  // threads: a thread of the network delivers events as soon as there are any. steps: step() does, on its caller.
  enum class Mode : unsigned char { threads, steps };
  explicit LocalNetwork(Mode mode);
  ~LocalNetwork();

  // `name` is what its peers see it under, also when it does not listen; it may listen at other names.
  std::unique_ptr<Transport> join(const std::string& name, ChannelHandler& handler);

  // Asked once for each message when it is sent, by the thread that sends it: names of the two transports, and the
  // message. It must not call into the network. Set before there is traffic.
  using Hook = std::function<LocalFault(const std::string& from, const std::string& to, std::span<const std::byte>)>;
  void set_hook(Hook hook);
  // Ends all connections between two transports, by their names; what is under way is lost.
  void cut(const std::string& one, const std::string& other);

  // Delivers one event: the next of one of the ends that have one, `choice` modulo their number, in the order in which
  // the connections were made. If all that is under way is delayed, only time passes. False: nothing is under way.
  // Mode::steps; not within an event.
  bool step(uint64_t choice = 0);
  // How many ends of connections have an event that could come now.
  size_t choices() const;

 private:
  friend LocalChannel;
  friend LocalTransport;
  struct Event;
  using Held = std::shared_ptr<LocalChannel>;

  std::shared_ptr<Channel> dial(LocalTransport& from, const std::string& address);
  void send(LocalChannel& from, std::vector<std::byte> message);
  void close(LocalChannel& channel);
  void leave(LocalTransport& transport);
  // Under the mutex.
  Held connect(LocalTransport& from, const std::string& peer);
  void end(LocalChannel& channel, const Error& why, bool at_once);
  std::vector<Held> ready() const;
  bool deliver(const Held& channel, std::unique_lock<std::mutex>& lock);
  void received(const Held& channel, const Event& event);
  void serve();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Hook hook_;
  std::map<std::string, LocalTransport*> listeners_;
  std::vector<Held> channels_;            // whose last event has not come yet
  LocalTransport* delivering_ = nullptr;  // whose event is running
  uint64_t now_ = 0;                      // steps so far
  size_t turn_ = 0;                       // of the thread
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace weft
