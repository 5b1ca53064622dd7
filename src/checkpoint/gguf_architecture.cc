#include "checkpoint/gguf_architecture.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/gguf_description.h"

namespace weft {
namespace {

using Names = std::pair<std::string_view, std::string_view>;

constexpr Names kGemmaNames[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};
constexpr Names kDeepseekNames[] = {
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"attn_k_b", "self_attn.k_b_proj"},
    {"attn_v_b", "self_attn.v_b_proj"},
};

constexpr GgufFact kCommonFacts[] = {
    {"hidden_size", "embedding_length"},
    {"num_hidden_layers", "block_count"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", GgufFact::number, 1e-6},
    {"rope_theta", "rope.freq_base", GgufFact::number, 10000},
};
// Of gated MLPs; what Hugging Face's classes take where a file does not say it.
constexpr GgufFact kSilu = {.config = "hidden_act", .kind = GgufFact::implied_text, .text = "silu", .set = false};
constexpr GgufFact kPlainFacts[] = {kSilu};
constexpr GgufFact kMixtralFacts[] = {
    kSilu, {"num_local_experts", "expert_count"}, {"num_experts_per_tok", "expert_used_count"}};
constexpr GgufFact kLlama4Facts[] = {
    kSilu,
    {"intermediate_size", "expert_feed_forward_length"},
    {"intermediate_size_mlp", "feed_forward_length"},
    {"num_local_experts", "expert_count"},
    {"num_experts_per_tok", "expert_used_count"},
    {"interleave_moe_layer_step", "interleave_moe_layer_step"},
    {"attention_chunk_size", "", GgufFact::implied_number, 8192},
    {"floor_scale", "", GgufFact::implied_number, 8192},
    {"attn_scale", "", GgufFact::implied_number, 0.1},
    {.config = "attn_temperature_tuning", .kind = GgufFact::implied_flag, .absent = 1, .set = false},
};
constexpr GgufFact kDeepseekFacts[] = {
    kSilu,
    {"qk_rope_head_dim", "rope.dimension_count"},
    {"kv_lora_rank", "attention.kv_lora_rank"},
    {"moe_intermediate_size", "expert_feed_forward_length"},
    {"n_routed_experts", "expert_count"},
    {"num_experts_per_tok", "expert_used_count"},
    {"n_shared_experts", "expert_shared_count", GgufFact::count, 0},
    {"first_k_dense_replace", "leading_dense_block_count", GgufFact::count, 0},
    {"routed_scaling_factor", "expert_weights_scale", GgufFact::number, 1},
    {"norm_topk_prob", "expert_weights_norm", GgufFact::flag, 0},
    {.config = "rope_interleave", .kind = GgufFact::implied_flag, .absent = 1, .set = false},
    {.config = "moe_layer_freq", .kind = GgufFact::implied_number, .absent = 1, .set = false},
    {.config = "scoring_func", .kind = GgufFact::implied_text, .text = "sigmoid", .set = false},
    {.config = "topk_method", .kind = GgufFact::implied_text, .text = "noaux_tc", .set = false},
};
constexpr GgufFact kQwen3MoeFacts[] = {
    kSilu,
    {"num_experts", "expert_count"},
    {"num_experts_per_tok", "expert_used_count"},
    {"moe_intermediate_size", "expert_feed_forward_length"},
    {"norm_topk_prob", "", GgufFact::implied_flag, 1},  // llama.cpp knows no other
    {"decoder_sparse_step", "", GgufFact::implied_number, 1},
};
constexpr GgufFact kGemmaFacts[] = {
    {.config = "hidden_activation", .kind = GgufFact::implied_text, .text = "gelu_pytorch_tanh"},
    {"sliding_window", "attention.sliding_window", GgufFact::count, 512},
    {"rope_local_base_freq", "rope.freq_base_swa", GgufFact::number, 10000},
    {"rope_theta", "rope.freq_base", GgufFact::number, 1000000},
};
constexpr GgufFact kNemotronFacts[] = {
    {.config = "hidden_act", .kind = GgufFact::implied_text, .text = "relu2"},
    {"norm_eps", "attention.layer_norm_epsilon", GgufFact::number, 1e-5},
};

// What one number for each layer says of windows: a period, of which the last layer is full, or a list of flags.
void set_windows(GgufConfig& c, int64_t period) {
  const std::string key = c.key("attention.sliding_window_pattern");
  const std::vector<int64_t>* flags = c.metadata().integers(key);
  if (!flags) return c.set("sliding_window_pattern", c.count("attention.sliding_window_pattern", period));
  Json kinds = Json::array();
  for (const int64_t flag : *flags) kinds.push_back(flag != 0 ? "sliding_attention" : "full_attention");
  c.set("sliding_window_pattern", period);
  c.set("layer_types", std::move(kinds));
}

void llama(GgufConfig& c) {
  c.set("attention_bias", c.find("blk.0.attn_q.bias") || c.find("blk.0.attn_qkv.bias"));
  c.set("mlp_bias", c.find("blk.0.ffn_gate.bias") != nullptr);
}

// Llama 4's chunk, temperature and which layers have no rotary positions are known from its name alone; a window of 0
// switches all three off.
void llama4(GgufConfig& c) {
  if (c.has("attention.sliding_window") && c.count("attention.sliding_window") == 0)
    return c.reject("attention.sliding_window", "which means attention without chunks, and that is not supported");
  if (c.metadata().integers(c.key("attention.sliding_window_pattern")))
    return c.reject("attention.sliding_window_pattern", "but only a number is supported");
  c.set("no_rope_layer_interval", c.count("attention.sliding_window_pattern", 4));
  c.set("use_qk_norm", c.count("expert_count") != 128);
}

// The mixture of experts of DeepSeek-V3. Files from before groups of experts were written are of the published model.
void deepseek2(GgufConfig& c) {
  const int64_t rotary = c.count("rope.dimension_count");
  // Without the keys for latent attention, kv_b is whole and the plain keys have the heads' sizes.
  const bool latent = c.has("attention.key_length_mla");
  const int64_t key = c.count(latent ? "attention.key_length_mla" : "attention.key_length");
  if (key <= rotary) return c.reject("rope.dimension_count", "but must be below the size of a head's key");
  c.set("qk_nope_head_dim", key - rotary);
  c.copy("v_head_dim", latent ? "attention.value_length_mla" : "attention.value_length");
  if (c.has("attention.q_lora_rank")) c.copy("q_lora_rank", "attention.q_lora_rank");
  else c.set("q_lora_rank", nullptr);
  c.set("kv_b_split", c.find("blk.0.attn_k_b.weight") != nullptr);
  c.set("latent_norm_eps", c.number("attention.layer_norm_rms_epsilon", 1e-6));
  c.set("num_key_value_heads", c.heads()), c.set("head_dim", nullptr);

  if (c.count("expert_gating_func", 1) != 2)
    return c.reject("expert_gating_func", "but only 2 (sigmoid, DeepSeek-V3) is supported");
  const bool published = c.count("expert_count") == 256 && c.count("block_count") >= 61;
  c.set("n_group", c.count("expert_group_count", published ? 8 : 1));
  c.set("topk_group", c.count("expert_group_used_count", published ? 4 : 1));
  const int64_t drafts = c.count("nextn_predict_layers", 0);
  c.set("num_nextn_predict_layers", drafts), c.set("num_hidden_layers", c.layers() - drafts);
}

// What llama.cpp knows about Gemma 3 from its name alone.
void gemma3(GgufConfig& c) {
  set_windows(c, c.has("attention.sliding_window") ? 6 : 1);
  if (const double cap = c.number("final_logit_softcapping", 0); cap != 0) c.set("final_logit_softcapping", cap);
  // 27B scales by hidden / heads, all others by the head size.
  const int64_t hidden = c.count("embedding_length");
  c.set("query_pre_attn_scalar", c.layers() == 62 ? hidden / std::max<int64_t>(1, c.heads()) : c.head_size());
}

void nemotron(GgufConfig& c) {
  c.set("attention_bias", c.find("blk.0.attn_q.bias") != nullptr);
  c.set("mlp_bias", c.find("blk.0.ffn_up.bias") != nullptr);
}

// Each layer has its own numbers of heads and MLP width: no heads: no attention; no key/value heads: one matrix in its
// place; width 0: no MLP.
void deci(GgufConfig& c) {
  llama(c);
  const std::vector<int64_t> heads = c.per_layer("attention.head_count"),
                             kv_heads = c.per_layer("attention.head_count_kv"),
                             widths = c.per_layer("feed_forward_length");
  if (!c.status().ok()) return;
  Json blocks = Json::array();
  for (size_t i = 0; i < heads.size(); ++i) {
    Json attention = Json::object(), mlp = Json::object();
    if (heads[i] == 0) {
      attention.set("no_op", true);
    } else if (heads[i] != c.heads()) {
      return c.reject("attention.head_count", "but layers with attention must have equally many heads");
    } else if (kv_heads[i] == 0) {
      attention.set("replace_with_linear", true);
    } else if (heads[i] % kv_heads[i] != 0) {
      return c.reject("attention.head_count_kv", "which does not divide attention.head_count", Code::data_corrupt);
    } else {
      attention.set("n_heads_in_group", heads[i] / kv_heads[i]);
    }
    if (widths[i] == 0) mlp.set("no_op", true);
    else mlp.set("intermediate_size", widths[i]);
    blocks.push_back(Json::object({{"attention", std::move(attention)}, {"ffn", std::move(mlp)}}));
  }
  c.set("block_configs", std::move(blocks));
  c.set("num_key_value_heads", nullptr), c.set("intermediate_size", nullptr);
}

void plain(GgufConfig&) {}

// The same the other way round.
void describe_llama4(GgufDescription& d) {
  if (d.config.flag("use_qk_norm", true) != (d.config.count("num_local_experts") != 128))
    d.config.reject("use_qk_norm", "and GGUF files have that norm unless there are 128 experts", Code::unsupported);
}

void describe_deepseek2(GgufDescription& d) {
  const HfConfig& c = d.config;
  const int rotary = c.count("qk_rope_head_dim"), rank = c.count("kv_lora_rank");
  const int key = c.count("qk_nope_head_dim") + rotary, value = c.count("v_head_dim");
  d.put("attention.key_length", rank + rotary), d.put("attention.value_length", rank);
  d.put("attention.key_length_mla", key), d.put("attention.value_length_mla", value);
  d.put("attention.head_count_kv", 1), d.put("rope.dimension_count", rotary);
  if (!c.is_null("q_lora_rank")) d.put("attention.q_lora_rank", c.count("q_lora_rank"));
  d.put("expert_gating_func", 2);  // sigmoid
  d.put("expert_group_count", c.count("n_group")), d.put("expert_group_used_count", c.count("topk_group"));
  if (c.number("latent_norm_eps", 1e-6) != c.number("rms_norm_eps"))
    c.reject("rms_norm_eps", "and in GGUF files it is also that of latent attention's inner norms, which here is 1e-6",
             Code::unsupported);
}

void describe_gemma3(GgufDescription& d) {
  const HfConfig& c = d.config;
  d.put_number("rope.freq_base_swa", c.rope(LayerKind::window, 10000).theta);
  const int layers = c.count("num_hidden_layers"),
            scale = layers == 62 ? c.count("hidden_size") / d.heads() : d.head_size();
  if (c.positive("query_pre_attn_scalar") != scale)
    c.reject("query_pre_attn_scalar", "and GGUF files of such a model mean " + std::to_string(scale),
             Code::unsupported);
  if (c.has("final_logit_softcapping")) d.put_number("final_logit_softcapping", c.positive("final_logit_softcapping"));
  const std::vector<LayerKind> kinds = c.layer_types(layers);
  for (size_t i = 0; i < kinds.size(); ++i)
    if ((kinds[i] == LayerKind::full) != (i % 6 == 5))
      return c.reject("layer_types", "and in GGUF files every sixth layer sees all of the text", Code::unsupported);
  if (kinds.empty() && c.count("sliding_window_pattern") != 6)
    c.reject("sliding_window_pattern", "and GGUF files have 6", Code::unsupported);
}

void describe_deci(GgufDescription& d) {
  std::vector<int32_t> heads, kv_heads, widths;
  const std::vector<HfConfig> blocks = d.config.list("block_configs");
  for (size_t i = 0; i < blocks.size(); ++i) {
    const HfConfig attention = blocks[i].sub("attention"), mlp = blocks[i].sub("ffn");
    const bool none = attention.flag("no_op", false), linear = attention.flag("replace_with_linear", false);
    if (mlp.flag("replace_with_linear", false)) mlp.reject("replace_with_linear", "which GGUF files cannot express");
    heads.push_back(none ? 0 : d.heads());
    kv_heads.push_back(none || linear ? 0 : d.heads() / attention.count("n_heads_in_group"));
    const std::string gate = "model.layers." + std::to_string(i) + ".mlp.gate_proj.weight";
    widths.push_back(mlp.flag("no_op", false) ? 0 : d.config.tensor_rows(gate, 0));
  }
  d.set_heads(heads, kv_heads);
  d.put_list("attention.head_count", std::move(heads)), d.put_list("attention.head_count_kv", std::move(kv_heads));
  d.put_list("feed_forward_length", std::move(widths));
}

constexpr GgufArchitecture kArchitectures[] = {
    {.name = "deci",
     .architecture = "NemotronNASForCausalLM",
     .model_type = "nemotron-nas",
     .gives = "heads and widths per layer, linear and absent attention, absent MLPs",
     .facts = kPlainFacts,
     .configure = deci,
     .describe = describe_deci,
     .also = "DeciLMForCausalLM",
     .rotary_order = true},
    {.name = "deepseek2",
     .architecture = "DeepseekV3ForCausalLM",
     .model_type = "deepseek_v3",
     .gives = "DeepSeek-V3 and R1 (sigmoid router); kv_b whole or split into k_b and v_b",
     .facts = kDeepseekFacts,
     .configure = deepseek2,
     .describe = describe_deepseek2,
     .with_experts = true,
     .names = kDeepseekNames},
    {.name = "gemma3",
     .architecture = "Gemma3ForCausalLM",
     .model_type = "gemma3_text",
     .gives = "text",
     .facts = kGemmaFacts,
     .configure = gemma3,
     .describe = describe_gemma3,
     .one_plus_norms = true,
     .names = kGemmaNames},
    {.name = "llama",
     .architecture = "LlamaForCausalLM",
     .model_type = "llama",
     .gives = "Llama 2 and 3, Mistral, and what is converted to their form",
     .facts = kPlainFacts,
     .configure = llama,
     .also = "MistralForCausalLM",
     .rotary_order = true},
    {.name = "llama",
     .architecture = "MixtralForCausalLM",
     .model_type = "mixtral",
     .gives = "files with experts; experts together or one by one",
     .facts = kMixtralFacts,
     .configure = llama,
     .with_experts = true,
     .rotary_order = true,
     .router = "block_sparse_moe.gate",
     .experts = "block_sparse_moe.experts",
     .expert = {"w1", "w3", "w2"}},
    {.name = "llama4",
     .architecture = "Llama4ForCausalLM",
     .model_type = "llama4_text",
     .gives = "text",
     .facts = kLlama4Facts,
     .configure = llama4,
     .describe = describe_llama4,
     .with_experts = true,
     .mlp = "feed_forward",
     .router = "feed_forward.router",
     .experts = "feed_forward.experts",
     .shared = "feed_forward.shared_expert"},
    {.name = "nemotron",
     .architecture = "NemotronForCausalLM",
     .model_type = "nemotron",
     .gives = "Minitron and Nemotron-4",
     .facts = kNemotronFacts,
     .configure = nemotron,
     .one_plus_norms = true},
    {.name = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .gives = "Qwen 2 and 2.5",
     .facts = kPlainFacts,
     .configure = plain},
    {.name = "qwen2vl",
     .architecture = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .gives = "text",
     .facts = kPlainFacts,
     .configure = plain},
    {.name = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .gives = "Qwen 3",
     .facts = kPlainFacts,
     .configure = plain},
    {.name = "qwen3moe",
     .architecture = "Qwen3MoeForCausalLM",
     .model_type = "qwen3_moe",
     .gives = "the chosen experts' weights always sum to 1",
     .facts = kQwen3MoeFacts,
     .configure = plain,
     .with_experts = true},
};

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() { return kArchitectures; }
std::span<const GgufFact> common_gguf_facts() { return kCommonFacts; }

Result<const GgufArchitecture*> gguf_architecture(const GgufMetadata& metadata) {
  const std::string name(metadata.text("general.architecture"));
  if (name.empty()) return fail(Code::data_corrupt, "general.architecture is absent, so this is no model");
  if (name == "clip")
    return fail(Code::invalid_argument,
                "general.architecture is clip: this is a model's encoder of images, not a model");
  if (name == "bert")
    return fail(Code::unsupported,
                "general.architecture is bert, and llama.cpp's converter leaves out the pooler that the classes follow "
                "from; use the folder with safetensors");
  const bool experts = metadata.integer(name + ".expert_count", 0) > 0;
  const GgufArchitecture* found = nullptr;
  for (const GgufArchitecture& known : kArchitectures)
    if (known.name == name && (!found || known.with_experts == experts)) found = &known;
  if (found) return found;
  std::string names;
  for (const GgufArchitecture& known : kArchitectures)
    if (!names.ends_with(known.name)) (names += names.empty() ? "" : ", ") += known.name;
  return fail(Code::unsupported, "general.architecture is ", name, ", which is not supported; these are: ", names);
}

}  // namespace weft
