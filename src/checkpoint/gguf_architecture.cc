#include "checkpoint/gguf_architecture.h"

#include <algorithm>
#include <cmath>

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

void mixtral(GgufConfig& c) {
  llama(c);
  c.copy("num_local_experts", "expert_count"), c.copy("num_experts_per_tok", "expert_used_count");
}

// Llama 4's chunk, temperature and which layers have no rotary positions are known from its name alone; a window of 0
// switches all three off.
void llama4(GgufConfig& c) {
  c.copy("intermediate_size", "expert_feed_forward_length"), c.copy("intermediate_size_mlp", "feed_forward_length");
  c.copy("num_local_experts", "expert_count"), c.copy("num_experts_per_tok", "expert_used_count");
  c.set("interleave_moe_layer_step", c.count("interleave_moe_layer_step"));
  if (c.has("attention.sliding_window") && c.count("attention.sliding_window") == 0)
    return c.reject("attention.sliding_window", "which means attention without chunks, and that is not supported");
  if (c.metadata().integers(c.key("attention.sliding_window_pattern")))
    return c.reject("attention.sliding_window_pattern", "but only a number is supported");
  c.set("no_rope_layer_interval", c.count("attention.sliding_window_pattern", 4));
  c.set("attention_chunk_size", 8192), c.set("floor_scale", 8192.0), c.set("attn_scale", 0.1);
  c.set("use_qk_norm", c.count("expert_count") != 128);
}

// The mixture of experts of DeepSeek-V3. Files from before groups of experts were written are of the published model.
void deepseek2(GgufConfig& c) {
  const int64_t rotary = c.count("rope.dimension_count");
  // Without the keys for latent attention, kv_b is whole and the plain keys have the heads' sizes.
  const bool latent = c.has("attention.key_length_mla");
  const int64_t key = c.count(latent ? "attention.key_length_mla" : "attention.key_length");
  if (key <= rotary) return c.reject("rope.dimension_count", "but must be below the size of a head's key");
  c.set("qk_rope_head_dim", rotary), c.set("qk_nope_head_dim", key - rotary);
  c.copy("v_head_dim", latent ? "attention.value_length_mla" : "attention.value_length");
  c.copy("kv_lora_rank", "attention.kv_lora_rank");
  if (c.has("attention.q_lora_rank")) c.copy("q_lora_rank", "attention.q_lora_rank");
  else c.set("q_lora_rank", nullptr);
  c.set("kv_b_split", c.find("blk.0.attn_k_b.weight") != nullptr);
  c.set("latent_norm_eps", c.number("attention.layer_norm_rms_epsilon", 1e-6));
  c.set("num_key_value_heads", c.heads()), c.set("head_dim", nullptr);

  if (c.count("expert_gating_func", 1) != 2)
    return c.reject("expert_gating_func", "but only 2 (sigmoid, DeepSeek-V3) is supported");
  c.copy("moe_intermediate_size", "expert_feed_forward_length");
  c.copy("n_routed_experts", "expert_count"), c.copy("num_experts_per_tok", "expert_used_count");
  c.set("n_shared_experts", c.count("expert_shared_count", 0));
  c.set("first_k_dense_replace", c.count("leading_dense_block_count", 0));
  c.set("routed_scaling_factor", c.number("expert_weights_scale", 1));
  c.set("norm_topk_prob", c.flag("expert_weights_norm", false));
  const bool published = c.count("expert_count") == 256 && c.count("block_count") >= 61;
  c.set("n_group", c.count("expert_group_count", published ? 8 : 1));
  c.set("topk_group", c.count("expert_group_used_count", published ? 4 : 1));
  const int64_t drafts = c.count("nextn_predict_layers", 0);
  c.set("num_nextn_predict_layers", drafts), c.set("num_hidden_layers", c.layers() - drafts);
}

