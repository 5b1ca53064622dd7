// Gemma 3: norms on both sides of each block, (1 + w) norms, five windowed layers for each full one, and a rotary base that
// differs between the two.
#include <cmath>

#include "blocks/rope.h"
#include "models/models.h"

namespace weft::models {

using namespace blocks;

// Each layer's kind: `layer_types` in newer files, else every sliding_window_pattern-th is full.
static std::vector<LayerKind> layer_kinds(const HfConfig& c) {
  const int layers = c.count("num_hidden_layers"), every = c.count("sliding_window_pattern", 6);
  std::vector<LayerKind> kinds = c.layer_types(layers);
  for (int i = static_cast<int>(kinds.size()); i < layers; ++i) kinds.push_back((i + 1) % every == 0 ? LayerKind::full : LayerKind::window);
  return kinds;
}

DecoderRecipe gemma3(const HfConfig& c) {
  AttentionOptions full = llama_attention(c);
  full.head_norm = kernels::HeadNorm::rms_one_plus;
  full.eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  full.scale = 1.0f / std::sqrt(static_cast<float>(c.positive("query_pre_attn_scalar", 256)));
  full.rope = rope_angles(c.rope(LayerKind::full, 1e6), full.head_dim);
  AttentionOptions local = full;
  local.cache = CacheSpec::Kind::window;
  local.span = c.count("sliding_window", 4096);
  local.rope = rope_angles(c.rope(LayerKind::window, 1e4), full.head_dim);
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"})
    if (c.has(key)) c.reject(key, "not supported", Code::unsupported);

  DecoderRecipe r = llama(c);
  r.tied_embeddings = c.flag("tie_word_embeddings", true);
  r.embed_scale = std::sqrt(static_cast<float>(r.hidden));
  r.norm.kind = NormKind::rms_one_plus;
  r.attention = [full, local, kinds = layer_kinds(c)](PlanBuilder& b, Scope w, int layer, Value x) {
    return attention(b, w, x, kinds[layer] == LayerKind::window ? local : full);
  };
  r.mlp = gated_mlp_with({.hidden = r.hidden, .width = c.count("intermediate_size"), .act = activation(c, "hidden_activation", "gelu_pytorch_tanh")});
  r.layer = sandwich_layer;
  return r;
}

}  // namespace weft::models
