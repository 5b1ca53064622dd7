// Runs a model's plan on ranks of this process: every rank its own share of it, all together in one run of the thread
// team. Where ranks are processes, each runs its own, and rank 0 gets the outputs of all.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "comm/delivery.h"
#include "plan/cpu_executor.h"
#include "plan/output_parts.h"
#include "plan/rank_team.h"

namespace weft {

// What a rank has of a model.
struct PlanShare {
  Plan plan;  // after the passes
  Weights weights;
  std::optional<Plan> adapted;  // the same with adapters (adapters.h), where the model takes any
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

// Successive ranks of this process.
struct RankSpan {
  int first = 0, count = 0;
};

class RankedExecutor {
 public:
  // For `these` ranks, a stage or all; `caches`: where the blocks of each of them lie. `lanes`: steps whose outputs may
  // be on their way from other processes at a time. The shares' weights, the caches, `ranks` and `adapters` (of shares
  // with PlanShare::adapted) must outlive the executor.
  RankedExecutor(const PlanShares& shares, const kernels::CpuTable& table, const RankTeam& ranks, RankSpan these,
                 std::vector<CacheMemory> caches, ExecutorLimits limits, int lanes = 1,
                 const AdapterTable* adapters = nullptr);

  // Without attention data parallelism one, whose inputs and outputs are those of all ranks; with it every rank of a
  // stage is the home of sequences of its own (core/step.h).
  int homes() const { return homes_; }
  StepInputs& inputs(int home = 0) { return *inputs_[home]; }
  const StepInputs& inputs(int home = 0) const { return *inputs_[home]; }
  // Whether rows may have adapters: StepInputs::adapter_of is to be set for all rows.
  bool takes_adapters() const { return takes_adapters_; }
  // Whether the step has anything to compute.
  bool has_rows() const;
  // Once the inputs are set: where the step's outputs will lie depends on them, and whether it has rows with adapters.
  // prepare() and run() do it too.
  void begin();
  // In rank 0's process: row() and summaries() know their places from here on, before the step is run. `entered`: the
  // executor of the first stage, which has the step's inputs; prepare() and run() do it with this one's.
  void place_outputs(const RankedExecutor& entered, int lane);
  // Whether rows of a home may be wanted as summaries (StepInputs::summary_bytes), and how long these may be; `how`
  // makes them.
  bool in_parts(int home) const { return outputs_.in_parts(home); }
  int most_summary_bytes() const { return outputs_.most_summary_bytes(); }
  void summarise(Summarise how) { summarise_ = std::move(how); }
  // Runs the step that inputs() describes on all threads of the team, which are all of these ranks'. `tail` is called
  // by every thread behind a barrier after the last op (sampling). replay == false: resolves every op's addresses anew
  // before it runs, as the first step does.
  void run(const std::function<void(kernels::Part)>& tail, bool replay = true);
  // The same inside a run of the team, beside or behind other plans: one thread calls prepare() once the inputs are
  // set, and behind a barrier every thread of these ranks calls walk_inside() with its part of them. In rank 0's
  // process every thread of the team calls take_outputs() before row() is read. Barriers behind the two are the
  // caller's to set.
  void prepare(bool replay = true, int lane = 0);
  void walk_inside(kernels::Part part);
  // Waits for the outputs of the step that was prepared with this lane, where they come from other processes.
  void take_outputs(kernels::Part part, int lane = 0);
  // Any thread: see CpuExecutor. Layers of a group that all ranks have written.
  void begin_step(uint64_t number);
  int written_layers(uint64_t number, int group) const;
  // Behind the walk of the first rank's thread `part`; its time counts as one more op's.
  void run_behind(const std::function<void(kernels::Part)>& tail, kernels::Part part) {
    of(ranks_.front()).run_behind(tail, part);
  }

