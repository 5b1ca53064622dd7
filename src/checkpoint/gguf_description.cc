#include "checkpoint/gguf_description.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/rope_scaling.h"

namespace weft {
namespace {

std::string shown(const GgufFact& fact) {
  if (fact.kind == GgufFact::implied_text) return std::string(fact.text);
  if (fact.kind == GgufFact::implied_flag) return fact.absent.value_or(0) != 0 ? "true" : "false";
  return Json(fact.absent.value_or(0)).dump();
}

bool is_so(const HfConfig& c, const GgufFact& fact) {
  if (fact.kind == GgufFact::implied_text) {
    const std::string text = c.text(fact.config);
    return text == fact.text || (fact.text == "silu" && text == "swish");
  }
  if (fact.kind == GgufFact::implied_flag) return c.flag(fact.config, true) == (fact.absent.value_or(0) != 0);
  return static_cast<float>(c.number(fact.config)) == static_cast<float>(fact.absent.value_or(0));
}

// Llama 3's scaling as divisors of the frequencies. Float32 cannot hold every quotient: the divisor is one whose
// quotient is the float32 frequency that Hugging Face's form gives, where there is one.
float divisor_for(double frequency, double scaled) {
  const auto plain = static_cast<float>(frequency), wanted = static_cast<float>(scaled);
  const auto first = static_cast<float>(frequency / scaled);
  float low = first, high = first;
  for (int i = 0; i < 8; ++i) {
    if (plain / low == wanted) return low;
    if (plain / high == wanted) return high;
    low = std::nextafter(low, 0.0f), high = std::nextafter(high, 1e30f);
  }
  return first;
}

}  // namespace

Result<const GgufArchitecture*> gguf_architecture_for(const std::string& architecture) {
  std::string names;
  for (const GgufArchitecture& known : gguf_architectures()) {
    if (known.architecture == architecture || known.also == architecture) return &known;
    for (const std::string_view name : {known.architecture, known.also})
      if (!name.empty() && names.find(name) == std::string::npos) (names += names.empty() ? "" : ", ") += name;
  }
  return fail(Code::unsupported, "architecture ", architecture, " is not written as a GGUF file; these are: ", names);
}

GgufDescription::GgufDescription(const HfConfig& text, const GgufArchitecture& architecture)
    : config(text), architecture_(architecture) {
  for (const GgufFact& fact : common_gguf_facts()) put_fact(fact);
  for (const GgufFact& fact : architecture.facts) put_fact(fact);
  put_sizes();
  put_rope();
  if (config.status().ok() && architecture.describe) architecture.describe(*this);
}

void GgufDescription::put(std::string_view name, int64_t value) {
  values_[std::string(architecture_.name) + "." + std::string(name)] = static_cast<uint32_t>(value);
}
void GgufDescription::put_number(std::string_view name, double value) {
  values_[std::string(architecture_.name) + "." + std::string(name)] = static_cast<float>(value);
}
void GgufDescription::put_list(std::string_view name, std::vector<int32_t> values) {
  values_[std::string(architecture_.name) + "." + std::string(name)] = std::move(values);
}
void GgufDescription::set_heads(std::vector<int32_t> heads, std::vector<int32_t> kv_heads) {
  heads_of_ = std::move(heads), kv_heads_of_ = std::move(kv_heads);
}

void GgufDescription::put_fact(const GgufFact& fact) {
  if (fact.metadata.empty()) {
    if (config.has(fact.config) && !is_so(config, fact))
      config.reject(fact.config,
                    "and GGUF files of the architecture " + std::string(architecture_.name) + " mean " + shown(fact),
                    Code::unsupported);
    return;
  }
  if (!config.has(fact.config) && fact.absent) return;
  switch (fact.kind) {
    case GgufFact::number: return put_number(fact.metadata, config.number(fact.config));
    case GgufFact::flag:
      values_[std::string(architecture_.name) + "." + std::string(fact.metadata)] = config.flag(fact.config, false);
      return;
    default: return put(fact.metadata, config.index(fact.config));
  }
}

void GgufDescription::put_sizes() {
  heads_ = config.count("num_attention_heads");
  put("attention.head_count", heads_);
  put("context_length", config.positions("max_position_embeddings"));
  put("vocab_size", config.count("vocab_size"));
  // Nemotron-NAS says key/value heads and widths by layer, latent attention has sizes of its own.
  const bool by_layer = config.has("block_configs"), latent = config.has("kv_lora_rank");
  if (!by_layer) kv_heads_ = config.kv_heads(), put("attention.head_count_kv", kv_heads_);
  const auto of_width = [](const GgufFact& fact) { return fact.metadata == "feed_forward_length"; };
  if (!by_layer && std::ranges::none_of(architecture_.facts, of_width))
    put("feed_forward_length", config.count("intermediate_size"));
  if (latent) return;
  head_size_ = config.head_dim();
  put("attention.key_length", head_size_), put("attention.value_length", head_size_);
}

void GgufDescription::put_rope() {
  const RopeConfig rope = config.rope();
  put_number("rope.freq_base", rope.theta);
  int rotated = head_size_;
  if (config.has("kv_lora_rank")) {
    rotated = config.count("qk_rope_head_dim");
  } else {
    rotated = static_cast<int>(rope.partial_rotary_factor * head_size_);
    if (rotated != head_size_ && architecture_.rotary_order)
      config.reject("partial_rotary_factor", "and GGUF files of this architecture rotate all of a head");
  }
  put("rope.dimension_count", rotated);
  const std::string type = std::string(architecture_.name) + ".rope.scaling.type";
  const char* const key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  switch (rope.scaling) {
    case RopeConfig::Scaling::none: return;
    case RopeConfig::Scaling::linear:
      values_[type] = std::string("linear"), put_number("rope.scaling.factor", rope.factor);
      return;
    case RopeConfig::Scaling::yarn: {
      const double all = rope.mscale_all_dim.value_or(0);
      if (rope.attention_factor || !rope.truncate || rope.mscale.value_or(0) != all)
        return config.reject(key,
                             "and GGUF files say no attention_factor, no other truncation and no mscale that is not "
                             "mscale_all_dim",
                             Code::unsupported);
      values_[type] = std::string("yarn"), put_number("rope.scaling.factor", rope.factor);
      put("rope.scaling.original_context_length", rope.original_max_positions);
      put_number("rope.scaling.yarn_beta_fast", rope.beta_fast),
          put_number("rope.scaling.yarn_beta_slow", rope.beta_slow);
      if (all != 0) put_number("rope.scaling.yarn_log_multiplier", 0.1 * all);
      return;
    }
    case RopeConfig::Scaling::llama3:
      for (int i = 0; i < rotated / 2; ++i) {
        const double frequency = std::pow(rope.theta, -2.0 * i / rotated);
        divisors_.push_back(divisor_for(frequency, llama3_frequency(frequency, rope)));
      }
      return;
    case RopeConfig::Scaling::factors: return;  // of a GGUF file, which has them as a tensor
    default: return config.reject(key, "a rope_scaling that GGUF files cannot express", Code::unsupported);
  }
}

Result<GgufItems> GgufDescription::items() const {
  WEFT_RETURN_IF_ERROR(config.status());
  GgufItems list{{"general.architecture", std::string(architecture_.name)}, {"general.type", std::string("model")}};
  for (const auto& [key, value] : values_) list.emplace_back(key, value);
  return list;
}

}  // namespace weft
