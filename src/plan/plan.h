// The step plan: a flat list of operations that computes one step of a model, whatever the model is.
//
// A model file calls blocks, blocks call PlanBuilder (plan_builder.h), and that appends ops. Nothing is computed here: values are
// symbols, the number of rows is not known yet, and weights are only named. Passes (passes.h) rewrite the list, the loader
// (weights.h) brings the matrices into the kernels' packed form, and the executor (cpu_executor.h) binds it all to memory once
// and runs it for every step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/cache_spec.h"
#include "kernels/kernels.h"

namespace weft {

// Which run-time count the leading extent of a value follows: all tokens of the step, or the rows whose output is wanted.
enum class Rows : uint8_t { tokens, outputs };

// Some columns of a stored value. Slicing makes another Value of the same storage.
struct Value {
  int storage = -1;
  int first_col = 0, cols = 0;
  Rows rows = Rows::tokens;
  bool operator==(const Value&) const = default;
};

// How a matrix would be cut over tensor-parallel ranks. Row-sharded matrices sum k in fixed shards, so that the answer is the
// same for every number of ranks (docs/exactness.md).
enum class Shard : uint8_t { none, columns, rows };

// Rows [first_row, first_row + rows) of a checkpoint tensor.
struct TensorRows {
  std::string tensor;  // with its ".weight"
  int64_t first_row = 0, rows = 0;
  int64_t tensor_rows = 0;  // of the whole tensor, for the shape check; 0: first_row + rows
};

// One matrix of the plan, of one or more checkpoint tensors stacked along the output dimension (q, k, v -> qkv).
struct Matrix {
  std::vector<TensorRows> sources;
  std::vector<TensorRows> biases;  // empty, or one per source (an empty tensor name: zeros)
  int k = 0;
  Shard shard = Shard::none;
  int shard_unit = 1;  // k is cut at multiples of this only (the head size; 1)
  bool keep_float32 = false;  // never rounded to 16 bits (routers)
  std::optional<kernels::WeightFormat> format;  // set by choose_formats(); without: the model's form
  int64_t out() const {
    int64_t sum = 0;
    for (const TensorRows& source : sources) sum += source.rows;
    return sum;
  }
  int shards() const;  // 8, 4, 2 or 1; parts of quantised matrices are whole strips
  int64_t bytes(kernels::WeightForm form) const;  // in memory, when the model's form is `form`
};

// A float32 vector (norm weights, rope frequencies): from a tensor, or given.
struct VectorWeight {
  std::string tensor;
  int64_t size = 0;
  std::vector<float> values;  // when `tensor` is empty
  std::string divided_by;     // not empty: given values are divided by this tensor's (GGUF's rope factors)
};

// One layer's place in the cache: which group of equal layers, and where in it.
struct CacheRef {
  int group = -1, index = 0;
};
struct LayerGroup {
  CacheSpec spec;
  int layers = 0;
  int heads = 0;  // query heads, for cutting the attention into work items
};

// ---- Operations. Shapes are [rows, cols] of the op's input and output values; ids index the plan's lists, -1 is none. --------

struct EmbedOp {
  int table = -1;   // index into Plan::tables
  int matrix = -1;  // instead: the packed matrix of the tied output
  float scale = 1.0f;
};
struct LinearOp {
  int matrix = -1;
  bool add = false;  // adds the second input (residual); made by a pass
};
struct NormOp {
  bool layer = false;  // layer norm instead of RMS norm
  bool one_plus = false;
  int weight = -1, bias = -1;
  float eps = 1e-6f;
};
struct RopeAnglesOp {
  int inv_freq = -1;
  float factor = 1.0f;
  std::vector<uint8_t> axis_of;  // empty: one axis
};
// In place: the output is the input. Second input: the angles, if it rotates.
struct HeadsOp {
  int heads = 0, dim = 0;
  kernels::HeadNorm norm = kernels::HeadNorm::none;
  bool norm_after = false;
  int norm_weight = -1;
  float eps = 1e-6f;
  int half = 0;
  bool interleaved = false;
  float floor_scale = 0, attn_scale = 0;
};
struct AppendOp {  // inputs: k, v; no output
  CacheRef cache;
};
struct AttendOp {  // input: q
  CacheRef cache;
  int heads = 0;
  float scale = 1.0f;
  kernels::Mask mask = kernels::Mask::causal;
};
struct ActivateOp {
  kernels::Activation act = kernels::Activation::silu;
  bool gated = true;
};
struct AddOp {};
struct SelectOp {};     // keeps the rows whose output is wanted
struct ToOperandOp {};  // made by a pass: the input of matrix products in their form

using OpKind = std::variant<EmbedOp, LinearOp, NormOp, RopeAnglesOp, HeadsOp, AppendOp, AttendOp, ActivateOp, AddOp, SelectOp, ToOperandOp>;

struct Op {
  OpKind kind;
  std::vector<Value> in;
  std::optional<Value> out;
  std::string path;  // where in the checkpoint it comes from, for dumps and traces
};

const char* op_name(const Op& op);

// What the plan's last value is.
enum class HeadKind : uint8_t {
  lm,             // logits of the next token
  classify_first, // class logits at each sequence's first token
  reward_last,    // a score at each sequence's last token (shown at every token)
  reward_steps,   // label logits at every token; the scores are at step separators
};

struct Storage {
  int cols = 0;
  Rows rows = Rows::tokens;
  kernels::Operand operand = kernels::Operand::f32;  // other than f32 only for inputs of matrix products; set by a pass
};

struct Plan {
  std::string architecture;
  std::vector<Op> ops;
  std::vector<Storage> storages;
  std::vector<Matrix> matrices;
  std::vector<VectorWeight> vectors;
  std::vector<TensorRows> tables;  // embedding tables that are not tied
  std::vector<int> table_cols;
  std::vector<LayerGroup> groups;
  Value output;
  HeadKind head = HeadKind::lm;
  int position_axes = 1;
};

// A printable list: one line per op with shapes, weights, bytes when the model's form is `form` and FLOPs per row.
std::string plan_to_text(const Plan& plan, kernels::WeightForm form);

}  // namespace weft
