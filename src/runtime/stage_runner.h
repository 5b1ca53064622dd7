// One pipeline stage of a model in this process: the plans of its ranks, the memory of their cache, their block tables,
// and the keys of images. A step comes to a stage as changes (of slots, blocks and tables), inputs, and a walk.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/step.h"
#include "plan/ranked_executor.h"
#include "runtime/block_content.h"
#include "runtime/model.h"

namespace weft {

struct RunnerOptions {
  int max_batch_size = 0, max_num_tokens = 0, max_outputs = 0, max_seq_len = 0;
  int tokens_per_block = 32;
  std::vector<int> max_blocks;  // per cache group, those of a draft behind the model's own; at every home
  bool measure_ops = false;
  int most_drafts = 0;
  bool draft_scores = false;  // keeps the logits of all draft rows
  int steps_in_flight = 1;    // as many as there are pipeline stages, or in processes 1: one at a time
  TracedPlan* trace = nullptr;
};

// Images that a prompt of a model with cross attention may have.
constexpr int kMaxCrossImages = 8;

// Bytes of one block of a cache group, all its layers together, in whole pages.
int64_t cache_block_bytes(const LayerGroup& group, DType dtype, int tokens_per_block);

class StageRunner {
 public:
  // For `these` ranks of this process. `draft_groups`: per rank of this process the cache groups of a draft, which
  // follow the model's own and are written by others (draft_caches()). `model` and `ranks` outlive it.
  static Result<std::unique_ptr<StageRunner>> create(const Model& model, const RankTeam& ranks, RankSpan these,
                                                     const RunnerOptions& options,
                                                     std::span<const std::vector<LayerGroup>> draft_groups,
                                                     DType draft_dtype);

  RankedExecutor& executor() { return *executor_; }
  const RankedExecutor& executor() const { return *executor_; }
  // Per rank, of the draft's groups.
  const std::vector<CacheMemory>& draft_caches() const { return draft_caches_; }

  // The slot belongs to another sequence, with this home; `media`: its images, or null.
  void open_slot(Slot slot, int home, const MediaPrompt* media);
  void close_slot(Slot slot);
  int home(Slot slot) const { return homes_[slot]; }
  // Contents of whole blocks: what lies behind the copied tokens is overwritten before it is read.
  void copy_blocks(std::span<const BlockCopy> copies, std::span<const BlockRelease> releases);
  // Between a block of a home and its content as all ranks together have it (block_content.h), for the layers and heads
  // that are here. `whole`: the group of all ranks. Any thread, beside steps that leave the block alone.
  void read_block(int home, int group, int32_t block, const LayerGroup& whole, const BlockPart& part,
                  std::span<std::byte> content) const;
  void write_block(int home, int group, int32_t block, const LayerGroup& whole, const BlockPart& part,
                   std::span<const std::byte> content);
  // Of the model's own groups; the others' entries are left out.
  void update_tables(std::span<const TableEntry> entries);
  // Where a slot's block table begins in those of its home (StepInputs::groups).
  int64_t table_offset(Slot slot) const { return static_cast<int64_t>(slot) * table_blocks_; }
  // Cross attention: blocks of a slot's images, from cross_blocks() * slot on.
  int cross_blocks() const { return cross_blocks_; }

 private:
  StageRunner(const Model& model, const RankTeam& ranks, RankSpan these, const RunnerOptions& options);
  Status allocate(std::span<const std::vector<LayerGroup>> draft_groups, DType draft_dtype);
  Result<std::vector<CacheMemory>> reserve_groups(const std::vector<std::vector<LayerGroup>>& groups, DType dtype);
  Status reserve_cross(std::vector<CacheMemory>& caches);
  const Plan& plan(size_t rank) const { return model_.shares.ranks[static_cast<size_t>(these_.first) + rank].plan; }
  size_t cross_slot_bytes(size_t rank) const;
  void write_images(Slot slot, const MediaPrompt& media);
  // Those of the stage's ranks that have a part of what a home keeps: all, or with attention data parallelism one.
  struct RankRange {
    size_t first = 0, last = 0;
  };
  RankRange ranks_of(int home) const;

  const Model& model_;
  const RankTeam& ranks_;
  const RankSpan these_;
  const RunnerOptions options_;
  struct Group {
    LayerGroup share;
    DType dtype;
  };
  std::vector<std::vector<Group>> groups_;         // per rank, those of a draft behind the model's own
  std::vector<std::vector<Memory>> cache_memory_;  // likewise
  std::vector<std::vector<size_t>> block_bytes_;
  std::vector<CacheMemory> draft_caches_;  // per rank
  std::vector<Memory> cross_memory_;       // per rank; of slot s: cross_blocks_ blocks from s * cross_blocks_ on
  int cross_blocks_ = 0;
  int table_blocks_ = 0;    // entries of one slot in a group's block table, slot after slot
  std::vector<int> homes_;  // per slot
  std::unique_ptr<RankedExecutor> executor_;
};

}  // namespace weft
