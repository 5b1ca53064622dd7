#include "plan/plan.h"

#include <cstdio>
#include <iterator>
#include <set>
#include <sstream>

#include "kernels/pack.h"

namespace weft {

int Matrix::shards() const {
  if (shard_count > 0) return shard_count;
  if (shard != Shard::rows) return 1;
  const int unit = format && kernels::is_quantized(format->form) ? kernels::kStrip : 2;
  for (int count : {8, 4, 2})
    if (k % (count * unit) == 0 && (k / count) % shard_unit == 0) return count;
  return 1;
}

int64_t Matrix::bytes(kernels::WeightForm form) const {
  return kernels::format_bytes(format.value_or(kernels::WeightFormat{keep_float32 ? kernels::WeightForm::f32 : form}),
                               out(), k);
}

const char* op_name(const Op& op) {
  return std::visit([](const auto& kind) { return std::decay_t<decltype(kind)>::kName; }, op.kind);
}

Line line_of(const Op& op) {
  return std::visit(
      []<class Kind>(const Kind&) {
        if constexpr (std::is_same_v<Kind, SendOp>) return Line::next;
        else if constexpr (std::is_same_v<Kind, ReceiveOp>) return Line::before;
        else if constexpr (std::is_same_v<Kind, AllReduceOp> || std::is_same_v<Kind, PickRowsOp> ||
                           std::is_same_v<Kind, AllGatherOp> || std::is_same_v<Kind, GatherSlotsOp> ||
                           std::is_same_v<Kind, GatherRowsOp> || std::is_same_v<Kind, ReduceScatterOp>)
          return Line::stage;
        else return Line::none;
      },
      op.kind);
}

std::vector<int> matrices_of(const Op& op) {
  return std::visit(
      [](const auto& kind) -> std::vector<int> {
        if constexpr (requires { kind.matrices; }) return kind.matrices;
        else if constexpr (requires { kind.matrix; })
          return kind.matrix >= 0 ? std::vector<int>{kind.matrix} : std::vector<int>{};
        else return {};
      },
      op.kind);
}

std::vector<CacheRef> Plan::caches() const {
  std::vector<CacheRef> all;
  for (int g = 0; g < static_cast<int>(groups.size()); ++g) all.push_back({CacheRef::Kind::paged, g});
  for (int g = 0; g < static_cast<int>(local_groups.size()); ++g) all.push_back({CacheRef::Kind::local, g});
  if (cross_group) all.push_back({CacheRef::Kind::cross});
  return all;
}

std::vector<Value> Plan::results() const {
  std::vector<Value> all;
  for (const Value& value : {output, taps, state})
    if (value.storage >= 0) all.push_back(value);
  return all;
}

std::string op_class(const Plan& plan, const Op& op) {
  const int matrix = std::visit(
      [](const auto& kind) {
        if constexpr (requires { kind.matrices; }) return kind.matrices.front();
        else if constexpr (std::is_same_v<std::decay_t<decltype(kind)>, LinearOp>) return kind.matrix;
        else return -1;
      },
      op.kind);
  if (matrix < 0) return op_name(op);
  const Matrix& m = plan.matrices[matrix];
  std::ostringstream text;
  text << op_name(op) << " " << m.out() << " x " << m.k << " ";
  bool digits = false;
  for (const char c : m.sources.front().tensor) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit || !digits) text << (digit ? '*' : c);
    digits = digit;
  }
  return text.str();
}

namespace {

std::string shape(const Value& v) {
  std::ostringstream text;
  static const char* const rows[] = {"tokens", "outputs", "mixed", "gathered"};
  static_assert(std::size(rows) == static_cast<size_t>(Rows::gathered) + 1);
  text << "%" << v.storage << "[" << rows[static_cast<int>(v.rows)] << ", " << v.cols << "]";
  if (v.first_col > 0) text << "@" << v.first_col;
  return text.str();
}

const char* kind_name(CacheSpec::Kind kind) {
  static const char* const names[] = {"full", "window", "chunk", "latent", "cross"};
  static_assert(std::size(names) == static_cast<size_t>(CacheSpec::Kind::cross) + 1);
  return names[static_cast<int>(kind)];
}

}  // namespace

std::string plan_to_text(const Plan& plan, kernels::WeightForm form) {
  std::ostringstream text;
  text << plan.architecture << "\n";
  int64_t bytes = 0, flops = 0;
  std::set<int> matrices;
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    for (const int matrix : matrices_of(op)) matrices.insert(matrix);
    char head[64];
    std::snprintf(head, sizeof head, "%4zu %-12s ", i, op_name(op));
    text << head << (op.out ? shape(*op.out) : "-") << " <-";
    for (const Value& in : op.in) text << " " << shape(in);
    if (const auto* linear = std::get_if<LinearOp>(&op.kind)) {
      const Matrix& m = plan.matrices[linear->matrix];
      const int64_t size = m.bytes(form);
      text << "  W[" << m.out() << ", " << m.k << "]";
      if (m.shards() > 1) text << "/" << m.shards();
      if (linear->gate) text << " gated";
      if (m.format && kernels::is_quantized(m.format->form))
        text << " " << kernels::name(m.format->form) << "/" << m.format->groups.size;
      text << " " << size << " bytes, " << 2 * m.out() * m.k << " FLOPs/row";
      bytes += size, flops += 2 * m.out() * m.k;
      for (const TensorRows& source : m.sources) text << " " << source.tensor;
    } else if (const auto* attend = std::get_if<AttendOp>(&op.kind)) {
      const CacheSpec& spec = plan.group(attend->cache).spec;
      text << "  " << (attend->cache.kind == CacheRef::Kind::local ? "local" : kind_name(spec.kind));
      if (spec.span > 0) text << " " << spec.span;
      text << ", " << attend->heads << " heads on " << spec.kv_heads << " kv heads of " << spec.k_dim << ", group "
           << attend->cache.group << " layer " << attend->cache.index;
    } else if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) {
      const Matrix& m = plan.matrices[experts->matrices.front()];
      const int64_t size = m.bytes(form);
      text << "  " << experts->slots << " of " << experts->matrices.size() << " W[" << m.out() << ", " << m.k << "] "
           << size * experts->slots << " bytes/row, " << 2 * m.out() * m.k * experts->slots << " FLOPs/row " << op.path;
      bytes += size * experts->slots, flops += 2 * m.out() * m.k * experts->slots;
    } else if (const auto* heads = std::get_if<PerHeadOp>(&op.kind)) {
      const Matrix& m = plan.matrices[heads->matrices.front()];
      const auto count = static_cast<int64_t>(heads->matrices.size());
      text << "  " << count << " heads W[" << m.out() << ", " << m.k << "] " << op.path;
      bytes += m.bytes(form) * count, flops += 2 * m.out() * m.k * count;
    } else if (!op.path.empty()) {
      text << "  " << op.path;
    }
    text << "\n";
  }
  text << plan.ops.size() << " ops, " << matrices.size() << " matrices, " << bytes << " weight bytes and " << flops
       << " FLOPs per row, ";
  for (size_t g = 0; g < plan.groups.size(); ++g)
    text << (g ? "; " : "") << plan.groups[g].layers << " layers with " << kind_name(plan.groups[g].spec.kind)
         << " cache";
  text << "\n";
  return text.str();
}

}  // namespace weft
