#include "checkpoint/hf_config.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "checkpoint/checkpoint.h"

namespace weft {

bool is_writable(const Json& value) {
  if (value.is_number()) return std::isfinite(value.as_number());
  if (value.is_array()) return std::all_of(value.items().begin(), value.items().end(), is_writable);
  if (value.is_object())
    return std::all_of(value.members().begin(), value.members().end(),
                       [](const auto& m) { return is_writable(m.second); });
  return true;
}

namespace {

// A value for a message; long ones are cut.
std::string shown(const Json& value) {
  constexpr size_t kLongest = 80;
  if (!is_writable(value)) return "not finite";
  std::string text = value.dump();
  if (text.size() <= kLongest) return text;
  size_t end = kLongest - 3;
  while ((static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;  // not inside a character
  return text.substr(0, end) + "...";
}

bool is_finite(const Json& value) { return value.is_number() && std::isfinite(value.as_number()); }

}  // namespace

struct HfConfig::Shared {
  Json document;
  std::string where;
  std::optional<Error> error;
  const Checkpoint* checkpoint = nullptr;
  int context = 0;
};

HfConfig::HfConfig(Json document, std::string where)
    : shared_(std::make_shared<Shared>(Shared{std::move(document), std::move(where), std::nullopt})),
      node_(&shared_->document) {
  if (!node_->is_object())
    shared_->error = fail(Code::invalid_argument, shared_->where, " must be a JSON object, not ", node_->type_name());
}

HfConfig::HfConfig(std::shared_ptr<Shared> shared, const Json* node, std::string prefix)
    : shared_(std::move(shared)), node_(node), prefix_(std::move(prefix)) {}

HfConfig HfConfig::of(const Checkpoint& checkpoint, int context) {
  HfConfig config(checkpoint.config(), checkpoint.is_gguf() ? "GGUF metadata" : "config.json");
  config.shared_->checkpoint = &checkpoint, config.shared_->context = context;
  return config;
}

int HfConfig::context() const { return shared_->context > 0 ? shared_->context : positions("max_position_embeddings"); }

bool HfConfig::is_null(std::string_view key) const { return node_ && node_->find(key) && node_->find(key)->is_null(); }

int HfConfig::tensor_rows(std::string_view tensor, int absent) const {
  const TensorInfo* found = shared_->checkpoint ? shared_->checkpoint->find(tensor) : nullptr;
  if (!found || found->shape.empty() || found->shape[0] < 1 || found->shape[0] > kMaxCount) return absent;
  return static_cast<int>(found->shape[0]);
}

bool HfConfig::differ(std::string_view tensor, std::string_view other) const {
  const TensorInfo* a = shared_->checkpoint ? shared_->checkpoint->find(tensor) : nullptr;
  const TensorInfo* b = shared_->checkpoint ? shared_->checkpoint->find(other) : nullptr;
  if (!a || !b) return false;
  const auto first = a->pin(), second = b->pin();
  if (!first.ok() || !second.ok()) return true;  // loading them will say why
  return a->type != b->type || a->shape != b->shape || !std::equal(a->data.begin(), a->data.end(), b->data.begin());
}

const Json* HfConfig::value(std::string_view key) const {
  const Json* at = node_;
  for (std::string_view rest = key; at;) {
    const size_t dot = rest.find('.');
    at = at->find(rest.substr(0, dot));
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
  }
  if (at) return at->is_null() ? nullptr : at;
  return defaults_ ? defaults_->find(key) : nullptr;
}

HfConfig HfConfig::with_defaults(Json defaults) const {
  HfConfig view = *this;
  view.defaults_ = std::make_shared<const Json>(std::move(defaults));
  return view;
}

void HfConfig::reject(std::string_view key, std::string_view problem, Code code) const {
  if (shared_->error) return;
  const Json* found = value(key);
  shared_->error = fail(code, shared_->where, ": ", prefix_, key, " is ",
                        found          ? shown(*found)
                        : is_null(key) ? "null"
                                       : "absent",
                        ", ", problem);
}

Status HfConfig::status() const {
  if (shared_->error) return *shared_->error;
  return {};
}

const Json* HfConfig::required(std::string_view key) const {
  const Json* found = value(key);
  if (!found && !shared_->error)
    shared_->error =
        fail(Code::invalid_argument, shared_->where, ": ", prefix_, key, is_null(key) ? " is null" : " is missing");
  return found;
}

int HfConfig::whole(const Json* found, std::string_view key, int64_t low, int64_t high) const {
  if (!found) return static_cast<int>(low);
  const bool number =
      found->is_integer() || (found->is_number() && std::floor(found->as_number()) == found->as_number());
  const double size = number ? found->as_number() : low - 1.0;
  if (size >= static_cast<double>(low) && size <= static_cast<double>(high)) return static_cast<int>(size);
  reject(key, "but must be a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  return static_cast<int>(low);
}

int HfConfig::count(std::string_view key) const {
  return whole(required(key), key, 1, key.ends_with("num_hidden_layers") ? kMaxLayers : kMaxCount);
}
int HfConfig::count(std::string_view key, int absent) const { return has(key) ? count(key) : absent; }
int HfConfig::index(std::string_view key) const { return whole(required(key), key, 0, kMaxCount); }
int HfConfig::index(std::string_view key, int absent) const { return has(key) ? index(key) : absent; }

int HfConfig::positions(std::string_view key) const {
  const Json* found = required(key);
  if (found && found->is_number() && found->as_number() > kMaxPositions) return kMaxPositions;
  return whole(found, key, 1, kMaxPositions);
}
int HfConfig::positions(std::string_view key, int absent) const { return has(key) ? positions(key) : absent; }

double HfConfig::number(std::string_view key) const {
  const Json* found = required(key);
  if (!found) return 1;
  if (is_finite(*found)) return found->as_number();
  reject(key, "but must be a finite number");
  return 1;
}
double HfConfig::number(std::string_view key, double absent) const { return has(key) ? number(key) : absent; }

double HfConfig::positive(std::string_view key) const {
  const double size = number(key);
  if (size > 0) return size;
  reject(key, "but must be above 0");
  return 1;
}
double HfConfig::positive(std::string_view key, double absent) const { return has(key) ? positive(key) : absent; }

bool HfConfig::flag(std::string_view key, bool absent) const {
  const Json* found = value(key);
  if (!found) return absent;
  if (found->is_bool()) return found->as_bool();
  if (found->is_integer()) return found->as_integer() != 0;
  reject(key, "but must be true or false");
  return absent;
}

std::string HfConfig::text(std::string_view key) const {
  const Json* found = required(key);
  if (!found) return "";
  if (found->is_string()) return found->as_string();
  reject(key, "but must be a string");
  return "";
}
std::string HfConfig::text(std::string_view key, std::string_view absent) const {
  return has(key) ? text(key) : std::string(absent);
}

std::string HfConfig::choice(std::string_view key, std::string_view absent,
                             const std::vector<std::string_view>& allowed) const {
  const std::string found = text(key, absent);
  if (std::find(allowed.begin(), allowed.end(), found) != allowed.end()) return found;
  std::string problem = "but must be one of";
  for (std::string_view item : allowed) (problem += " ") += item;
  reject(key, problem, Code::unsupported);
  return std::string(allowed.front());
}

std::vector<int> HfConfig::indices(std::string_view key) const {
  const Json* found = value(key);
  if (!found) return {};
  if (!found->is_array()) return {whole(found, key, 0, kMaxCount)};
  std::vector<int> list;
  for (const Json& item : found->items()) list.push_back(whole(&item, key, 0, kMaxCount));
  return list;
}

std::vector<std::string> HfConfig::texts(std::string_view key) const {
  const Json* found = value(key);
  std::vector<std::string> list;
  if (!found) return list;
  if (!found->is_array()) return reject(key, "but must be a list of strings"), list;
  for (const Json& item : found->items()) {
    if (!item.is_string()) return reject(key, "but must be a list of strings"), list;
    list.push_back(item.as_string());
  }
  return list;
}

std::vector<double> HfConfig::numbers(std::string_view key) const {
  const Json* found = value(key);
  std::vector<double> list;
  if (!found) return list;
  if (!found->is_array()) return {number(key)};
  for (const Json& item : found->items()) {
    if (!is_finite(item)) return reject(key, "but must be a list of finite numbers"), list;
    list.push_back(item.as_number());
  }
  return list;
}

std::vector<HfConfig> HfConfig::list(std::string_view key) const {
  const Json* found = value(key);
  std::vector<HfConfig> views;
  if (!found) return views;
  if (!found->is_array()) return reject(key, "but must be a list of objects"), views;
  for (size_t i = 0; i < found->items().size(); ++i) {
    const Json& item = found->items()[i];
    if (!item.is_object()) return reject(key, "but must be a list of objects"), views;
    views.push_back(HfConfig(shared_, &item, prefix_ + std::string(key) + "[" + std::to_string(i) + "]."));
  }
  return views;
}

HfConfig HfConfig::sub(std::string_view key) const {
  static const Json empty = Json::object();
  const Json* found = required(key);
  if (found && !found->is_object()) reject(key, "but must be an object"), found = nullptr;
  return HfConfig(shared_, found ? found : &empty, prefix_ + std::string(key) + ".");
}

std::string HfConfig::architecture() const {
  const Json* found = required("architectures");
  if (!found) return "";
  if (found->is_array() && !found->items().empty() && found->items()[0].is_string())
    return found->items()[0].as_string();
  reject("architectures", "but must be a list of strings");
  return "";
}

std::string HfConfig::dtype() const {
  std::string type = has("dtype") ? text("dtype") : text("torch_dtype", "");
  if (type.starts_with("torch.")) type.erase(0, 6);
  return type;
}

std::vector<int> HfConfig::token_ids(std::string_view key) const {
  const Json* found = value(key);
  std::vector<int> ids;
  if (!found) return ids;
  const auto add = [&](const Json& item) {
    if (!item.is_integer()) return reject(key, "but must be a token id or a list of them");
    if (item.as_integer() >= 0 && item.as_integer() <= INT32_MAX) ids.push_back(static_cast<int>(item.as_integer()));
  };
  if (!found->is_array()) add(*found);
  else
    for (const Json& item : found->items()) add(item);
  return ids;
}

int HfConfig::head_dim() const {
  const int heads = count("num_attention_heads"), hidden = count("hidden_size");
  if (has("head_dim")) {
    const int dim = count("head_dim");
    if (dim % 2 != 0) reject("head_dim", "but must be even");
    if (dim > 4096) reject("head_dim", "which is too large");
    return dim;
  }
  if (hidden % heads != 0) reject("num_attention_heads", "which does not divide hidden_size, and there is no head_dim");
  else if (hidden / heads % 2 != 0) reject("num_attention_heads", "which makes the head size odd");
  return std::max(1, hidden / heads);
}

int HfConfig::kv_heads() const {
  const int heads = count("num_attention_heads"), kv_heads = count("num_key_value_heads", heads);
  if (heads % kv_heads == 0) return kv_heads;
  reject("num_key_value_heads", "which does not divide num_attention_heads");
  return heads;
}

std::vector<LayerKind> HfConfig::layer_types(int layers) const {
  std::vector<LayerKind> kinds;
  if (!has("layer_types")) return kinds;
  for (const std::string& kind : texts("layer_types")) {
    if (kind == "full_attention") kinds.push_back(LayerKind::full);
    else if (kind == "sliding_attention") kinds.push_back(LayerKind::window);
    else if (kind == "chunked_attention") kinds.push_back(LayerKind::chunk);
    else reject("layer_types", "which has the unknown kind " + kind, Code::unsupported);
  }
  if (static_cast<int>(kinds.size()) != layers) reject("layer_types", "but must have one entry per layer");
  kinds.resize(layers, LayerKind::full);
  return kinds;
}

namespace {

// Checks and copies what the scaling's kind needs out of the object `s`.
void read_scaling(const HfConfig& s, const HfConfig& whole, int head_dim, RopeConfig& rope) {
  const std::string kind = s.text("rope_type", s.text("type", "default"));
  if (kind == "default" && s.has("factor") && !s.has("rope_type") && !s.has("type"))
    s.reject("rope_type", "but there is a factor");
  const auto factor = [&] {
    const double value = s.number("factor");
    if (!(value >= 1)) s.reject("factor", "but must be at least 1");
    return value;
  };
  if (kind == "default" || kind == "mrope") return;
  if (kind == "linear") {
    rope.scaling = RopeConfig::Scaling::linear;
    rope.factor = factor();
  } else if (kind == "factors") {
    rope.scaling = RopeConfig::Scaling::factors;
  } else if (kind == "llama3") {
    rope.scaling = RopeConfig::Scaling::llama3;
    rope.factor = factor();
    rope.low_freq_factor = s.positive("low_freq_factor");
    rope.high_freq_factor = s.positive("high_freq_factor");
    rope.original_max_positions = s.positions("original_max_position_embeddings");
    if (!(rope.low_freq_factor <= rope.high_freq_factor))
      s.reject("low_freq_factor", "but must not be above high_freq_factor");
  } else if (head_dim > 0 && (kind == "longrope" || s.has("short_factor"))) {  // "su" and "yarn" in old files
    rope.scaling = RopeConfig::Scaling::longrope;
    const char* key = "original_max_position_embeddings";
    const int longest = whole.positions("max_position_embeddings");
    const int original = whole.has(key) ? whole.positions(key) : s.positions(key, longest);
    if (original < 2) whole.reject(key, "but must be at least 2");
    key = whole.context() > original ? "long_factor" : "short_factor";
    rope.factors = s.numbers(key);
    const bool some = std::all_of(rope.factors.begin(), rope.factors.end(), [](double f) { return f > 0; });
    if (!some || static_cast<int>(rope.factors.size()) != static_cast<int>(rope.partial_rotary_factor * head_dim) / 2) {
      s.reject(key, "but must have a positive factor for each pair of rotated elements");
      rope.factors.assign(static_cast<size_t>(head_dim), 1.0);  // as many as are read until that is said
    }
    const double factor = s.positive("factor", static_cast<double>(longest) / original);
    const double scale = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
    rope.attention_factor = s.positive("attention_factor", scale);
  } else if (kind == "yarn") {
    rope.scaling = RopeConfig::Scaling::yarn;
    rope.factor = factor();
    rope.original_max_positions = s.has("original_max_position_embeddings")
                                      ? s.positions("original_max_position_embeddings")
                                      : whole.positions("max_position_embeddings");
    // 0 counts as absent, as in the reference.
    const auto beta = [&](const char* key, double absent) { return s.number(key, 0) == 0 ? absent : s.positive(key); };
    rope.beta_fast = beta("beta_fast", 32), rope.beta_slow = beta("beta_slow", 1);
    if (!(rope.beta_slow < rope.beta_fast)) s.reject("beta_slow", "but must be below beta_fast");
    if (s.has("mscale")) rope.mscale = s.number("mscale");
    if (s.has("mscale_all_dim")) rope.mscale_all_dim = s.number("mscale_all_dim");
    if (s.has("attention_factor")) rope.attention_factor = s.positive("attention_factor");
    rope.truncate = s.flag("truncate", true);
    if (rope.theta <= 1) whole.reject("rope_theta", "but must be above 1 for yarn");
  } else {
    s.reject(s.has("rope_type") ? "rope_type" : "type", "a rope_scaling that is not supported", Code::unsupported);
  }
}

}  // namespace

RopeConfig HfConfig::rope(LayerKind kind, double theta, int head_dim) const {
  RopeConfig rope;
  if (is_null("rope_theta") && !has("rope_parameters")) reject("rope_theta", "but must be a number");
  rope.theta = positive("rope_theta", theta);
  for (const char* share : {"rope_percent", "rope_percentage", "partial_rotary_factor"}) {
    rope.partial_rotary_factor = positive(share, rope.partial_rotary_factor);
    if (rope.partial_rotary_factor > 1) reject(share, "but must be at most 1");
  }
  const bool local = kind == LayerKind::window && has("rope_local_base_freq");
  if (local) rope.theta = positive("rope_local_base_freq");
  const char* key = has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!has(key) || (local && !value(key)->find("sliding_attention"))) return rope;
  HfConfig scaling = sub(key);
  // Version 5: one object per kind of layer.
  const char* layer = kind == LayerKind::window  ? "sliding_attention"
                      : kind == LayerKind::chunk ? "chunked_attention"
                                                 : "full_attention";
  for (const char* name : {"full_attention", "sliding_attention", "chunked_attention"})
    if (scaling.has(name) && scaling.value(name)->is_object()) {
      if (!scaling.has(layer)) return rope;
      scaling = scaling.sub(layer);
      break;
    }
  if (scaling.has("rope_theta")) rope.theta = scaling.positive("rope_theta");
  rope.partial_rotary_factor = scaling.positive("partial_rotary_factor", rope.partial_rotary_factor);
  if (rope.partial_rotary_factor > 1) scaling.reject("partial_rotary_factor", "but must be at most 1");
  for (int section : scaling.indices("mrope_section")) rope.sections.push_back(section);
  read_scaling(scaling, *this, head_dim, rope);
  return rope;
}

}  // namespace weft
