// GGUF metadata as a Hugging Face config: the same facts under the names that the recipes read.
#include <algorithm>
#include <cmath>
#include <sstream>

#include "checkpoint/gguf_architecture.h"
#include "checkpoint/hf_config.h"

namespace weft {

template <class T>
static const T* get(const GgufMetadata& m, std::string_view key) {
  const auto found = m.values.find(key);
  return found == m.values.end() ? nullptr : std::get_if<T>(&found->second.value);
}

int64_t GgufMetadata::integer(std::string_view key, int64_t absent) const {
  if (const auto* list = get<std::vector<int64_t>>(*this, key); list && !list->empty())
    return std::equal(list->begin() + 1, list->end(), list->begin()) ? list->front() : absent;
  const auto* value = get<int64_t>(*this, key);
  return value ? *value : absent;
}
double GgufMetadata::number(std::string_view key, double absent) const {
  if (const auto* value = get<double>(*this, key)) return *value;
  const auto* value = get<int64_t>(*this, key);
  return value ? static_cast<double>(*value) : absent;
}
std::string_view GgufMetadata::text(std::string_view key) const {
  const auto* value = get<std::string_view>(*this, key);
  return value ? *value : std::string_view();
}
std::optional<bool> GgufMetadata::flag(std::string_view key) const {
  const auto* value = get<bool>(*this, key);
  return value ? std::optional(*value) : std::nullopt;
}
std::optional<int64_t> GgufMetadata::id(std::string_view key) const {
  const auto* value = get<int64_t>(*this, key);
  return value ? std::optional(*value) : std::nullopt;
}
const std::vector<std::string_view>* GgufMetadata::texts(std::string_view key) const {
  return get<std::vector<std::string_view>>(*this, key);
}
const std::vector<int64_t>* GgufMetadata::integers(std::string_view key) const {
  return get<std::vector<int64_t>>(*this, key);
}
const std::vector<double>* GgufMetadata::numbers(std::string_view key) const {
  return get<std::vector<double>>(*this, key);
}

std::optional<int64_t> gguf_token_id(const GgufMetadata& m, std::string_view name) {
  if (const std::optional<int64_t> id = m.id("tokenizer.ggml." + std::string(name) + "_token_id")) return id;
  struct Default {
    std::string_view model, name;
    int64_t id;
  };
  static constexpr Default kDefaults[] = {{"llama", "bos", 1},    {"llama", "eos", 2},      {"llama", "unknown", 0},
                                          {"t5", "eos", 1},       {"t5", "unknown", 2},     {"t5", "padding", 0},
                                          {"bert", "bos", 101},   {"bert", "unknown", 100}, {"bert", "seperator", 102},
                                          {"bert", "padding", 0}, {"bert", "mask", 103}};
  const auto* tokens = m.texts("tokenizer.ggml.tokens");
  for (const Default& d : kDefaults)
    if (d.model == m.text("tokenizer.ggml.model") && d.name == name && tokens &&
        d.id < static_cast<int64_t>(tokens->size()))
      return d.id;
  return std::nullopt;
}

GgufConfig::GgufConfig(const GgufHeader& header, const GgufArchitecture& architecture)
    : header_(header), architecture_(architecture) {
  set_common();
  set_rope();
  set_tokens();
  if (error_) return;  // what it would read is not to be trusted
  for (const GgufFact& fact : architecture.facts) set(fact);
  architecture.configure(*this);
}

const TensorInfo* GgufConfig::find(std::string_view tensor) const {
  for (const TensorInfo& known : header_.tensors)
    if (known.name == tensor) return &known;
  return nullptr;
}

Status GgufConfig::status() const {
  if (error_) return *error_;
  return {};
}

void GgufConfig::reject(std::string_view name, std::string_view problem, Code code) {
  if (error_) return;
  const std::string full = key(name);
  const auto found = metadata().values.find(full);
  std::ostringstream value;
  if (found == metadata().values.end()) value << "absent";
  else if (const auto* whole = std::get_if<int64_t>(&found->second.value)) value << *whole;
  else if (const auto* real = std::get_if<double>(&found->second.value)) value << *real;
  else if (const auto* words = std::get_if<std::string_view>(&found->second.value)) value << *words;
  else if (const auto* list = metadata().integers(full)) value << "a list of " << list->size() << " numbers";
  else value << "of another kind";
  error_ = fail(code, "metadata key ", full, " is ", value.str(), ", ", problem);
}

bool GgufConfig::flag(std::string_view name, bool absent) const { return metadata().flag(key(name)).value_or(absent); }

int64_t GgufConfig::count(std::string_view name) {
  const std::string full = key(name);
  const int64_t value = metadata().integer(full, -1);
  if (value >= 0 && value <= HfConfig::kMaxCount) return value;
  if (metadata().integers(full)) reject(name, "which differ from layer to layer, and that is not supported");
  else reject(name, "but must be a whole number from 0 to " + std::to_string(HfConfig::kMaxCount), Code::data_corrupt);
  return 0;
}

int64_t GgufConfig::count(std::string_view name, int64_t absent) { return has(name) ? count(name) : absent; }

std::vector<int64_t> GgufConfig::per_layer(std::string_view name) {
  const std::vector<int64_t>* list = metadata().integers(key(name));
  const auto layers = static_cast<size_t>(layers_);
  if (!list) return std::vector<int64_t>(layers, count(name));
  const bool sizes =
      std::all_of(list->begin(), list->end(), [](int64_t n) { return n >= 0 && n <= HfConfig::kMaxCount; });
  if (list->size() == layers && sizes) return *list;
  reject(name,
         "but must have a number from 0 to " + std::to_string(HfConfig::kMaxCount) + " for each of " +
             std::to_string(layers) + " layers",
         Code::data_corrupt);
  return std::vector<int64_t>(layers, 1);
}

void GgufConfig::set(const GgufFact& fact) {
  if (!fact.set) return;
  const double absent = fact.absent.value_or(0);
  switch (fact.kind) {
    case GgufFact::count:
      return set(fact.config, fact.absent ? count(fact.metadata, static_cast<int64_t>(absent)) : count(fact.metadata));
    case GgufFact::number: return set(fact.config, number(fact.metadata, absent));
    case GgufFact::flag: return set(fact.config, flag(fact.metadata, absent != 0));
    case GgufFact::implied_number:
      return set(fact.config, std::floor(absent) == absent ? Json(static_cast<int64_t>(absent)) : Json(absent));
    case GgufFact::implied_flag: return set(fact.config, absent != 0);
    case GgufFact::implied_text: return set(fact.config, fact.text);
  }
}

void GgufConfig::copy(std::string_view name, std::string_view from) { set(name, count(from)); }

void GgufConfig::set_common() {
  set("architectures", Json::array({Json(architecture_.architecture)}));
  set("model_type", architecture_.model_type);
  for (const GgufFact& fact : common_gguf_facts()) set(fact);
  layers_ = count("block_count");
  if (layers_ < 1 || layers_ > HfConfig::kMaxLayers)
    reject("block_count", "but must be from 1 to " + std::to_string(HfConfig::kMaxLayers), Code::data_corrupt);
  if (error_) return;
  const std::vector<int64_t> heads = per_layer("attention.head_count");
  heads_ = *std::max_element(heads.begin(), heads.end());
  if (heads_ < 1) reject("attention.head_count", "but must be at least 1", Code::data_corrupt);
  set("num_attention_heads", heads_);
  const bool by_layer = metadata().integer(key("attention.head_count_kv"), -1) < 0 && has("attention.head_count_kv");
  if (!by_layer) set("num_key_value_heads", count("attention.head_count_kv", heads_));
  if (metadata().integer(key("feed_forward_length"), -1) >= 0) copy("intermediate_size", "feed_forward_length");
  if (architecture_.name != "deci")
    for (const char* name : {"attention.head_count", "attention.head_count_kv", "feed_forward_length"}) {
      (void)count(name, 0);                                       // refuses lists of different numbers
      if (metadata().integers(key(name))) (void)per_layer(name);  // and of another length
    }
  // Absent, they follow from others, whatever the architecture's configuration class says.
  for (const char* name : {"rope_scaling", "sliding_window"}) set(name, nullptr);
  if (has("attention.key_length")) copy("head_dim", "attention.key_length");
  else set("head_dim", nullptr);
  head_size_ = count("attention.key_length", heads_ > 0 ? count("embedding_length") / std::max<int64_t>(heads_, 1) : 0);
  if (has("context_length")) {
    const int64_t context = metadata().integer(key("context_length"), 0);
    set("max_position_embeddings", context);
  }
  if (!has("attention.layer_norm_rms_epsilon") && !has("attention.layer_norm_epsilon"))
    reject("attention.layer_norm_rms_epsilon", "and the model's norms need it", Code::data_corrupt);
  const TensorInfo* embedding = find("token_embd.weight");
  if (!embedding) {
    if (!error_) error_ = fail(Code::not_found, "tensor token_embd.weight is absent");
    return;
  }
  set("vocab_size", embedding->rows());
  set("tie_word_embeddings", find("output.weight") == nullptr);
  if (!architecture_.with_experts && count("expert_count", 0) > 0)
    reject("expert_count", "but this architecture is only known without experts");
}

void GgufConfig::set_rope() {
  // Heads of latent attention are rotated by a rule of their own.
  if (const int64_t rotated = count("rope.dimension_count", head_size_);
      rotated != head_size_ && !has("attention.kv_lora_rank")) {
    if (rotated < 1 || rotated > head_size_ || architecture_.rotary_order)
      return reject("rope.dimension_count", "but only the head size (" + std::to_string(head_size_) + ") is supported");
    // Rounded up, so that the share of the head size is never below the whole number.
    set("partial_rotary_factor", std::nextafter(static_cast<double>(rotated) / static_cast<double>(head_size_), 2.0));
  } else if (architecture_.model_type == "nemotron") {
    set("partial_rotary_factor", 1.0);  // its class's own is a half
  }
  for (const char* name : {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"})
    if (const double value = number(name, 1);
        value != 1 && !(value == -1 && std::string_view(name).ends_with("ext_factor")))
      return reject(name, "but only 1 is supported");
  if (find("rope_freqs.weight")) return set("rope_scaling", Json::object({{"rope_type", "factors"}}));
  std::string kind(metadata().text(key("rope.scaling.type")));
  double factor = number("rope.scaling.factor", 0);
  if (kind.empty() && has("rope.scale_linear")) kind = "linear", factor = number("rope.scale_linear", 0);  // old files
  if (kind.empty() || kind == "none") return;
  Json scaling = Json::object({{"rope_type", kind}, {"factor", factor}});
  if (has("rope.scaling.original_context_length"))
    scaling.set("original_max_position_embeddings", metadata().integer(key("rope.scaling.original_context_length"), 0));
  if (kind == "yarn") {
    scaling.set("beta_fast", number("rope.scaling.yarn_beta_fast", 32));
    scaling.set("beta_slow", number("rope.scaling.yarn_beta_slow", 1));
    // Written as a tenth of what Hugging Face calls mscale_all_dim, and mscale is equal to it.
    if (const double log = number("rope.scaling.yarn_log_multiplier", 0); log != 0)
      scaling.set("mscale", 10 * log), scaling.set("mscale_all_dim", 10 * log);
  }
  set("rope_scaling", std::move(scaling));
}

void GgufConfig::set_tokens() {
  if (const std::optional<int64_t> bos = gguf_token_id(metadata(), "bos")) set("bos_token_id", *bos);
  Json ends = Json::array();
  for (const char* name : {"eos", "eot", "eom"})
    if (const std::optional<int64_t> id = gguf_token_id(metadata(), name)) ends.push_back(*id);
  if (!ends.items().empty()) set("eos_token_id", std::move(ends));
}

Result<Json> gguf_config(const GgufHeader& header) {
  WEFT_TRY(const GgufArchitecture* architecture, gguf_architecture(header.metadata));
  GgufConfig config(header, *architecture);
  WEFT_RETURN_IF_ERROR(config.status());
  return std::move(config.json());
}

}  // namespace weft
