#include "checkpoint/usage.h"

#include <algorithm>
#include <sstream>

#include "base/log.h"

namespace weft {
namespace {

constexpr size_t kMaxListed = 10;

// What no loader wants: tables that are computed, training state, and scales of caches and activations.
constexpr std::string_view kSkipped[] = {
    "*rotary_emb.inv_freq", "*rotary_pos_emb.inv_freq", "*position_ids", "*.masked_bias", "*.num_batches_tracked",
    "*.k_scale",            "*.v_scale",                "*.kv_scale",    "*.q_scale",     "*.input_scale",
};

std::string shown(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t extent : shape) text.append(text.size() > 1 ? ", " : "").append(extent < 0 ? "any" : std::to_string(extent));
  return text + "]";
}

bool fits(const std::vector<int64_t>& shape, const std::vector<int64_t>& wanted) {
  return std::equal(shape.begin(), shape.end(), wanted.begin(), wanted.end(), [](int64_t is, int64_t want) { return want < 0 || is == want; });
}

// "3 tensors are absent: a, b, c"
void list(std::ostringstream& text, const std::vector<std::string>& items, const char* one, const char* several) {
  if (items.empty()) return;
  if (text.tellp() > 0) text << "; ";
  if (items.size() == 1) text << one << ": ";
  else text << items.size() << several << ": ";
  for (size_t i = 0; i < std::min(items.size(), kMaxListed); ++i) text << (i > 0 ? ", " : "") << items[i];
  if (items.size() > kMaxListed) text << ", ...";
}

bool lies_under(std::string_view name, std::string_view scope) {
  return name.starts_with(scope) && (name.size() == scope.size() || name[scope.size()] == '.');
}

}  // namespace

bool matches_pattern(std::string_view name, std::string_view pattern) {
  size_t n = 0, p = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++, resume = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {  // let the last star take one more character
      p = star + 1, n = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

const TensorInfo* TensorUsage::take(std::string_view name, const std::vector<int64_t>& shape) {
  if (checkpoint_.is_dummy()) return invent(name, shape);
  const TensorInfo* tensor = checkpoint_.find(name);
  if (tensor) return check(*tensor, shape);
  absent_.emplace_back(name);
  return nullptr;
}

const TensorInfo* TensorUsage::take_optional(std::string_view name, const std::vector<int64_t>& shape) {
  const TensorInfo* tensor = checkpoint_.find(name);
  return tensor ? check(*tensor, shape) : nullptr;
}

const TensorInfo* TensorUsage::check(const TensorInfo& tensor, const std::vector<int64_t>& shape) {
  used_.insert(&tensor);
  if (tensor.scale) used_.insert(checkpoint_.find(tensor.scale->name));
  if (!fits(tensor.shape, shape)) {
    misshapen_.push_back(tensor.name + " is " + shown(tensor.shape) + ", not " + shown(shape));
    return nullptr;
  }
  if (!is_float(tensor.type)) {
    wrong_kind_.push_back(tensor.name + " (" + weft::name(tensor.type) + ")");
    return nullptr;
  }
  return &tensor;
}

const TensorInfo* TensorUsage::invent(std::string_view name, const std::vector<int64_t>& shape) {
  const auto known = invented_.find(name);
  if (known != invented_.end() && known->second.shape == shape) return &known->second;
  int64_t values = 1;
  bool possible = known == invented_.end();
  for (const int64_t extent : shape) possible = possible && extent >= 0 && !__builtin_mul_overflow(values, extent, &values);
  if (!possible) {
    misshapen_.push_back(std::string(name) + " cannot be made as " + shown(shape));
    return nullptr;
  }
  TensorInfo& tensor = invented_[std::string(name)];
  tensor.name = name;
  tensor.type = StorageType::random;
  tensor.shape = shape;
  return &tensor;
}

void TensorUsage::ignore(std::string_view name_or_scope) { ignored_.emplace_back(name_or_scope); }

std::vector<std::string> TensorUsage::unused(const std::vector<std::string>& ignore_patterns) const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : checkpoint_.tensors()) {
    const auto matches = [&name = name](std::string_view pattern) { return matches_pattern(name, pattern); };
    const auto holds = [&name = name](std::string_view scope) { return lies_under(name, scope); };
    const bool known = used_.count(&tensor) > 0 || std::any_of(ignored_.begin(), ignored_.end(), holds) ||
                       std::any_of(ignore_patterns.begin(), ignore_patterns.end(), matches) ||
                       std::any_of(std::begin(kSkipped), std::end(kSkipped), matches);
    if (!known) names.push_back(name);
  }
  return names;
}

Status TensorUsage::finish(const std::vector<std::string>& ignore_patterns) const {
  std::ostringstream problems;
  list(problems, absent_, "a tensor is absent", " tensors are absent");
  list(problems, misshapen_, "a tensor has the wrong shape", " tensors have the wrong shape");
  list(problems, wrong_kind_, "a tensor holds integers where floats are due", " tensors hold integers where floats are due");
  if (problems.tellp() > 0) return fail(absent_.empty() ? Code::data_corrupt : Code::not_found, checkpoint_.path(), ": ", problems.str());

  const std::vector<std::string> left = unused(ignore_patterns);
  if (!left.empty()) {
    std::ostringstream text;
    list(text, left, "a tensor is not used", " tensors are not used");
    log_warning(checkpoint_.path(), ": ", text.str());
  }
  return {};
}

}  // namespace weft
