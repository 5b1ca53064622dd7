// What transformers' configuration classes (5.24) give to keys that a file leaves out, where a recipe reads them. Keys
// that decide the shapes of tensors are left out here unless published files leave them out: a file without one is then
// refused by the key's name. A key that is null does not get these values. tests/tools/check_config_defaults.py
// compares with the classes.
#include "models/defaults.h"

namespace weft::models {
namespace {

Json join(Json base, const Json& more) {
  for (const auto& [key, value] : more.members()) base.set(key, value);
  return base;
}

Json llama_defaults() {
  return Json::object({{"hidden_act", "silu"},
                       {"rms_norm_eps", 1e-6},
                       {"rope_theta", 1e4},
                       {"max_position_embeddings", 2048},
                       {"tie_word_embeddings", false}});
}

Json mistral_defaults() {
  return join(
      llama_defaults(),
      Json::object({{"num_key_value_heads", 8}, {"sliding_window", 4096}, {"max_position_embeddings", 131072}}));
}

Json mixtral_defaults() {
  return join(llama_defaults(), Json::object({{"num_key_value_heads", 8},
                                              {"rms_norm_eps", 1e-5},
                                              {"rope_theta", 1e6},
                                              {"max_position_embeddings", 131072}}));
}

Json qwen2_defaults() {
  return join(llama_defaults(), Json::object({{"num_key_value_heads", 32},
                                              {"sliding_window", 4096},
                                              {"max_window_layers", 28},
                                              {"max_position_embeddings", 32768}}));
}

Json qwen2_vl_defaults() {
  return join(
      qwen2_defaults(),
      Json::object(
          {{"num_key_value_heads", 8}, {"rms_norm_eps", 1e-5}, {"rope_theta", 1e6}, {"max_window_layers", 80}}));
}

Json qwen3_defaults() { return join(qwen2_defaults(), Json::object({{"head_dim", 128}})); }

Json gemma_defaults() {
  return Json::object({{"hidden_activation", "gelu_pytorch_tanh"},
                       {"num_attention_heads", 8},
                       {"num_key_value_heads", 4},
                       {"head_dim", 256},
                       {"rms_norm_eps", 1e-6},
                       {"rope_theta", 1e4},
                       {"query_pre_attn_scalar", 256},
                       {"sliding_window", 4096},
                       {"max_position_embeddings", 8192},
                       {"tie_word_embeddings", true}});
}

Json gemma2_defaults() {
  return join(gemma_defaults(), Json::object({{"attn_logit_softcapping", 50}, {"final_logit_softcapping", 30}}));
}

Json gemma3_defaults() {
  return join(gemma_defaults(), Json::object({{"vocab_size", 262208},
                                              {"rope_theta", 1e6},
                                              {"rope_local_base_freq", 1e4},
                                              {"sliding_window_pattern", 6},
                                              {"max_position_embeddings", 131072}}));
}

// The published files' text_config names a model and little else.
Json llava_defaults() {
  return join(llama_defaults(), Json::object({{"hidden_size", 4096},
                                              {"num_attention_heads", 32},
                                              {"num_hidden_layers", 32},
                                              {"intermediate_size", 11008},
                                              {"vocab_size", 32000}}));
}

Json llava_defaults(std::string_view kind) {
  if (kind == "mistral")
    return join(join(llava_defaults(), mistral_defaults()), Json::object({{"intermediate_size", 14336}}));
  if (kind == "qwen2")
    return join(join(llava_defaults(), qwen2_defaults()),
                Json::object({{"intermediate_size", 22016}, {"vocab_size", 151936}}));
  return llava_defaults();
}

Json deepseek_defaults() {
  return join(llama_defaults(), Json::object({{"n_shared_experts", 1},
                                              {"num_experts_per_tok", 8},
                                              {"n_group", 8},
                                              {"topk_group", 4},
                                              {"norm_topk_prob", true},
                                              {"routed_scaling_factor", 2.5},
                                              {"first_k_dense_replace", 3},
                                              {"num_nextn_predict_layers", 1},
                                              {"max_position_embeddings", 4096}}));
}

}  // namespace

Json text_defaults(std::string_view architecture, std::string_view kind) {
  if (architecture == "BertForSequenceClassification")
    return Json::object(
        {{"hidden_act", "gelu"}, {"layer_norm_eps", 1e-12}, {"max_position_embeddings", 512}, {"type_vocab_size", 2}});
  if (architecture == "DeepseekV3ForCausalLM") return deepseek_defaults();
  if (architecture == "Gemma2ForCausalLM") return gemma2_defaults();
  if (architecture.starts_with("Gemma3")) return gemma3_defaults();
  if (architecture.starts_with("Llama4"))
    return join(llama_defaults(), Json::object({{"num_key_value_heads", 8},
                                                {"head_dim", 128},
                                                {"rms_norm_eps", 1e-5},
                                                {"rope_theta", 5e5},
                                                {"max_position_embeddings", 131072}}));
  if (architecture == "LlavaLlamaModel")
    return kind == "qwen2" ? qwen2_defaults() : kind == "mistral" ? mistral_defaults() : llama_defaults();
  if (architecture == "LlavaNextForConditionalGeneration") return llava_defaults(kind);
  if (architecture == "MistralForCausalLM") return mistral_defaults();
  if (architecture == "MixtralForCausalLM") return mixtral_defaults();
  if (architecture == "MllamaForConditionalGeneration")
    return join(llama_defaults(),
                Json::object({{"num_key_value_heads", 8},
                              {"rms_norm_eps", 1e-5},
                              {"rope_theta", 5e5},
                              {"max_position_embeddings", 131072},
                              {"cross_attention_layers", Json::array({3, 8, 13, 18, 23, 28, 33, 38})}}));
  if (architecture == "NemotronForCausalLM")
    return Json::object({{"hidden_act", "relu2"},
                         {"norm_eps", 1e-5},
                         {"rope_theta", 1e4},
                         {"partial_rotary_factor", 0.5},
                         {"max_position_embeddings", 4096},
                         {"tie_word_embeddings", false}});
  if (architecture == "Olmo2ForCausalLM") return join(llama_defaults(), Json::object({{"rms_norm_eps", 1e-5}}));
  if (architecture == "Phi3ForCausalLM")
    return join(llama_defaults(), Json::object({{"rms_norm_eps", 1e-5},
                                                {"max_position_embeddings", 4096},
                                                {"original_max_position_embeddings", 4096}}));
  if (architecture.starts_with("Qwen2VL") || architecture.starts_with("Qwen2_5_VL")) return qwen2_vl_defaults();
  if (architecture.starts_with("Qwen2")) return qwen2_defaults();
  if (architecture == "Qwen3ForCausalLM") return qwen3_defaults();
  if (architecture == "Qwen3MoeForCausalLM")
    return join(qwen2_defaults(), Json::object({{"num_key_value_heads", 4},
                                                {"num_experts_per_tok", 8},
                                                {"decoder_sparse_step", 1},
                                                {"norm_topk_prob", false}}));
  return llama_defaults();
}

}  // namespace weft::models
