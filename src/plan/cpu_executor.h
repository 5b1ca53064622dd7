// Runs a plan on the CPU: binds every op to fixed addresses once, then each step wakes the thread team once and all its
// threads walk the op list together, with barriers only where ops need one.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/thread_team.h"
#include "plan/memory.h"
#include "plan/op_times.h"
#include "plan/passes.h"
#include "plan/plan.h"
#include "plan/step_inputs.h"
#include "plan/weights.h"

namespace weft {

struct ExecutorLimits {
  int max_tokens = 0;     // rows of a step
  int max_outputs = 0;    // rows whose output is wanted
  int max_sequences = 0;  // in a step
  int max_seq_len = 0;
  int max_mixed = 0;  // rows of Rows::mixed
};

// Where each cache group's blocks lie.
struct CacheMemory {
  std::vector<std::byte*> base;            // per group: block 0
  std::vector<size_t> block_stride_bytes;  // per group
  int tokens_per_block = 0;
  DType dtype = DType::f32;         // f32, bf16 or i8
  std::byte* cross_base = nullptr;  // of the cross group, in blocks of kCrossBlock tokens
  size_t cross_stride_bytes = 0;
  DType local_dtype = DType::f32;  // f32 or bf16: of the local groups, which keep nothing from step to step
};
constexpr int kCrossBlock = 64;

class CpuExecutor {
 public:
  // The plan must have been through the passes that the weights were loaded for (see prepare_plan). `weights`, `cache`
  // and `team` must outlive the executor.
  CpuExecutor(Plan plan, const Weights& weights, const kernels::CpuTable& table, ThreadTeam& team, CacheMemory cache,
              ExecutorLimits limits);

  StepInputs& inputs() { return inputs_; }
  // Runs the step that inputs() describes. `tail` is called by every thread behind a barrier after the last op
  // (sampling). replay == false: resolves every op's addresses anew before it runs, as the first step does.
  void run(const std::function<void(kernels::Part)>& tail, bool replay = true);
  // The same in pieces of some ops each, with other work in between: begin_pieces() once the inputs are set, then
  // run_piece() until it returns false. Binds anew, so inputs may lie elsewhere each time.
  void begin_pieces();
  bool run_piece(int ops);
  // [outputs, cols] of the last run; ld in floats.
  const float* output() const;
  int64_t output_ld() const;
  int output_cols() const { return plan_.output.cols; }

  const Plan& plan() const { return plan_; }
  // Where a layer's keys and values lie.
  kernels::CacheView cache_view(CacheRef ref) const;
  // From here on the ops' times are taken, which costs a look at the clock before and after each. Not while a step
  // runs.
  void measure_ops();
  const OpTimes* op_times() const { return times_.get(); }
  size_t arena_bytes() const { return arena_.bytes(); }

 private:
  struct AttendCombine {
    kernels::AttendArgs args;
  };
  struct ExpertsArgs {
    kernels::LinearArgs linear;  // of any one expert
    const std::vector<int>* matrices = nullptr;
    const int32_t* grouped = nullptr;  // as GroupRowsArgs::out
  };
  struct PerHeadArgs {
    kernels::LinearArgs linear;  // of the first head
    const std::vector<int>* matrices = nullptr;
    int64_t in_stride_bytes = 0, out_stride = 0;
  };
  struct BoundOp {
    std::variant<kernels::EmbedArgs, kernels::LinearArgs, kernels::NormArgs, kernels::RopeAnglesArgs,
                 kernels::HeadsArgs, kernels::AppendArgs, kernels::AttendArgs, AttendCombine, kernels::ActivateArgs,
                 kernels::AddArgs, kernels::SelectRowsArgs, kernels::ToOperandArgs, kernels::RouteArgs,
                 kernels::GroupRowsArgs, ExpertsArgs, kernels::ScaleRowsArgs, kernels::CombineArgs, PerHeadArgs,
                 kernels::MixRowsArgs, kernels::MergeRowsArgs, kernels::GateArgs, kernels::PlaceArgs>
        args;
    Rows rows = Rows::tokens;
    int slots = 1;  // the kernel sees so many rows for each of the value's
    bool layer_norm = false;
    bool images_only = false;
    bool barrier = false;  // before it
    // the first bound op from here on that multiplies with one matrix; -1: none
    int next_product = -1;
    const kernels::AttendPlan* combine_of = nullptr;  // AttendCombine: skipped when nothing was spread
  };

  void bind();
  BoundOp bind_op(const Op& op) const;
  const std::vector<int32_t>& ids_of(IdSource source) const;
  kernels::AttendArgs attend_args(const Op& op, const AttendOp& attend) const;
  void* address(const Value& v) const;
  int64_t ld(const Value& v) const { return layout_.ld[v.storage]; }
  void walk(kernels::Part part);
  ThreadTeam::Ahead first_weights(int product, kernels::Part part) const;
  void run_op(size_t index, kernels::Part part);
  void run_linear(const kernels::LinearArgs& args, int rows, kernels::Part part, std::atomic<int>& next_task) const;
  void run_experts(const ExpertsArgs& args, kernels::Part part) const;
  void run_per_head(const PerHeadArgs& args, int rows, kernels::Part part) const;
  CacheSpec stored_spec(CacheRef ref) const;
  void allocate_local_groups();
  GroupInputs& group_inputs(CacheRef ref) {
    return ref.cross ? inputs_.cross : (ref.local ? inputs_.local_groups : inputs_.groups)[ref.group];
  }
  const GroupInputs& group_inputs(CacheRef ref) const {
    return ref.cross ? inputs_.cross : (ref.local ? inputs_.local_groups : inputs_.groups)[ref.group];
  }
  void reset_tasks();
  void plan_groups();
  void plan_group(CacheRef ref);

  Plan plan_;
  const Weights& weights_;
  const kernels::CpuTable& table_;
  ThreadTeam& team_;
  CacheMemory cache_;
  ExecutorLimits limits_;
  Arena layout_;
  Memory arena_, partials_, scratch_;
  std::vector<Memory> local_cache_;  // per local group
  size_t scratch_bytes_ = 0;         // per thread
  std::vector<bool> barriers_;
  std::vector<BoundOp> bound_;
  struct alignas(64) TaskCounter {
    std::atomic<int> next{0};
  };
  std::vector<TaskCounter> tasks_;  // per bound op; of products that threads share out as they go
  StepInputs inputs_;
  const std::function<void(kernels::Part)>* tail_ = nullptr;
  size_t first_ = 0, last_ = 0;  // bound ops of the running piece
  std::function<void(int)> walk_;
  std::unique_ptr<OpTimes> times_;  // null: not measured
};

// The passes that every plan goes through before it is loaded and bound: dead ops, residual adds, gates, operand forms
// for weights of `form`, or of their own formats where choose_formats() (weight_formats.h) has set these.
Plan prepare_plan(Plan plan, const kernels::CpuTable& table, kernels::WeightForm form);
// The form a matrix of the plan is stored in when the model's is `form`.
kernels::WeightForm form_of(const Matrix& matrix, kernels::WeightForm form);
// Its own format, or that of form_of().
kernels::WeightFormat format_of(const Matrix& matrix, kernels::WeightForm form);

}  // namespace weft
