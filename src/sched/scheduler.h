// Decides what each step computes. A pure state machine: sequences and step results go in, StepBatches and outputs come
// out; it knows no tensors, no clock and no threads, and for the same calls it does the same.
//
//   schedule(batch)   decode rows first, then prompt chunks by priority and arrival, within the budgets of a step. When
//                     one kind of row used up a budget that the other kind needed, the next step serves the other kind
//                     first, so neither starves. Up to `overlap` steps may be submitted and not yet committed.
//   commit(result)    in the order of submission: appends tokens, ends sequences, publishes and frees blocks.
//
// Lengths of a sequence: `known` tokens the host has (prompt + output), `scheduled` positions that submitted steps
// cover, `computed` positions whose KV is certainly written, `in_flight` submitted steps that mention it. A sequence
// leaves the books when it is finished and in_flight == 0; what a later step sampled after a stop is discarded, and an
// end by length is foreseen, so it wastes no step.
//
// Speculation. A row of a decoding sequence may check the drafts that its last row proposed, and so bring several
// tokens. With steps in flight it is not known where the next row begins; the books count as if no draft was accepted
// (`scheduled`), and besides what would come on top (`slack`). Blocks are reserved for the most that can be; commit()
// moves `scheduled` on by what was accepted. Rejected positions need no undoing: they lie behind `computed`, so they
// are in no index and are written again before they are read. A row that finds no room for drafts goes without.
//
// Rank is priority, then arrival, with ageing: a sequence gains a point of priority for every `aging_steps` steps that
// it has been there. All age alike, so the order of two never changes, and it can be written down at arrival: the lower
// arrival step - priority * aging_steps goes first. So only as many can come to stand before a sequence as arrive
// within the steps that make up for the difference in priority, and even the lowest gets its turn under a load that
// never ends. When blocks run out, the lowest-ranked running sequence below the asking one is preempted: it loses
// blocks and slot, waits at its rank, and later goes on from prompt + output (from the cache where that still holds). A
// sequence never preempts itself or one of higher rank, so the first in rank always advances and everything ends.
//
// Homes. With attention data parallelism (core/step.h) every home has a cache of its own, and a sequence belongs to one
// home from its admission to its end or its preemption. All homes take a step together, which lasts as long as the
// fullest home needs. So
//  - a sequence is admitted where it would be through first: at the home, among those with room for it, where the
//    positions still to be computed, its own included, are fewest. A cached prefix of n tokens thus outweighs n
//    positions of load, and no more. A running sequence counts with the rest of its prompt and up to 64 decode rows to
//    come. At a tie the home with more cache bytes to give gets it. Rank decides who is placed first; one that fits
//    nowhere lets nobody of lower rank pass it, as with one home;
//  - the prompt tokens of a step are shared out so that homes are filled to one level, decode rows included. Budgets of
//    a step are for all homes together. Nothing is left over for the sake of the level, and the first in rank has an
//    even part at least;
//  - with `balance_wait_us`, prompts that would leave some homes idle are held back beside decode rows for that long;
//  - preemption helps within a home only, and who was preempted may go on at any.
//
// Pipeline stages (core/step.h). A step that waits for one in the stages leaves some of them idle, so rows go where
// they wait for nothing: the decoding sequences take turns. With S stages a step has an S-th of those that are ready,
// of each home, and only such whose last token was sampled S steps before, for that step is finished when this one
// begins. Those that have waited longest go first, so the turns come about by themselves, and who is late for one takes
// the next. The prompt budget too is for S steps, so that the chunks of a long prompt follow each other through the
// stages. A step that would have no row takes sequences of the oldest step in flight and waits for that one: so a
// single stream's next step is made ahead, and none behind it, for which others would have to wait. StepBatch::after
// says what a step waits for. With fewer than S steps in flight (`overlap`) these divide the work.
//
// Memory. When it runs out (std::bad_alloc), whoever needed it is given up and the others go on: schedule() leaves out
// the sequence that it was busy with and ends it (see failed()), commit() ends the sequence of the row, add() throws
// and has added nothing. finish() and release() need none.
//
// One caller at a time: EngineCore calls it under its mutex, from several threads. docs/contract-engine.md has the
// states of a sequence and what holds between two steps.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cache/cache_manager.h"
#include "core/adapters.h"
#include "core/finish_reason.h"
#include "core/metrics.h"
#include "core/sampling_params.h"
#include "core/speculation.h"
#include "core/step.h"
#include "sched/block_transfer.h"
#include "sched/turns.h"
#include "spec/draft_policy.h"

