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
  kernels::LinearArgs linear;  // of any one expert
  const std::vector<int>* matrices = nullptr;
  const int32_t* grouped = nullptr;  // as GroupRowsArgs::out
};
// PerHeadOp: a product for each head.
struct PerHeadCall {
  kernels::LinearArgs linear;  // of the first head
  const std::vector<int>* matrices = nullptr;
  int64_t in_stride_bytes = 0, out_stride = 0;
};

template <class... Args>
auto bound_args(TypeList<Args...>) -> std::variant<Args..., ExpertsCall, PerHeadCall>;
using BoundArgs = decltype(bound_args(kernels::Kernels{}));

// `op`, `memory` and `weights` must outlive the result.
BoundArgs bind_op(const Op& op, const StepMemory& memory, const Weights& weights);

}  // namespace weft
