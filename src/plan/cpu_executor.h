// Runs a rank's plan on the CPU: binds every op to fixed addresses once, then each step wakes the thread team once and
// all the rank's threads walk the op list together, with barriers only where ops need one.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "comm/communicator.h"
#include "comm/stage_line.h"
#include "core/op_times.h"
#include "plan/adapter_table.h"
#include "plan/bind.h"
#include "plan/passes.h"
#include "plan/plan.h"
#include "plan/step_memory.h"
#include "plan/trace.h"
#include "plan/weights.h"

namespace weft {

// The threads of a rank, and its lines to others.
struct RankSeat {
  ThreadTeam& team;                      // of all ranks of this process
  int threads = 1;                       // of the rank
  ThreadBarrier* barrier = nullptr;      // theirs; null: the team's, all of whose threads are the rank's
  Communicator* communicator = nullptr;  // to the ranks of its stage; null: it has no other
  // To the rank of the next stage, and from that of the one before, that has the same place there.
  StageLine* next = nullptr;
  StageLine* before = nullptr;
};

// Into how many pieces a product in front of a sum over ranks is cut, so that messages of one travel while the next is
// computed (docs/ranks.md). A piece has 256 rows or more: with fewer, messages become small and are slower over TCP.
constexpr int sum_pieces(int64_t rows) { return rows < 512 ? 1 : static_cast<int>(rows / 256); }

class CpuExecutor {
 public:
  // The plan must have been through the passes that the weights were loaded for (see prepare_plan). `weights`, `cache`
  // and what `seat` names must outlive the executor. `inputs`: another executor's, where both take the same ones;
  // that one has planned the attention then, unless this one's threads or heads are others (plans_attention).
  CpuExecutor(Plan plan, const Weights& weights, const kernels::CpuTable& table, RankSeat seat, CacheMemory cache,
              ExecutorLimits limits, std::shared_ptr<StepInputs> inputs = nullptr, bool plans_attention = false);
  // A plan that is not shared: all threads of the team are one rank's.
  CpuExecutor(Plan plan, const Weights& weights, const kernels::CpuTable& table, ThreadTeam& team, CacheMemory cache,
              ExecutorLimits limits)
      : CpuExecutor(std::move(plan), weights, table, RankSeat{team, team.size()}, std::move(cache), limits) {}

  // For a plan of add_adapters(): where its steps find the adapters, and which of a LoadedAdapter's ranks this is; -1:
  // LoadedAdapter::alone. The table must outlive the executor.
  void set_adapters(const AdapterTable& table, int place) { adapters_ = &table, adapter_place_ = place; }

  StepInputs& inputs() { return memory_.inputs(); }
  const StepInputs& inputs() const { return memory_.inputs(); }
  const std::shared_ptr<StepInputs>& shared_inputs() const { return memory_.shared_inputs(); }
  // Runs the step that inputs() describes, by a rank that has all of the team's threads. `tail` is called by every
  // thread behind a barrier after the last op (sampling). replay == false: resolves every op's addresses anew before it
  // runs, as the first step does.
  void run(const std::function<void(kernels::Part)>& tail, bool replay = true);
  // The same step inside a run of the team, by any rank: one thread calls prepare() once the inputs are set (of
  // ranks that share their inputs, the first rank's before the others'), and behind a barrier every thread of the rank
  // calls walk().
  void prepare(bool replay = true);
  void walk(kernels::Part part);
  // Any thread, also while a step runs: what has been written so far. `number`: of the step, as begin_step() was told
  // before it was run. Layers of a group of the cache, from its first on, whose keys and values of the step are in the
  // cache. Nothing if another step runs.
  void begin_step(uint64_t number) { step_ = number; }
  std::optional<int> written_layers(uint64_t number, int group) const;
  // The same in pieces of some ops each, with other work in between: begin_pieces() once the inputs are set, then
  // run_piece() until it returns false. Binds anew, so inputs may lie elsewhere each time.
  void begin_pieces();
  bool run_piece(int ops);
  // What follows the walk, behind a barrier; its time counts as one more op's.
  void run_behind(const std::function<void(kernels::Part)>& tail, kernels::Part part);
  // [outputs, cols] of the last run; ld in floats.
  const float* output() const { return static_cast<const float*>(memory_.address(plan_.output)); }
  int64_t output_ld() const { return memory_.ld(plan_.output); }
  int output_cols() const { return plan_.output.cols; }
  // The same of Plan::taps and Plan::state, [tokens, cols], where the plan has them.
  const float* taps() const { return static_cast<const float*>(memory_.address(plan_.taps)); }
  int64_t taps_ld() const { return memory_.ld(plan_.taps); }
  const float* state() const { return static_cast<const float*>(memory_.address(plan_.state)); }
  int64_t state_ld() const { return memory_.ld(plan_.state); }