namespace weft {

enum class SequenceId : uint64_t {};

// generate: sample tokens. score: raw outputs of the head for the prompt's rows, nothing is sampled.
enum class Task : uint8_t { generate, score };

struct SchedulerOptions {
  int homes = 1;  // ranks of a stage with attention data parallelism; 1 without
  // Limits are for all homes together.
  int max_batch_size = 64;    // sequences in a step, and slots
  int max_num_tokens = 2048;  // per step
  // per step; a score or prompt_logprobs prompt longer than this is computed in several steps
  int max_logit_rows = 256;
  int max_seq_len = 4096;       // prompt + output
  bool chunked_prefill = true;  // off: a prompt is computed in one step
  int stages = 1;               // of the workers' pipeline, each with a step of its own (StepBatch::after)
  int overlap = 2;              // steps submitted and not committed; 1: synchronous. stages + 1 keep all stages busy
  int aging_steps = 64;         // steps that weigh as much as a point of priority; 0: strict priorities
  // With more clients than slots: steps that one of them keeps a slot which another waits for (and has waited for as
  // long); 0: to the end of its answer.
  int turn_steps = 1024;
  SpeculationOptions speculation;
  // A drafter with a cache of its own writes so many positions behind a step's last token (one; with several depths of
  // multi-token prediction one for each), or as many as it proposes, whatever is more. 0: it has no cache.
  int draft_ahead = 0;
  bool store = false;  // blocks of sequences that end are kept for take_export()
  // With several homes: so long after its arrival, in microseconds, a prompt may be held back until as many wait as
  // there are homes, so that none is idle while others compute theirs. It delays the first token by no more than that
  // (and a step), and only while decode rows run and no home goes on with a prompt. 0: prompts never wait for that.
  int64_t balance_wait_us = 0;
};

struct NewSequence {
  SharedTokens prompt;
  // tokens generated elsewhere (a beam's); max_tokens, penalties and the like count them as generated
  std::vector<int32_t> output;
  std::shared_ptr<const SamplingParams> sampling;  // may be null for score
  uint64_t seed = 0;                               // of what is drawn at random
  // What the parameters ask of the prompt (its logprobs, its logits) is wanted of this sequence: of one choice of a
  // request.
  bool prompt_results = true;
  int priority = 0;           // higher goes first
  uint64_t client = 0;        // whose it is: clients take turns; 0: nobody's
  uint64_t request = 0;       // of its client; requests take turns too; 0: none, below 2^63
  int64_t arrival_step = -1;  // of the request that it belongs to; -1: now
  Task task = Task::generate;
  LogitRows score_rows = LogitRows::all;     // of score: all rows, or the last or (with `whole`) the first one only
  std::vector<int32_t> token_types;          // of the prompt's tokens (encoders); empty: zeros
  bool whole = false;                        // the prompt must be computed in one step without the cache (encoders)
  std::shared_ptr<const MediaPrompt> media;  // null: text alone
  bool whole_media = false;                  // the tokens of a span of `media` go into one step
  bool held = false;                         // not to be scheduled before release() (its images are being encoded)
  bool guided = false;                       // its sampling rows get a number in StepBatch::Row::guide
  CacheIdentity cache;                       // salt, adapter, content, retention
  AdapterLease adapter;                      // held until no step in flight has a row of it
};

// What one committed step brought for one sequence.
struct SequenceOutput {
  SequenceId id{};
  std::vector<int32_t> tokens;                      // new ones; a stop token is among them
  std::vector<std::vector<TokenLogprob>> logprobs;  // per new token, if asked for
  // For the prompt's tokens in order, beginning with the second; pieces of successive outputs follow each other.
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;
  // score: rows of the head in order; pieces follow each other. generate: with context_logits those of the prompt, then
  // with generation_logits one for each new token.
  std::vector<float> outputs;
  FinishReason reason = FinishReason::none;
  int32_t stop_id = -1;  // reason stop: the eos or stop token; -1 for score
  std::string error;     // reason error
  Code error_code = Code::internal;
  int prompt_tokens = 0, cached_tokens = 0;  // cached: prompt tokens that came from the cache at the first admission
  int drafted = 0, accepted = 0;             // drafts that were checked, and those of them that became tokens
  std::vector<int32_t> drafts;               // proposed for the sequence's next step
  std::vector<RowResult::DraftScores> draft_scores;  // score: pieces follow each other
};

struct Home;
struct Sequence;

class Scheduler {
 public:
  // A cache for each home, all with the same options. invalid_argument: an option out of range.
  static Result<Scheduler> create(SchedulerOptions options, std::vector<CacheManager> caches);
  // Not noexcept: moving a deque makes a new one.
  Scheduler(Scheduler&&);
  Scheduler& operator=(Scheduler&&);
  ~Scheduler();

