// A model, and what speculates for it, on the ranks of this process: bound plans, the memory of the cache, block
// tables, and the images' keys. It knows slots and rows, and neither requests nor tokens: a worker decides what runs
// (worker.h).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "core/step.h"
#include "plan/ranked_executor.h"
#include "runtime/model.h"
#include "runtime/model_drafter.h"

namespace weft {

struct RunnerOptions {
  int max_batch_size = 0, max_num_tokens = 0, max_outputs = 0, max_seq_len = 0;
  int tokens_per_block = 32;
  std::vector<int> max_blocks;  // per cache group, those of a draft behind the model's own; at every home
  bool measure_ops = false;
  int most_drafts = 0;
  bool draft_scores = false;  // keeps the logits of all draft rows
  TracedPlan* trace = nullptr;
};

// Images that a prompt of a model with cross attention may have.
constexpr int kMaxCrossImages = 8;

// Bytes of one block of a cache group, all its layers together, in whole pages.
int64_t cache_block_bytes(const LayerGroup& group, DType dtype, int tokens_per_block);

class ModelRunner {
 public:
  // `draft`: made for `model`, see load_draft(). `draft_ranks` run it where it is not drafted in the walk. Where ranks
  // are processes, all have the options of rank 0 and get an error if one has; null on the others if rank 0 has ended
  // instead.
  static Result<std::unique_ptr<ModelRunner>> create(Model model, std::optional<DraftModel> draft,
                                                     const RankTeam& ranks, const RankTeam& draft_ranks,
                                                     RunnerOptions options);

  const Model& model() const { return model_; }
  RankedExecutor& executor() { return *executor_; }
  const RankedExecutor& executor() const { return *executor_; }
  ModelDrafter* drafter() const { return drafter_.get(); }  // null: none
  ThreadTeam& threads() const { return ranks_.threads(); }  // of all ranks

  // The slot belongs to another sequence, with this home; `media`: its images, or null.
  void open_slot(Slot slot, int home, const MediaPrompt* media);
  void close_slot(Slot slot);
  int home(Slot slot) const { return homes_[slot]; }
  // Contents of whole blocks: what lies behind the copied tokens is overwritten before it is read.
  void copy_blocks(std::span<const BlockCopy> copies, std::span<const BlockRelease> releases);
  void update_tables(std::span<const TableEntry> entries);
  // Where a slot's block table begins in those of its home (StepInputs::groups).
  int64_t table_offset(Slot slot) const { return static_cast<int64_t>(slot) * table_blocks_; }
  // What the target left for a draft in the step that was run.
  Taps taps() const;
  // To ranks in other processes, where there are any (step_message.h): the step that is about to be run, behind its
  // changes and with its inputs filled; and behind it the draft's rows. By rank 0.
  void announce(const StepBatch& batch, bool replay);
  void announce_drafts(std::span<const DraftRow> rows);
  // Cross attention: blocks of a slot's images, from cross_blocks() * slot on.
  int cross_blocks() const { return cross_blocks_; }

 private:
  ModelRunner(Model model, const RankTeam& ranks, RunnerOptions options);
  Status allocate(std::optional<DraftModel> draft, const RankTeam& draft_ranks);
  Result<std::vector<CacheMemory>> reserve_groups(const std::vector<std::vector<LayerGroup>>& groups, DType dtype);
  Status reserve_cross(std::vector<CacheMemory>& caches);
  size_t cross_slot_bytes(size_t rank) const;
  void write_images(Slot slot, const MediaPrompt& media);
  // The ranks that have a part of what a home keeps: all, or with attention data parallelism one of each stage.
  struct RankRange {
    size_t first = 0, last = 0, step = 1;
  };
  RankRange ranks_of(int home) const;

  Model model_;
  const RankTeam& ranks_;
  RunnerOptions options_;
  std::vector<std::vector<Memory>> cache_memory_;  // per rank and group
  std::vector<std::vector<size_t>> block_bytes_;   // likewise
  std::vector<Memory> cross_memory_;  // per rank; of slot s: cross_blocks_ blocks from s * cross_blocks_ on
  int cross_blocks_ = 0;
  int table_blocks_ = 0;    // entries of one slot in a group's block table, slot after slot
  std::vector<int> homes_;  // per slot
  std::unique_ptr<RankedExecutor> executor_;
  std::unique_ptr<ModelDrafter> drafter_;
  ByteWriter message_;
};

}  // namespace weft
