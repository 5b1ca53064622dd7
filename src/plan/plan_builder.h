// Records a model's forward pass as a Plan. Blocks use it; see plan.h.
#pragma once

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "checkpoint/scope.h"
#include "plan/plan.h"

namespace weft {

// Rotary angles: frequencies per pair of elements, and the factor on cos and sin (yarn).
struct RopeAngles {
  std::vector<float> inv_freq;  // empty: no rotation
  float factor = 1.0f;
  std::vector<uint8_t> axis_of;     // M-RoPE: which position axis each frequency follows; empty: text
  bool checkpoint_factors = false;  // inv_freq is still to be divided by the checkpoint's rope_factors (GGUF)
  bool operator==(const RopeAngles&) const = default;
};

struct HeadsOptions {
  int heads = 0, dim = 0;
  kernels::HeadNorm norm = kernels::HeadNorm::none;
  bool norm_after = false;
  float eps = 1e-6f;
  bool interleaved = false;
  float floor_scale = 0, attn_scale = 0;
};

class PlanBuilder {
 public:
  explicit PlanBuilder(std::string architecture) { plan_.architecture = std::move(architecture); }

  // While it lives, ops without a tensor of their own (attention, additions, ...) bear the path of this module of the
  // checkpoint; the innermost one counts.
  class Module {
   public:
    Module(PlanBuilder& builder, const Scope& scope) : builder_(builder) { builder.modules_.push_back(scope.path()); }
    ~Module() { builder_.modules_.pop_back(); }
    Module(const Module&) = delete;

   private:
    PlanBuilder& builder_;
  };

  // [tokens, cols] = scale * rows of the table at the step's token ids.
  Value embed(Scope table, int vocab, int cols, float scale);
  // The same looked up by something else than tokens, unscaled.
  Value embed_by(IdSource ids, Scope table, int rows, int cols);
  // The same for a tensor whose name does not end in ".weight" or whose shape is not [rows, cols].
  Value embed_by(IdSource ids, TensorRows table, int cols, Rows rows = Rows::tokens);
  // The same from the matrix of the output projection.
  Value embed_tied(int matrix, float scale);
  // The same from another plan's table.
  Value embed_borrowed(int vocab, int cols, float scale);

  // Declares a matrix without using it yet; the same sources give the same matrix.
  int matrix(Matrix m);
  // y = x W^T (+ bias).
  Value linear(Value x, Matrix m);
  Value linear(Value x, int matrix);
  // The same written to `out`, which may be part of a value made by buffer().
  void linear_into(Value x, Matrix m, Value out);

  Value norm(Value x, Scope w, bool layer, bool one_plus, bool bias, float eps);
  Value rope_angles(const RopeAngles& angles);
  // The same norm written to `out`, which may be part of a value made by buffer().
  void norm_into(Value x, Value out, Scope w, bool one_plus, float eps);
  // Norm and rotation of each head, in place. `norm_weight` is read if o.norm needs one.
  Value heads(Value x, Scope norm_weight, const RopeAngles& rope, const HeadsOptions& o);
  // Rotation of heads that lie in_stride apart in x, written out_stride apart to `out`.
  void rotate_into(Value x, int in_stride, Value out, int out_stride, const RopeAngles& rope, const HeadsOptions& o);
  // A layer of the cache; equal specs share a group.
  CacheRef cache(CacheSpec spec, int query_heads);
  // Keys of the running step only, all visible to each other (encoders).
  CacheRef local_cache(CacheSpec spec, int query_heads, int segments = 0, kernels::Mask mask = kernels::Mask::none);
  void append(Value k, Value v, CacheRef cache);
  void append_latent(Value row, CacheRef cache);
  Value attend(Value q, CacheRef cache, int heads, float scale, float soft_cap = 0.0f);
  Value activate(Value x, kernels::Activation act, bool gated);
  // f of each element (kernels/elementwise.h), or of each pair of elements.
  template <kernels::IsElementwise F>
  Value elementwise(F f, Value a) {
    static_assert(F::kInputs == 1);
    return elementwise(OpKind(f), {a});
  }
  template <kernels::IsElementwise F>
  Value elementwise(F f, Value a, Value b) {
    static_assert(F::kInputs == 2);
    return elementwise(OpKind(f), {a, b});
  }
  Value add(Value a, Value b) { return elementwise(kernels::Add{}, a, b); }