void qwen3moe(GgufConfig& c) {
  c.copy("num_experts", "expert_count"), c.copy("num_experts_per_tok", "expert_used_count");
  c.copy("moe_intermediate_size", "expert_feed_forward_length");
  c.set("norm_topk_prob", true), c.set("decoder_sparse_step", 1);  // llama.cpp knows no other
}

// What llama.cpp knows about Gemma 3 from its name alone.
void gemma3(GgufConfig& c) {
  c.set("hidden_activation", "gelu_pytorch_tanh");
  c.set("sliding_window", c.count("attention.sliding_window", 512));
  set_windows(c, c.has("attention.sliding_window") ? 6 : 1);
  c.set("rope_local_base_freq", c.number("rope.freq_base_swa", 10000));
  c.set("rope_theta", c.number("rope.freq_base", 1000000));
  if (const double cap = c.number("final_logit_softcapping", 0); cap != 0) c.set("final_logit_softcapping", cap);
  // 27B scales by hidden / heads, all others by the head size.
  const int64_t hidden = c.count("embedding_length");
  c.set("query_pre_attn_scalar", c.layers() == 62 ? hidden / std::max<int64_t>(1, c.heads()) : c.head_size());
}

void nemotron(GgufConfig& c) {
  c.set("norm_eps", c.number("attention.layer_norm_epsilon", 1e-5));
  c.set("hidden_act", "relu2");
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

constexpr GgufArchitecture kArchitectures[] = {
    {.name = "deci",
     .architecture = "NemotronNASForCausalLM",
     .model_type = "nemotron-nas",
     .gives = "heads and widths per layer, linear and absent attention, absent MLPs",
     .configure = deci,
     .rotary_order = true},
    {.name = "deepseek2",
     .architecture = "DeepseekV3ForCausalLM",
     .model_type = "deepseek_v3",
     .gives = "DeepSeek-V3 and R1 (sigmoid router); kv_b whole or split into k_b and v_b",
     .configure = deepseek2,
     .with_experts = true,
     .names = kDeepseekNames},
    {.name = "gemma3",
     .architecture = "Gemma3ForCausalLM",
     .model_type = "gemma3_text",
     .gives = "text",
     .configure = gemma3,
     .one_plus_norms = true,
     .names = kGemmaNames},
    {.name = "llama",
     .architecture = "LlamaForCausalLM",
     .model_type = "llama",
     .gives = "Llama 2 and 3, Mistral, and what is converted to their form",
     .configure = llama,
     .rotary_order = true},
    {.name = "llama",
     .architecture = "MixtralForCausalLM",
     .model_type = "mixtral",
     .gives = "files with experts; experts together or one by one",
     .configure = mixtral,
     .with_experts = true,
     .rotary_order = true,
     .router = "block_sparse_moe.gate",
     .experts = "block_sparse_moe.experts",
     .expert = {"w1", "w3", "w2"}},
    {.name = "llama4",
     .architecture = "Llama4ForCausalLM",
     .model_type = "llama4_text",
     .gives = "text",
     .configure = llama4,
     .with_experts = true,
     .mlp = "feed_forward",
     .router = "feed_forward.router",
     .experts = "feed_forward.experts",
     .shared = "feed_forward.shared_expert"},
    {.name = "nemotron",
     .architecture = "NemotronForCausalLM",
     .model_type = "nemotron",
     .gives = "Minitron and Nemotron-4",
     .configure = nemotron,
     .one_plus_norms = true},
    {.name = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .gives = "Qwen 2 and 2.5",
     .configure = plain},
    {.name = "qwen2vl", .architecture = "Qwen2ForCausalLM", .model_type = "qwen2", .gives = "text", .configure = plain},
    {.name = "qwen3", .architecture = "Qwen3ForCausalLM", .model_type = "qwen3", .gives = "Qwen 3", .configure = plain},
    {.name = "qwen3moe",
     .architecture = "Qwen3MoeForCausalLM",
     .model_type = "qwen3_moe",
     .gives = "the chosen experts' weights always sum to 1",
     .configure = qwen3moe,
     .with_experts = true},
};

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() { return kArchitectures; }

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
