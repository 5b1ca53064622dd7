#include "checkpoint/hf_config.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace weft {
namespace {

constexpr size_t kMaxShown = 80;  // characters of a wrong value in a message

// The value for a message; long ones are cut, and numbers that JSON cannot write (they come from GGUF) are named.
std::string shown(const Json& value) {
  if (value.type() == Json::Type::number && !std::isfinite(value.as_number())) return "not finite";
  if (value.is_array() || value.is_object()) {
    const size_t size = value.is_array() ? value.items().size() : value.members().size();
    if (size > 8) return std::string(value.type_name()) + " of " + std::to_string(size);
  }
  std::string text = value.dump();
  if (text.size() <= kMaxShown) return text;
  size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;  // not inside a character
  return text.substr(0, end) + "...";
}

bool is_finite_number(const Json& value) { return value.is_number() && std::isfinite(value.as_number()); }

std::string join(std::string_view path, std::string_view key) { return std::string(path).append(1, '.').append(key); }

}  // namespace

struct HfConfig::Shared {
  Json document;
  std::string where;
  std::optional<Error> error;
};

HfConfig::HfConfig(Json document, std::string where) : shared_(std::make_shared<Shared>()) {
  shared_->document = std::move(document);
  shared_->where = std::move(where);
  node_ = &shared_->document;
  if (!node_->is_object()) shared_->error = fail(Code::invalid_argument, shared_->where, ": holds ", node_->type_name(), ", not an object");
}

HfConfig::HfConfig(std::shared_ptr<Shared> shared, const Json* node, std::string prefix)
    : shared_(std::move(shared)), node_(node), prefix_(std::move(prefix)) {}

const Json* HfConfig::value(std::string_view key) const {
  const Json* node = node_;
  while (node) {
    const size_t dot = key.find('.');
    node = node->find(key.substr(0, dot));
    if (node && node->is_null()) return nullptr;
    if (dot == std::string_view::npos) break;
    key.remove_prefix(dot + 1);
  }
  return node;
}

const Json* HfConfig::required(std::string_view key) const {
  const Json* found = value(key);
  if (!found) reject(key, "but it is required");
  return found;
}

void HfConfig::reject(std::string_view key, std::string_view problem, Code code) const {
  if (shared_->error) return;
  const Json* found = value(key);
  shared_->error = fail(code, shared_->where, ": ", prefix_, key, " is ", found ? shown(*found) : "absent", ", ", problem);
}

Status HfConfig::status() const {
  if (shared_->error) return *shared_->error;
  return {};
}

