// Binding: what an op's kernel is called with in every step, from the plan's op and the addresses of its values.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "kernels/kernels.h"
#include "plan/plan.h"
#include "plan/step_memory.h"
#include "plan/weights.h"

namespace weft {

// ExpertsOp: a product for each expert that has rows.
struct ExpertsCall {
  kernels::LinearArgs linear;                  // of any one expert
  const std::vector<int>* matrices = nullptr;  // of experts first_expert, first_expert + 1, ...
  int experts = 0, first_expert = 0;
  const int32_t* grouped = nullptr;  // as GroupRowsArgs::out, of all experts
};
// PerHeadOp: a product for each head.
struct PerHeadCall {
  kernels::LinearArgs linear;  // of the first head
  const std::vector<int>* matrices = nullptr;
  int64_t in_stride_bytes = 0, out_stride = 0;
};

// AdapterInOp and AdapterOutOp: a product for each adapter that has rows, of experts for each of theirs.
struct AdapterCall {
  kernels::LinearArgs linear;  // of all rows; without weights. Out: x is float32 still
  const AdapterOp* op = nullptr;
  Rows rows = Rows::tokens;
  const int32_t* grouped = nullptr;  // as ExpertsCall
};
struct AdapterInCall : AdapterCall {};
struct AdapterOutCall : AdapterCall {};

// Collectives: how the parts are put together, and this rank's part.
template <class Args>
struct CollectiveCall {
  Args args;  // without the parts
  const float* mine = nullptr;
};
using PickRowsCall = CollectiveCall<kernels::PickRowsArgs>;
using AllGatherCall = CollectiveCall<kernels::JoinColumnsArgs>;
using GatherRowsCall = CollectiveCall<kernels::JoinRowsArgs>;
struct GatherSlotsCall {
  kernels::JoinColumnsArgs args;  // without the parts; of rows that are slots
  const float* mine = nullptr;
  int ranks = 0;  // of a set
};
struct AllReduceCall {
  kernels::ReduceArgs args;  // without the parts
  const float* mine = nullptr;
  int places = 1;           // AllReduceOp::places
  bool of_product = false;  // the op before is the product that makes this rank's part
};
struct ReduceScatterCall {
  kernels::ReduceArgs args;
  const float* mine = nullptr;
  int places = 1;
};

// Pipeline stages: what is passed on, rows of `ld` floats, and what comes.
struct SendCall {
  const float* mine = nullptr;
  int64_t ld = 0;
  Rows rows = Rows::tokens;
};
struct ReceiveCall {
  kernels::JoinColumnsArgs args;  // of one part, which is still to come
};

template <class... Args>
auto bound_args(TypeList<Args...>)
    -> std::variant<Args..., ExpertsCall, PerHeadCall, AllReduceCall, PickRowsCall, AllGatherCall, GatherSlotsCall,
                    GatherRowsCall, ReduceScatterCall, SendCall, ReceiveCall, AdapterInCall, AdapterOutCall>;
using BoundArgs = decltype(bound_args(kernels::Kernels{}));

// `op`, `memory` and `weights` must outlive the result.
BoundArgs bind_op(const Op& op, const StepMemory& memory, const Weights& weights);

}  // namespace weft
