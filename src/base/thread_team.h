// A team of threads that do the same work together, the caller among them. Waiting threads spin for some tens of
// microseconds and then sleep: an idle team uses no processor. Where a wait shows that another process has taken a
// thread's processor, they sleep at once for a while: time spent spinning counts as used, and the system would take it
// from the work behind the barrier.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace weft {

// Memory that a waiting thread will read soon.
struct Ahead {
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;
};

// A number that threads wait on. No wake-up is lost: either a waiting thread sees the new value before it sleeps, or
// set() sees that it sleeps.
class ThreadSignal {
 public:
  uint32_t value() const { return value_.load(std::memory_order_acquire); }
  void set(uint32_t next);  // wakes all that wait for a change
  // Until the value is another one than `old`. Spins first unless `sleep_at_once`; meanwhile fetches `ahead` into the
  // L2 cache, and leaves there what was not fetched. Returns the seconds that it took if it slept, else 0.
  double wait_while(uint32_t old, bool sleep_at_once, Ahead& ahead);

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<int> sleepers_{0};
};

// Where a fixed number of threads wait for each other.
class ThreadBarrier {
 public:
  explicit ThreadBarrier(int size) : size_(size) {}
  // Returns once all threads have called it; all memory written before is visible after. While it waits, the caller
  // fetches `ahead` into its L2 cache; `ahead` becomes what was not fetched.
  void wait(Ahead& ahead);
  void wait() {
    Ahead nothing;
    wait(nothing);
  }
  int size() const { return size_; }
  // Whether a wait has lately shown that another process takes the threads' processors.
  bool crowded() const { return crowded_.load(std::memory_order_relaxed) > 0; }

 private:
  const int size_;
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) ThreadSignal phase_;           // grows by one per use
  alignas(64) std::atomic<int> crowded_{0};  // number of waits still to come that sleep at once
};

class ThreadTeam {
 public:
  // `size` threads: size - 1 threads are started, and the caller of run() is thread 0.
  explicit ThreadTeam(int size) : ThreadTeam(std::vector<std::vector<int>>(static_cast<size_t>(size > 0 ? size : 1))) {}
  // One thread per entry of `places`: the ids of the processors that the thread is pinned to; empty: not pinned. A
  // thread whose pinning the system refuses stays unpinned. std::system_error where a thread cannot be started, with
  // how many there were to be.
  explicit ThreadTeam(std::vector<std::vector<int>> places, bool spans_nodes = false);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return size_; }
  // Whether threads have been placed on more than one NUMA node, so that it matters which of them touches memory first.
  bool spans_nodes() const { return spans_nodes_; }
  // Calls work(thread) on every thread and returns when all are done. One run at a time. An exception is thrown on when
  // all threads are done with theirs (one of them, if there are several); work with a barrier inside must not throw.
  void run(const std::function<void(int thread)>& work);
  // Inside run(): waits until every thread has arrived; see ThreadBarrier.
  void barrier() { barrier_.wait(); }
  void barrier(Ahead& ahead) { barrier_.wait(ahead); }

  // While a Seat exists, the thread that made it (and that will call run()) is pinned to the processors of thread 0.
  // Threads started meanwhile would inherit that pinning, so destroy the Seat before starting any.
  class Seat {
   public:
    explicit Seat(const ThreadTeam& team);
    ~Seat();
    Seat(const Seat&) = delete;
    Seat& operator=(const Seat&) = delete;

   private:
    std::vector<int> before_;  // affinity to restore; empty: unchanged
  };

  // default_threads() of this machine.
  static int default_size();

 private:
  void thread_loop(int thread);
  void work_on(int thread) noexcept;
  void stop();

  const std::vector<std::vector<int>> places_;
  const int size_;
  const bool spans_nodes_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  alignas(64) ThreadSignal generation_;  // grows by one per run
  ThreadBarrier barrier_;
  std::atomic<bool> stopping_{false};
  std::mutex thrown_mutex_;
  std::exception_ptr thrown_;  // by this run's work
};

// For threads outside the team that compute for a while at a time (request handlers): raises the nice value of the
// calling thread, so that where processors are short the team's threads go first and this thread gets about a quarter
// of one. Later calls on the same thread do nothing.
void step_back_from_compute();

}  // namespace weft
