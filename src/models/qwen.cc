// Qwen2: Llama with biased q, k and v, and a window on the later layers if the configuration switches it on.
// Qwen3: Llama with a norm on every query and key head.
#include "models/models.h"

namespace weft::models {

using namespace blocks;

// The layers' attention: `full`, or windowed where the configuration says so.
static BlockFn qwen_attention(const HfConfig& c, const AttentionOptions& full) {
  const int layers = c.count("num_hidden_layers");
  std::vector<LayerKind> kinds(layers, LayerKind::full);
  AttentionOptions local = full;
  if (c.flag("use_sliding_window", false) && c.has("sliding_window")) {
    local.cache = CacheSpec::Kind::window, local.span = c.count("sliding_window");
    for (int i = c.index("max_window_layers", 28); i < layers; ++i) kinds[i] = LayerKind::window;
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
  r.attention = qwen_attention(c, a);
  return r;
}

DecoderRecipe qwen3(const HfConfig& c) {
  AttentionOptions a = llama_attention(c);
  a.head_norm = kernels::HeadNorm::rms;
  a.eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  DecoderRecipe r = llama(c);
  r.attention = qwen_attention(c, a);
  return r;
}

}  // namespace weft::models
