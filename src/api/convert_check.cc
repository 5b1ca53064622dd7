#include "api/convert_check.h"

#include <cstring>
#include <sstream>

namespace weft {
namespace {

std::string shown(const Plan& plan, const Op& op) {
  std::ostringstream text;
  text << op_name(op) << " " << (op.out ? op.out->cols : 0);
  for (const Value& in : op.in) text << " of " << in.cols;
  if (const auto* linear = std::get_if<LinearOp>(&op.kind)) {
    const Matrix& m = plan.matrices[static_cast<size_t>(linear->matrix)];
    text << " [" << m.out() << ", " << m.k << "]" << (linear->gate ? " gated" : "");
  } else if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) {
    text << " " << experts->slots << " of " << experts->matrices.size();
  } else if (const auto* attend = std::get_if<AttendOp>(&op.kind)) {
    const CacheSpec& spec = plan.group(attend->cache).spec;
    text << " " << attend->heads << " heads on " << spec.kv_heads << " of " << spec.k_dim;
    if (spec.kind == CacheSpec::Kind::window) text << " in a window of " << spec.span;
    else if (spec.kind == CacheSpec::Kind::chunk) text << " in chunks of " << spec.span;
    else text << " over all of the text";
  }
  return text.str();
}

bool is_same_vector(const VectorWeight& a, const VectorWeight& b, std::span<const float> divisors) {
  if (a.tensor != b.tensor || a.size != b.size || a.values.size() != b.values.size()) return false;
  std::vector<float> values = b.values;
  if (!b.divided_by.empty() && a.divided_by.empty()) {
    if (divisors.size() != values.size()) return false;
    for (size_t i = 0; i < values.size(); ++i) values[i] /= divisors[i];
  }
  return values.empty() || std::memcmp(a.values.data(), values.data(), values.size() * sizeof(float)) == 0;
}

}  // namespace

std::optional<std::string> plan_difference(const Plan& model, const Plan& converted, std::span<const float> divisors) {
  for (size_t i = 0; i < std::max(model.ops.size(), converted.ops.size()); ++i) {
    const std::string before = i < model.ops.size() ? shown(model, model.ops[i]) : "none";
    const std::string after = i < converted.ops.size() ? shown(converted, converted.ops[i]) : "none";
    if (before != after) return "operation " + std::to_string(i) + " would be " + after + " instead of " + before;
  }
  if (model.vectors.size() != converted.vectors.size()) return "norms or rotary positions would be others";
  for (size_t i = 0; i < model.vectors.size(); ++i)
    if (!is_same_vector(model.vectors[i], converted.vectors[i], divisors))
      return model.vectors[i].tensor.empty() ? "rotary frequencies would be others"
                                             : "tensor " + model.vectors[i].tensor + " would be another";
  return std::nullopt;
}

}  // namespace weft
