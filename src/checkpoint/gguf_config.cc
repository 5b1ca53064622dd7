// GGUF metadata as a Hugging Face config: the same facts under the names that the recipes read.
#include "checkpoint/gguf_metadata.h"

#include <algorithm>
#include <functional>

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

namespace {

struct Family {
  std::string_view arch, architecture, model_type;
};
constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", "llama"},
    {"qwen2", "Qwen2ForCausalLM", "qwen2"},
    {"qwen3", "Qwen3ForCausalLM", "qwen3"},
    {"gemma3", "Gemma3ForCausalLM", "gemma3_text"},
};

void set_rope(const GgufMetadata& m, const std::string& arch, bool has_rope_factors, Json& config) {
  config.set("rope_theta", m.number(arch + ".rope.freq_base", 10000));
  const std::string_view kind = m.text(arch + ".rope.scaling.type");
  const double factor = m.number(arch + ".rope.scaling.factor", 0);
  Json scaling;
  if (has_rope_factors) {
    scaling.set("rope_type", "factors");
  } else if (!kind.empty() && kind != "none") {
    scaling.set("rope_type", kind);
    scaling.set("factor", factor);
    if (m.has(arch + ".rope.scaling.original_context_length"))
      scaling.set("original_max_position_embeddings",
                  static_cast<long long>(m.integer(arch + ".rope.scaling.original_context_length", 0)));
  }
  if (!scaling.is_null()) config.set("rope_scaling", std::move(scaling));
}

// What llama.cpp knows about Gemma 3 from its name alone.
void set_gemma3(const GgufMetadata& m, const std::string& arch, Json& config) {
  config.set("hidden_activation", "gelu_pytorch_tanh");
  config.set("sliding_window", static_cast<long long>(m.integer(arch + ".attention.sliding_window", 512)));
  config.set("sliding_window_pattern", 6);
  config.set("rope_local_base_freq", m.number(arch + ".rope.freq_base_swa", 10000));
  config.set("rope_theta", m.number(arch + ".rope.freq_base", 1000000));
  const int64_t layers = m.integer(arch + ".block_count", 0), heads = m.integer(arch + ".attention.head_count", 1);
  const int64_t head = m.integer(arch + ".attention.key_length", 256);
  // 27B scales by hidden / heads, all others by the head size.
  const int64_t scalar = layers == 62 ? m.integer(arch + ".embedding_length", 0) / std::max<int64_t>(1, heads) : head;
  config.set("query_pre_attn_scalar", static_cast<long long>(scalar));
}

// What the architecture's name does not tell, but would make the recipe of that name compute something else.
Status refuse_variants(const GgufMetadata& m, const std::string& arch) {
  if (m.integer("split.count", 1) > 1)
    return fail(Code::unsupported, "the file is one of ", m.integer("split.count", 1), " parts; join them into one");
  if (m.integer(arch + ".expert_count", 0) > 0)
    return fail(Code::unsupported, arch, ".expert_count is ", m.integer(arch + ".expert_count", 0),
                ": mixtures of experts are not supported");
  for (const char* key : {".attention.head_count", ".attention.head_count_kv", ".feed_forward_length"})
    if (const auto* list = m.integers(arch + key);
        list && (list->empty() || std::adjacent_find(list->begin(), list->end(), std::not_equal_to<>()) != list->end()))
      return fail(Code::unsupported, arch, key, " is a list of ", list->size(),
                  " numbers that differ from layer to layer", ", which is not supported");
  const int64_t heads = m.integer(arch + ".attention.head_count", 0), hidden = m.integer(arch + ".embedding_length", 0);
  const int64_t head = m.integer(arch + ".attention.key_length", heads > 0 ? hidden / heads : 0);
  const int64_t rotary = m.integer(arch + ".rope.dimension_count", head);
  if (rotary != head)
    return fail(Code::unsupported, arch, ".rope.dimension_count is ", rotary, ", but only the head size (", head,
                ") is supported");
  return {};
}

}  // namespace

Result<Json> gguf_config(const GgufHeader& header) {
  const GgufMetadata& m = header.metadata;
  const std::string arch(m.text("general.architecture"));
  const Family* family = nullptr;
  for (const Family& known : kFamilies)
    if (known.arch == arch) family = &known;
  if (!family)
    return fail(Code::unsupported, "GGUF architecture ", arch.empty() ? "(none)" : arch,
                " is not supported; these are: gemma3, llama, qwen2, qwen3");
  WEFT_RETURN_IF_ERROR(refuse_variants(m, arch));
  const auto find = [&](std::string_view name) -> const TensorInfo* {
    for (const TensorInfo& tensor : header.tensors)
      if (tensor.name == name) return &tensor;
    return nullptr;
  };
  const TensorInfo* embedding = find("token_embd.weight");
  if (!embedding) return fail(Code::not_found, "tensor token_embd.weight is absent");
  Json config = Json::object();
  const auto copy = [&](const char* key, const std::string& gguf) {
    if (m.has(gguf)) config.set(key, static_cast<long long>(m.integer(gguf, 0)));
  };
  config.set("architectures", Json::array({Json(family->architecture)}));
  config.set("model_type", family->model_type);
  copy("hidden_size", arch + ".embedding_length");
  copy("num_hidden_layers", arch + ".block_count");
  copy("intermediate_size", arch + ".feed_forward_length");
  copy("num_attention_heads", arch + ".attention.head_count");
  copy("num_key_value_heads", arch + ".attention.head_count_kv");
  copy("head_dim", arch + ".attention.key_length");
  copy("max_position_embeddings", arch + ".context_length");
  // Absent ones follow from the others in GGUF, whatever the architecture's configuration class says.
  for (const char* key : {"num_key_value_heads", "head_dim", "rope_scaling", "sliding_window"})
    if (!config.find(key)) config.set(key, nullptr);
  config.set("rms_norm_eps", m.number(arch + ".attention.layer_norm_rms_epsilon", 1e-6));
  config.set("vocab_size", static_cast<long long>(embedding->rows()));
  config.set("tie_word_embeddings", !find("output.weight"));
  if (arch == "llama") {
    config.set("attention_bias", find("blk.0.attn_q.bias") != nullptr);
    config.set("mlp_bias", find("blk.0.ffn_gate.bias") != nullptr);
  }
  set_rope(m, arch, find("rope_freqs.weight") != nullptr, config);
  if (arch == "gemma3") set_gemma3(m, arch, config);
  if (m.has("tokenizer.ggml.bos_token_id"))
    config.set("bos_token_id", static_cast<long long>(m.integer("tokenizer.ggml.bos_token_id", 0)));
  Json ends = Json::array();
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
    if (const std::optional<int64_t> id = m.id(key)) ends.push_back(static_cast<long long>(*id));
  if (!ends.items().empty()) config.set("eos_token_id", std::move(ends));
  return config;
}

}  // namespace weft
