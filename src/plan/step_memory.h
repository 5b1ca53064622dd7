// Where everything lies that the ops of a step read and write besides the weights: the step's inputs, its values, and
// the keys of its caches. Reserved once, for the largest step; the addresses of values stay the same.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "plan/memory.h"
#include "plan/passes.h"
#include "plan/plan.h"
#include "plan/step_inputs.h"

namespace weft {

struct ExecutorLimits {
  int max_tokens = 0;     // rows of a step
  int max_outputs = 0;    // rows whose output is wanted
  int max_sequences = 0;  // in a step
  int max_seq_len = 0;
  int max_mixed = 0;  // rows of Rows::mixed
  // Of products in front of sums over ranks: rows of a piece, however few there are and whatever the ranks are. 0: as
  // sum_pieces() says where messages travel while ranks compute, else one piece.
  int piece_rows = 0;
  RowLimits rows() const { return {max_tokens, max_outputs, max_mixed}; }
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
constexpr int kCrossBlock = 64, kLocalBlock = 64;  // tokens of a block of the cross group, of a local group

// Inputs with room for the largest step of a plan.
StepInputs size_inputs(const Plan& plan, const ExecutorLimits& limits);

class StepMemory {
 public:
  // `plan` must outlive it. `inputs`: another's, of a plan with the same inputs; null: its own.
  StepMemory(const Plan& plan, const kernels::CpuTable& table, int threads, CacheMemory cache, ExecutorLimits limits,
             std::shared_ptr<StepInputs> inputs = nullptr);

  const ExecutorLimits& limits() const { return limits_; }
  StepInputs& inputs() { return *inputs_; }
  const StepInputs& inputs() const { return *inputs_; }
  const std::shared_ptr<StepInputs>& shared_inputs() const { return inputs_; }
  const std::vector<int32_t>& ids(IdSource source) const;

  const Arena& layout() const { return layout_; }
  size_t arena_bytes() const { return arena_.bytes(); }
  void* address(const Value& v) const;
  int64_t ld(const Value& v) const { return layout_.ld[v.storage]; }  // in elements of its operand form
  int storage_cols(const Value& v) const { return plan_.storages[v.storage].cols; }
  kernels::Operand operand(const Value& v) const { return plan_.storages[v.storage].operand; }

  // A thread's own, while it runs an op: at least room for what adapters make of the rows (AdapterOutOp).
  std::byte* scratch(int thread) const { return scratch_.data() + scratch_bytes_ * static_cast<size_t>(thread); }

  // Where a layer's keys and values lie.
  kernels::CacheView cache_view(CacheRef ref) const;
  // Attention over a layer's keys; without its queries and output.
  kernels::AttendArgs attend_args(CacheRef ref) const;

 private:
  CacheSpec stored_spec(CacheRef ref) const;
  void reserve_local_groups();
  void reserve_attention(const kernels::CpuTable& table, int threads);

  const Plan& plan_;
  CacheMemory cache_;
  ExecutorLimits limits_;
  Arena layout_;
  Memory arena_, partials_, scratch_;
  std::vector<Memory> local_cache_;  // per local group
  size_t scratch_bytes_ = 0;         // per thread
  std::shared_ptr<StepInputs> inputs_;
};

}  // namespace weft
