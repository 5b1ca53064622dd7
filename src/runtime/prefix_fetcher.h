// The side of a generation server: prompts that other servers compute, whose blocks are fetched into the cache. A
// sequence is held until its blocks are there, or until it is clear that they will not come: then it is scheduled, and
// what is missing is computed here. Memory is taken first, then blocks are asked for, so nothing comes that has no
// place. No answer depends on it, and every wait ends by itself. Where the system has no memory for a fetch it ends, as
// if its server were lost.
//
// No threads, no clock and no lock: the PeerExchange calls it with its mutex held and says what time it is.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/media_prompt.h"
#include "core/metrics.h"
#include "runtime/block_memory.h"
#include "sched/scheduler.h"
#include "transfer/message.h"

namespace weft {

// A prompt that others may compute.
struct RemotePrompt {
  std::vector<std::string> servers;  // the best first
  ComputeMessage prompt;             // its ticket is not set yet
  struct Image {
    Digest hash{};
    uint32_t rows = 0, columns = 0;  // of its features
  };
  std::vector<Image> images;  // of the prompt
  BlockKey last;              // of the last block that is wanted
};

class PrefixFetcher {
 public:
  struct Options {
    double time_limit = 120;  // seconds from the beginning of a fetch to its end
    double stall_limit = 10;  // without a word about it
    double pause = 5;         // before a server that could not be reached is tried again
    bool convert = false;     // take blocks of another type
    int max_local = 0;        // prompts with no more tokens to compute are computed here
  };
  // Where images' features are kept: whether there are some, and new ones.
  struct Features {
    std::function<bool(const Digest& image)> has;
    std::function<void(const Digest& image, std::shared_ptr<const MediaFeatures>)> put;
  };
  // `connect(address)`: what is sent goes to this server; `send` of a server that has been lost does nothing.
  // `give_up`: the connection ends, and on_lost() comes; needs no memory.
  struct Line {
    std::function<void(const std::string& address)> connect;
    std::function<void(const std::string& address, std::vector<std::byte>)> send;
    std::function<void(const std::string& address)> give_up;
  };
  // freed(): memory of the cache may have become free. Neither it nor ready() throws.
  PrefixFetcher(const Options& options, Scheduler& scheduler, const BlockMemory& memory, Features features, Line line,
                std::function<void(SequenceId)> ready, std::function<void()> freed);

  // A held sequence whose blocks' keys are in `transfer` (Scheduler::plan_import). ready(id) follows.
  void begin(SequenceId id, std::unique_ptr<BlockTransfer> transfer, RemotePrompt prompt, double now) noexcept;
  // A held sequence that nothing can be fetched for. ready(id) follows.
  void decline(SequenceId id) noexcept { ++metrics_.local, ready_(id); }
  // The sequence is gone.
  void forget(SequenceId id) noexcept;
  // Steps up to this one are finished, or memory may have become free.
  void step_finished(uint64_t step) noexcept;
  void tick(double now) noexcept;
  // Everything ends.
  void stop() noexcept;

  // Messages of a server. An error, or std::bad_alloc: the connection is to be ended.
  void on_progress(const std::string& server, const ProgressMessage& message, double now) noexcept;
  void on_done(const std::string& server, const DoneMessage& message, double now) noexcept;
  void on_lost(const std::string& server, std::string_view why, double now) noexcept;
  // Of a part: checks it, and says where its content goes. The blocks are not given up before end_part(), which the
  // caller calls when it has written it (without the lock), or fail_part() where it has not and the connection is lost.
  // No places: it is not wanted any more; nothing follows.
  struct Place {
    int home = 0, group = 0, number = 0;
    int32_t block = 0;
    BlockPart part;      // of the block
    int first_tile = 0;  // of the message's tiles, those that are this block's
  };
  struct Places {
    uint64_t fetch = 0;
    std::optional<DType> from;  // the content is of another type
    std::vector<Place> places;
  };
  Status on_features(const std::string& server, const FeaturesMessage& message, double now);
  Result<Places> begin_part(const std::string& server, const PartMessage& message, double now);
  void end_part(const Places& places) noexcept;
  void fail_part(const Places& places) noexcept;

  int64_t active() const { return static_cast<int64_t>(fetches_.size()); }
  const FetchMetrics& metrics() const { return metrics_; }

 private:
  struct Wanted {  // a block to be filled
    CacheManager::Blank at;
    std::vector<bool> got;  // per layer and tile of the block
    int missing = 0;        // of them
    bool sure = false;      // all are there, and the server has said that they are right
  };
  struct Fetch {
    std::vector<SequenceId> waiters;
    std::unique_ptr<BlockTransfer> transfer;
    RemotePrompt prompt;
    size_t server = 0;    // the one that is asked
    uint64_t ticket = 0;  // there
    double began = 0, heard = 0;
    bool reserved = false, asked = false, ending = false;
    bool sent = false;  // the server has no more
    int certain = 0;    // positions below this are computed there, without a fault
    int writing = 0;    // parts that are being written
    int64_t bytes = 0;
    std::vector<Wanted> wanted;
    std::map<std::pair<int, int>, size_t> by_number;  // group and block number -> wanted
    size_t incomplete = 0;                            // that are not sure
    struct Image {
      std::shared_ptr<MediaFeatures> features;
      uint32_t rows = 0;  // that have come, from the first on
    };
    std::map<uint32_t, Image> images;  // whose features are wanted
    const std::string& address() const { return prompt.servers[server]; }
  };
  bool worth_it(Fetch& fetch) const;
  bool join(SequenceId id, const BlockKey& last);
  void ask_server(uint64_t number, double now) noexcept;
  void begin_to_ask(uint64_t number, Fetch& fetch, double now);
  void next_server(uint64_t number, std::string_view why, double now) noexcept;
  void advance(uint64_t number) noexcept;
  void reserve(Fetch& fetch);
  void ask(Fetch& fetch);
  template <class Work>
  void for_each(Work work) noexcept;
  template <class Message>
  void say(const Fetch& fetch, const Message& message) noexcept;
  uint64_t of(const std::string& server, uint64_t ticket) const;
  bool is_complete(const Fetch& fetch) const { return fetch.reserved && fetch.incomplete == 0 && fetch.images.empty(); }
  void end(uint64_t number, bool cancel) noexcept;
  void settle(Fetch& fetch, Wanted& wanted);
  void confirm(Fetch& fetch, int positions);
  int filled_blocks(const Fetch& fetch) const;

  const Options options_;
  Scheduler& scheduler_;
  const BlockMemory& memory_;
  const Features features_;
  const Line line_;
  const std::function<void(SequenceId)> ready_;
  const std::function<void()> freed_;
  std::unordered_map<uint64_t, std::unique_ptr<Fetch>> fetches_;  // by number
  std::unordered_map<uint64_t, uint64_t> tickets_;                // of the servers that are asked -> number
  std::map<std::string, double> paused_;                          // servers that could not be reached, until when
  uint64_t next_number_ = 1, next_ticket_ = 1, finished_ = 0;
  int64_t reserved_bytes_ = 0;
  FetchMetrics metrics_;
};

}  // namespace weft
