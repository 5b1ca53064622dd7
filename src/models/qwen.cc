// Qwen2: Llama with biased q, k and v, and a window on the later layers if the configuration switches it on.
// Qwen3: Llama with a norm on every query and key head.
#include "models/models.h"

namespace weft::models {

using namespace blocks;

// The layers' attention: `full`, or windowed where the configuration says so.
static BlockFn qwen_attention(const HfConfig& c, const AttentionOptions& full) {
  AttentionOptions local = full;
  const bool windows = c.flag("use_sliding_window", false) && c.has("sliding_window");
  if (windows) local.cache = CacheSpec::Kind::window, local.span = c.count("sliding_window");
  const int first = windows ? static_cast<int>(c.number("max_window_layers", 28)) : c.count("num_hidden_layers");
  const std::vector<std::string> kinds = windows ? c.texts("layer_types") : std::vector<std::string>{};
  return [full, local, first, kinds](PlanBuilder& b, Scope w, int layer, Value x) {
    const bool windowed = kinds.empty() ? layer >= first : kinds[layer % kinds.size()] == "sliding_attention";
    return attention(b, w, x, windowed ? local : full);
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
  a.eps = static_cast<float>(c.number("rms_norm_eps", 1e-6));
  DecoderRecipe r = llama(c);
  r.attention = qwen_attention(c, a);
  return r;
}

}  // namespace weft::models