  // A row of the outputs of the last run, or of a lane's, of a home: all columns, unless it is wanted as a summary. In
  // rank 0's process. Whole rows are output_ld() floats apart.
  const float* row(int home, int row, int lane = 0) const {
    if (in_parts(home)) return outputs_.row(lane, home, row);
    return last(home, adapted_lanes_[static_cast<size_t>(lane)])->output() + row * output_ld();
  }
  int64_t output_ld() const { return row_floats(output_cols()); }
  int output_cols() const { return plan().all_output_cols(); }
  // The summaries of a row, of all parts in order; empty where it is whole.
  std::span<const std::byte> summaries(int home, int row, int lane = 0) const {
    return in_parts(home) ? outputs_.summaries(lane, home, row) : std::span<const std::byte>();
  }
  // The same of Plan::taps and Plan::state, [tokens, cols], where the plan has them; null where another process has
  // what the home's rows have left.
  const float* taps(int home = 0) const {
    const CpuExecutor* const executor = last(home, with_adapters_);
    return executor ? executor->taps() : nullptr;
  }
  int64_t taps_ld() const { return row_floats(plan().taps.cols); }
  const float* state(int home = 0) const {
    const CpuExecutor* const executor = last(home, with_adapters_);
    return executor ? executor->state() : nullptr;
  }
  int64_t state_ld() const { return row_floats(plan().state.cols); }

  // The share of the first rank.
  const Plan& plan() const { return first().plan(); }
  const CpuExecutor& rank(int rank) const { return *ranks_[rank].plain; }
  int ranks() const { return static_cast<int>(ranks_.size()); }
  // Of the first rank, whose threads include the caller of run(), in steps without adapters.
  void measure_ops() { ranks_.front().plain->measure_ops(); }
  const OpTimes* op_times() const { return first().op_times(); }
  // There must be one rank.
  void trace(TracedPlan& trace);
  size_t arena_bytes() const;

 private:
  // A rank's two plans over the same inputs and cache: steps with adapters take the second, where there is one.
  struct Executors {
    std::unique_ptr<CpuExecutor> plain, adapted;
  };
  Executors make(const PlanShare& share, const kernels::CpuTable& table, const RankSeat& seat, CacheMemory cache,
                 ExecutorLimits limits, const std::shared_ptr<StepInputs>& inputs, bool plans_attention,
                 const AdapterTable* adapters, int place) const;
  static CpuExecutor& of(const Executors& rank, bool with_adapters) {
    return with_adapters ? *rank.adapted : *rank.plain;
  }
  CpuExecutor& of(const Executors& rank) const { return of(rank, with_adapters_); }
  const CpuExecutor& first() const { return *ranks_.front().plain; }
  // The rank of the last stage whose outputs are those of a home, in steps with adapters or without; null: in another
  // process.
  const CpuExecutor* last(int home, bool with_adapters) const;
  // Which of all parts a rank has; those of several homes have one each. -1: none.
  int part_of(int rank) const;
  void find_adapters();
  void give_outputs(int rank, kernels::Part threads);
  void deliver_outputs();

  ThreadTeam& team_;
  const RankLayout layout_;
  const int homes_, first_rank_, first_thread_;
  std::unique_ptr<Delivery> delivery_;  // where outputs come from other processes, else null
  const bool takes_adapters_;
  bool with_adapters_ = false;       // the step has rows with adapters
  std::vector<bool> adapted_lanes_;  // the same of each lane's, once its outputs are placed
  std::vector<Executors> ranks_;
  std::vector<Executors> alone_;                     // per home: PlanShares::alone with its cache; empty: none
  const Executors* running_alone_ = nullptr;         // that of the step's one home
  std::vector<std::shared_ptr<StepInputs>> inputs_;  // per home
  OutputParts outputs_;
  Summarise summarise_;
  int lane_ = 0;                                        // of the running step
  std::vector<Memory> messages_;                        // per rank: to rank 0's process; empty there
  std::vector<std::unique_ptr<ThreadBarrier>> walked_;  // per rank: its threads
  ThreadBarrier all_walked_;                            // of all ranks
  std::function<void(int)> walk_;
  const std::function<void(kernels::Part)>* tail_ = nullptr;
};

}  // namespace weft
