// A team of threads that walk the same work together, the caller among them. Waiting members spin briefly and then sleep, so an
// idle team uses no processor.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace weft {

class ThreadTeam {
 public:
  // `size` members: size - 1 threads are started, and the caller of run() is member 0.
  explicit ThreadTeam(int size);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return size_; }
  // Calls work(member) on every member and returns when all are done. One run at a time. `work` must not throw.
  void run(const std::function<void(int member)>& work);
  // Inside run(): waits until every member has arrived. All memory written before is visible after.
  void barrier();

  // Cores this process may use: the affinity mask, the cgroup's CPU quota and the physical cores, whichever is least.
  static int default_size();

 private:
  void member_loop(int member);

  const int size_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};  // grows by one per run; members wait on it
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};  // grows by one per barrier
  std::atomic<bool> stopping_{false};
};

}  // namespace weft