  const Plan& plan() const { return plan_; }
  // Where a layer's keys and values lie.
  kernels::CacheView cache_view(CacheRef ref) const { return memory_.cache_view(ref); }
  // From here on the ops' times are taken, which costs a look at the clock before and after each. Not while a step
  // runs.
  void measure_ops();
  const OpTimes* op_times() const { return times_.get(); }
  // From here on ops run one at a time, and what each has written goes to `trace`, which outlives the executor. Not
  // while a step runs.
  void trace(TracedPlan& trace) { trace_ = &trace; }
  size_t arena_bytes() const { return memory_.arena_bytes(); }

 private:
  struct BoundOp {
    BoundArgs args;
    Rows rows = Rows::tokens;
    int slots = 1;  // the kernel's rows of each row
    bool images_only = false;
    Pass pass = Pass::any;
    bool barrier = false;  // before it
    // the first bound op from here on that multiplies with one matrix; -1: none
    int next_product = -1;
    const kernels::AttendPlan* combine_of = nullptr;  // AttendCombineArgs: skipped when nothing was spread
  };

  void check_size() const;
  void bind();
  void barrier(Ahead& ahead);
  Ahead first_weights(int product, kernels::Part part) const;
  void run_op(size_t index, kernels::Part part);
  int row_count(Rows rows) const;
  void run_linear(const kernels::LinearArgs& args, int rows, kernels::Part part, std::atomic<int>& next_task) const;
  void run_experts(const ExpertsCall& call, kernels::Part part) const;
  void run_per_head(const PerHeadCall& call, int rows, kernels::Part part) const;
  template <class Args>
  void run_collective(const CollectiveCall<Args>& call, int rows, kernels::Part part) const;
  void run_gather_slots(const GatherSlotsCall& call, int rows, kernels::Part part) const;
  void run_all_reduce(const AllReduceCall& call, int rows, kernels::Part part) const;
  Communicator::Pieces pieces_of(const AllReduceCall& call, int rows) const;
  void run_product(size_t index, int rows, kernels::Part part);
  void run_in_pieces(const kernels::LinearArgs& args, const Communicator::Pieces& sum, int rows, kernels::Part part,
                     std::atomic<int>& next_task) const;
  void run_reduce_scatter(const ReduceScatterCall& call, int rows, kernels::Part part) const;
  // adapter_rows.cc
  template <class Visit>
  void each_adapter(const AdapterCall& call, Visit visit) const;
  void run_adapter_in(const AdapterInCall& call, kernels::Part part) const;
  void run_adapter_out(const AdapterOutCall& call, kernels::Part part) const;
  void run_send(const SendCall& call, kernels::Part part) const;
  void run_receive(const ReceiveCall& call, int rows, kernels::Part part) const;
  void run_traced_op();
  void reset_tasks();
  void plan_groups();
  void plan_group(CacheRef ref);
  void point_at_inputs();

  Plan plan_;
  const Weights& weights_;
  const kernels::CpuTable& table_;
  const RankSeat seat_;
  const bool plans_attention_;  // else another executor with the same inputs does
  StepMemory memory_;
  const AdapterTable* adapters_ = nullptr;  // null: the plan has none
  int adapter_place_ = 0;
  std::vector<bool> barriers_;  // per op of the plan
  std::vector<BoundOp> bound_;
  std::vector<std::vector<size_t>> appends_;  // per group, of its layers in order: the op that writes it
  uint64_t step_ = 0;
  static constexpr int kOpBits = 20;
  std::atomic<uint64_t> passed_{0};  // the step, and the op before which all threads were last
  struct alignas(64) TaskCounter {
    std::atomic<int> next{0};
  };
  std::vector<TaskCounter> tasks_;  // per bound op; of products that threads share out as they go
  size_t first_ = 0, last_ = 0;     // bound ops of the running piece
  std::function<void(int)> walk_;
  std::unique_ptr<OpTimes> times_;  // null: not measured
  TracedPlan* trace_ = nullptr;     // null: not traced
  size_t traced_ops_ = 0;           // of the running step
};

// The passes that every plan goes through before it is loaded and bound: dead ops, residual adds, gates, operand forms
// for weights of `form`, or of their own formats where choose_formats() (weight_formats.h) has set these. With
// `adapters` the same plan with adapters, for the same weights.
Plan prepare_plan(Plan plan, const kernels::CpuTable& table, kernels::WeightForm form,
                  const AdapterForm* adapters = nullptr);
// The form a matrix of the plan is stored in when the model's is `form`.
kernels::WeightForm form_of(const Matrix& matrix, kernels::WeightForm form);
// Its own format, or that of form_of().
kernels::WeightFormat format_of(const Matrix& matrix, kernels::WeightForm form);

}  // namespace weft
