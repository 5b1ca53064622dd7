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
// One caller at a time: EngineCore calls it under its mutex, from several threads. docs/contract-engine.md has the
// states of a sequence and what holds between two steps.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "cache/cache_manager.h"
#include "core/finish_reason.h"
#include "core/metrics.h"
#include "core/sampling_params.h"
#include "core/speculation.h"
#include "core/step.h"
#include "spec/draft_policy.h"

namespace weft {

enum class SequenceId : uint64_t {};

// generate: sample tokens. score: raw outputs of the head for the prompt's rows, nothing is sampled.
enum class Task : uint8_t { generate, score };

struct SchedulerOptions {
  int max_batch_size = 64;    // sequences in a step, and slots
  int max_num_tokens = 2048;  // per step
  // per step; a score or prompt_logprobs prompt longer than this is computed in several steps
  int max_logit_rows = 256;
  int max_seq_len = 4096;       // prompt + output
  bool chunked_prefill = true;  // off: a prompt is computed in one step
  int overlap = 2;              // steps submitted and not committed; 1: synchronous
  int aging_steps = 64;         // steps that weigh as much as a point of priority; 0: strict priorities
  SpeculationOptions speculation;
  // A drafter with a cache of its own writes so many positions behind a step's last token (one; with several depths of
  // multi-token prediction one for each), or as many as it proposes, whatever is more. 0: it has no cache.
  int draft_ahead = 0;
};

struct NewSequence {
  std::vector<int32_t> prompt;
  // tokens generated elsewhere (a beam's); max_tokens, penalties and the like count them as generated
  std::vector<int32_t> output;
  std::shared_ptr<const SamplingParams> sampling;  // may be null for score
  int priority = 0;                                // higher goes first
  int64_t arrival_step = -1;                       // of the request that it belongs to; -1: now
  Task task = Task::generate;
  LogitRows score_rows = LogitRows::all;     // of score: all rows, or the last or (with `whole`) the first one only
  std::vector<int32_t> token_types;          // of the prompt's tokens (encoders); empty: zeros
  bool whole = false;                        // the prompt must be computed in one step without the cache (encoders)
  std::shared_ptr<const MediaPrompt> media;  // null: text alone
  bool whole_media = false;                  // the tokens of a span of `media` go into one step
  bool held = false;                         // not to be scheduled before release() (its images are being encoded)
  bool guided = false;                       // its sampling rows get a number in StepBatch::Row::guide
  CacheIdentity cache;                       // salt, content, retention
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
  int32_t stop_id = -1;                      // reason stop: the eos or stop token; -1 for score
  std::string error;                         // reason error
  int prompt_tokens = 0, cached_tokens = 0;  // cached: prompt tokens that came from the cache at the first admission
  int drafted = 0, accepted = 0;             // drafts that were checked, and those of them that became tokens
  std::vector<int32_t> drafts;               // proposed for the sequence's next step
  std::vector<RowResult::DraftScores> draft_scores;  // score: pieces follow each other
};

struct Sequence;

class Scheduler {
 public:
  // invalid_argument: an option out of range.
  static Result<Scheduler> create(SchedulerOptions options, CacheManager cache);
  Scheduler(Scheduler&&) noexcept;
  Scheduler& operator=(Scheduler&&) noexcept;
  ~Scheduler();

  // invalid_argument (param "prompt" or "max_tokens") for a sequence that could never run: empty, too long for
  // max_seq_len, for a step, or for the cache. The message names the numbers.
  Result<SequenceId> add(NewSequence sequence);
  // Ends a sequence from outside (the client went away, a stop string matched); no output follows. False if it has
  // ended already.
  bool finish(SequenceId id);

  // Lets a sequence that was added as held be scheduled. Nothing happens to one that has ended meanwhile.
  void release(SequenceId id);

  // Fills the next step. False: nothing to do now (nothing is runnable, or `overlap` steps are in flight); the batch is
  // empty then. `batch` is best reused: a steady step then does not allocate.
  bool schedule(StepBatch& batch, int64_t now_us = 0);
  // Results of the oldest step in flight. Vectors are swapped out of `result`. The outputs are valid until the next
  // call.
  std::span<const SequenceOutput> commit(StepResult& result);