  // invalid_argument (param "prompt" or "max_tokens") for a sequence that could never run: empty, too long for
  // max_seq_len, for a step, or for the cache. The message names the numbers.
  Result<SequenceId> add(NewSequence sequence);
  // Ends a sequence from outside (the client went away, a stop string matched); no output follows. False if it has
  // ended already.
  bool finish(SequenceId id) noexcept;

  // Lets a sequence that was added as held be scheduled. Nothing happens to one that has ended meanwhile.
  void release(SequenceId id) noexcept;

  // Fills the next step, with the rows of a home together and home 0's first. False: nothing to do now (nothing is
  // runnable, or `overlap` steps are in flight); the batch is empty then. `batch` is best reused: a steady step then
  // does not allocate. `now_us`: the time by any clock, never backwards; for the cache's durations and balance_wait_us.
  bool schedule(StepBatch& batch, int64_t now_us = 0);
  // Sequences for which the last schedule() found no memory. They have ended, and no output says so.
  std::span<const SequenceId> failed() const { return failed_; }
  // Results of the oldest step in flight. Vectors are swapped out of `result`. The outputs are valid until the next
  // call, and may be swapped out too.
  std::span<SequenceOutput> commit(StepResult& result) noexcept;

  // ---- A store of blocks outside (SchedulerOptions::store); see block_transfer.h.
  // For a sequence that is held: its prompt, as far as it may come from the cache. Null where nothing may.
  std::unique_ptr<BlockTransfer> plan_import(SequenceId id);
  // Chooses the home and how many blocks could be had with the store's help; the keys are extended already. Returns how
  // many tokens are cached there.
  int look_up_import(BlockTransfer& transfer, const std::function<bool(int group, int number)>& stored) const;
  // Takes blocks for what is missing. False: there is no room. Else end_import() follows in any case.
  bool begin_import(BlockTransfer& transfer);
  // Blocks before this one have been filled; the others are given up, and so are all where memory runs out.
  void end_import(BlockTransfer& transfer, int filled) noexcept;
  // What a sequence has left in the cache, to be copied; null: nothing. end_export() follows.
  std::unique_ptr<BlockTransfer> take_export();
  void end_export(BlockTransfer& transfer) noexcept;

  // ---- Blocks for another server (runtime/prefix_provider.h), which wants a prompt's whole blocks in front of its
  // last token. The lease holds them as far as they are there, more and more while the prompt is computed. Any thread:
  // nothing is held yet; the blocks' keys are made.
  std::unique_ptr<BlockTransfer> plan_lease(std::vector<int32_t> tokens, CacheIdentity identity) const;
  // Whether all that a sequence with this prefix would need is there.
  bool is_cached(const BlockTransfer& lease) const;
  // Takes hold of what is there, and of what steps in flight are writing; `first`: per group the first block that is
  // wanted. `sequence` computes the prompt (or has done so, or there is none). Returns whether all are in the index.
  // Where memory runs out (std::bad_alloc), end_lease() must be called.
  bool hold_lease(BlockTransfer& lease, std::span<const int> first, SequenceId sequence);
  void end_lease(BlockTransfer& lease) noexcept;

  // A step with rows of single tokens alone took so long: so much later it was finished than the one before, if they
  // followed each other through the stages.
  void measured(const StepBatch& batch, const StepResult& result, double seconds);

  // ---- Grammars whose masks take long (mask_debts.cc). Processor time that a guided sequence's masks and accepted
  // tokens took. It changes which steps the sequence has a row in, and nothing of its answer.
  void charge_masks(SequenceId id, double seconds) noexcept;
  // What the masks of a step may take on average: best as much as the step computes, which they run beside. At least
  // kLeastMaskBudget.
  void set_mask_budget(double seconds);
  static constexpr double kLeastMaskBudget = 0.01;

  // No sequence is left and no step is in flight.
  bool idle() const;
  bool has_in_flight() const;
  // Prompt tokens, at most, of the steps that are in the stages together (a latency budget of the runtime's, adapted to
  // the measured speed); max_num_tokens by default. A prompt that may not be split is not held up by it.
  void set_prefill_budget(int tokens);
  int prefill_budget() const { return prefill_budget_; }
  // Positions of the last step that were no decode rows.
  int prompt_tokens_of_last_step() const { return last_prompt_tokens_; }

