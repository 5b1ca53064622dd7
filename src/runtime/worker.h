// The model bound to the ranks of this process, the cache's memory and the state of every open slot. Does what a
// StepBatch says and fills a StepResult; it decides nothing. Over pipeline stages it has several steps in hand: the
// inputs of a step are filled when it enters the first stage, its tokens are sampled when it leaves the last.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/step.h"
#include "runtime/model_runner.h"
#include "runtime/processor_stage.h"
#include "sampling/sampler.h"
#include "spec/drafter.h"

namespace weft {

// The grammar masks of one step's guided rows, [rows][words]; filled by the engine while the step runs, since a mask
// depends on the token before. The worker waits for them before it samples.
class StepMasks {
 public:
  // Room for so many masks, so that begin() needs no memory.
  void reserve(int rows, int words) { words_.reserve(static_cast<size_t>(rows) * static_cast<size_t>(words)); }
  // `rows` masks that allow everything, none of them ready. `words`: 32-bit words of a mask. Reuses memory.
  void begin(int rows, int words);
  std::span<uint32_t> row(int index) { return {words_.data() + static_cast<size_t>(index) * row_words_, row_words_}; }
  const uint32_t* data(int index) const { return words_.data() + static_cast<size_t>(index) * row_words_; }
  void set_ready() { missing_.fetch_sub(1, std::memory_order_release), missing_.notify_all(); }
  void wait() const;

 private:
  std::vector<uint32_t> words_;
  size_t row_words_ = 0;
  std::atomic<int> missing_{0};
};

struct WorkerOptions {
  RunnerOptions runner;
  bool replay = true;
  SamplerKind sampler = SamplerKind::fused;
  ProcessorKinds processors;         // that sequences may select
  std::shared_ptr<Drafter> drafter;  // from the text; null: none
  bool draft_in_walk = true;         // a model's drafts are made in the target's walk; else behind it
  bool draft_scores = false;         // rows that score give what the drafts' model makes of them too
};

class Worker {
 public:
  // `draft`: made for `model`, see load_draft(); its cache groups follow the model's own in the steps' messages.
  // `draft_ranks` run it where it is not drafted in the walk.
  static Result<std::unique_ptr<Worker>> create(Model model, std::optional<DraftModel> draft, const RankTeam& ranks,
                                                const RankTeam& draft_ranks, WorkerOptions options);

  struct Step {
    const StepBatch* batch = nullptr;
    const StepMasks* masks = nullptr;
    StepResult* result = nullptr;  // overwritten; its memory is reused
  };
  // The step thread's. One turn of the pipeline: `next`, or nothing, enters the first stage, and all steps in it go on
  // by one. With one stage (RunnerOptions::steps_in_flight) the step is finished at once; else what `next` points to
  // stays as it is until it has come out: the step that entered steps_in_flight - 1 turns before. All steps up to
  // StepBatch::after must have come out. Returns whether one has, whose result is filled then.
  // Where memory runs out, all rows of the step fail (resource_exhausted), and so do later ones of their slots until
  // these are opened again. With several stages, or ranks in other processes, it is an exception instead, and nothing
  // can be run any more.
  bool run(const Step* next);

  // Seconds of all steps from the end of the model's last operation to the end of sampling, without the wait for
  // grammar masks.
  double sample_seconds() const { return sample_seconds_; }
  // That steps have waited for the masks of guided rows so far.
  double mask_wait_seconds() const { return mask_wait_seconds_; }

  const Model& model() const { return model_; }
  ModelRunner& runner() { return *runner_; }
  const RankedExecutor& executor() const { return inputs_; }
  const DraftModel* draft() const { return model_drafter_ ? &model_drafter_->model() : nullptr; }

 private:
  struct SlotData {
    SlotState sampler;
    int32_t last_token = 0;
    int max_outputs = 0;
    std::vector<int32_t> drafts;  // for the next row
    // Of the drafter's cache: entries [first_key, drafted_to) are there; -1: what came with a cached prefix.
    int first_key = 0, drafted_to = -1;
    std::vector<int32_t>
        scored;           // of a sequence that scores: the prompt and the token that the target would go on with
    SharedTokens prompt;  // for prompt logprobs
    std::string error;    // a processor that could not be made: every row fails
    bool failed = false;  // a step that has a row of it found no memory: later rows are left out
    std::vector<int32_t> token_types;
    std::shared_ptr<const MediaPrompt> media;
    int adapter = -1;
  };
  // A batch row as it is computed; what is known of it once its inputs are filled.
  struct StepRow {
    Slot slot = 0;
    int home = 0;
    int first_row = 0;          // of its home's
    int first = 0, tokens = 0;  // positions; 0 tokens: left out
    int drafts = 0;             // the last of them
    int first_output = 0, outputs = 0;
    int samples = 0;       // the last of the outputs
    int first_sample = 0;  // of sample_rows_
  };
  struct PromptRow {  // a row of the head's output whose next prompt token is known
    int row = 0;
    const float* logits = nullptr;
    int32_t next = 0;
    int k = 0;
    std::vector<TokenLogprob>* out = nullptr;
  };