  // Mixture of experts, see plan.h. `logits` come from a linear whose matrix has keep_float32.
  Value route(Value logits, const kernels::RouteRule& rule, Scope bias = Scope());
  Value group_rows(Value chosen, int experts, int slots);
  Value experts(Value x, Value grouped, std::vector<Matrix> matrices, int slots, bool same_input);
  Value activate_slots(Value x, kernels::Activation act, int cols, int slots);  // gated
  Value scale_rows(Value x, Value chosen, int slots);
  Value combine(Value x, Value chosen, int experts, int cols, int slots, bool weighted);
  // y[r, h] = x[r, h] W_h^T for each head, written to `out`.
  void per_head(Value x, int in_stride, Value out, int out_stride, std::vector<Matrix> matrices);

  // Vision: the step's pixel rows; rows put together by table `table`; features in place of embeddings.
  Value input(int cols);
  Value mix_rows(Value x, int table, int parts, Rows rows);
  Value merge_features(Value x);
  void join_images() { plan_.joined_images = true; }
  // x * tanh(gate), or * (1 - tanh(gate)); zeros in rows without `bit` of the step's row flags (0: none).
  Value gate(Value x, Scope gate, bool complement = false, uint8_t bit = 0);
  // Columns of `out`, `step` apart, from those of x.
  void place(Value x, Value out, int step = 1);
  // x += y in the place of x.
  void add_into(Value x, Value y);
  // Cross attention: a layer of the images' keys. Ops between the two calls are left out of steps without an image;
  // they must change nothing but values that exist before.
  CacheRef cross_cache(CacheSpec spec, int query_heads);
  void begin_images_only() { images_only_ = static_cast<int>(plan_.ops.size()); }
  void end_images_only() {
    for (size_t i = images_only_; i < plan_.ops.size(); ++i) plan_.ops[i].images_only = true;
  }
  // What follows, up to the next call, is a layer.
  void begin_layer() { plan_.layer_starts.push_back(plan_.ops.size()); }
  // Draft plans: a row from anywhere for each row of the step; ops that `record` appends are for passes of one kind.
  void states_into(Value out);
  template <class Record>
  void only_in(Pass pass, const Record& record) {
    const size_t first = plan_.ops.size();
    record();
    for (size_t i = first; i < plan_.ops.size(); ++i) plan_.ops[i].pass = pass;
  }
  void set_state(Value state) { plan_.state = state; }
  void set_taps(Value taps) { plan_.taps = taps; }
  // A vector of the checkpoint that no op reads (the host does).
  int keep_vector(Scope w, int size) { return vector({w.path(), size, {}, {}}); }

  // Uninitialised columns that several ops fill.
  Value buffer(int cols, Rows rows = Rows::tokens);
  // Keeps only the rows whose output is wanted.
  Value select(Value x);
  // A view of some columns; costs nothing.
  Value slice(Value x, int first, int cols) const;

  // Tensors (or scopes of them) that the checkpoint may hold and nothing reads.
  void ignore(Scope scope) { plan_.unused.push_back(scope.path()); }
  void set_output(Value output, HeadKind head) { plan_.output = output, plan_.head = head; }
  const Plan& plan() const { return plan_; }
  Plan take() { return std::move(plan_); }

 private:
  Value emit(OpKind kind, std::vector<Value> in, Rows rows, int cols, std::string path);
  int vector(VectorWeight v);
  Value elementwise(OpKind f, std::vector<Value> in);
  CacheRef layer_of(CacheRef::Kind kind, const LayerGroup& wanted);
  std::string current_module() const { return modules_.empty() ? "" : modules_.back(); }

  Plan plan_;
  std::vector<std::string> modules_;
  int images_only_ = 0;
  // matrices of one source, by tensor, rows and column
  std::map<std::tuple<std::string, int64_t, int64_t, int64_t>, int> known_;
  std::vector<std::pair<RopeAngles, Value>> angles_;  // computed once per step and kind
};

// A source that is the whole tensor `scope`.weight of `rows` rows.
TensorRows whole(Scope scope, int64_t rows);

}  // namespace weft
