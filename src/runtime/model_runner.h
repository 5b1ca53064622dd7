// A model, and what speculates for it, on the ranks of this process: its pipeline stages, and the steps that are in
// them. It knows slots and rows, and neither requests nor tokens: a worker decides what runs (worker.h).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "core/step.h"
#include "plan/ranked_executor.h"
#include "runtime/block_memory.h"
#include "runtime/model.h"
#include "runtime/model_drafter.h"
#include "runtime/stage_runner.h"
#include "sampling/scratch.h"

namespace weft {

class ModelRunner : public BlockMemory {
 public:
  // `draft`: made for `model`, see load_draft(). `draft_ranks` run it where it is not drafted in the walk. Where ranks
  // are processes, all have the options of rank 0 and get an error if one has; null on the others if rank 0 has ended
  // instead.
  static Result<std::unique_ptr<ModelRunner>> create(Model model, std::optional<DraftModel> draft,
                                                     const RankTeam& ranks, const RankTeam& draft_ranks,
                                                     RunnerOptions options);

  const Model& model() const { return model_; }
  // Where a step begins, and whose inputs are filled.
  StageRunner& first() { return *stages_.front(); }
  const StageRunner& first() const { return *stages_.front(); }
  // Where a step's outputs are, in rank 0's process.
  const RankedExecutor& results() const { return stages_.back()->executor(); }
  ModelDrafter* drafter() const { return drafter_.get(); }  // null: none
  bool in_processes() const { return ranks_.processes() != nullptr; }
  ThreadTeam& threads() const { return ranks_.threads(); }  // of all ranks

  // A step gets to the first stage: closes, opens, copies, releases, entries. Its inputs are filled next.
  void enter(const StepBatch& batch);
  // One turn of the pipeline. The step that has entered, if any, is computed by the first stage of this process, and
  // every one that was in a stage before by the next. `entered`: stays as it is until it has left the last stage.
  // `lane`: where outputs from other processes go. Steps without rows pass through.
  // `tail`: called by every thread behind a barrier; null: none. It may read the outputs of `finishes`, the lane of the
  // step that leaves the last stage of all in this turn.
  struct Turn {
    const StepBatch* entered = nullptr;
    int lane = 0;
    bool replay = true;
    const std::function<void(kernels::Part)>* tail = nullptr;
    int finishes = 0;
  };
  void run(const Turn& turn);

  // Where the outputs of the step that has entered will be, in rank 0's process; its inputs are filled.
  void place_outputs(int lane) { stages_.back()->executor().place_outputs(first().executor(), lane); }
  // Memory for a thread of the team to sample with.
  Scratch& scratch(int thread) { return *scratch_[thread]; }
  // Blocks of the model's groups and then its draft's. Ranks in other processes have a part of their own, so all must
  // be here.
  int layers(int group) const override { return groups_[group].whole.layers; }
  int tiles() const override { return block_tiles(options_.tokens_per_block); }
  int written_layers(uint64_t step, int group) const override;
  size_t block_tile_bytes(int group) const override { return tile_bytes(groups_[group].whole, groups_[group].dtype); }
  std::optional<DType> other_type(int group, size_t tile_bytes) const override;
  std::vector<std::byte> convert(int group, std::span<const std::byte> content, DType from, int tiles) const override {
    return convert_tiles(content, groups_[group].whole, from, groups_[group].dtype, tiles);
  }
  void read_block(int home, int group, int32_t block, const BlockPart& part,
                  std::span<std::byte> content) const override;
  void write_block(int home, int group, int32_t block, const BlockPart& part,
                   std::span<const std::byte> content) override;

  // What the target left for a draft in the step that has left the last stage.
  const Taps& taps();
  // To ranks in other processes, where there are any (step_message.h): the step that has entered and whose inputs are
  // filled; and behind it the draft's rows. By rank 0.
  void announce(const StepBatch& batch, bool replay);
  void announce_drafts(std::span<const DraftRow> rows);

 private:
  // The step in a stage.
  struct Place {
    const StepBatch* batch = nullptr;  // null: none
    bool has_rows = false;
    bool replay = true;
    int lane = 0;
    ByteWriter inputs;  // for the next stages
  };

  ModelRunner(Model model, const RankTeam& ranks, RunnerOptions options);
  Status allocate(std::optional<DraftModel> draft, const RankTeam& draft_ranks);
  void apply(size_t stage, const StepBatch& batch);
  void move_on(const Turn& turn);
  void walk(int thread);

  Model model_;
  const RankTeam& ranks_;
  RunnerOptions options_;
  std::vector<std::unique_ptr<StageRunner>> stages_;
  std::vector<Place> places_;                      // per stage
  std::vector<std::unique_ptr<Scratch>> scratch_;  // per thread
  struct Group {
    LayerGroup whole;
    DType dtype;
  };
  std::vector<Group> groups_;  // of all ranks together
  std::unique_ptr<ModelDrafter> drafter_;
  ByteWriter message_;
  Taps taps_;
  const Turn* turn_ = nullptr;         // the running one
  std::atomic<uint64_t> finished_{0};  // the last step that has left the last stage
  std::function<void(int)> walk_;
};

}  // namespace weft
