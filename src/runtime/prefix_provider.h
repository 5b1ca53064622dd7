// The side of a context server: prompts are computed for other servers, and their blocks are sent while the computing
// goes on. A lease holds the blocks of one prompt from the moment when they are wanted until they are sent, at the
// longest until its time limit: then it ends by itself, as it does when the other server cancels it or is lost. Where
// there is no memory to tell the other server of it, the connection ends: that too says that nothing more will come.
//
// No threads, no clock and no lock: the PeerExchange calls it with its mutex held and says what time it is.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/media_prompt.h"
#include "core/metrics.h"
#include "runtime/block_memory.h"
#include "runtime/media_message.h"
#include "sched/scheduler.h"
#include "transfer/peer_link.h"

namespace weft {

class PrefixProvider {
 public:
  // An image's features, if they are there.
  using FindFeatures = std::function<std::shared_ptr<const MediaFeatures>(const Digest& image)>;
  // freed(): memory of the cache may have become free.
  PrefixProvider(double time_limit, Scheduler& scheduler, const BlockMemory& memory, FindFeatures features,
                 std::function<void()> freed);

  // A server asks. `media`: the prompt's images, taken out of it; `lease`: planned for it. An error, or
  // std::bad_alloc, ends the connection; nothing of the prompt is left then.
  Status begin(std::shared_ptr<PeerLink> link, ComputeMessage prompt, PromptMedia media,
               std::unique_ptr<BlockTransfer> lease, double now);
  Status on_send(const PeerLink& link, const SendMessage& message);
  void on_cancel(const PeerLink& link, const CancelMessage& message) noexcept;
  void on_lost(const PeerLink& link) noexcept;
  void tick(double now) noexcept;
  // Every lease ends.
  void stop() noexcept;
  // A step was submitted or committed.
  void stepped() { unheld_ |= !leases_.empty(); }
  // Layers of a running step are waited for, of which nobody tells.
  bool waits_for_layers() const;

  // A prompt that has to be computed; nothing: none is left. The caller makes a sequence of it (without the lock) and
  // says so.
  struct Job {
    uint64_t lease = 0;
    ComputeMessage prompt;
    PromptMedia media;
  };
  std::optional<Job> next_job() noexcept;
  // `sequence`: null, and `why`: there is none.
  void started(uint64_t lease, std::optional<SequenceId> sequence, std::string_view why) noexcept;
  // Its sequence has ended; `why`: empty, or an error.
  void computed(uint64_t lease, std::string_view why) noexcept;
  // A sequence that is computed for nobody any more; nothing: there is none.
  std::optional<SequenceId> take_abandoned() noexcept;

  // What can be sent now; nothing: nothing can. Its block is not given up before sent(), which the caller calls when it
  // has read it (without the lock) and handed it to the link, or failed() where that cannot be done.
  struct Piece {
    uint64_t lease = 0;
    std::shared_ptr<PeerLink> link;
    PartMessage head;
    int home = 0, group = 0;
    int32_t block = 0;
    BlockPart part;
  };
  std::optional<Piece> next_piece();
  void sent(const Piece& piece) noexcept;
  void failed(const Piece& piece) noexcept;
  // Rows of an image's features that can be sent now.
  struct FeatureRows {
    uint64_t lease = 0;
    std::shared_ptr<PeerLink> link;
    FeaturesMessage message;  // its values are those of:
    std::shared_ptr<const MediaFeatures> features;
  };
  std::optional<FeatureRows> next_features();
  void failed(const FeatureRows& rows) noexcept;  // they cannot be sent

  ProvideMetrics metrics() const;

 private:
  struct Lease {
    std::shared_ptr<PeerLink> link;
    uint64_t ticket = 0;
    ComputeMessage prompt;
    PromptMedia media;
    std::vector<Digest> images;
    std::unique_ptr<BlockTransfer> blocks;
    SequenceId sequence{};
    bool queued = false, computing = false;    // waits for its sequence; has one
    bool wanted = false, held = false;         // its SendMessage has come; all blocks are held
    std::vector<std::deque<TileRange>> tiles;  // per group: what is still to be sent
    std::deque<uint32_t> features;             // likewise images; of the first of them so many rows are sent
    uint32_t rows_sent = 0;
    std::vector<int> first, next_layer;  // per group: the first wanted block; of the piece at the front
    int reading = 0;                     // pieces in the caller's hands
    bool ended = false;                  // but one is
    double deadline = 0, reported = 0;
    int reported_positions = 0;
    int unsure = 0;  // positions below this were sent before it was known that nothing went wrong with them
  };
  using Leases = std::map<uint64_t, Lease>;
  Leases::iterator find(const PeerLink& link, uint64_t ticket);
  void hold();
  bool is_sure(const Lease& lease) const;
  bool all_sent(const Lease& lease) const;
  int ready_layers(const Lease& lease, int group) const;
  bool is_ready(const Lease& lease, int group) const;
  Piece cut(uint64_t number, Lease& lease, int group) const;
  void report(Lease& lease, double now) noexcept;
  void settle(uint64_t number);
  template <class Message>
  void say(const Lease& lease, const Message& message) noexcept;
  template <class Work>
  void for_each(Work work) noexcept;
  void done(uint64_t number, bool complete, std::string_view why) noexcept;
  void end(uint64_t number) noexcept;

  const double time_limit_;
  Scheduler& scheduler_;
  const BlockMemory& memory_;
  const FindFeatures find_features_;
  const std::function<void()> freed_;
  Leases leases_;
  std::deque<uint64_t> jobs_;
  std::vector<SequenceId> abandoned_;  // has room for those of all leases
  uint64_t next_lease_ = 1, last_served_ = 0;
  bool unheld_ = false;  // there may be blocks to take hold of
  ProvideMetrics metrics_;
};

}  // namespace weft
