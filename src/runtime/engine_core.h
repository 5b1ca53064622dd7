// The engine loop, on two threads: the engine thread schedules and commits; the step thread runs the steps on the
// worker, as thread 0 of the team that computes, and encodes images between them, with the other processes. With
// overlap, step n + 1 is scheduled and submitted while step n runs, and the host's work for step n (stop rules, text,
// grammars) is done while step n + 1 runs; without it, the same code keeps one step in flight. Over pipeline stages as
// many steps run as there are stages. docs/contract-engine.md says what holds between the two.
//
// When memory runs out, the sequences that needed it end with an error (resource_exhausted) and the others go on. What
// leaves the books in doubt ends in fail(): nothing hangs, and health() says so.
//
// It speaks tokens, not text: who submits a sequence gets its outputs on the engine thread and may end it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/keep_going.h"
#include "base/log.h"
#include "base/result.h"
#include "core/metrics.h"
#include "core/step.h"
#include "grammar/grammar.h"
#include "media/processor.h"
#include "runtime/adapter_store.h"
#include "runtime/cache_tier.h"
#include "runtime/feature_cache.h"
#include "runtime/image_encoders.h"
#include "runtime/peer_exchange.h"
#include "runtime/step_budget.h"
#include "runtime/step_queue.h"
#include "runtime/worker.h"
#include "sched/scheduler.h"
#include "spec/drafter.h"

namespace weft {

struct CoreOptions {
  // Requests that wait and have not started, of all clients and of one, at which check_queue() refuses; 0: no bound.
  int max_queue = 0, max_queue_per_client = 0;
  int max_batch_size = 64, max_num_tokens = 2048, max_outputs = 128, max_seq_len = 2048;
  int tokens_per_block = 32;
  int64_t cache_bytes = 0;
  int cache_events = 0;         // kept until they are taken; 0: none
  int prefill_tokens = 2048;    // prompt tokens of a step at most; not applied where prompts may not be cut
  double max_step_ms = 0;       // 0: none; needs chunked_prefill
  int64_t balance_wait_us = 0;  // see SchedulerOptions
  int64_t feature_cache_bytes = int64_t{512} << 20;  // of images' features that no request needs any more
  bool chunked_prefill = true, block_reuse = true, overlap = true, replay = true, measure_ops = false;
  SamplerKind sampler = SamplerKind::fused;
  ProcessorKinds processors;
  SpeculationOptions speculation;
  std::shared_ptr<Drafter> drafter;   // a program's own, in place of n-grams; null: none
  bool draft_scores = false;          // scores come with what the drafts' model makes of the prompt
  std::shared_ptr<PlanTrace> trace;   // of all steps and images; null: none
  int64_t adapter_bytes = 0;          // of all adapters in memory, where the model takes any
  std::shared_ptr<BlockStore> store;  // the cache's tier (cache_tier.h); null: none. All ranks are in this process
  bool tier_always = false;           // see CacheTier::Options
  std::string identity;  // all that the bits of answers depend on besides requests, as lines of "name: value"
  // Other servers (peer_exchange.h); no transport: none. All ranks are in this process.
  PeerExchange::Options exchange;
  PeerExchange::MakeTransport transport;
};

struct Submission {
  NewSequence sequence;
  std::unique_ptr<Grammar> grammar;  // of a guided sequence
  // Images of the prompt, which are encoded before the sequence is scheduled, and the positions of their features
  // (`features` still empty).
  std::vector<std::shared_ptr<const PreparedMedia>> media;
  std::shared_ptr<MediaPrompt> media_prompt;
  std::vector<std::string> context_servers;  // that may compute the prompt, the best first
  // The sequence ends with an error at this time of seconds() (base/clock.h), in whatever state it is then; 0: never.
  double deadline = 0;
  // Called on the engine thread for every output. Returns false once the consumer wants no more (it found a stop
  // string); no output follows then. An exception ends the sequence: the sink is called with the error, again and again
  // until it throws no more.
  std::function<bool(const SequenceOutput&)> sink;
};

class EngineCore {
 public:
  // max_seq_len is lowered to what the cache can hold of one sequence; see options().
  // `draft`: for the methods of speculation that have a model, loaded for `model`; `draft_ranks`: on threads of
  // its own, as many as `ranks`; or null.
  static Result<std::unique_ptr<EngineCore>> create(Model model, std::unique_ptr<RankTeam> ranks,
                                                    const CoreOptions& options, std::optional<DraftModel> draft = {},
                                                    std::unique_ptr<RankTeam> draft_ranks = nullptr);
  // Running sequences get no more outputs.
  ~EngineCore();

