// Drafts from a model: runs the plans of a DraftModel behind the target's sampling, by the threads that walk the
// target's step (or by others, for a draft that is an engine of its own).
//
// A draft row for the target's row t takes what the target left there (its hidden states) and the token at t + 1, and
// is at t + 1 in every other respect: position, cache entry, block. So its keys in a block depend on the tokens up to
// the block's end alone, and one block table serves target and draft. After the rows of the target's step come further
// passes of one row for each sequence, over the drafts themselves.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "core/sampling_params.h"
#include "core/step.h"
#include "plan/ranked_executor.h"
#include "runtime/draft_model.h"
#include "sampling/draft_choice.h"

namespace weft {

// One sequence of the step that was just sampled. Positions first_position + 1 ... first_position + rows + drafts - 1
// are written (for a draft_model, first_position too where it was not), so their blocks must be in the tables.
struct DraftRow {
  Slot slot = 0;
  int first_row = 0;  // the target step's row at first_position, among those of the slot's home
  int rows = 0;       // rows that are true: of the prompt's chunk, or one and the accepted drafts
  int first_position = 0;
  int32_t token = 0;  // at first_position
  // [rows]: the token behind each row; the last may be the sampled one. More where the prompt goes on: with several
  // depths of multi-token prediction, the last rows need as many more.
  std::span<const int32_t> next;
  int drafts = 0;                             // to propose, at most; 0: only the cache is written
  int first_key = 0;                          // entries before it were never written
  int end = std::numeric_limits<int>::max();  // positions from here on have no block and are left out
  DraftNoise noise;                           // where drafts > 0
  std::vector<int32_t>* out = nullptr;  // likewise: the target's ids, for positions first_position + rows + 1 and on
};

// What the target left in each row of a step, by home: [rows, cols], `ld` floats apart. Null where another process has
// it, and for a draft_model.
struct Taps {
  std::vector<const float*> of_home;
  int64_t ld = 0;
};

struct DrafterLimits {
  int max_num_tokens = 0, max_batch_size = 0, max_seq_len = 0;  // of the target's steps
  int max_drafts = 0;
  bool all_logits = false;  // keeps the logits of all rows of the first passes, for scores()
};

class ModelDrafter {
 public:
  // `caches`: where each rank's blocks of groups() lie, in that order. `ranks` run it. `target` and `ranks` must
  // outlive it. Errors: the target was loaded without the taps that the draft reads.
  static Result<std::unique_ptr<ModelDrafter>> create(DraftModel model, const Model& target, const RankTeam& ranks,
                                                      std::vector<CacheMemory> caches, const DrafterLimits& limits);

  const DraftModel& model() const { return model_; }
  // The cache groups of all its plans, as the first rank has them.
  const std::vector<LayerGroup>& groups() const { return groups_; }
  // Per rank, of a draft `model` that has not been made a drafter yet.
  static std::vector<std::vector<LayerGroup>> groups_of(const DraftModel& model);
  // Of a group: as the worker's own, slot after slot (max_seq_len / tokens_per_block entries each, rounded up).
  std::vector<int32_t>& block_table(int group, int home = 0);
  size_t arena_bytes() const;

  // The step thread's. The slot belongs to another sequence, or to one that begins anew, with this home.
  void open(Slot slot, int home = 0) { known_[slot] = -1, homes_[slot] = home; }
  // One thread; no other is in walk(). `taps`: the target's of the step. They and the rows stay as they are until the
  // walk's end. Fills no `out` yet, but empties them.
  void begin(std::span<const DraftRow> rows, const Taps& taps);
  // Every thread of the team, behind a barrier after begin(). When thread 0 returns, every `out` is filled.
  void walk(kernels::Part part);

