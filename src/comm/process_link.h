// The processes of an MPI launcher as numbered ranks with transfers between them, every wait with a deadline. All that
// goes between processes is built from these transfers (process_ranks.h, process_communicator.h); MPI itself is behind
// mpi/weft_mpi.h.
//
// MPI is called by one thread at a time, under a mutex that is held for the length of one call, never for a wait. So
// MPI_THREAD_SERIALIZED suffices; MPI_THREAD_MULTIPLE costs a lock inside of every call, and some networks lack it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "comm/mpi/weft_mpi.h"

namespace weft {

// The exit status of a job whose ranks lost each other; of the launcher too.
constexpr int kRanksFailedStatus = 70;

// Tags of the messages between two ranks, so that messages of one kind do not meet a receiver of another.
enum LinkTag : int { kControlTag, kControlRestTag, kStartTag, kFirstGroupTag, kLastGroupTag = 32767 };

class ProcessLink {
 public:
  // Loads libweft_mpi.so and joins the launcher's processes.
  static Result<std::unique_ptr<ProcessLink>> open();
  // Waits for all ranks' links to be closed, at most 30 s.
  ~ProcessLink();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Known of all ranks once set_hosts() was called.
  void set_hosts(std::vector<std::string> hosts) { hosts_ = std::move(hosts); }
  const std::string& host(int rank) const { return hosts_[static_cast<size_t>(rank)]; }
  // "rank 2 (node7)"
  std::string named(int rank) const;

  // Called once, with the line that is logged, by the thread that finds the failure; must not call into the ranks.
  void on_failure(std::function<void(const std::string&)> callback);
  // Ends all ranks: logs a line with `why`, calls the callback, leaves the others a moment to log their lines, and
  // aborts the job with kRanksFailedStatus. Does not return.
  [[noreturn]] void fail(const std::string& why);

  // Calls into MPI, one thread at a time. The int that `call` returns is an error of MPI or 0.
  template <class Call>
  int guarded(Call call) {
    const std::lock_guard lock(calling_);
    return call(*mpi_);
  }
  std::string describe(int error);

 private:
  explicit ProcessLink(const weft_mpi_table* mpi) : mpi_(mpi) {}

  const weft_mpi_table* const mpi_;
  int rank_ = 0, size_ = 1;
  std::vector<std::string> hosts_;
  std::mutex calling_;
  std::mutex callback_mutex_;
  std::function<void(const std::string&)> callback_;
  std::atomic<bool> failing_{false};
};

// How a thread waits for other processes. It looks without a pause for 20 us, which is longer than an answer takes that
// is on its way; then it yields its processor between looks, to ranks that share it; after 5 ms it sleeps between
// looks, longer and longer up to 1 ms, so that idle ranks use next to nothing. Where a yield shows that other work
// takes the processor for whole time slices, it sleeps for a while instead of yielding: it then wakes up sooner.
class Patience {
 public:
  // Between two looks.
  void pause();
  // Since the beginning or restart(), in seconds. Time in which this process did not look at all is left out: it was
  // stopped itself, as a batch system or Ctrl-Z stops a job, and what the others did meanwhile was not to be heard.
  double waited();
  void restart() { begin_ = looked_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin_ = Clock::now(), looked_ = begin_;
  int looks_ = 0;
};

// Some sends and receives that are waited for together. One thread at a time; its memory is kept for the next time.
class Transfers {
 public:
  explicit Transfers(ProcessLink& link) : link_(link) {}

  // Memory is the caller's and stays as it is until wait() has returned. Nothing happens for 0 bytes: both sides know.
  void send(int to, int tag, const void* data, size_t bytes);
  // Exactly `bytes` bytes.
  void receive(int from, int tag, void* data, size_t bytes);
  // One message of at most `room` bytes; *received becomes its size.
  void receive_some(int from, int tag, void* data, size_t room, size_t* received);
  // Until all are done. If none of them is finished for `deadline` seconds, the job fails with the ranks that are
  // waited for; `doing` completes "nothing heard for 30 s while ...".
  void wait(const char* doing, double deadline);
  // One look; whether all are done.
  bool finished();
  // The same, and the job fails like in wait(). `patience` is restarted before the first look, and paused by the caller
  // between two.
  bool finished(Patience& patience, const char* doing, double deadline);

 private:
  struct Pending {
    int peer;
    size_t bytes;
    bool receives;
    size_t* received;  // null: it must be `bytes`
  };

  void start(int error, Pending pending, weft_mpi_request request);
  void finish(size_t index, size_t bytes);
  int look();  // how many of them were finished
  std::string peers() const;

  ProcessLink& link_;
  std::vector<Pending> pending_;
  std::vector<weft_mpi_request> requests_;  // of pending_
  std::vector<int> which_;
  std::vector<size_t> bytes_;
};

}  // namespace weft
