#include "plan/plan_builder.h"

#include "base/check.h"

namespace weft {

using kernels::HeadNorm;

TensorRows whole(Scope scope, int64_t rows) { return {scope.path() + ".weight", 0, rows}; }

Value PlanBuilder::emit(OpKind kind, std::vector<Value> in, Rows rows, int cols, std::string path) {
  const Value out{static_cast<int>(plan_.storages.size()), 0, cols, rows};
  plan_.storages.push_back({cols, rows});
  plan_.ops.push_back({std::move(kind), std::move(in), out, std::move(path)});
  return out;
}

int PlanBuilder::vector(VectorWeight v) {
  plan_.vectors.push_back(std::move(v));
  return static_cast<int>(plan_.vectors.size()) - 1;
}

Value PlanBuilder::embed(Scope table, int vocab, int cols, float scale) {
  plan_.tables.push_back(whole(table, vocab));
  plan_.table_cols.push_back(cols);
  return emit(EmbedOp{IdSource::tokens, static_cast<int>(plan_.tables.size()) - 1, -1, scale, vocab}, {}, Rows::tokens,
              cols, table.path());
}

Value PlanBuilder::embed_borrowed(int vocab, int cols, float scale) {
  plan_.tables.push_back({.tensor = "", .rows = vocab, .borrowed = Borrowed::embedding});
  plan_.table_cols.push_back(cols);
  return emit(EmbedOp{IdSource::tokens, static_cast<int>(plan_.tables.size()) - 1, -1, scale, vocab}, {}, Rows::tokens,
              cols, "");
}

Value PlanBuilder::embed_by(IdSource ids, Scope table, int rows, int cols) {
  if (ids == IdSource::token_types) plan_.token_types = rows;
  return embed_by(ids, whole(table, rows), cols);
}

Value PlanBuilder::embed_by(IdSource ids, TensorRows table, int cols, Rows rows) {
  const std::string path = table.tensor;
  plan_.tables.push_back(std::move(table));
  plan_.table_cols.push_back(cols);
  return emit(
      EmbedOp{ids, static_cast<int>(plan_.tables.size()) - 1, -1, 1.0f, static_cast<int>(plan_.tables.back().rows)}, {},
      rows, cols, path);
}

Value PlanBuilder::input(int cols) { return emit(InputOp{}, {}, Rows::tokens, cols, current_module()); }

Value PlanBuilder::mix_rows(Value x, int table, int parts, Rows rows) {
  return emit(MixRowsOp{table, parts}, {x}, rows, x.cols * parts, current_module());
}

Value PlanBuilder::merge_features(Value x) {
  plan_.ops.push_back({MergeFeaturesOp{}, {x}, x, current_module()});
  plan_.takes_features = true, plan_.feature_cols = x.cols;
  return x;
}

void PlanBuilder::states_into(Value out) {
  plan_.ops.push_back({StatesOp{}, {}, out, current_module()});
  plan_.takes_states = true;
}

Value PlanBuilder::embed_tied(int matrix, float scale) {
  const Matrix& m = plan_.matrices[matrix];
  return emit(EmbedOp{IdSource::tokens, -1, matrix, scale, static_cast<int>(m.out())}, {}, Rows::tokens, m.k,
              m.sources.front().tensor);
}

int PlanBuilder::matrix(Matrix m) {
  const int fresh = static_cast<int>(plan_.matrices.size());
  if (m.sources.size() == 1) {
    const TensorRows& source = m.sources.front();
    const auto [known, added] =
        known_.try_emplace({source.tensor, source.first_row, source.rows, source.first_col}, fresh);
    if (!added) return known->second;
  }
  plan_.matrices.push_back(std::move(m));
  return fresh;
}

Value PlanBuilder::linear(Value x, Matrix m) { return linear(x, matrix(std::move(m))); }

Value PlanBuilder::linear(Value x, int matrix) {
  const Matrix& m = plan_.matrices[matrix];
  WEFT_CHECK(m.k == x.cols) << m.sources.front().tensor << " multiplies " << m.k << " columns, the value has "
                            << x.cols;
  return emit(LinearOp{matrix}, {x}, x.rows, static_cast<int>(m.out()), m.sources.front().tensor);
}

void PlanBuilder::linear_into(Value x, Matrix m, Value out) {
  const std::string path = m.sources.front().tensor;
  WEFT_CHECK(m.k == x.cols && m.out() == out.cols) << path << ": shapes differ";
  plan_.ops.push_back({LinearOp{matrix(std::move(m))}, {x}, out, path});
}

Value PlanBuilder::norm(Value x, Scope w, bool layer, bool one_plus, bool bias, float eps) {
  NormOp op{layer, one_plus, vector({w.path() + ".weight", x.cols, {}, {}}), -1, eps};
  if (bias) op.bias = vector({w.path() + ".bias", x.cols, {}, {}});
  return emit(op, {x}, x.rows, x.cols, w.path());
}

void PlanBuilder::norm_into(Value x, Value out, Scope w, bool one_plus, float eps) {
  WEFT_CHECK(x.cols == out.cols) << w.path() << ": shapes differ";
  plan_.ops.push_back(
      {NormOp{false, one_plus, vector({w.path() + ".weight", x.cols, {}, {}}), -1, eps}, {x}, out, w.path()});
}

Value PlanBuilder::buffer(int cols, Rows rows) {
  plan_.storages.push_back({cols, rows});
  return {static_cast<int>(plan_.storages.size()) - 1, 0, cols, rows};
}

Value PlanBuilder::gate(Value x, Scope gate, bool complement, uint8_t bit) {
  return emit(GateOp{vector({gate.path(), 1, {}, {}}), complement, bit}, {x}, x.rows, x.cols, gate.path());
}

void PlanBuilder::place(Value x, Value out, int step) {
  WEFT_CHECK((x.cols - 1) * step < out.cols && x.rows == out.rows) << "place: " << x.cols << " columns";
  plan_.ops.push_back({PlaceOp{step}, {x}, out, current_module()});
}

void PlanBuilder::add_into(Value x, Value y) {
  WEFT_CHECK(x.cols == y.cols && x.rows == y.rows) << "add: shapes differ";
  plan_.ops.push_back({kernels::Add{}, {x, y}, x, current_module()});
}

CacheRef PlanBuilder::cross_cache(CacheSpec spec, int query_heads) {
  if (!plan_.cross_group) plan_.cross_group = LayerGroup{spec, 0, query_heads, kernels::Mask::none};
  WEFT_CHECK(plan_.cross_group->spec == spec && plan_.cross_group->heads == query_heads)
      << "cross attention layers differ";
  return {CacheRef::Kind::cross, 0, plan_.cross_group->layers++};
}

Value PlanBuilder::rope_angles(const RopeAngles& angles) {
  for (const auto& [known, value] : angles_)
    if (known == angles) return value;
  const int half = static_cast<int>(angles.inv_freq.size());
  const int weight = vector({"", half, angles.inv_freq, angles.checkpoint_factors ? "rope_factors" : ""});
  const Value value = emit(RopeAnglesOp{weight, angles.factor, angles.axis_of}, {}, Rows::tokens, 2 * half, "");
  if (!angles.axis_of.empty()) plan_.position_axes = 3;
  angles_.emplace_back(angles, value);
  return value;
}

Value PlanBuilder::heads(Value x, Scope norm_weight, const RopeAngles& rope, const HeadsOptions& o) {
  HeadsOp op;
  op.heads = o.heads, op.dim = op.in_stride = op.out_stride = o.dim, op.norm = o.norm, op.norm_after = o.norm_after,
  op.eps = o.eps;
  op.interleaved = o.interleaved, op.floor_scale = o.floor_scale, op.attn_scale = o.attn_scale;
  if (o.norm == HeadNorm::rms || o.norm == HeadNorm::rms_one_plus)
    op.norm_weight = vector({norm_weight.path() + ".weight", o.dim, {}, {}});
  std::vector<Value> in{x};
  if (!rope.inv_freq.empty()) {
    op.half = static_cast<int>(rope.inv_freq.size());
    in.push_back(rope_angles(rope));
  }
  if (op.norm == HeadNorm::none && op.half == 0 && op.floor_scale == 0) return x;
  plan_.ops.push_back({op, std::move(in), x, op.norm_weight >= 0 ? norm_weight.path() : current_module()});
  return x;
}

void PlanBuilder::rotate_into(Value x, int in_stride, Value out, int out_stride, const RopeAngles& rope,
                              const HeadsOptions& o) {
  HeadsOp op;
  op.heads = o.heads, op.dim = o.dim, op.in_stride = in_stride, op.out_stride = out_stride,
  op.interleaved = o.interleaved;
  op.half = static_cast<int>(rope.inv_freq.size());
  const Value angles = rope_angles(rope);
  plan_.ops.push_back({op, {x, angles}, out, current_module()});
}

CacheRef PlanBuilder::layer_of(CacheRef::Kind kind, const LayerGroup& wanted) {
  std::vector<LayerGroup>& groups = kind == CacheRef::Kind::local ? plan_.local_groups : plan_.groups;
  for (size_t i = 0; i < groups.size(); ++i)
    if (LayerGroup& group = groups[i]; group.spec == wanted.spec && group.heads == wanted.heads &&
                                       group.mask == wanted.mask && group.segments == wanted.segments)
      return {kind, static_cast<int>(i), group.layers++};
  groups.push_back(wanted);
  return {kind, static_cast<int>(groups.size()) - 1, 0};
}

CacheRef PlanBuilder::cache(CacheSpec spec, int query_heads) {
  return layer_of(CacheRef::Kind::paged, {spec, 1, query_heads});
}

CacheRef PlanBuilder::local_cache(CacheSpec spec, int query_heads, int segments, kernels::Mask mask) {
  return layer_of(CacheRef::Kind::local, {spec, 1, query_heads, mask, segments});
}

void PlanBuilder::append(Value k, Value v, CacheRef cache) {
  plan_.ops.push_back({AppendOp{cache}, {k, v}, std::nullopt, current_module()});
}

void PlanBuilder::append_latent(Value row, CacheRef cache) {
  plan_.ops.push_back({AppendOp{cache}, {row}, std::nullopt, current_module()});
}

Value PlanBuilder::attend(Value q, CacheRef cache, int heads, float scale, float soft_cap) {
  const CacheSpec& spec = plan_.group(cache).spec;
  WEFT_CHECK(q.cols == heads * spec.k_dim) << "query columns " << q.cols;
  return emit(AttendOp{cache, heads, scale, soft_cap}, {q}, q.rows, heads * spec.v_dim, current_module());
}

Value PlanBuilder::activate(Value x, kernels::Activation act, bool gated) {
  const int cols = gated ? x.cols / 2 : x.cols;
  return emit(ActivateOp{act, gated, cols}, {x}, x.rows, cols, current_module());
}

Value PlanBuilder::activate_slots(Value x, kernels::Activation act, int cols, int slots) {
  WEFT_CHECK(x.cols == slots * slot_stride(2 * cols)) << "activate: " << x.cols << " columns";
  return emit(ActivateOp{act, true, cols, slots}, {x}, x.rows, slots * slot_stride(cols), current_module());
}

Value PlanBuilder::route(Value logits, const kernels::RouteRule& rule, Scope bias) {
  RouteOp op{rule};
  if (!bias.path().empty()) op.bias = vector({bias.path(), rule.experts, {}, {}});
  return emit(op, {logits}, logits.rows, 2 * rule.chosen, op.bias >= 0 ? bias.path() : current_module());
}

Value PlanBuilder::group_rows(Value chosen, int experts, int slots) {
  const Value grouped = emit(GroupRowsOp{experts, slots}, {chosen}, chosen.rows, slots, current_module());
  plan_.storages[grouped.storage].extra = experts + 1;
  return grouped;
}

Value PlanBuilder::experts(Value x, Value grouped, std::vector<Matrix> matrices, int slots, bool same_input) {
  ExpertsOp op{
      .experts = static_cast<int>(matrices.size()), .first_expert = 0, .slots = slots, .same_input = same_input};
  const Matrix first = matrices.front();
  WEFT_CHECK(x.cols == (same_input ? first.k : slots * slot_stride(first.k)))
      << first.sources.front().tensor << ": " << x.cols << " columns";
  for (Matrix& m : matrices) op.matrices.push_back(matrix(std::move(m)));
  return emit(std::move(op), {x, grouped}, x.rows, slots * slot_stride(static_cast<int>(first.out())),
              first.sources.front().tensor);
}

Value PlanBuilder::scale_rows(Value x, Value chosen, int slots) {
  return emit(ScaleRowsOp{slots}, {x, chosen}, x.rows, slots * slot_stride(x.cols), current_module());
}

Value PlanBuilder::combine(Value x, Value chosen, int experts, int cols, int slots, bool weighted) {
  WEFT_CHECK(x.cols == slots * slot_stride(cols)) << "combine: " << x.cols << " columns";
  return emit(CombineOp{experts, 0, experts, slots, weighted}, {x, chosen}, x.rows, cols, current_module());
}

void PlanBuilder::per_head(Value x, int in_stride, Value out, int out_stride, std::vector<Matrix> matrices) {
  PerHeadOp op{{}, in_stride, out_stride};
  const std::string path = matrices.front().sources.front().tensor;
  for (Matrix& m : matrices) op.matrices.push_back(matrix(std::move(m)));
  plan_.ops.push_back({std::move(op), {x}, out, path});
}

Value PlanBuilder::elementwise(OpKind f, std::vector<Value> in) {
  const Value a = in.front(), b = in.back();
  WEFT_CHECK(a.cols == b.cols && a.rows == b.rows) << op_name({f, {}, {}, ""}) << ": shapes differ";
  return emit(std::move(f), std::move(in), a.rows, a.cols, current_module());
}

Value PlanBuilder::select(Value x) { return emit(SelectOp{}, {x}, Rows::outputs, x.cols, current_module()); }

Value PlanBuilder::slice(Value x, int first, int cols) const {
  WEFT_CHECK(first >= 0 && first + cols <= x.cols) << "slice outside of the value";
  return {x.storage, x.first_col + first, cols, x.rows};
}

}  // namespace weft
