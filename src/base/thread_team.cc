#include "base/thread_team.h"

#include <sched.h>

#include <utility>

#include "base/cpu_layout.h"

namespace weft {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `value` differs from `old`: a short spin for the usual case, then a futex. Yielding in between lets a member whose
// core was taken by somebody else run again.
void wait_while(std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < 4000; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  for (int i = 0; i < 20; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    ::sched_yield();
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

}  // namespace weft
