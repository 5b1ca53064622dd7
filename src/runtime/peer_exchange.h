// Disaggregated serving, as an engine sees it: the connections to other servers, whose prompts it computes
// (prefix_provider.h) and who compute prompts for it (prefix_fetcher.h). docs/serving-at-scale.md says how servers work
// together, transfer/message.h what they say.
//
// The engine's mutex guards everything; blocks are read, written and hashed without it. Messages come on the
// transport's threads; a thread of the exchange's own plans fetches, begins prompts, sends blocks and looks at the
// clock.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <vector>

#include "runtime/prefix_fetcher.h"
#include "runtime/prefix_provider.h"
#include "transfer/channel.h"
#include "transfer/peer_link.h"

namespace weft {

class PeerExchange final : public ChannelHandler {
 public:
  struct Options {
    LinkOptions link;
    double time_limit = 120;        // seconds, of fetches and leases
    bool convert = false;           // see PrefixFetcher::Options, as the next
    int max_local = 0;              // see PrefixFetcher::Options
    std::string listen;             // "HOST:PORT"; empty: nobody can ask
    bool thread = true;             // false: somebody calls work() (the simulation)
    std::function<double()> clock;  // seconds; null: the steady clock
  };
  struct Engine {
    // With the mutex held: the sequence may go on. Does not throw, nor do cancel() and freed().
    std::function<void(SequenceId)> ready;
    // Without it: computes a prompt for another server. done(why) follows once, on any thread without the mutex, when
    // the prompt is computed (why is empty) or will not be.
    std::function<Result<SequenceId>(ComputeMessage prompt, PromptMedia media,
                                     std::function<void(const std::string& why)> done)>
        compute;
    std::function<void(SequenceId)> cancel;
    // With it: memory of the cache may have become free, for sequences that wait for some.
    std::function<void()> freed;
    // With it: images' features that are there, and that have come from another server.
    PrefixProvider::FindFeatures find_features;
    std::function<void(const Digest& image, std::shared_ptr<const MediaFeatures>)> put_features;
  };
  using MakeTransport = std::function<Result<std::unique_ptr<Transport>>(ChannelHandler&)>;

  // What it is given outlives it.
  static Result<std::unique_ptr<PeerExchange>> open(Options options, const MakeTransport& make, BlockMemory& memory,
                                                    std::mutex& mutex, Scheduler& scheduler, Engine engine);
  // Held sequences go on.
  ~PeerExchange() override;

  // Where it listens; empty: nowhere.
  const std::string& address() const { return address_; }

  // With the mutex held. A held sequence, whose prompt others may compute: ready(id) follows, unless it throws
  // (std::bad_alloc).
  void fetch(SequenceId id, RemotePrompt prompt);
  void forget(SequenceId id);  // the sequence is gone
  void step_finished(uint64_t step);
  void stepped();  // a step was submitted or committed, or an image encoded
  TransferMetrics metrics() const;

  void on_accepted(const std::shared_ptr<Channel>& channel) override;
  void on_message(const std::shared_ptr<Channel>& channel, std::span<const std::byte> message) override;
  void on_drained(const std::shared_ptr<Channel>& channel) override;
  void on_closed(const std::shared_ptr<Channel>& channel, const Error& why) override;

  // A piece of what the thread does; false: there is nothing to do now. The lock is of the mutex.
  bool work(std::unique_lock<std::mutex>& lock);

 private:
  struct Peer {
    std::shared_ptr<PeerLink> link;
    std::string address;  // that was dialled; empty: the other side connected
  };
  struct Planned {
    SequenceId id;
    RemotePrompt prompt;
  };

  PeerExchange(Options options, BlockMemory& memory, std::mutex& mutex, Scheduler& scheduler, Engine engine);
  double now() const;
  void run();
  void wake();
  Peer* find(const Channel* channel);
  void connect(const std::string& address);
  void send(const std::string& address, std::vector<std::byte> message);
  void give_up(const std::string& address);
  void take_bytes(const std::shared_ptr<Channel>& channel, std::span<const std::byte> message,
                  std::unique_lock<std::mutex>& lock);
  Status take(const std::shared_ptr<Channel>& channel, TransferMessage& message, std::unique_lock<std::mutex>& lock);
  Status take_compute(const std::shared_ptr<Channel>& channel, ComputeMessage& message,
                      std::unique_lock<std::mutex>& lock);
  Status take_part(const Peer& peer, const PartMessage& message, std::unique_lock<std::mutex>& lock);
  void write_part(const PartMessage& message, const PrefixFetcher::Places& to);
  void lose(const Channel* channel, std::string_view why) noexcept;
  bool plan_fetch(std::unique_lock<std::mutex>& lock);
  bool begin_prompt(std::unique_lock<std::mutex>& lock);
  bool send_features(std::unique_lock<std::mutex>& lock);
  bool send_piece(std::unique_lock<std::mutex>& lock);
  template <class Encode>
  bool send_unlocked(PeerLink& link, std::unique_lock<std::mutex>& lock, Encode encoded) noexcept;
  bool cancel_abandoned(std::unique_lock<std::mutex>& lock);
  bool tick();

  const Options options_;
  BlockMemory& memory_;
  std::mutex& mutex_;
  Scheduler& scheduler_;
  const Engine engine_;
  std::string address_;
  // Guarded by the mutex.
  PrefixFetcher fetcher_;
  PrefixProvider provider_;
  std::map<const Channel*, Peer> peers_;
  std::map<std::string, const Channel*> dialled_;
  std::deque<Planned> planned_;
  std::unordered_set<uint64_t> planning_;  // sequences in planned_, and the one that is being planned
  double ticked_ = 0;
  uint64_t refused_ = 0;
  bool stopping_ = false, woken_ = false;
  std::condition_variable wake_;
  std::thread thread_;
  std::unique_ptr<Transport> transport_;  // the first to go
};

}  // namespace weft
