// Runs a model's plan on all ranks of this process: every rank its own share of it, all together in one run of the
// thread team. Where ranks are processes, each runs its own, and rank 0 gets the outputs of all.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "plan/cpu_executor.h"
#include "plan/rank_team.h"

namespace weft {

// What a rank has of a model.
struct PlanShare {
  Plan plan;  // after the passes
  Weights weights;
  double load_seconds = 0;
};

// What all ranks of a process have.
struct PlanShares {
  std::vector<PlanShare> ranks;
  // Attention data parallelism: the whole plan, over weights that lie with the ranks. A step whose rows all have one
  // home is computed by the threads of all ranks, as if there was one; none where ranks are processes or have
  // parts of an expert each.
  std::optional<PlanShare> alone;
  const PlanShare& first() const { return ranks.front(); }
};

class RankedExecutor {
 public:
  // `caches`: where each rank's blocks lie. The shares' weights, the caches and `ranks` must outlive the executor.
  RankedExecutor(const PlanShares& shares, const kernels::CpuTable& table, const RankTeam& ranks,
                 std::vector<CacheMemory> caches, ExecutorLimits limits);

  // Without attention data parallelism one, whose inputs and outputs are those of all ranks; with it every rank is the
  // home of sequences of its own (core/step.h).
  int homes() const { return homes_; }
  StepInputs& inputs(int home = 0) { return *inputs_[home]; }
  const StepInputs& inputs(int home = 0) const { return *inputs_[home]; }
  // Whether the step has anything to compute.
  bool has_rows() const;
  // Once the inputs are set: where the step's outputs will lie depends on them. prepare() and run() do it too.
  void begin();
  // Runs the step that inputs() describes. `tail` is called by every thread of the team behind a barrier after the last
  // op (sampling). replay == false: resolves every op's addresses anew before it runs, as the first step does.
  void run(const std::function<void(kernels::Part)>& tail, bool replay = true);
  // The same inside a run of the team, for a plan that runs behind another one in the same walk: one thread calls
  // prepare() once the inputs are set, and behind a barrier every thread calls walk_inside() with its part of the team.
  // No tail; another barrier is the caller's to set.
  void prepare(bool replay = true);
  void walk_inside(kernels::Part part);

  // [outputs, cols] of the last run, of a home's rows; ld in floats. In rank 0's process.
  const float* output(int home = 0) const {
    return last(home) ? last(home)->output() : reinterpret_cast<const float*>(received_[home].data());
  }
  int64_t output_ld() const { return row_floats(plan().output.cols); }
  int output_cols() const { return plan().output.cols; }
  // The same of Plan::taps and Plan::state, [tokens, cols], where the plan has them; null where another process has
  // what the home's rows have left.
  const float* taps(int home = 0) const { return last(home) ? last(home)->taps() : nullptr; }
  int64_t taps_ld() const { return row_floats(plan().taps.cols); }
  const float* state(int home = 0) const { return last(home) ? last(home)->state() : nullptr; }
  int64_t state_ld() const { return row_floats(plan().state.cols); }

  // The share of the first rank.
  const Plan& plan() const { return first().plan(); }
  const CpuExecutor& rank(int rank) const { return *ranks_[rank]; }
  int ranks() const { return static_cast<int>(ranks_.size()); }
  // Of the first rank, whose threads include the caller of run().
  void measure_ops() { ranks_.front()->measure_ops(); }
  const OpTimes* op_times() const { return first().op_times(); }
  // There must be one rank.
  void trace(TracedPlan& trace);
  size_t arena_bytes() const;

 private:
  const CpuExecutor& first() const { return *ranks_.front(); }
  // The rank of the last stage whose outputs are those of a home; null: in another process.
  const CpuExecutor* last(int home) const;
  void bring_outputs(kernels::Part part);

  ThreadTeam& team_;
  const RankLayout layout_;
  const int homes_, first_rank_;
  Communicator* const all_;  // where outputs come from other processes, else null
  std::vector<std::unique_ptr<CpuExecutor>> ranks_;
  std::vector<std::unique_ptr<CpuExecutor>> alone_;  // per home: PlanShares::alone with its cache; empty: none
  CpuExecutor* running_alone_ = nullptr;             // that of the step's one home
  std::vector<std::shared_ptr<StepInputs>> inputs_;  // per home
  std::vector<Memory> received_;                     // per home: outputs that come from another process
  std::function<void(int)> walk_;
  const std::function<void(kernels::Part)>* tail_ = nullptr;
};

}  // namespace weft
