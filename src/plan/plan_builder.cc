#include "plan/plan_builder.h"

#include "base/check.h"

namespace weft {

using kernels::HeadNorm;

TensorRows whole(Scope scope, int64_t rows) { return {scope.path() + ".weight", 0, rows, rows}; }

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
  return emit(EmbedOp{static_cast<int>(plan_.tables.size()) - 1, -1, scale}, {}, Rows::tokens, cols, table.path());
}

Value PlanBuilder::embed_tied(int matrix, float scale) {
  const Matrix& m = plan_.matrices[matrix];
  return emit(EmbedOp{-1, matrix, scale}, {}, Rows::tokens, m.k, m.sources.front().tensor);
}

int PlanBuilder::matrix(Matrix m) {
  for (size_t i = 0; i < plan_.matrices.size(); ++i) {
    const Matrix& known = plan_.matrices[i];
    if (known.sources.size() == 1 && m.sources.size() == 1 && known.sources[0].tensor == m.sources[0].tensor &&
        known.sources[0].first_row == m.sources[0].first_row && known.sources[0].rows == m.sources[0].rows)
      return static_cast<int>(i);
  }
  plan_.matrices.push_back(std::move(m));
  return static_cast<int>(plan_.matrices.size()) - 1;
}

Value PlanBuilder::linear(Value x, Matrix m) { return linear(x, matrix(std::move(m))); }

Value PlanBuilder::linear(Value x, int matrix) {
  const Matrix& m = plan_.matrices[matrix];
  WEFT_CHECK(m.k == x.cols) << m.sources.front().tensor << " multiplies " << m.k << " columns, the value has " << x.cols;
  return emit(LinearOp{matrix}, {x}, x.rows, static_cast<int>(m.out()), m.sources.front().tensor);
}

Value PlanBuilder::norm(Value x, Scope w, bool layer, bool one_plus, bool bias, float eps) {
  NormOp op{layer, one_plus, vector({w.path() + ".weight", x.cols, {}, {}}), -1, eps};
  if (bias) op.bias = vector({w.path() + ".bias", x.cols, {}, {}});
  return emit(op, {x}, x.rows, x.cols, w.path());
}

Value PlanBuilder::rope_angles(const RopeAngles& angles) {
  for (const auto& [known, value] : angles_)
    if (known == angles) return value;
  const int half = static_cast<int>(angles.inv_freq.size());
  const int weight = vector({"", half, angles.inv_freq, angles.checkpoint_factors ? "rope_factors" : ""});
  const Value value = emit(RopeAnglesOp{weight, angles.factor, angles.axis_of}, {}, Rows::tokens, 2 * half, "rope");
  if (!angles.axis_of.empty()) plan_.position_axes = 3;
  angles_.emplace_back(angles, value);
  return value;
}

Value PlanBuilder::heads(Value x, Scope norm_weight, const RopeAngles& rope, const HeadsOptions& o) {
  HeadsOp op;
  op.heads = o.heads, op.dim = o.dim, op.norm = o.norm, op.norm_after = o.norm_after, op.eps = o.eps;
  op.interleaved = o.interleaved, op.floor_scale = o.floor_scale, op.attn_scale = o.attn_scale;
  if (o.norm == HeadNorm::rms || o.norm == HeadNorm::rms_one_plus)
    op.norm_weight = vector({norm_weight.path() + ".weight", o.dim, {}, {}});
  std::vector<Value> in{x};
  if (!rope.inv_freq.empty()) {
    op.half = static_cast<int>(rope.inv_freq.size());
    in.push_back(rope_angles(rope));
  }
  if (op.norm == HeadNorm::none && op.half == 0 && op.floor_scale == 0) return x;
  plan_.ops.push_back({op, std::move(in), x, norm_weight.path()});
  return x;
}

CacheRef PlanBuilder::cache(CacheSpec spec, int query_heads) {
  for (size_t i = 0; i < plan_.groups.size(); ++i)
    if (LayerGroup& group = plan_.groups[i]; group.spec == spec && group.heads == query_heads)
      return {static_cast<int>(i), group.layers++};
  plan_.groups.push_back({spec, 1, query_heads});
  return {static_cast<int>(plan_.groups.size()) - 1, 0};
}

void PlanBuilder::append(Value k, Value v, CacheRef cache) {
  plan_.ops.push_back({AppendOp{cache}, {k, v}, std::nullopt, "cache"});
}

Value PlanBuilder::attend(Value q, CacheRef cache, int heads, float scale, kernels::Mask mask) {
  const CacheSpec& spec = plan_.groups[cache.group].spec;
  WEFT_CHECK(q.cols == heads * spec.k_dim) << "query columns " << q.cols;
  return emit(AttendOp{cache, heads, scale, mask}, {q}, q.rows, heads * spec.v_dim, "attend");
}

Value PlanBuilder::activate(Value x, kernels::Activation act, bool gated) {
  return emit(ActivateOp{act, gated}, {x}, x.rows, gated ? x.cols / 2 : x.cols, "");
}

Value PlanBuilder::add(Value a, Value b) {
  WEFT_CHECK(a.cols == b.cols && a.rows == b.rows) << "add: shapes differ";
  return emit(AddOp{}, {a, b}, a.rows, a.cols, "");
}

Value PlanBuilder::select(Value x) { return emit(SelectOp{}, {x}, Rows::outputs, x.cols, ""); }

Value PlanBuilder::slice(Value x, int first, int cols) const {
  WEFT_CHECK(first >= 0 && first + cols <= x.cols) << "slice outside of the value";
  return {x.storage, x.first_col + first, cols, x.rows};
}

}  // namespace weft
