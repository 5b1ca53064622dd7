#include "comm/process_link.h"

#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/files.h"
#include "base/log.h"

namespace weft {
namespace {

constexpr const char* kLibrary = "libweft_mpi.so";
constexpr size_t kPiece = size_t{1} << 30;  // MPI counts the bytes of a message in an int
constexpr double kLastWords = 10;           // seconds for a callback and MPI's abort, before this process just ends
constexpr double kFinishing = 30;           // seconds

// Logs the line and ends the process with kRanksFailedStatus unless it is destroyed in time.
class Watchdog {
 public:
  Watchdog(double seconds, std::string line) : line_(std::move(line)), thread_([this, seconds] { watch(seconds); }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

 private:
  void watch(double seconds) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return done_; })) return;
    write_log(LogLevel::error, line_);
    flush_log(std::chrono::milliseconds(500));
    ::_exit(kRanksFailedStatus);
  }

  const std::string line_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;  // last: it uses the others
};

Result<const weft_mpi_table*> load_library() {
  const std::string path = plugin_path("WEFT_MPI_PLUGIN", kLibrary);
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return fail(Code::unsupported,
                "this process was started by an MPI launcher, but weft was built without MPI (there is no ", path,
                "). Install an MPI (libopenmpi-dev on Debian and Ubuntu) and build again with -DWEFT_MPI=ON; or "
                "set WEFT_RANKS=off, and every process is a weft of its own");
  // Global: libraries that MPI itself loads later look for MPI's names.
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!handle) return fail(Code::unsupported, "MPI cannot be loaded: ", ::dlerror());
  using Entry = const weft_mpi_table* (*)();
  const auto entry = reinterpret_cast<Entry>(::dlsym(handle, "weft_mpi"));
  const weft_mpi_table* table = entry ? entry() : nullptr;
  if (!table || table->abi != WEFT_MPI_ABI)
    return fail(Code::unsupported, path, " belongs to another version of weft; build it again with this one");
  return table;
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 && name[0] ? name : "unknown host";
}

}  // namespace

Result<std::unique_ptr<ProcessLink>> ProcessLink::open() {
  WEFT_TRY(const weft_mpi_table* table, load_library());
  std::unique_ptr<ProcessLink> link(new ProcessLink(table));
  if (const int error = table->start(&link->rank_, &link->size_))
    return weft::fail(Code::internal, "MPI did not start: ", link->describe(error));
  link->hosts_.assign(static_cast<size_t>(link->size_), "unknown host");
  link->hosts_[static_cast<size_t>(link->rank_)] = host_name();
  return link;
}

ProcessLink::~ProcessLink() {
  const Watchdog watchdog(
      kFinishing, named(rank_) + " of " + std::to_string(size_) + ": the other ranks could not be reached at the end");
  guarded([](const weft_mpi_table& mpi) { return mpi.finish(); });
}

std::string ProcessLink::named(int rank) const { return "rank " + std::to_string(rank) + " (" + host(rank) + ")"; }

std::string ProcessLink::describe(int error) {
  char text[512] = {};
  guarded([&](const weft_mpi_table& mpi) { return mpi.describe(error, text, sizeof text), 0; });
  return text;
}

void ProcessLink::on_failure(std::function<void(const std::string&)> callback) {
  const std::lock_guard lock(callback_mutex_);
  callback_ = std::move(callback);
}

void ProcessLink::fail(const std::string& why) {
  if (failing_.exchange(true))
    for (;;) ::pause();  // another thread is ending the process
  const Watchdog watchdog(kLastWords, named(rank_) + ": MPI did not end the other ranks");
  const std::string line = named(rank_) + " of " + std::to_string(size_) + ": " + why + "; all ranks end with status " +
                           std::to_string(kRanksFailedStatus);
  write_log(LogLevel::error, line);
  {
    const std::lock_guard lock(callback_mutex_);
    if (callback_) callback_(line);
  }
  // Ranks that wait for each other see their deadlines pass at about the same time. Each should say whom it waits for,
  // and rank 0 should get to answer its clients, so it is the first to end the job.
  std::this_thread::sleep_for(std::chrono::milliseconds(rank_ == 0 ? 300 : 1500));
  for (int tries = 0; tries < 1000 && !calling_.try_lock(); ++tries)  // a call may be stuck
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  flush_log(std::chrono::milliseconds(500));
  mpi_->abort(kRanksFailedStatus);
  ::_exit(kRanksFailedStatus);
}

double Patience::waited() {
  constexpr auto kStopped = std::chrono::seconds(1);  // longer than any sleep or time slice
  const Clock::time_point now = Clock::now();
  if (now - looked_ > kStopped) begin_ += now - looked_;
  looked_ = now;
  return std::chrono::duration<double>(now - begin_).count();
}