  // A step with rows of single tokens alone took so long.
  void measured(const StepBatch& batch, const StepResult& result, double seconds);

  // No sequence is left and no step is in flight.
  bool idle() const;
  bool has_in_flight() const;
  // Prompt tokens per step, at most (a latency budget of the runtime's, adapted to the measured speed); max_num_tokens
  // by default. A prompt that may not be split is not held up by it.
  void set_prefill_budget(int tokens);
  int prefill_budget() const { return prefill_budget_; }
  // Positions of the last step that were no decode rows.
  int prompt_tokens_of_last_step() const { return last_prompt_tokens_; }

  uint64_t steps() const { return metrics_.steps; }
  SchedulerMetrics metrics() const;
  const SchedulerOptions& options() const { return options_; }
  CacheManager& cache() { return cache_; }
  const CacheManager& cache() const { return cache_; }

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
    int first, tokens;
    int drafts;                   // that it may accept
    bool all_rows, sample, last;  // last: reaches the end of the known tokens
    bool decode;                  // begins at the last token, wherever that is
  };
  struct StepRecord {
    uint64_t step = 0;
    std::vector<RowRecord> rows;
  };
  // What is left of a step's budgets while it is being filled.
  struct Budget {
    int tokens = 0, logit_rows = 0;
    int prompt_tokens = 0;  // soft
    bool has_prompt_row = false;
  };
  enum class Admission : uint8_t { admitted, shared, blocked, no_budget };

  Scheduler(SchedulerOptions options, CacheManager cache);
  Status check_new(const NewSequence& sequence) const;
  Status check_cache_room(const NewSequence& sequence, int max_outputs) const;

  // schedule.cc
  void prepare(StepBatch& batch);
  void add_decodes(StepBatch& batch, Budget& budget);
  bool add_prompts(StepBatch& batch, Budget& budget, int max_rows);
  bool add_prompt_chunk(StepBatch& batch, Budget& budget, Sequence& sequence);
  void add_prompt_row(StepBatch& batch, Budget& budget, Sequence& sequence, int tokens);
  Admission admit(StepBatch& batch, Budget& budget, Sequence& sequence);
  Admission give_back(StepBatch& batch, Sequence& sequence, size_t copies, Admission why);
  bool is_being_computed(const Sequence& sequence, int limit) const;
  int smallest_chunk(const Sequence& sequence) const;
  int chunk_size(const Sequence& sequence, const Budget& budget) const;
  int reserve_chunk(Sequence& sequence, int tokens);
  bool reserve_or_preempt(Sequence& sequence, int end);
  void preempt(Sequence& sequence);
  void open_slot(StepBatch& batch, Sequence& sequence, int cached);
  void add_decode(StepBatch& batch, Budget& budget, Sequence& sequence, int others);
  int reach(const Sequence& sequence, int end, int propose) const;
  int proposals(Sequence& sequence, bool samples, bool decode);
  void add_row(StepBatch& batch, Budget& budget, Sequence& sequence, int tokens, int drafts, int propose);

  // commit.cc
  void commit_row(const RowRecord& record, RowResult& result);
  void take_tokens(Sequence& sequence, RowResult& result, SequenceOutput& output);
  void count_drafts(Sequence& sequence, const RowResult& result, size_t taken, SequenceOutput& output);
  SequenceOutput& next_output(const Sequence& sequence);
  void end(Sequence& sequence);
  void retire(Sequence& sequence);
  void close_slot(Sequence& sequence);
  void enqueue(Sequence& sequence);

  SchedulerOptions options_;
  CacheManager cache_;
  DraftPolicy policy_;
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_, waiting_;  // by rank
  std::vector<Sequence*> ready_;              // scratch of add_decodes
  std::vector<Slot> free_slots_, closes_;
  std::vector<Sequence*> slots_;     // per slot, or null
  std::vector<StepRecord> records_;  // ring of `overlap` entries
  size_t first_record_ = 0, records_in_flight_ = 0;
  std::vector<SequenceOutput> outputs_;
  size_t output_count_ = 0;
  int prefill_budget_ = 0, last_prompt_tokens_ = 0;
  bool prompt_starved_ = false;  // the next step serves prompts first
  uint64_t next_id_ = 1, step_ = 0;
  SchedulerMetrics metrics_;
};

}  // namespace weft
