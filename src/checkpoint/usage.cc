#include "checkpoint/usage.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "base/log.h"

namespace weft {
namespace {

constexpr size_t kShown = 10;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text << (i ? ", " : "") << (shape[i] == -1 ? "any" : std::to_string(shape[i]));
  text << "]";
  return text.str();
}

// "3 absent tensors: a, b, c"
void list(std::ostringstream& text, const char* what, const std::vector<std::string>& names) {
  if (names.empty()) return;
  if (text.tellp() > 0) text << "; ";
  text << names.size() << " " << what << (names.size() == 1 ? " tensor: " : " tensors: ");
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) text << (i ? ", " : "") << names[i];
  if (names.size() > kShown) text << ", ...";
}

// Tensors that loaders skip without a word.
const std::vector<std::string>& known_extras() {
  static const std::vector<std::string> patterns = {"*rotary_emb.inv_freq", "*.position_ids", "*masked_bias",
                                                    "*num_batches_tracked", "*.k_scale",      "*.v_scale",
                                                    "*.input_scale",        "*_input_scale",  "*.input_global_scale",
                                                    "*.input_zero_point",   "*.q_scale",      "*.prob_output_scale",
                                                    "*.k_zero_point",       "*.v_zero_point"};
  return patterns;
}

}  // namespace

bool matches_pattern(std::string_view name, std::string_view pattern) {
  size_t n = 0, p = 0, star = std::string_view::npos, mark = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') star = p++, mark = n;
    else if (p < pattern.size() && pattern[p] == name[n]) ++p, ++n;
    else if (star != std::string_view::npos) p = star + 1, n = ++mark;
    else return false;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

const TensorInfo* TensorUsage::invent(std::string_view name, const std::vector<int64_t>& shape) {
  const auto [at, fresh] = invented_.try_emplace(std::string(name));
  int64_t values = 1;
  bool possible = fresh || at->second.shape == shape;
  for (const int64_t extent : shape)
    possible = possible && extent >= 0 && !__builtin_mul_overflow(values, extent, &values);
  if (!possible) {
    misshapen_.push_back(std::string(name) + " cannot be made as " + shape_text(shape));
    return nullptr;
  }
  if (fresh) at->second.name = name, at->second.type = StorageType::random, at->second.shape = shape;
  return &at->second;
}

const TensorInfo* TensorUsage::check(const TensorInfo& tensor, const std::vector<int64_t>& shape) {
  used_.insert(&tensor);
  if (tensor.scale) used_.insert(checkpoint_.find(tensor.scale->name));
  bool same = tensor.shape.size() == shape.size();
  for (size_t i = 0; same && i < shape.size(); ++i) same = shape[i] == -1 || tensor.shape[i] == shape[i];
  if (!same) {
    misshapen_.push_back(tensor.name + " is " + shape_text(tensor.shape) + " instead of " + shape_text(shape));
    return nullptr;
  }
  if (!is_float(tensor.type)) {
    const bool unknown = tensor.type == StorageType::unknown;
    wrong_kind_.push_back(tensor.name + (unknown ? " is of type " + tensor.unknown_type + ", which is not known"
                                                 : " holds " + std::string(weft::name(tensor.type))));
    return nullptr;
  }
  return &tensor;
}

const TensorInfo* TensorUsage::take(std::string_view name, const std::vector<int64_t>& shape) {
  if (checkpoint_.is_dummy()) return invent(name, shape);
  if (const TensorInfo* tensor = checkpoint_.find(name)) return check(*tensor, shape);
  absent_.emplace_back(name);
  return nullptr;
}

const TensorInfo* TensorUsage::take_optional(std::string_view name, const std::vector<int64_t>& shape) {
  const TensorInfo* tensor = checkpoint_.is_dummy() ? nullptr : checkpoint_.find(name);
  return tensor ? check(*tensor, shape) : nullptr;
}

void TensorUsage::ignore(std::string_view name_or_scope) { ignored_.emplace_back(name_or_scope); }

std::vector<std::string> TensorUsage::unused(const std::vector<std::string>& ignore_patterns) const {
  const auto skipped = [&](const std::string& name) {
    for (const std::string& scope : ignored_)
      if (name == scope || (name.starts_with(scope) && name[scope.size()] == '.')) return true;
    const auto matches = [&](const std::string& pattern) { return matches_pattern(name, pattern); };
    return std::any_of(ignore_patterns.begin(), ignore_patterns.end(), matches) ||
           std::any_of(known_extras().begin(), known_extras().end(), matches);
  };
  std::set<std::string_view> skipped_scales;
  for (const auto& [name, tensor] : checkpoint_.tensors())
    if (tensor.scale && skipped(name)) skipped_scales.insert(tensor.scale->name);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : checkpoint_.tensors())
    if (!used_.contains(&tensor) && !skipped(name) && !skipped_scales.contains(name)) names.push_back(name);
  return names;
}

Status TensorUsage::finish(const std::vector<std::string>& ignore_patterns) const {
  std::ostringstream problems;
  list(problems, "absent", absent_);
  list(problems, "misshapen", misshapen_);
  list(problems, "non-float", wrong_kind_);
  if (problems.tellp() > 0)
    return fail(absent_.empty() ? Code::data_corrupt : Code::not_found, problems.str()).with(checkpoint_.path());
  if (const std::vector<std::string> extra = unused(ignore_patterns); !extra.empty()) {
    std::ostringstream text;
    list(text, "unused", extra);
    log_warning(text.str(), " (", checkpoint_.path(), ")");
  }
  return {};
}

}  // namespace weft