  // Any thread. Nothing can be computed any more: all sequences end with this error (unavailable), and so does what is
  // submitted later. Called when ranks in other processes are lost. A second call does nothing.
  // `whose`: in front of it.
  void fail(std::string_view why, std::string_view whose = {}) noexcept;
  // Any thread; takes no lock. The error of fail(), once that was called.
  Status health() const;
  // Any thread. The errors are those of Scheduler::add and health(). Where memory runs out (std::bad_alloc), nothing
  // was submitted.
  Result<SequenceId> submit(Submission submission);
  // The same for sequences that belong together, in their order: all of them enter, or none stays. Steps go on
  // meanwhile, and outputs may come before it returns: the mutex is held for a tenth of a millisecond at a time.
  Result<std::vector<SequenceId>> submit(std::vector<Submission> submissions);
  // Any thread. No output follows once it returns, except one that is being delivered. Many are cancelled in slices, as
  // they are submitted.
  void cancel(SequenceId id) { cancel(std::span(&id, 1)); }
  void cancel(std::span<const SequenceId> ids);
  // Any thread. resource_exhausted, with the numbers, while too many requests wait for one of this client to join them.
  Status check_queue(uint64_t client) const;
  // Any thread: in how many seconds a request that was refused may come again, by how the queue moves. At least 1.
  int retry_seconds() const;
  // Any thread: the keys of a prompt's blocks, made before it is submitted, so that its sequences share them.
  void make_keys(const SharedTokens& prompt, CacheIdentity& identity) const {
    identity.keys = scheduler_.cache(0).prompt_keys(prompt, identity);
  }
  // Any thread. Null: the model takes no adapters.
  AdapterStore* adapters() const { return adapters_.get(); }
  // The adapter of that name for a request; no lease for an empty one. The errors are those of AdapterStore::use().
  Result<AdapterLease> use_adapter(const std::string& name) const;
  // Between hold() and release() no step is scheduled, so that what is submitted enters together. Nested holds count.
  void hold();
  void release();

  CoreMetrics metrics() const;
  // Any thread; takes no lock.
  EngineWatch watch() const;
  // Steps since the start: the time by which sequences age.
  int64_t steps() const;
  // The events recorded since the last call, and the id of the next one to come; missing ids are events that were lost.
  std::pair<std::vector<CacheEvent>, uint64_t> take_cache_events();
  // Null unless CoreOptions::measure_ops.
  const OpTimes* op_times() const { return worker_->executor().op_times(); }
  const Model& model() const { return worker_->model(); }
  // Of speculation with a model; else null.
  const DraftModel* draft() const { return worker_->draft(); }
  const CoreOptions& options() const { return options_; }
  // Where other servers ask for blocks; empty: nowhere.
  std::string transfer_address() const { return exchange_ ? exchange_->address() : std::string(); }

 private:
  // Of the sequences that are here, for watch().
  struct Counted {
    std::atomic<int>* count = nullptr;
    Counted() = default;
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    ~Counted() {
      if (count) --*count;
    }
  };
  struct Entry {
    Counted counted;
    std::function<bool(const SequenceOutput&)> sink;
    std::unique_ptr<Grammar> grammar;
    double accept_seconds = 0;           // processor time that its tokens have taken since its last masks
    std::vector<int32_t> drafts;         // of a guided sequence: those that its next row may check
    int waits = 0;                       // reasons why it is held: its images, its blocks from elsewhere
    std::optional<RemotePrompt> remote;  // asked of other servers when the tier has been
    // Images that other servers may encode; those that do not come are encoded here.
    std::vector<std::shared_ptr<const PreparedMedia>> media;
    std::shared_ptr<MediaPrompt> media_prompt;
    uint64_t looked_at = 0;  // call of fill_masks() that has come to it
    // Not null: the sequence has ended with this, and its sink has not been told.
    const char* error = nullptr;
    Code error_code = Code::internal;
    double deadline = 0;
  };
  // The masks of a guided row: one for the sampled token, and one behind each draft.
  struct GuidedRow {
    SequenceId id{};
    int first = 0, masks = 0;
    bool ready = false;
  };
  // A submitted step. One more exists than can run at a time, so that one can be filled meanwhile.
  struct Step {
    StepBatch batch;
    StepMasks masks;
    StepResult result;
    std::vector<GuidedRow> guided;
    int prompt_tokens = 0, prefill_budget = 0;  // prompt tokens in the step, and how many were allowed
    double began = 0, seconds = 0;              // of its run
  };

  // An image to encode, and the sequences that wait for it.
  struct Encoding {
    std::shared_ptr<const PreparedMedia> media;
    int process = -1;  // that encodes it; -1: none yet
    struct Waiter {
      SequenceId id;
      std::shared_ptr<MediaPrompt> prompt;
      int index;  // of the image among the prompt's
    };
    std::vector<Waiter> waiters;
  };

