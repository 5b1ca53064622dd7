#include "plan/plan.h"

#include <cstdio>
#include <sstream>

namespace weft {

int Matrix::shards() const {
  if (shard != Shard::rows) return 1;
  for (int count : {8, 4, 2})
    if (k % (count * 2) == 0 && (k / count) % shard_unit == 0) return count;
  return 1;
}

const char* op_name(const Op& op) {
  static const char* const names[] = {"embed", "linear", "norm", "rope_angles", "heads", "append", "attend", "activate", "add", "select",
                                      "to_operand", "route", "group_rows", "experts", "scale_rows", "combine", "per_head", "input",
                                      "mix_rows", "merge_features"};
  return names[op.kind.index()];
}

namespace {

std::string shape(const Value& v) {
  std::ostringstream text;
  text << "%" << v.storage << "[" << (v.rows == Rows::tokens ? "tokens" : v.rows == Rows::outputs ? "outputs" : "mixed") << ", " << v.cols << "]";
  if (v.first_col > 0) text << "@" << v.first_col;
  return text.str();
}

const char* kind_name(CacheSpec::Kind kind) {
  static const char* const names[] = {"full", "window", "chunk", "latent", "cross"};
  return names[static_cast<int>(kind)];
}

}  // namespace

std::string plan_to_text(const Plan& plan, int weight_bytes) {
  std::ostringstream text;
  text << plan.architecture << "\n";
  int64_t bytes = 0, flops = 0;
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    char head[64];
    std::snprintf(head, sizeof head, "%4zu %-12s ", i, op_name(op));
    text << head << (op.out ? shape(*op.out) : "-") << " <-";
    for (const Value& in : op.in) text << " " << shape(in);
    if (const auto* linear = std::get_if<LinearOp>(&op.kind)) {
      const Matrix& m = plan.matrices[linear->matrix];
      const int64_t size = m.out() * m.k * (m.keep_float32 ? 4 : weight_bytes);
      text << "  W[" << m.out() << ", " << m.k << "]";
      if (m.shards() > 1) text << "/" << m.shards();
      text << " " << size << " bytes, " << 2 * m.out() * m.k << " FLOPs/row";
      bytes += size, flops += 2 * m.out() * m.k;
      for (const TensorRows& source : m.sources) text << " " << source.tensor;
    } else if (const auto* attend = std::get_if<AttendOp>(&op.kind)) {
      const CacheSpec& spec = plan.group(attend->cache).spec;
      text << "  " << (attend->cache.local ? "local" : kind_name(spec.kind));
      if (spec.span > 0) text << " " << spec.span;
      text << ", " << attend->heads << " heads on " << spec.kv_heads << " kv heads of " << spec.k_dim << ", group " << attend->cache.group
           << " layer " << attend->cache.index;
    } else if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) {
      const Matrix& m = plan.matrices[experts->matrices.front()];
      const int64_t size = m.out() * m.k * weight_bytes;
      text << "  " << experts->slots << " of " << experts->matrices.size() << " W[" << m.out() << ", " << m.k << "] " << size * experts->slots
           << " bytes/row, " << 2 * m.out() * m.k * experts->slots << " FLOPs/row " << op.path;
      bytes += size * experts->slots, flops += 2 * m.out() * m.k * experts->slots;
    } else if (const auto* heads = std::get_if<PerHeadOp>(&op.kind)) {
      const Matrix& m = plan.matrices[heads->matrices.front()];
      const auto count = static_cast<int64_t>(heads->matrices.size());
      text << "  " << count << " heads W[" << m.out() << ", " << m.k << "] " << op.path;
      bytes += m.out() * m.k * count * weight_bytes, flops += 2 * m.out() * m.k * count;
    } else if (!op.path.empty()) {
      text << "  " << op.path;
    }
    text << "\n";
  }
  text << plan.ops.size() << " ops, " << plan.matrices.size() << " matrices, " << bytes << " weight bytes and " << flops
       << " FLOPs per row, ";
  for (size_t g = 0; g < plan.groups.size(); ++g)
    text << (g ? "; " : "") << plan.groups[g].layers << " layers with " << kind_name(plan.groups[g].spec.kind) << " cache";
  text << "\n";
  return text.str();
}

}  // namespace weft