  // Requests that wait and have not started yet: all, a client's, and in how many seconds, at the pace at which the
  // last ones started, as many will have (1 to 600; of the time that schedule() is told).
  struct Queue {
    int requests = 0, of_client = 0, seconds = 1;
  };
  Queue queue(uint64_t client) const;

  uint64_t steps() const { return metrics_.steps; }
  SchedulerMetrics metrics() const;
  const SchedulerOptions& options() const { return options_; }
  int homes() const { return options_.homes; }
  CacheManager& cache(int home);
  const CacheManager& cache(int home) const;
  std::vector<HomeMetrics> home_metrics() const;
  // The events of all homes since the last call, and the id of the next one to come; missing ids are events that were
  // lost.
  std::pair<std::vector<CacheEvent>, uint64_t> take_cache_events();

  // The sequence of a slot, for work beside the step (grammar masks); invalid once the sequence ended.
  SequenceId sequence_in_slot(Slot slot) const;
  // For tests: its blocks.
  const CacheSequence& cache_in_slot(Slot slot) const;

  // For tests: ends the process unless the books agree with each other.
  void check_integrity() const;

 private:
  // What was submitted, until its result comes.
  struct RowRecord {
    Sequence* sequence;
    uint32_t epoch;
    StepBatch::Row row;
    bool all_rows, last;  // last: reaches the end of the known tokens
    bool decode;          // begins at the last token, wherever that is
  };
  struct StepRecord {
    uint64_t step = 0;
    std::vector<RowRecord> rows;  // by home
  };
  // What is left of a step's budgets while it is being filled.
  struct Budget {
    int tokens = 0, logit_rows = 0;
    int prompt_tokens = 0;  // soft
    bool has_prompt_row = false;
  };
  // Why a prompt got no row: a running sequence computes the same block (shared), the home is full enough (level),
  // there are no blocks (blocked), no budget, no memory (try_for()), or its client's grammars took long (owes).
  enum class Admission : uint8_t { admitted, shared, level, blocked, no_budget, no_memory, owes };
  // Seconds of processor time that masks of a client's ended sequences took and that are not paid.
  struct LeftDebt {
    uint64_t client = 0;
    double seconds = 0;
  };

  Scheduler(SchedulerOptions options, std::vector<CacheManager> caches);
  Status check_new(const NewSequence& sequence) const;
  Status check_cache_room(const NewSequence& sequence, int max_outputs) const;

  // schedule.cc
  void prepare(StepBatch& batch);
  int prefill_budget_of_step() const;
  template <class Work>
  bool try_for(Sequence& sequence, StepBatch* batch, Work work);
  void give_up(Sequence& sequence, StepBatch* batch, size_t opens);
  void give_up_last();
  void end_given_up() noexcept;
  void fill(StepBatch& batch, Budget& budget);
  void choose_decodes(const Budget& budget, bool ahead);
  void add_decodes(StepBatch& batch, Budget& budget, bool ahead);
  bool add_prompts(StepBatch& batch, Budget& budget, bool one_each);
  Sequence* next_prompt(bool one_each) const;
  bool goes_before(const Sequence& waiting, const Sequence& running) const;
  bool may_preempt(const Sequence& sequence, const Sequence& victim) const;
  int64_t now() const { return static_cast<int64_t>(metrics_.steps); }

  // fairness.cc
  void order_running();
  void yield_slots();
  Sequence* who_yields(const Sequence& sequence) const;
  Sequence* who_had_a_turn(const Sequence& sequence) const;

  // mask_debts.cc
  void share_mask_budget();
  void pay_masks(double seconds) noexcept;
  bool owes_masks(const Sequence& sequence) const;
  bool forgive_masks() noexcept;
  void leave_mask_debt(const Sequence& sequence) noexcept;

