#include "base/thread_team.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "base/cpu_layout.h"

namespace weft {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Longer than members differ inside a step; the pause of a processor takes 10 to 140 cycles, so it is time that counts, not turns.
constexpr auto kSpin = std::chrono::microseconds(60);

bool changes_while_spinning(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Waits until `value` differs from `old`. Yielding lets a member whose processor was taken by somebody else run here, and so does
// sleeping: the system moves what waits elsewhere to an idle processor.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  if (changes_while_spinning(value, old)) return;
  for (int i = 0; i < 10; ++i) {
    ::sched_yield();
    if (value.load(std::memory_order_acquire) != old) return;
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
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
  before_ = current_cpus();
  stay_on(team.places_[0]);
}

ThreadTeam::Seat::~Seat() {
  if (!before_.empty()) stay_on(before_);
}

ThreadTeam::ThreadTeam(std::vector<std::vector<int>> places, bool spans_nodes)
    : places_(std::move(places)), size_(static_cast<int>(places_.size())), spans_nodes_(spans_nodes) {
  for (int member = 1; member < size_; ++member) threads_.emplace_back([this, member] { member_loop(member); });
}

ThreadTeam::~ThreadTeam() {
  stopping_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::run(const std::function<void(int)>& work) {
  if (size_ == 1) return work(0);
  work_ = &work;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work(0);
  barrier();  // the members arrive here when their part is done
}

void ThreadTeam::member_loop(int member) {
  if (const std::vector<int>& place = places_[static_cast<size_t>(member)]; !place.empty()) stay_on(place);
  uint32_t seen = 0;
  for (;;) {
    wait_while(generation_, seen);
    ++seen;
    if (stopping_) return;
    (*work_)(member);
    barrier();
  }
}

void ThreadTeam::barrier() {
  if (size_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  } else {
    wait_while(phase_, phase);
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
