// Qwen2: Llama with biased q, k and v, and a window on the later layers if the configuration switches it on.
// Qwen3: Llama with a norm on every query and key head; Qwen3-MoE has a mixture of experts in most layers.
// Qwen2's reward models: Qwen2 with a small network in place of the output matrix.
#include "models/models.h"

namespace weft::models {

using namespace blocks;

// The layers' attention: `full`, or windowed from a layer on if the configuration switches windows on.
static BlockFn qwen_attention(const HfConfig& c, const AttentionOptions& full, int first_windowed) {
  const int layers = c.count("num_hidden_layers");
  std::vector<LayerKind> kinds(layers, LayerKind::full);
  AttentionOptions local = full;
  if (c.flag("use_sliding_window", false) && c.has("sliding_window")) {
    local.cache = CacheSpec::Kind::window, local.span = c.count("sliding_window");
    for (int i = first_windowed; i < layers; ++i) kinds[i] = LayerKind::window;
    if (c.has("layer_types")) kinds = c.layer_types(layers);
  }
  return [full, local, kinds](PlanBuilder& b, Scope w, int layer, Value x) {
    return attention(b, w, x, kinds[layer] == LayerKind::window ? local : full);
  };
}

DecoderRecipe qwen2(const HfConfig& c) {
  AttentionOptions a = llama_attention(c);
  a.qkv_bias = true;
  a.out_bias = false;
  DecoderRecipe r = llama(c);
  r.attention = qwen_attention(c, a, c.index("max_window_layers"));
  return r;
}

static DecoderRecipe qwen3_with_windows(const HfConfig& c, int first_windowed) {
  AttentionOptions a = llama_attention(c);
  a.head_norm = kernels::HeadNorm::rms;
  a.eps = static_cast<float>(c.positive("rms_norm_eps"));
  DecoderRecipe r = llama(c);
  r.attention = qwen_attention(c, a, first_windowed);
  return r;
}

DecoderRecipe qwen3(const HfConfig& c) { return qwen3_with_windows(c, c.index("max_window_layers")); }

DecoderRecipe qwen3_moe(const HfConfig& c) {
  ExpertsOptions e{.hidden = c.count("hidden_size"), .width = c.count("moe_intermediate_size"), .act = activation(c)};
  const char* experts_key = c.has("num_local_experts") ? "num_local_experts" : "num_experts";  // both are written
  e.rule = {.experts = c.count(experts_key),
            .chosen = c.count("num_experts_per_tok"),
            .normalize = c.flag("norm_topk_prob", false)};
  check_rule(c, e.rule, experts_key);
  const int layers = c.count("num_hidden_layers"), every = c.count("decoder_sparse_step", 1);
  std::vector<bool> sparse(layers);
  for (int i = 0; i < layers; ++i) sparse[i] = (i + 1) % every == 0;
  for (int i : c.indices("mlp_only_layers"))
    if (i < layers) sparse[i] = false;
  DecoderRecipe r = qwen3_with_windows(c, 0);
  r.mlp = [e, dense = r.mlp, sparse](PlanBuilder& b, Scope w, int layer, Value x) {
    return sparse[layer] ? experts(b, w, x, e) : dense(b, w, layer, x);
  };
  return r;
}

// The number of labels is not in these configurations; their published code fixes it, and the last matrix tells.
DecoderRecipe qwen2_process_reward(const HfConfig& c) {
  DecoderRecipe r = qwen2(c);
  r.head = score_head(HeadKind::reward_steps, c.tensor_rows("score.2.weight", 2));
  return r;
}

DecoderRecipe qwen2_reward(const HfConfig& c) {
  DecoderRecipe r = qwen2(c);
  r.head = score_head(HeadKind::reward_last, c.tensor_rows("score.2.weight", 1));
  return r;
}

}  // namespace weft::models