  // schedule.cc
  void fill_step(StepBatch& batch, Budget& budget);
  Admission add_prompt_chunk(StepBatch& batch, Budget& budget, Sequence& sequence);
  void add_prompt_row(StepBatch& batch, Budget& budget, Sequence& sequence, int tokens);
  Admission may_admit(const Sequence& sequence) const;
  Admission admit(StepBatch& batch, Budget& budget, Sequence& sequence);
  Admission admit_at_home(StepBatch& batch, Budget& budget, Sequence& sequence);
  Admission give_back(StepBatch& batch, Sequence& sequence, size_t copies, Admission why);
  int cache_limit(const Sequence& sequence) const;
  bool is_being_computed(const Sequence& sequence, int block, int limit) const;
  int smallest_chunk(const Sequence& sequence) const;
  int chunk_size(const Sequence& sequence, const Budget& budget) const;
  int reserve_chunk(Sequence& sequence, int tokens);
  bool reserve_or_preempt(Sequence& sequence, int end);
  void preempt(Sequence& sequence) noexcept;
  void open_slot(StepBatch& batch, Sequence& sequence, int cached);
  bool add_decode(StepBatch& batch, Budget& budget, Sequence& sequence, int others);
  int reach(const Sequence& sequence, int end, int propose) const;
  int proposals(Sequence& sequence, bool samples, bool decode);
  void add_row(StepBatch& batch, Budget& budget, Sequence& sequence, int tokens, int drafts, int propose);
  void finish_batch(StepBatch& batch);
  StepRecord& filling() { return records_[(first_record_ + records_in_flight_) % records_.size()]; }
  const StepRecord& filling() const { return records_[(first_record_ + records_in_flight_) % records_.size()]; }

  // transfers.cc
  void queue_export(Sequence& sequence) noexcept;
  std::unique_ptr<BlockTransfer> make_export(const Sequence& sequence);
  int home_with_most(BlockTransfer& lease) const;
  void hold_computing(BlockTransfer& lease, const Sequence& sequence);

  // homes.cc
  CacheManager& cache_of(const Sequence& sequence);
  const CacheManager& cache_of(const Sequence& sequence) const;
  uint64_t cache_version() const;
  int work_left(const Sequence& sequence, int cached) const;
  int prompt_demand(const Sequence& sequence, int first) const;
  bool place(Sequence& sequence);
  void share_out(const Budget& budget, bool before_decodes);
  bool place_waiting(int tokens);
  bool holds_prompts_back() const;
  void count_balance();

  // commit.cc
  void commit_row(const RowRecord& record, RowResult& result);
  void take_result(const RowRecord& record, RowResult& result);
  void take_tokens(Sequence& sequence, RowResult& result, SequenceOutput& output);
  void count_drafts(Sequence& sequence, const RowResult& result, size_t taken, SequenceOutput& output);
  SequenceOutput& next_output(const Sequence& sequence);
  void end(Sequence& sequence) noexcept;
  void stop_running(Sequence& sequence) noexcept;
  void retire(Sequence& sequence) noexcept;
  void close_slot(Sequence& sequence) noexcept;
  void enqueue(Sequence& sequence) noexcept;

  SchedulerOptions options_;
  std::vector<Home> homes_;
  DraftPolicy policy_;
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;  // by place; with room for all slots
  std::vector<SequenceId> failed_;  // with room for all
  Turns turns_;                     // of those that wait
  bool order_changed_ = false;      // of running_
  uint64_t blocked_ = 0;            // sequence that waits for memory and lets nobody pass
  std::vector<Sequence*> ready_;    // for a decode row; scratch of add_decodes
  size_t chosen_ = 0;               // so many of them, from the first on, have their turn
  std::vector<Slot> free_slots_, closes_;
  uint64_t closes_after_ = 0;        // the newest step with a row of a slot in `closes_` that may be unfinished
  std::vector<Sequence*> slots_;     // per slot, or null
  std::vector<StepRecord> records_;  // ring of `overlap` entries
  size_t first_record_ = 0, records_in_flight_ = 0;
  std::vector<SequenceOutput> outputs_;
  size_t output_count_ = 0;
  int at_once_ = 1;  // steps between which the work is divided, for they go through the stages behind each other
  int prefill_budget_ = 0, last_prompt_tokens_ = 0;
  bool prompt_starved_ = false;  // the next step serves prompts first
  double mask_budget_ = kLeastMaskBudget, mask_share_ = kLeastMaskBudget;
  size_t debtors_ = 0;                // that share the budget of the step
  std::vector<LeftDebt> left_debts_;  // with room for all that it may hold
  bool waits_for_prompts_ = false;    // homes would be idle beside the prompts that are there
  uint64_t next_id_ = 1, step_ = 0;
  uint64_t sharing_ = 0;              // calls of share_out()
  int64_t now_us_ = 0;                // of the last schedule()
  std::array<int64_t, 32> starts_{};  // ring: when the last requests started
  size_t started_requests_ = 0;
  std::vector<const BlockTransfer*> transfers_;         // all that hold blocks
  std::deque<std::unique_ptr<BlockTransfer>> exports_;  // that wait
  int64_t export_bytes_ = 0;
  double recent_tokens_ = 0, recent_paced_ = 0;  // of SchedulerMetrics::balance_ratio
  SchedulerMetrics metrics_;
};

}  // namespace weft