  // A step in the pipeline.
  struct Lane {
    int number = 0;
    Step step;  // no batch: none
    bool has_rows = false;
    std::vector<StepRow> rows;  // per batch row
  };

  Worker(std::unique_ptr<ModelRunner> runner, const RankTeam& draft_ranks, WorkerOptions options);
  bool run_turn(const Step* next);
  void fail_step(const Step& step) noexcept;
  void check_weights() const;
  template <class Work>
  void guard(Work work) noexcept;
  void enter(const Step& step, Lane& lane);
  void check_order(const StepBatch& batch) const;
  void finish(Lane& lane);
  void open_slots(const StepBatch& batch);
  void close_drafter(Slot slot) noexcept;
  StepRow extent(const StepBatch::Row& row) const;
  void fill_inputs(const StepBatch& batch, std::vector<StepRow>& rows);
  void fill_token(StepInputs& in, const SlotData& slot, int position) const;
  void fill_features(const SlotData& slot, const StepRow& row);
  void fill_cross(int home, const std::vector<StepRow>& rows);
  void fill_ends(const SlotData& slot, const StepRow& row);
  void fill_groups(int home, const std::vector<StepRow>& rows);
  void plan_summaries(const Step& step, const std::vector<StepRow>& rows);
  // Row `index` of the outputs that belong to a row of the step that is finished.
  const float* output_of(const StepRow& row, int index) const {
    return results_.row(row.home, row.first_output + index, finishing_->number);
  }
  // A sample of a row: which, and what is known of it before the step.
  SampleRow sample_of(const StepBatch::Row& row, const StepMasks& masks, int index) const;
  void plan_sampling(Lane& lane);
  void plan_prompt_rows(size_t row, RowResult& out);
  void plan_samples(const StepBatch::Row& row, StepRow& at, const StepMasks& masks, RowResult& out);
  void run_processors(kernels::Part part);
  void sample(kernels::Part part);
  void collect_outputs(const Lane& lane);
  void finish_walk(kernels::Part part);
  void accept(StepRow& row, RowResult& out);
  void collect(Lane& lane);
  void propose(const Lane& lane);
  void keep_valid(std::vector<int32_t>& drafts, int most) const;
  // worker_drafts.cc
  void begin_drafts(const Lane& lane);
  void add_draft_row(const StepBatch::Row& row, const StepRow& at);
  std::span<const int32_t> draft_tokens(const StepBatch::Row& row, const StepRow& at);
  void end_drafts(StepResult& result);
  void take_draft_scores(int draft_row, RowResult& out) const;

  std::unique_ptr<ModelRunner> runner_;
  const Model& model_;
  RankedExecutor& inputs_;             // of the first stage
  const RankedExecutor& results_;      // of the last one
  ModelDrafter* const model_drafter_;  // null: none
  ThreadTeam &team_, &draft_team_;     // of all ranks
  WorkerOptions options_;
  std::vector<SlotData> slots_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // by the turns that they have taken
  uint64_t finished_ = 0;                     // the last step that came out
  // Of the step that is finished in this turn.
  Lane* finishing_ = nullptr;
  std::vector<SampleRow> sample_rows_;
  std::vector<PromptRow> prompt_rows_;
  std::vector<std::string> prompt_errors_;  // per prompt row
  std::unique_ptr<ProcessorStage> processors_;
  std::atomic<bool> processed_{false};
  std::function<void(kernels::Part)> tail_;
  std::atomic<bool> out_of_memory_{false};  // in the tail of this turn, on any thread
  std::vector<DraftRow> draft_rows_;
  std::vector<int> draft_row_of_;                         // per entry: batch row
  std::chrono::steady_clock::time_point sampling_began_;  // of thread 0
  double sample_seconds_ = 0, mask_wait_seconds_ = 0;
};

}  // namespace weft