  // After a walk: what the last pass of plan `stage` made of its rows of sequence `row`; the first one is of the
  // target's row at `position`. With all_logits and nothing proposed these are the rows of the first pass.
  struct Scores {
    int position = 0, rows = 0;
    const float* logits = nullptr;  // [rows, model().vocab]; null where they were not computed
    const float* state = nullptr;   // [rows, state_cols]; null for a draft_model
    int64_t logits_ld = 0, state_ld = 0;
    int state_cols = 0;
  };
  Scores scores(int stage, int row) const;

 private:
  struct Stage {
    std::unique_ptr<RankedExecutor> executor;
    int first_group = 0;
    struct Home {
      std::vector<std::vector<int32_t>> starts;  // per group, [rows]: SequenceView::starts
      std::vector<int32_t> ends;                 // [rows]
    };
    std::vector<Home> homes;
    std::vector<float> kept;  // [slots, cols]: the state at position known_, for the next depth
  };
  // A sequence's rows in one pass of a stage: positions begin ... begin + rows - 1.
  struct Run {
    int begin = 0, rows = 0, first_row = 0, first_output = -1, home = 0;
  };
  struct Proposal {
    int home = 0, output_row = 0, sequence = 0, position = 0;
  };

  ModelDrafter(DraftModel model, const RankTeam& ranks, DrafterLimits limits) noexcept;
  void make_stages(const std::vector<CacheMemory>& caches);
  void prepare(int pass);
  void add_first(int depth, int sequence);
  void add_chained(int draft, int sequence);
  void add_row(Stage& stage, int home, int32_t id, int position, const float* state);
  void add_view(Stage& stage, const Run& run, const DraftRow& row, int depth);
  void add_proposal(Stage& stage, int token_row, int sequence, int position);
  void choose(kernels::Part part);
  void choose_in_part(const OutputColumns& part, DraftChoice& choice) const;
  DraftChoice best_of(size_t proposal) const;
  void collect(int pass);
  void share_choices();
  void remember();
  int32_t token_at(int sequence, int position) const;
  const float* state_before(int depth, int sequence, int position) const;
  // The state that row `index` of the last pass of a stage over a sequence left.
  static const float* state_of(const Stage& stage, const Run& run, int index);
  // Whether the ranks choose in their parts of the vocabulary, for proposals of sequences with this home.
  bool in_parts(int home) const { return !limits_.all_logits && running_->executor->in_parts(home); }
  // Whether this process chooses; other processes are told what was chosen.
  bool decides() const { return ranks_.first_rank() == 0; }
  int home_of(int sequence) const { return homes_[rows_[sequence].slot]; }
  Stage& stage_of(int pass) { return stages_[std::min<size_t>(pass, stages_.size() - 1)]; }
  Run& run_of(int depth, int sequence) { return runs_[static_cast<size_t>(depth) * limits_.max_batch_size + sequence]; }
  const Run& run_of(int depth, int sequence) const {
    return runs_[static_cast<size_t>(depth) * limits_.max_batch_size + sequence];
  }

  DraftModel model_;
  const RankTeam& ranks_;
  ThreadTeam& team_;  // of all ranks
  DrafterLimits limits_;
  int table_blocks_ = 0;
  std::vector<LayerGroup> groups_;
  std::vector<Stage> stages_;
  std::vector<float> zeros_;  // for states that nobody knows
  std::vector<int> known_;    // per slot: the position of the last token whose row was run; -1: none
  std::vector<int> homes_;    // per slot
  // Of the running step.
  std::span<const DraftRow> rows_;
  Taps taps_;
  int passes_ = 0;
  Stage* running_ = nullptr;          // of the running pass
  std::vector<Run> runs_;             // [stages, sequences], of the last pass
  std::vector<uint8_t> goes_on_;      // per sequence: its first row follows the last one that was run
  std::vector<Proposal> proposals_;   // of the running pass
  std::vector<DraftChoice> choices_;  // [threads, proposals]
  std::vector<int32_t> chosen_;       // per proposal: the target's id
};

}  // namespace weft
