// Rewrites of a recorded plan, each a function Plan -> Plan, and the layout of its values in memory.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "plan/plan.h"

namespace weft {

// A matrix product whose only reader is an addition takes the other operand as its residual.
Plan fuse_residual_adds(Plan plan);

// A matrix product whose only reader is a gated activation does that itself; its matrix's outputs are reordered for it.
Plan fuse_gates(Plan plan);

// Gives every matrix product its input in the form that the kernels read. Where all readers of a norm, activation,
// gated product or attention want the same form, it writes that itself; elsewhere a to_operand op is put before the
// first reader. `operand_of` tells the form for a matrix of the plan.
Plan place_operands(Plan plan, const std::function<kernels::Operand(const Matrix&)>& operand_of);

// Removes ops whose result nobody reads.
Plan remove_dead_ops(Plan plan);

struct Arena {
  std::vector<size_t> offset;  // per storage, in bytes; 64-byte aligned
  std::vector<int64_t> ld;     // per storage, in elements of its operand form
  size_t bytes = 0;
};

// Floats from one row of a plain value to the next.
constexpr int64_t row_floats(int cols) { return (cols + 15) / 16 * 16; }

// The most rows of each kind in a step.
struct RowLimits {
  int tokens = 0, outputs = 0, mixed = 0;
  int of(Rows rows) const {
    switch (rows) {
      case Rows::tokens: return tokens;
      case Rows::outputs: return outputs;
      case Rows::mixed: return mixed;
      case Rows::gathered: return tokens;  // a step has no more of them, wherever their homes are
    }
    return tokens;
  }
};

// Lays the storages out so that values whose lives do not overlap share memory.
Arena lay_out(const Plan& plan, const RowLimits& limits);

// barrier[i]: all threads must have finished the ops before op i when it starts (some op since the last barrier writes
// what i touches, or touches what i writes).
std::vector<bool> find_barriers(const Plan& plan, const Arena& arena, const RowLimits& limits);

}  // namespace weft