  EngineCore(std::unique_ptr<RankTeam> ranks, std::unique_ptr<RankTeam> draft_ranks, CoreOptions options,
             Scheduler scheduler, int steps);
  void reserve_steps();
  void engine_loop();
  bool engine_turn(std::unique_lock<std::mutex>& lock);
  void end_with(uint64_t id, Code code, const char* why) noexcept;
  void fail_all() noexcept;
  bool deliver_errors(std::unique_lock<std::mutex>& lock);
  void step_loop();
  bool step_turn(std::unique_lock<std::mutex>& lock, double& last_end);
  void give_up_steps() noexcept;
  void got_on() { progress_.store(seconds(), std::memory_order_relaxed); }
  bool idle() const { return free_.size() == steps_.size(); }
  Step* next_step();
  void run_step(std::unique_lock<std::mutex>& lock, double& last_end);
  bool schedule_step(std::unique_lock<std::mutex>& lock);
  void adapt_budget(const Step& step);
  void commit_step(std::unique_lock<std::mutex>& lock);
  void begin_masks(Step& step);
  void fill_masks() noexcept;
  void fill_row_masks(Step& step, const GuidedRow& row, Entry& entry) noexcept;
  static bool deliver(Entry& entry, SequenceOutput& output);
  static void follow_grammar(Entry& entry, SequenceOutput& output);
  bool find_features(std::span<const std::shared_ptr<const PreparedMedia>> media, MediaPrompt* prompt);
  void enqueue_images(SequenceId id, std::span<const std::shared_ptr<const PreparedMedia>> media,
                      const std::shared_ptr<MediaPrompt>& prompt);
  void encode_slice(std::unique_lock<std::mutex>& lock);
  void encode_a_little(std::unique_lock<std::mutex>& lock);
  void give_up_image() noexcept;
  void hand_out_images(std::unique_lock<std::mutex>& lock);
  void finish_encoding(const ImageEncoders::Encoded& image) noexcept;
  void let_go_on(SequenceId id) noexcept;
  template <class Call>
  void tell_exchange(Call call) noexcept;
  // engine_core_submit.cc
  void in_slices(size_t count, const std::function<bool(size_t)>& work);
  std::shared_ptr<Entry> prepare(Submission& submission) const;
  Result<SequenceId> enter(Submission& submission, std::shared_ptr<Entry> entry);
  void book(SequenceId id, std::shared_ptr<Entry> entry, Submission& submission, bool lacks_images, bool elsewhere);
  std::shared_ptr<Entry> take_entry(uint64_t id) noexcept;
  void wait_for_work(std::unique_lock<std::mutex>& lock);
  void end_expired() noexcept;
  Status open_exchange();
  RemotePrompt remote_prompt(const Submission& submission) const;
  void ask_other_servers(SequenceId id) noexcept;
  void end_fetch(SequenceId id) noexcept;
  Result<SequenceId> compute_for_another(ComputeMessage prompt, PromptMedia media,
                                         std::function<void(const std::string& why)> done);

  const CoreOptions options_;
  std::mutex entering_;  // held while many sequences enter; taken before mutex_
  std::unique_ptr<RankTeam> ranks_, draft_ranks_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<AdapterStore> adapters_;  // outlived by no lease that is used; null: the model takes none

  std::atomic<int> sequences_{0};
  std::atomic<double> progress_{0};  // when a step last began or ended, or a piece of an image
  std::atomic<bool> failed_{false};  // failure_ is set, and stays as it is
  mutable std::mutex mutex_;         // guards all below; not held while a step runs or an output is delivered
  std::condition_variable engine_wake_, step_wake_;
  Scheduler scheduler_;
  std::unordered_map<uint64_t, std::shared_ptr<Entry>> entries_;
  std::set<std::pair<double, uint64_t>> deadlines_;  // and of which sequence; of those in entries_
  std::string failure_;                              // not empty: see fail(); then it stays as it is
  int untold_ = 0;                                   // at least so many entries have an `error`
  bool steps_end_ = false;  // an exception has left the worker in doubt: no step is run any more
  int holds_ = 0;
  bool stopping_ = false;
  std::vector<Step> steps_;
  // Indices into steps_; each in the order of submission. Running: several over pipeline stages.
  StepQueue free_, submitted_, running_, done_;
  uint64_t finished_ = 0;  // the last step that has run
  double last_finish_ = 0;
  uint64_t turns_ = 0, busy_stages_ = 0;
  StepBudget budget_;
  static constexpr size_t kMasks = 4096;
  std::vector<float> mask_seconds_;  // ring
  size_t masks_filled_ = 0;
  double sample_seconds_ = 0, mask_wait_seconds_ = 0;
  double compute_seconds_ = 0;  // of a step of decode rows, without its wait for masks; recent ones count most
  std::deque<Encoding> encodings_;
  std::unique_ptr<ImageEncoders> encoders_;
  std::unique_ptr<CacheTier> tier_;         // null: none
  std::unique_ptr<PeerExchange> exchange_;  // null: none
  FeatureCache features_;
  std::vector<uint64_t> images_encoded_;  // by each process
  uint64_t images_reused_ = 0;
  double step_seconds_ = 0, idle_gap_seconds_ = 0;
  std::vector<SequenceOutput> outputs_;  // of the step being committed; one for each row that there can be
  uint64_t mask_turns_ = 0;              // calls of fill_masks()

  std::thread engine_thread_, step_thread_;
};

// Blocks for other servers: what is not sent is computed there, so memory that is lacking is no error here.
template <class Call>
void EngineCore::tell_exchange(Call call) noexcept {
  if (!exchange_) return;
  try {
    call();
  } catch (const std::bad_alloc&) {
    keep_quiet([] { log_warning("memory ran out for the exchange of blocks with other servers"); });
  }
}

}  // namespace weft
