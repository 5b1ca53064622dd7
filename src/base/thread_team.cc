#include "base/thread_team.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "base/cpu_layout.h"

namespace weft {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

using Clock = std::chrono::steady_clock;

// How long a waiting thread spins: longer than the threads of a team differ inside a step. Counted in time and not in
// iterations, since a processor's pause instruction takes 10 to 140 cycles.
constexpr auto kSpin = std::chrono::microseconds(60);
// A wait longer than kLongWait is longer than threads differ inside a decode step and than waking one takes: either
// another process had a processor, or the work is so long that a wake-up does not matter beside it. Threads then sleep
// at once for kRemembered waits, about a step.
constexpr double kLongWait = 400e-6;  // seconds
constexpr int kRemembered = 256;

bool changes_while_spinning(const std::atomic<uint32_t>& value, uint32_t old, Ahead& ahead, Clock::time_point end) {
  // cache lines fetched between two checks of the value: about as many loads as a processor has in flight
  constexpr ptrdiff_t kLine = 64, kLines = 4;
  for (; ahead.begin < ahead.end; ahead.begin += kLines * kLine) {
    if (value.load(std::memory_order_acquire) != old) return true;
    for (ptrdiff_t line = 0; line < kLines; ++line) __builtin_prefetch(ahead.begin + line * kLine, 0, 2);
  }
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return true;
      pause();
    }
  } while (Clock::now() < end);
  return false;
}

// Used instead of std::atomic::wait, which first yields the processor and so may lose a whole time slice to another
// process.
void sleep_while(std::atomic<uint32_t>& value, uint32_t old) {
  static_assert(sizeof value == sizeof(uint32_t));
  ::syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
}
void wake_all(std::atomic<uint32_t>& value) {
  ::syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void stay_on(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus)
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  ::sched_setaffinity(0, sizeof set, &set);  // refused: the thread runs anywhere
}

std::vector<int> current_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

}  // namespace

int ThreadTeam::default_size() { return default_threads(read_cpu_layout()); }

ThreadTeam::Seat::Seat(const ThreadTeam& team) {
  if (team.places_[0].empty()) return;
  try {
    before_ = current_cpus();
  } catch (const std::bad_alloc&) {  // it stays where it is, as where the system refuses
    return;
  }
  stay_on(team.places_[0]);
}

ThreadTeam::Seat::~Seat() {
  if (!before_.empty()) stay_on(before_);
}

ThreadTeam::ThreadTeam(std::vector<std::vector<int>> places, bool spans_nodes)
    : places_(std::move(places)), size_(static_cast<int>(places_.size())), spans_nodes_(spans_nodes), barrier_(size_) {
  try {
    threads_.reserve(static_cast<size_t>(size_));
    for (int thread = 1; thread < size_; ++thread) threads_.emplace_back([this, thread] { thread_loop(thread); });
  } catch (const std::system_error& thrown) {
    const size_t started = threads_.size() + 1;
    stop();
    throw std::system_error(thrown.code(), "cannot start thread " + std::to_string(started + 1) + " of " +
                                               std::to_string(size_) + " (--threads asks for fewer)");
  } catch (...) {
    stop();
    throw;
  }
}

ThreadTeam::~ThreadTeam() { stop(); }

void ThreadTeam::stop() {
  stopping_ = true;
  generation_.set(generation_.value() + 1);
  for (std::thread& thread : threads_) thread.join();
}

void ThreadSignal::set(uint32_t next) {
  value_.store(next, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_all(value_);
}

double ThreadSignal::wait_while(uint32_t old, bool sleep_at_once, Ahead& ahead) {
  if (value() != old) return 0;
  const Clock::time_point begin = Clock::now();
  if (!sleep_at_once && changes_while_spinning(value_, old, ahead, begin + kSpin)) return 0;
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == old) sleep_while(value_, old);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void ThreadBarrier::wait(Ahead& ahead) {
  if (size_ == 1) return;
  const uint32_t phase = phase_.value();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.set(phase + 1);
    return;
  }
  const int crowded = crowded_.load(std::memory_order_relaxed);
  const double slept = phase_.wait_while(phase, crowded > 0, ahead);
  if (slept == 0) return;
  // Threads may overwrite each other's counts, which does not matter.
  if (slept > kLongWait) crowded_.store(kRemembered, std::memory_order_relaxed);
  else if (crowded > 0) crowded_.store(crowded - 1, std::memory_order_relaxed);
}

void ThreadTeam::run(const std::function<void(int)>& work) {
  if (size_ == 1) return work(0);
  work_ = &work;
  generation_.set(generation_.value() + 1);
  work_on(0);
  barrier();  // the threads arrive here when their part is done
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void ThreadTeam::work_on(int thread) noexcept {
  try {
    (*work_)(thread);
  } catch (...) {
    const std::lock_guard lock(thrown_mutex_);
    thrown_ = std::current_exception();
  }
}

void ThreadTeam::thread_loop(int thread) {
  if (const std::vector<int>& place = places_[static_cast<size_t>(thread)]; !place.empty()) stay_on(place);
  uint32_t seen = 0;
  for (;;) {
    Ahead nothing;
    generation_.wait_while(seen, barrier_.crowded(), nothing);
    ++seen;
    if (stopping_) return;
    work_on(thread);
    barrier();
  }
}

void step_back_from_compute() {
  constexpr int kNice = 5;
  thread_local const bool done = [] {
    const auto thread = static_cast<id_t>(::syscall(SYS_gettid));
    ::setpriority(PRIO_PROCESS, thread, ::getpriority(PRIO_PROCESS, thread) + kNice);  // Linux: of the thread
    return true;
  }();
  (void)done;
}

}  // namespace weft
