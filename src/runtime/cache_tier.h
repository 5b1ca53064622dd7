// The cache's second tier: blocks of sequences that have ended are copied to a store outside (store/block_store.h), and
// come back when a prompt needs them. Both happen beside the steps, on two threads of their own: a sequence whose
// prompt may be in the store is held until its blocks have come, or it turned out that they will not; then it is
// scheduled and finds them in the cache like any other prefix. Whatever goes wrong, the prompt is computed: no answer
// depends on it.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/metrics.h"
#include "runtime/block_memory.h"
#include "sched/scheduler.h"
#include "store/block_store.h"

namespace weft {

class CacheTier {
 public:
  struct Options {
    bool always = false;  // take all that is there, even where computing it is faster
  };
  // `mutex` guards the scheduler and is held by whoever calls what says so below. Called with it held: `ready(id)` lets
  // a sequence go on, `freed()` says that others may find room for theirs. All of them outlive the tier.
  CacheTier(std::shared_ptr<BlockStore> store, const Options& options, BlockMemory& memory, std::mutex& mutex,
            Scheduler& scheduler, std::function<void(SequenceId)> ready, std::function<void()> freed);
  ~CacheTier();
  // Without the mutex: copies what waits to be copied, for some seconds at most, and ends both threads. What is
  // imported later is never ready. A second call does nothing.
  void end();

  // With the mutex held: ready(id) will be called, at once or when its blocks are there. The sequence is held.
  void import(SequenceId id);
  // With the mutex held: steps up to this one are finished.
  void step_finished(uint64_t step);
  // With the mutex held: sequences may have ended.
  void wake_exporter() { export_wake_.notify_one(); }
  // With the mutex held: a step computed so many positions of prompts in that time.
  void measured(int prompt_tokens, double seconds);

  // With the mutex held.
  TierMetrics metrics() const;

 private:
  void import_loop();
  void export_loop();
  void run_import(SequenceId id, std::unique_lock<std::mutex>& lock);
  bool prepare_import(BlockTransfer& transfer, std::unique_lock<std::mutex>& lock);
  bool pays(const BlockTransfer& transfer, int cached) const;
  bool fill(const BlockTransfer& transfer, std::unique_lock<std::mutex>& lock);
  void run_export(BlockTransfer& transfer);

  const std::shared_ptr<BlockStore> store_;
  const Options options_;
  BlockMemory& memory_;
  std::mutex& mutex_;
  Scheduler& scheduler_;
  const std::function<void(SequenceId)> ready_;
  const std::function<void()> freed_;
  std::condition_variable import_wake_, export_wake_;
  // Guarded by the mutex.
  std::deque<SequenceId> imports_;
  uint64_t finished_ = 0;
  bool stopping_ = false;
  double prompt_rate_ = 0, read_rate_ = 0;  // tokens and bytes a second, of late; 0: not known yet
  TierMetrics metrics_;
  std::thread importer_, exporter_;
};

}  // namespace weft
