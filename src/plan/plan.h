// The step plan: a flat list of operations that computes one step of a model, whatever the model is.
//
// A model file calls blocks, blocks call PlanBuilder (plan_builder.h), and that appends ops. Nothing is computed here:
// values are symbols, the number of rows is not known yet, and weights are only named. Passes (passes.h) rewrite the
// list, the loader (weights.h) brings the matrices into the kernels' packed form, and the executor (cpu_executor.h)
// binds it all to memory once and runs it for every step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/cache_spec.h"
#include "kernels/kernels.h"

namespace weft {

// Which run-time count the leading extent of a value follows: all tokens of the step, or the rows whose output is
// wanted. mixed: rows between the two in vision towers. gathered: the tokens of all homes, those of the first home
// first.
enum class Rows : uint8_t { tokens, outputs, mixed, gathered };

// Some columns of a stored value. Slicing makes another Value of the same storage.
struct Value {
  int storage = -1;
  int first_col = 0, cols = 0;
  Rows rows = Rows::tokens;
  bool operator==(const Value&) const = default;
};

// Whether a matrix sums k in fixed shards, as one does whose rows of k tensor-parallel ranks would share, so that the
// answer is the same for every number of ranks (docs/exactness.md).
enum class Shard : uint8_t { none, rows };

// A weight that another plan has in memory, which this one reads too: a draft's embedding and head are often those of
// its target (Weights::Lent).
enum class Borrowed : uint8_t { no, embedding, head };

// Output rows of a matrix that come from a checkpoint tensor: its rows [first_row, first_row + rows), or with
// `transposed` its columns [first_col, first_col + rows) over the rows [first_row, first_row + k) (tensors that are
// stored as [in, out]).
struct TensorRows {
  std::string tensor;  // with its ".weight"
  int64_t first_row = 0, rows = 0;
  std::vector<int64_t> shape = {};  // of the whole tensor, for the check; empty: [first_row + rows, k]
  bool transposed = false;
  int64_t first_col = 0;
  Borrowed borrowed = Borrowed::no;  // else not looked for in the checkpoint; the one source of its matrix, or a table
  bool operator==(const TensorRows&) const = default;
};

// One matrix of the plan, of one or more checkpoint tensors stacked along the output dimension (q, k, v -> qkv).
struct Matrix {
  std::vector<TensorRows> sources;
  std::vector<TensorRows> biases;  // empty, or one per source (an empty tensor name: zeros)
  int k = 0;
  // The tensors' columns [first_k, first_k + k) of tensor_k, where ranks share them; tensor_k 0: all.
  int first_k = 0, tensor_k = 0;
  Shard shard = Shard::none;
  int shard_count = 0;        // of a rank's share: what is left to it of shards(); 0: as k and the unit say
  int shard_unit = 1;         // k is cut at multiples of this only (the head size; 1)
  bool keep_float32 = false;  // never rounded to 16 bits (routers)
  // The outputs are those of the sources in turn, kernels::kGateColumns of the first half and as many of the second
  // (and so their biases); set by a pass.
  bool gated = false;
  std::optional<kernels::WeightFormat> format;  // set by choose_formats(); without: the model's form
  int64_t out() const {
    int64_t sum = 0;
    for (const TensorRows& source : sources) sum += source.rows;
    return sum;
  }
  int shards() const;                             // 8, 4, 2 or 1; parts of quantised matrices are whole strips
  int64_t bytes(kernels::WeightForm form) const;  // in memory, when the model's form is `form`
  Borrowed borrowed() const { return sources.front().borrowed; }
  bool operator==(const Matrix&) const = default;
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
  // paged: a group of Plan::groups, in blocks that the cache manager hands out.
  // local: a group of Plan::local_groups, whose keys are those of the running step only (encoders). The executor owns
  //        that memory, and all layers of the group use it in turn.
  // cross: Plan::cross_group, keys of images in memory of the worker.
  enum class Kind : uint8_t { paged, local, cross };
  Kind kind = Kind::paged;
  int group = 0, index = 0;
  bool same_group(CacheRef other) const { return kind == other.kind && group == other.group; }
};
struct LayerGroup {
  CacheSpec spec;
  int layers = 0;
  int heads = 0;  // query heads, for cutting the attention into work items
  kernels::Mask mask = kernels::Mask::causal;
  int segments = 0;       // local groups: which of the step's ways to cut its rows into sequences
  int first_kv_head = 0;  // of a rank's share
  int first_layer = 0;    // of a stage's: the group's layers in the stages before
  // As the kernels take them: the span of that kind, else 0.
  int window() const { return spec.kind == CacheSpec::Kind::window ? spec.span : 0; }
  int chunk() const { return spec.kind == CacheSpec::Kind::chunk ? spec.span : 0; }
};

// ---- Operations. Shapes are [rows, cols] of the op's input and output values; ids index the plan's lists, -1 is none.
// Each has a name for listings and its constants; it is bound to a kernel by its bind() in bind.cc.

// What an embedding table is looked up by; those from class_rows on are of vision towers (VisionIndices).
enum class IdSource : uint8_t {
  tokens,
  positions,
  token_types,
  class_rows,
  tile_rows,
  canvas_rows,
  canvas_tiles,
  padded_canvas_tiles
};

struct EmbedOp {
  static constexpr const char* kName = "embed";
  IdSource ids = IdSource::tokens;
  int table = -1;   // index into Plan::tables
  int matrix = -1;  // instead: the packed matrix of the tied output
  float scale = 1.0f;
  int ids_below = 0;               // that all ranks together can look up
  int first_id = 0, id_count = 0;  // of a rank's share of the vocabulary; zeros in rows of other ids. count 0: all
};
struct LinearOp {
  static constexpr const char* kName = "linear";
  int matrix = -1;
  bool add = false;      // adds the second input (residual); made by a pass
  bool partial = false;  // a rank's part of the sum: without the biases
  // of a gated matrix: the output is act(first half) * second half; made by a pass
  std::optional<kernels::Activation> gate;
  bool apart = false;  // of a gated matrix: the output is both halves, one after the other; made by add_adapters()
};
struct NormOp {
  static constexpr const char* kName = "norm";
  bool layer = false;  // layer norm instead of RMS norm
  bool one_plus = false;
  int weight = -1, bias = -1;
  float eps = 1e-6f;
};
struct RopeAnglesOp {
  static constexpr const char* kName = "rope_angles";
  int inv_freq = -1;
  float factor = 1.0f;
  std::vector<uint8_t> axis_of;  // empty: one axis
};
// Norm and rotation of each head. Second input: the angles, if it rotates. The output may be the input; heads lie
// in_stride columns apart in the input and out_stride in the output.
struct HeadsOp {
  static constexpr const char* kName = "heads";
  int heads = 0, dim = 0;
  int in_stride = 0, out_stride = 0;
  kernels::HeadNorm norm = kernels::HeadNorm::none;
  bool norm_after = false;
  int norm_weight = -1;
  float eps = 1e-6f;
  int half = 0;
  bool interleaved = false;
  float floor_scale = 0, attn_scale = 0;
};
// In: k, v (a latent cache has no v); no output.
struct AppendOp {
  static constexpr const char* kName = "append";
  CacheRef cache;
};
// In: q.
struct AttendOp {
  static constexpr const char* kName = "attend";
  CacheRef cache;
  int heads = 0;
  float scale = 1.0f, soft_cap = 0.0f;
};
struct ActivateOp {
  static constexpr const char* kName = "activate";
  kernels::Activation act = kernels::Activation::silu;
  bool gated = true;
  int cols = 0;  // of the result, of each slot
  int slots = 1;
};

// Mixture of experts. Values with `slots` hold one row per chosen expert of a token side by side, in ascending order of
// the expert's id, each padded to a multiple of 16 columns.
constexpr int slot_stride(int cols) { return (cols + 15) / 16 * 16; }

// In: router logits; out: a table of the chosen experts and their weights (kernels::RouteArgs).
struct RouteOp {
  static constexpr const char* kName = "route";
  kernels::RouteRule rule;
  int bias = -1;  // vector
};
// In: the chosen experts; out: the step's rows in order of experts (kernels::GroupRowsArgs).
struct GroupRowsOp {
  static constexpr const char* kName = "group_rows";
  int experts = 0, slots = 0;
};
// In: x, the grouped rows; out: [tokens, slots * slot_stride(matrix's out)].
struct ExpertsOp {
  static constexpr const char* kName = "experts";
  std::vector<int> matrices;  // of experts first_expert, first_expert + 1, ..., all of one shape
  int experts = 0, first_expert = 0;
  int slots = 0;
  bool same_input = false;  // all experts of a token read one row; else x has slots too
};
// In: x, the chosen experts; out: slot j is x times the weight of the j-th expert.
struct ScaleRowsOp {
  static constexpr const char* kName = "scale_rows";
  int slots = 0;
};
// In: x with slots, the chosen experts; out: the sum of those in the range of ids (weighted, or plain); see
// kernels::CombineArgs.
struct CombineOp {
  static constexpr const char* kName = "combine";
  int experts = 0, first_expert = 0, last_expert = 0;
  int slots = 0;
  bool weighted = true;
};
// One matrix per head: y[r, h] = x[r, h] W_h^T; heads lie in_stride columns apart in x and out_stride in y. out may be
// part of a storage.
struct PerHeadOp {
  static constexpr const char* kName = "per_head";
  std::vector<int> matrices;
  int in_stride = 0, out_stride = 0;
};

// kernels::ArrangeArgs: the input of products with matrices whose columns are kept in another order, or whose input is
// scaled or rounded; made by choose_formats().
struct ArrangeOp {
  static constexpr const char* kName = "arrange";
  int order = -1, factors = -1;  // vectors
  InputRounding rounding = {};
  int slots = 1, cols = 0;  // of each slot; cols 0: of the whole row
};

// Vision towers. Out: the step's pixels [tokens, cols].
struct InputOp {
  static constexpr const char* kName = "input";
};
// kernels::MixRowsArgs by the step's table of that number.
struct MixRowsOp {
  static constexpr const char* kName = "mix_rows";
  int table = 0, parts = 1;
};
// kernels::GateArgs.
struct GateOp {
  static constexpr const char* kName = "gate";
  int gate = -1;  // vector of one number
  bool complement = false;
  uint8_t bit = 0;  // of the step's row flags; 0: all rows
};
// kernels::PlaceArgs; out is part of a storage.
struct PlaceOp {
  static constexpr const char* kName = "place";
  int step = 1;
};
// In place: rows of features in place of embeddings.
struct MergeFeaturesOp {
  static constexpr const char* kName = "merge_features";
};

// Ranks; made by split_plan(). The first input is this rank's part, a storage that other ranks read. Out: what all
// parts make together, the same on all ranks. The sum of the parts, and the biases of a matrix; with `add` also the
// second input (made by a pass). With several `places`, successive ranks have parts of so many equal ranges of columns
// in turn, and each range is the sum of its parts.
struct AllReduceOp {
  static constexpr const char* kName = "all_reduce";
  int matrix = -1;
  bool add = false;
  int places = 1;
};
// Each row from the rank that has it; zeros elsewhere.
struct PickRowsOp {
  static constexpr const char* kName = "pick_rows";
};
// The parts side by side; each has as many columns as this rank's storage, but the last may have fewer.
struct AllGatherOp {
  static constexpr const char* kName = "all_gather";
};

// Of values with slots: for each slot the parts, `cols` columns each, of this rank's set, side by side. Sets are
// `ranks` successive ranks.
struct GatherSlotsOp {
  static constexpr const char* kName = "gather_slots";
  int ranks = 0, slots = 0, cols = 0;
};

// Attention data parallelism, where every rank has rows of its own. Out: those of all ranks [gathered].
struct GatherRowsOp {
  static constexpr const char* kName = "gather_rows";
};
// In: this rank's part of the sum for the rows of all ranks [gathered]; out: the sum for its own rows. `add` and
// `places` as in AllReduceOp.
struct ReduceScatterOp {
  static constexpr const char* kName = "reduce_scatter";
  bool add = false;
  int places = 1;
};

// Pipeline stages (stage.h). In: what the next stage goes on with, a storage that it reads.
struct SendOp {
  static constexpr const char* kName = "send";
};
// Out: what the stage before has sent; in the same order.
struct ReceiveOp {
  static constexpr const char* kName = "receive";
};

// Low-rank adapters (adapters.h); made by add_adapters(). In the rows of each adapter with factors for the product:
// out = A x, and then out += B in. Experts: x and the grouped rows, in and the grouped rows; of each expert its own.
struct AdapterOp {
  int site = -1;                                     // of Plan::adapter_sites; of experts the first of theirs
  kernels::Operand operand = kernels::Operand::f32;  // in which A reads x and B what A has made
  bool experts = false;
  int experts_in_all = 0, first_expert = 0, expert_count = 0, slots = 1;  // of experts
  bool same_input = true;                                                 // as ExpertsOp
};
struct AdapterInOp : AdapterOp {
  static constexpr const char* kName = "adapter_in";
};
struct AdapterOutOp : AdapterOp {
  static constexpr const char* kName = "adapter_out";
};

// Draft plans. Out: a row from anywhere for each row of the step (StepInputs::states); null: the row keeps what it has.
struct StatesOp {
  static constexpr const char* kName = "states";
};
// Keeps the rows whose output is wanted.
struct SelectOp {
  static constexpr const char* kName = "select";
};
// Made by a pass: the input of matrix products in their form; each of the `slots` is a row of its own, of `cols`
// columns.
struct ToOperandOp {
  static constexpr const char* kName = "to_operand";
  int slots = 1, cols = 0;
};

// The ops of a plan; the elementwise ones (kernels/elementwise.h) are their own.
template <class... F>
auto list_ops(TypeList<F...>)
    -> std::variant<EmbedOp, LinearOp, NormOp, RopeAnglesOp, HeadsOp, AppendOp, AttendOp, ActivateOp, SelectOp,
                    ToOperandOp, ArrangeOp, RouteOp, GroupRowsOp, ExpertsOp, ScaleRowsOp, CombineOp, PerHeadOp, InputOp,
                    MixRowsOp, GateOp, PlaceOp, MergeFeaturesOp, StatesOp, AllReduceOp, PickRowsOp, AllGatherOp,
                    GatherSlotsOp, GatherRowsOp, ReduceScatterOp, SendOp, ReceiveOp, AdapterInOp, AdapterOutOp, F...>;
using OpKind = decltype(list_ops(kernels::ElementwiseOps{}));

// A draft plan runs over rows whose states come from another plan, and then, one draft after the other, over rows whose
// states are its own. An op may be for one of the two alone.
enum class Pass : uint8_t { any, first, chained };

struct Op {
  OpKind kind;
  std::vector<Value> in;
  std::optional<Value> out;
  std::string path;          // where in the checkpoint it comes from, for dumps and traces
  bool images_only = false;  // left out of steps without an image
  Pass pass = Pass::any;
};

const char* op_name(const Op& op);
// Whether all threads of the rank wait in it for other ranks: those of the same stage, or of the next or the one
// before.
enum class Line : uint8_t { none, stage, next, before };
Line line_of(const Op& op);
// The matrices that it multiplies with or looks rows up in.
std::vector<int> matrices_of(const Op& op);

// What the plan's last value is.
enum class HeadKind : uint8_t {
  lm,              // logits of the next token
  classify_first,  // class logits at each sequence's first token
  reward_last,     // a score at each sequence's last token (shown at every token)
  reward_steps,    // label logits at every token; the scores are at step separators
  features,        // of an image, for a language model's embeddings
};

struct Storage {
  int cols = 0;
  Rows rows = Rows::tokens;
  kernels::Operand operand = kernels::Operand::f32;  // other than f32 only for inputs of matrix products; set by a pass
  int extra = 0;                                     // elements after the last row (tables that are not made of rows)
  bool shared = false;                               // other ranks read it, through the collective whose input it is
};

struct Plan {
  std::string architecture;
  std::vector<Op> ops;
  std::vector<Storage> storages;
  std::vector<Matrix> matrices;
  std::vector<VectorWeight> vectors;
  std::vector<int> adapter_sites;  // the matrices to whose products adapters add; of a plan with adapters
  std::vector<TensorRows> tables;  // embedding tables that are not tied
  std::vector<int> table_cols;
  std::vector<size_t> layer_starts;  // the first op of each layer; of a plan that has been through no pass
  std::vector<LayerGroup> groups, local_groups;
  std::optional<LayerGroup> cross_group;
  // tensors, or scopes of tensors, that the checkpoint may hold and the plan does not read
  std::vector<std::string> unused;
  Value output;  // storage -1: none, of all pipeline stages but the last
  // Of the share of a rank with a part of the vocabulary: `output` is columns `first` and on of `all`. The ranks of the
  // stage have `each` in turn, the last one what is left. all 0: the rank has all columns.
  struct OutputPart {
    int first = 0, each = 0, all = 0;
  };
  OutputPart output_part;
  int all_output_cols() const { return output_part.all > 0 ? output_part.all : output.cols; }
  HeadKind head = HeadKind::lm;
  // Kept until the next step, [tokens, cols]; storage -1: none. What a draft reads of this model: the residual stream
  // after some of its layers, side by side.
  Value taps;
  // Of a draft plan: what stands for the target's state in the row behind.
  Value state;
  bool takes_states = false;
  int position_axes = 1;
  bool takes_features = false;  // of images
  int feature_cols = 0;         // then
  bool joined_images = false;   // the tokens of one image see each other in both directions
  int token_types = 0;          // kinds of tokens that the model tells apart (BERT's segments); 0: it does not
  const LayerGroup& group(CacheRef ref) const {
    switch (ref.kind) {
      case CacheRef::Kind::paged: return groups[ref.group];
      case CacheRef::Kind::local: return local_groups[ref.group];
      case CacheRef::Kind::cross: return *cross_group;
    }
    return groups[ref.group];
  }
  std::vector<CacheRef> caches() const;  // the first layer of each group
  std::vector<Value> results() const;    // the values that outlive the step: output, taps, state
};

// The same for an op in every layer: its kind, and of matrix products the shape and the checkpoint's tensor.
std::string op_class(const Plan& plan, const Op& op);

// A printable list: one line per op with shapes, weights, bytes when the model's form is `form` and FLOPs per row.
std::string plan_to_text(const Plan& plan, kernels::WeightForm form);

}  // namespace weft
