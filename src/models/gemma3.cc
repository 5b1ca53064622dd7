// Gemma 3: norms on both sides of each block, (1 + w) norms, five windowed layers for each full one, and a rotary base that
// differs between the two.
#include <cmath>

#include "blocks/rope.h"
#include "models/models.h"

namespace weft::models {

using namespace blocks;

// Which layers are windowed: `layer_types` in newer files, else all but every sliding_window_pattern-th.
static std::vector<bool> windowed_layers(const HfConfig& c) {
  const std::vector<std::string> kinds = c.texts("layer_types");
  const int every = c.count("sliding_window_pattern", 6);
  std::vector<bool> windowed(c.count("num_hidden_layers"));
  if (!kinds.empty() && kinds.size() != windowed.size()) c.fault("layer_types", "must have num_hidden_layers entries");
  for (size_t i = 0; i < windowed.size(); ++i)
    windowed[i] = i < kinds.size() ? kinds[i] == "sliding_attention" : (static_cast<int>(i) + 1) % every != 0;
  return windowed;
}

DecoderRecipe gemma3(const HfConfig& c) {
  AttentionOptions full = llama_attention(c);
  full.head_norm = kernels::HeadNorm::rms_one_plus;
  full.eps = static_cast<float>(c.number("rms_norm_eps", 1e-6));
  full.scale = 1.0f / std::sqrt(static_cast<float>(c.number("query_pre_attn_scalar", 256)));
  full.rope = rope_angles(c.rope("full_attention"), full.head_dim);
  AttentionOptions local = full;
  local.cache = CacheSpec::Kind::window;
  local.span = c.count("sliding_window", 4096);
  local.rope = rope_angles(c.rope("sliding_attention"), full.head_dim);
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"})
    if (c.has(key)) c.fault(key, "is not supported");

  DecoderRecipe r = llama(c);
  r.tied_embeddings = c.flag("tie_word_embeddings", true);
  r.embed_scale = std::sqrt(static_cast<float>(r.hidden));
  r.norm.kind = NormKind::rms_one_plus;
  r.attention = [full, local, windowed = windowed_layers(c)](PlanBuilder& b, Scope w, int layer, Value x) {
    return attention(b, w, x, windowed[layer] ? local : full);
  };
  r.mlp = gated_mlp_with({.hidden = r.hidden, .width = c.count("intermediate_size"), .act = activation(c, "hidden_activation")});
  r.layer = sandwich_layer;
  return r;
}

}  // namespace weft::models
