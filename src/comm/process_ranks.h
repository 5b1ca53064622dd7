// Ranks that are processes, started by an MPI launcher (mpirun, srun): docs/ranks.md.
//
// Rank 0 leads: it alone has the server and the scheduler, and sends a message of bytes for every step; the others
// follow. What all of them do, in this order: join(), compare(), agree(), communicator() as often as wanted; then rank
// 0 calls send() and at the end close(), the others receive() until it gives nothing. Between messages all make the
// same calls of the communicators.
//
// No wait is for ever. A rank that waits longer than the deadline for another one logs a line that names it and ends
// the whole job with kRanksFailedStatus (ProcessLink::fail); so does an error of MPI, and a ProcessRanks that is
// destroyed while the others count on it. Ranks that die are noticed by the launcher, which ends the others.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/result.h"
#include "comm/communicator.h"
#include "comm/delivery.h"
#include "comm/peer_line.h"
#include "comm/process_link.h"

namespace weft {

// This process's number as the launcher's variables say, without joining; 0 where there is no launcher, or none that is
// joined (WEFT_RANKS=off).
int launched_rank();

struct ProcessRanksOptions {
  // Seconds that a rank waits for another one during a step, or for a sign of life from rank 0 between steps. Longer
  // than any rank computes between two messages.
  double deadline = 30;
  // Seconds that a rank waits for the others in compare() and agree(): as long as the slowest takes to load its share.
  double start_timeout = 1800;
};

class ProcessRanks {
 public:
  using Options = ProcessRanksOptions;
  using Facts = std::vector<std::pair<std::string, std::string>>;  // name, value

  // Joins the other processes. Null where this process is one by itself: no launcher's variable says that it is one of
  // several, or WEFT_RANKS=off. WEFT_RANKS=mpi joins whatever the variables say. An error where the launcher is there
  // and MPI is not. Once per process.
  static Result<std::unique_ptr<ProcessRanks>> join(const Options& options = {});
  // On rank 0 closes first. Returns when all ranks have got here.
  ~ProcessRanks();

  int rank() const { return link_->rank(); }
  int size() const { return link_->size(); }
  const std::string& host(int rank) const { return link_->host(rank); }

  // See ProcessLink::on_failure.
  void on_failure(std::function<void(const std::string&)> callback) { link_->on_failure(std::move(callback)); }

  // Collective. An error on all ranks if one of them has another value of a fact than rank 0, or does not have it; it
  // names the rank, its host, the fact and both values. After an error every rank must end.
  Status compare(const Facts& facts);
  // Collective. An error on all ranks if `mine` is one anywhere; it names the rank and has its message. After an error
  // every rank must end; else rank 0 begins to give signs of life. May be called again before the last receive().
  Status agree(const Status& mine);

  // The group of `members` (ranks, ascending); null where this rank is not one of them. Its collectives are called by
  // `threads` threads of each member. All processes call this in the same order with the same members; they need not
  // wait for each other. Destroyed before this object.
  std::unique_ptr<Communicator> communicator(std::vector<int> members, int threads);

  // Outputs for rank 0, of `lanes` steps at a time. Made like a communicator.
  std::unique_ptr<Delivery> delivery(int lanes);

  // Rank 0: a line to each other rank, in their order; the others: one, to rank 0. Made like a communicator.
  std::vector<std::unique_ptr<PeerLine>> peer_lines();

  // Rank 0, after agree(), one thread at a time (it may be another one than calls the collectives): every other rank's
  // receive() gives these bytes, of any number, in the order of the calls. They are copied: the ranks take some
  // messages later, when they are done with the step before, and only then the call waits for them.
  void send(std::span<const std::byte> message);
  // Rank 0: no more messages. A second call does nothing.
  void close();
  // Other ranks: the next message, which stays until the next call; nothing once rank 0 has closed.
  std::optional<std::span<const std::byte>> receive();
  // Other ranks: whether receive() would find something at once. For work between messages.
  bool has_message();

 private:
  // A message as it travels: its head, and its bytes as far as they fit in; the rest follows in a transfer of its own.
  // Small enough to be sent at once, before the receiver asks for it, on all networks.
  enum class Kind : uint32_t { message, alive, closed };
  struct Head {
    Kind kind;
    uint64_t bytes;
  };
  static constexpr size_t kFrameRoom = 3072;
  struct Frame {
    Head head;
    std::byte first[kFrameRoom];
  };

  ProcessRanks(std::unique_ptr<ProcessLink> link, const Options& options);
  // Collective: every rank's text, in order.
  std::vector<std::string> share(const std::string& mine, const char* doing);
  // A message that not all ranks may have taken yet.
  struct Outgoing {
    explicit Outgoing(ProcessLink& link) : transfers(link) {}
    Frame frame{};
    std::vector<std::byte> rest;  // that did not fit into the frame
    Transfers transfers;
  };
  void send_frame(Transfers& transfers, const Frame& frame);
  // The first of so many that no other group has.
  int next_tag(int count);
  void show_life();  // the heartbeat's thread
  void stop_heartbeat();

  const Options options_;
  std::unique_ptr<ProcessLink> link_;
  Transfers transfers_;                                   // of the calling threads
  Frame frame_{};                                         // of a message that has come
  enum class Asked { no, yes, come } asked_ = Asked::no;  // for frame_, in transfers_
  size_t frame_bytes_ = 0;
  Patience patience_;               // with rank 0, in between
  std::vector<std::byte> message_;  // that did not fit into a frame
  static constexpr size_t kOutgoing = 16;
  std::vector<std::unique_ptr<Outgoing>> outgoing_;  // taken in turn
  size_t next_outgoing_ = 0;
  int next_tag_ = kFirstGroupTag;
  bool open_ = false;             // agreed and not closed
  bool ending_together_ = false;  // all ranks know that this is the end

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread heartbeat_;
};

}  // namespace weft