void Patience::pause() {
  using std::chrono::duration;
  constexpr double kSpinning = 20e-6, kAwake = 5e-3, kShortest = 50e-6, kLongest = 1e-3;
  constexpr double kTaken = 300e-6;  // a yield that takes longer has given the processor to work that keeps it
  constexpr int kRemembered = 32, kLooks = 16;
  thread_local int crowded = 0;  // yields still to come that sleep instead
  const double so_far = waited();
  if (so_far < kSpinning) return;
  if (so_far > kAwake) {
    // Several looks between two sleeps: MPI drives some networks on in every eighth only.
    if (++looks_ % kLooks == 0) std::this_thread::sleep_for(duration<double>(std::min(so_far / 16, kLongest)));
  } else if (crowded > 0) {
    if (++looks_ % kLooks != 0) return;
    --crowded;
    std::this_thread::sleep_for(duration<double>(kShortest));
  } else {
    ::sched_yield();
    if (waited() - so_far > kTaken) crowded = kRemembered;
  }
}

void Transfers::send(int to, int tag, const void* data, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  for (size_t at = 0; at < bytes; at += kPiece) {
    const size_t piece = std::min(kPiece, bytes - at);
    weft_mpi_request request = 0;
    const int error = link_.guarded([&](auto& mpi) { return mpi.send(to, tag, from + at, piece, &request); });
    start(error, {to, piece, false, nullptr}, request);
  }
}

void Transfers::receive(int from, int tag, void* data, size_t bytes) {
  auto* to = static_cast<std::byte*>(data);
  for (size_t at = 0; at < bytes; at += kPiece) {
    const size_t piece = std::min(kPiece, bytes - at);
    weft_mpi_request request = 0;
    const int error = link_.guarded([&](auto& mpi) { return mpi.receive(from, tag, to + at, piece, &request); });
    start(error, {from, piece, true, nullptr}, request);
  }
}

void Transfers::receive_some(int from, int tag, void* data, size_t room, size_t* received) {
  weft_mpi_request request = 0;
  const int error = link_.guarded([&](auto& mpi) { return mpi.receive(from, tag, data, room, &request); });
  start(error, {from, room, true, received}, request);
}

void Transfers::start(int error, Pending pending, weft_mpi_request request) {
  if (error) link_.fail("MPI failed with " + link_.named(pending.peer) + ": " + link_.describe(error));
  pending_.push_back(pending);
  requests_.push_back(request);
}

void Transfers::finish(size_t index, size_t bytes) {
  const Pending& done = pending_[index];
  if (done.received) *done.received = bytes;
  else if (done.receives && bytes != done.bytes)
    link_.fail(link_.named(done.peer) + " sent " + std::to_string(bytes) + " bytes where " +
               std::to_string(done.bytes) + " were due: it is not at the same place of the step");
}

int Transfers::look() {
  const size_t count = pending_.size();
  which_.resize(count);
  bytes_.resize(count);
  int finished = 0;
  const int error = link_.guarded([&](auto& mpi) {
    return mpi.test(requests_.data(), static_cast<int>(count), &finished, which_.data(), bytes_.data());
  });
  if (error) {
    const bool known = finished > 0;
    const std::string whom = known ? link_.named(pending_[static_cast<size_t>(which_[0])].peer) : peers();
    link_.fail("MPI failed with " + whom + ": " + link_.describe(error));
  }
  for (int i = 0; i < finished; ++i) {
    const auto done = static_cast<size_t>(which_[static_cast<size_t>(i)]);
    finish(done, bytes_[static_cast<size_t>(i)]);
    requests_[done] = 0;
  }
  size_t kept = 0;  // the others move up, in their order
  for (size_t i = 0; finished > 0 && i < count; ++i)
    if (requests_[i] != 0) {
      requests_[kept] = requests_[i];
      pending_[kept++] = pending_[i];
    }
  if (finished > 0) {
    requests_.resize(kept);
    pending_.resize(kept);
  }
  return finished;
}

bool Transfers::finished() {
  if (!pending_.empty()) look();
  return pending_.empty();
}

bool Transfers::finished(Patience& patience, const char* doing, double deadline) {
  if (!pending_.empty() && look() > 0) patience.restart();
  if (pending_.empty()) return true;
  if (patience.waited() > deadline) {
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.3g s", deadline);
    link_.fail("nothing heard from " + peers() + " for " + seconds + " while " + doing);
  }
  return false;
}

void Transfers::wait(const char* doing, double deadline) {
  for (Patience patience; !finished(patience, doing, deadline);) patience.pause();
}

std::string Transfers::peers() const {
  std::vector<int> ranks;
  for (const Pending& one : pending_) ranks.push_back(one.peer);
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  std::string text;
  for (const int rank : ranks) text += (text.empty() ? "" : ", ") + link_.named(rank);
  return text;
}

}  // namespace weft