int HfConfig::whole(const Json* value, std::string_view key, int64_t low, int64_t high) const {
  if (value && value->is_integer() && value->as_integer() >= low && value->as_integer() <= high) return static_cast<int>(value->as_integer());
  if (value) reject(key, "not a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  return static_cast<int>(low);
}

int HfConfig::count(std::string_view key) const { return whole(required(key), key, 1, kMaxCount); }
int HfConfig::count(std::string_view key, int absent) const { return has(key) ? count(key) : absent; }
int HfConfig::index(std::string_view key) const { return whole(required(key), key, 0, kMaxCount); }
int HfConfig::index(std::string_view key, int absent) const { return has(key) ? index(key) : absent; }

int HfConfig::positions(std::string_view key) const {
  const Json* found = required(key);
  // Lengths beyond any real one ("no limit") come as 1e30 as well.
  if (found && is_finite_number(*found) && found->as_number() >= kMaxPositions && std::floor(found->as_number()) == found->as_number())
    return kMaxPositions;
  return whole(found, key, 1, kMaxPositions);
}
int HfConfig::positions(std::string_view key, int absent) const { return has(key) ? positions(key) : absent; }

double HfConfig::number(std::string_view key) const {
  const Json* found = required(key);
  if (found && is_finite_number(*found)) return found->as_number();
  if (found) reject(key, "not a finite number");
  return 1;
}
double HfConfig::number(std::string_view key, double absent) const { return has(key) ? number(key) : absent; }

double HfConfig::positive(std::string_view key) const {
  const Json* found = required(key);
  if (found && is_finite_number(*found) && found->as_number() > 0) return found->as_number();
  if (found) reject(key, "not a finite number above 0");
  return 1;
}
double HfConfig::positive(std::string_view key, double absent) const { return has(key) ? positive(key) : absent; }

bool HfConfig::flag(std::string_view key, bool absent) const {
  const Json* found = value(key);
  if (!found) return absent;
  if (found->is_bool()) return found->as_bool();
  if (found->is_integer()) return found->as_integer() != 0;
  reject(key, "not true or false");
  return absent;
}

std::string HfConfig::text(std::string_view key) const {
  const Json* found = required(key);
  if (found && found->is_string()) return found->as_string();
  if (found) reject(key, "not a string");
  return {};
}
std::string HfConfig::text(std::string_view key, std::string_view absent) const { return has(key) ? text(key) : std::string(absent); }

std::string HfConfig::choice(std::string_view key, std::string_view absent, const std::vector<std::string_view>& allowed) const {
  const std::string chosen = text(key, absent);
  if (std::find(allowed.begin(), allowed.end(), chosen) != allowed.end()) return chosen;
  std::string problem = "not one of";
  for (const std::string_view& item : allowed) problem.append(&item == &allowed.front() ? " " : ", ").append(item);
  reject(key, problem);
  return allowed.empty() ? std::string() : std::string(allowed.front());
}

std::vector<int> HfConfig::indices(std::string_view key) const {
  const Json* found = value(key);
  if (!found) return {};
  if (!found->is_array()) return {whole(found, key, 0, kMaxCount)};
  std::vector<int> list;
  for (const Json& item : found->items()) {
    if (!item.is_integer() || item.as_integer() < 0 || item.as_integer() > kMaxCount) {
      reject(key, "not a list of whole numbers from 0 to " + std::to_string(kMaxCount));
      return {};
    }
    list.push_back(static_cast<int>(item.as_integer()));
  }
  return list;
}

std::vector<std::string> HfConfig::texts(std::string_view key) const {
  const Json* found = value(key);
  if (!found) return {};
  std::vector<std::string> list;
  const bool fits = found->is_array() && std::all_of(found->items().begin(), found->items().end(), [](const Json& i) { return i.is_string(); });
  if (!fits) {
    reject(key, "not a list of strings");
    return {};
  }
  for (const Json& item : found->items()) list.push_back(item.as_string());
  return list;
}

std::vector<double> HfConfig::numbers(std::string_view key) const {
  const Json* found = value(key);
  if (!found) return {};
  if (!found->is_array()) return {number(key)};
  std::vector<double> list;
  for (const Json& item : found->items()) {
    if (!is_finite_number(item)) {
      reject(key, "not a list of finite numbers");
      return {};
    }
    list.push_back(item.as_number());
  }
  return list;
}

std::vector<HfConfig> HfConfig::list(std::string_view key) const {
  const Json* found = value(key);
  if (!found) return {};
  std::vector<HfConfig> views;
  const bool fits = found->is_array() && std::all_of(found->items().begin(), found->items().end(), [](const Json& i) { return i.is_object(); });
  if (!fits) {
    reject(key, "not a list of objects");
    return {};
  }
  for (size_t i = 0; i < found->items().size(); ++i)
    views.push_back(HfConfig(shared_, &found->items()[i], prefix_ + std::string(key) + "[" + std::to_string(i) + "]."));
  return views;
}

HfConfig HfConfig::sub(std::string_view key) const {
  const Json* found = required(key);
  if (found && !found->is_object()) {
    reject(key, "not an object");
    found = nullptr;
  }
  return HfConfig(shared_, found, join(prefix_ + std::string(key), ""));
}

std::string HfConfig::architecture() const {
  const std::vector<std::string> names = texts("architectures");
  if (names.empty()) reject("architectures", "not a list with the name of an architecture");
  return names.empty() ? std::string() : names.front();
}

std::string HfConfig::dtype() const {
  std::string name = text(has("dtype") ? "dtype" : "torch_dtype", "");
  if (name.starts_with("torch.")) name.erase(0, 6);
  return name;
}

std::vector<int> HfConfig::token_ids(std::string_view key) const {
  const Json* found = value(key);
  if (!found) return {};
  std::vector<int> ids;
  const Json* items = found->is_array() ? found->items().data() : found;
  const size_t size = found->is_array() ? found->items().size() : 1;
  for (size_t i = 0; i < size; ++i) {
    if (!items[i].is_integer() || items[i].as_integer() > kMaxCount) {
      reject(key, "not a token id or a list of them");
      return {};
    }
    if (items[i].as_integer() >= 0) ids.push_back(static_cast<int>(items[i].as_integer()));
  }
  return ids;
}

int HfConfig::head_dim() const {
  int size = 2;
  if (has("head_dim")) {
    size = count("head_dim");
    if (size % 2 != 0) reject("head_dim", "not even");
  } else {
    const int hidden = count("hidden_size"), heads = count("num_attention_heads");
    if (hidden % heads != 0) reject("hidden_size", "not a multiple of num_attention_heads (" + std::to_string(heads) + "), and there is no head_dim");
    else if (hidden / heads % 2 != 0) reject("hidden_size", "which gives an odd head size for " + std::to_string(heads) + " num_attention_heads");
    size = hidden / heads;
  }
  return size >= 2 && size % 2 == 0 ? size : 2;
}

int HfConfig::kv_heads() const {
  const int heads = count("num_attention_heads"), kv = count("num_key_value_heads", heads);
  if (heads % kv == 0) return kv;
  reject("num_key_value_heads", "which does not divide num_attention_heads (" + std::to_string(heads) + ")");
  return 1;
}

std::vector<LayerKind> HfConfig::layer_types(int layers) const {
  std::vector<LayerKind> kinds;
  for (const std::string& name : texts("layer_types")) {
    if (name == "full_attention") kinds.push_back(LayerKind::full);
    else if (name == "sliding_attention") kinds.push_back(LayerKind::window);
    else if (name == "chunked_attention") kinds.push_back(LayerKind::chunk);
    else {
      reject("layer_types", "where " + json_quote(name) + " is not a known kind", Code::unsupported);
      return {};
    }
  }
  if (kinds.empty() || kinds.size() == static_cast<size_t>(layers)) return kinds;
  reject("layer_types", "a list of " + std::to_string(kinds.size()) + " entries for " + std::to_string(layers) + " layers");
  return {};
}

namespace {

const char* rope_key(LayerKind kind) {
  switch (kind) {
    case LayerKind::full: return "full_attention";
    case LayerKind::window: return "sliding_attention";
    case LayerKind::chunk: return "chunked_attention";
  }
  return "full_attention";
}

// Reads the settings that lie under `path` (rope_scaling, rope_parameters or one kind's part of it) of `c` into `rope`.
class RopeReader {
 public:
  RopeReader(const HfConfig& c, std::string path, RopeConfig& rope) : c_(c), path_(std::move(path)), rope_(rope) {}

  void read() {
    const std::string kind_key = key(c_.has(key("rope_type")) ? "rope_type" : "type");
    const std::string kind = c_.text(kind_key, "default");
    if (!c_.has(kind_key) && c_.has(key("factor"))) return c_.reject(path_, "without a rope_type");
    rope_.sections = c_.indices(key("mrope_section"));
    if (kind == "default" || kind == "mrope") return;
    if (kind == "factors") {
      rope_.scaling = RopeConfig::Scaling::factors;
    } else if (kind == "linear") {
      rope_.scaling = RopeConfig::Scaling::linear;
      read_factor();
    } else if (kind == "llama3") {
      read_llama3();
    } else if (kind == "yarn") {
      read_yarn();
    } else {
      c_.reject(path_, "where the kind " + json_quote(kind) + " is not supported", Code::unsupported);
    }
  }

 private:
  std::string key(std::string_view name) const { return join(path_, name); }

  void read_factor() {
    rope_.factor = c_.number(key("factor"));
    if (rope_.factor < 1) c_.reject(key("factor"), "not a finite number of at least 1");
  }

  void read_llama3() {
    rope_.scaling = RopeConfig::Scaling::llama3;
    read_factor();
    rope_.low_freq_factor = c_.positive(key("low_freq_factor"));
    rope_.high_freq_factor = c_.positive(key("high_freq_factor"));
    rope_.original_max_positions = c_.positions(key("original_max_position_embeddings"));
    if (rope_.low_freq_factor >= rope_.high_freq_factor) c_.reject(key("low_freq_factor"), "not below high_freq_factor");
  }

  void read_yarn() {
    rope_.scaling = RopeConfig::Scaling::yarn;
    read_factor();
    const std::string original = key("original_max_position_embeddings");
    rope_.original_max_positions = c_.positions(c_.has(original) ? original : "max_position_embeddings");
    rope_.beta_fast = c_.positive(key("beta_fast"), 32);
    rope_.beta_slow = c_.positive(key("beta_slow"), 1);
    if (rope_.beta_fast <= rope_.beta_slow) c_.reject(key("beta_slow"), "not below beta_fast");
    if (rope_.theta <= 1) c_.reject("rope_theta", "not above 1, as yarn needs it");
    if (c_.has(key("mscale"))) rope_.mscale = c_.number(key("mscale"));
    if (c_.has(key("mscale_all_dim"))) rope_.mscale_all_dim = c_.number(key("mscale_all_dim"));
    if (c_.has(key("attention_factor"))) rope_.attention_factor = c_.positive(key("attention_factor"));
    rope_.truncate = c_.flag(key("truncate"), true);
  }

  const HfConfig& c_;
  const std::string path_;
  RopeConfig& rope_;
};

}  // namespace

RopeConfig HfConfig::rope(LayerKind kind, double theta) const {
  RopeConfig rope;
  for (const char* share : {"partial_rotary_factor", "rope_percent", "rope_percentage"})
    if (has(share)) rope.partial_rotary_factor = positive(share);
  rope.theta = positive("rope_theta", theta);

  std::string path = "rope_scaling";
  if (has("rope_parameters")) {
    path = "rope_parameters";
    if (const std::string part = join(path, rope_key(kind)); has(part)) path = part;
    rope.theta = positive(join(path, "rope_theta"), rope.theta);
    rope.partial_rotary_factor = positive(join(path, "partial_rotary_factor"), rope.partial_rotary_factor);
  } else if (kind == LayerKind::window && has("rope_local_base_freq")) {
    rope.theta = positive("rope_local_base_freq");
    return rope;
  }
  if (rope.partial_rotary_factor > 1) reject("partial_rotary_factor", "not in (0, 1]");
  const Json* settings = value(path);
  if (!settings) return rope;
  if (settings->is_object()) RopeReader(*this, path, rope).read();
  else reject(path, "not an object");
  return rope;
}

}  // namespace weft
