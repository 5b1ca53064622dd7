// Llama 2 and 3: the plain pre-norm decoder, and the parent of most others. Granite: Llama with four multipliers.
// OLMo 2: Llama whose norms come after attention and MLP, and on whole rows of q and k.
//
//   x = embed(tokens)
//   for each layer:  x += attention(norm(x));  x += mlp(norm(x))
//   logits = lm_head(norm(x))
#include <algorithm>
#include <numeric>

#include "blocks/rope.h"
#include "models/defaults.h"
#include "models/models.h"

namespace weft::models {

using namespace blocks;

AttentionOptions llama_attention(const HfConfig& c) {
  const int hidden = c.count("hidden_size"), heads = c.count("num_attention_heads");
  AttentionOptions a;
  a.hidden = hidden;
  a.heads = heads;
  a.kv_heads = c.kv_heads();
  a.head_dim = c.head_dim();
  a.qkv_bias = a.out_bias = c.flag("attention_bias", false);
  const RopeConfig rope = c.rope(LayerKind::full, 10000, a.head_dim);
  const double share = rope.partial_rotary_factor * a.head_dim;
  const int rotated = share >= 2 && share < a.head_dim + 1 ? static_cast<int>(share) : 0;
  if (rotated < 2 || rotated % 2 != 0)
    c.reject("partial_rotary_factor", "which leaves no even number of elements to rotate");
  const int sections = std::accumulate(rope.sections.begin(), rope.sections.end(), 0);
  if (!rope.sections.empty() && (rope.sections.size() != 3 || sections != rotated / 2))
    c.reject("rope_scaling.mrope_section", "but must be three numbers that sum to half of the head size");
  else a.rope = rope_angles(rope, rotated);
  return a;
}

MlpOptions llama_mlp(const HfConfig& c) {
  return {.hidden = c.count("hidden_size"),
          .width = c.count("intermediate_size"),
          .act = activation(c),
          .bias = c.flag("mlp_bias", false)};
}

HfConfig text_config(const HfConfig& c) {
  const HfConfig text = c.has("llm_cfg") ? c.sub("llm_cfg") : c.has("text_config") ? c.sub("text_config") : c;
  return text.with_defaults(text_defaults(c.architecture(), text.text("model_type", "")));
}

// yarn is stated as a factor over the length of the training; max_position_embeddings may be that length, or the whole.
ContextLimit context_limit(const HfConfig& whole) {
  const HfConfig c = text_config(whole);
  const char* key = "max_position_embeddings";
  ContextLimit limit{c.positions(key), key, whole.architecture() == "BertForSequenceClassification"};
  const char* scaling = c.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!c.has(scaling)) return limit;
  HfConfig s = c.sub(scaling);
  if (s.value("full_attention") && s.value("full_attention")->is_object()) s = s.sub("full_attention");
  if (s.text("rope_type", s.text("type", "default")) != "yarn") return limit;
  const double extended = s.number("factor", 1) * s.positions("original_max_position_embeddings", limit.positions);
  if (!(extended > limit.positions)) return limit;
  limit.positions = static_cast<int>(std::min<double>(extended, HfConfig::kMaxPositions));
  limit.keys = std::string(scaling) + ".factor and the original length";
  return limit;
}

kernels::Activation activation(const HfConfig& c, std::string_view key, std::string_view absent) {
  if (c.is_null(key)) c.reject(key, "but must name an activation");
  const std::string name = c.text(key, absent);
  if (name == "silu" || name == "swish") return kernels::Activation::silu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") return kernels::Activation::gelu_tanh;
  if (name == "gelu") return kernels::Activation::gelu;
  if (name == "relu2") return kernels::Activation::relu2;
  if (name == "relu") return kernels::Activation::relu;
  if (name == "quick_gelu") return kernels::Activation::quick_gelu;
  c.reject(key, "not a known activation", Code::unsupported);
  return kernels::Activation::silu;
}

DecoderRecipe decoder_frame(const HfConfig& c) {
  DecoderRecipe r;
  r.hidden = c.count("hidden_size");
  r.layers = c.count("num_hidden_layers");
  r.vocab = c.count("vocab_size");
  r.tied_embeddings = c.flag("tie_word_embeddings", false);
  r.norm = {NormKind::rms, static_cast<float>(c.positive("rms_norm_eps"))};
  r.layer = pre_norm_layer;
  r.embed = embed_tokens;
  r.head = lm_head;
  return r;
}

DecoderRecipe llama(const HfConfig& c) {
  DecoderRecipe r = decoder_frame(c);
  r.attention = attention_with(llama_attention(c));
  r.mlp = gated_mlp_with(llama_mlp(c));
  return r;
}

DecoderRecipe granite(const HfConfig& c) {
  AttentionOptions a = llama_attention(c);
  a.scale = static_cast<float>(c.positive("attention_multiplier", 1));
  DecoderRecipe r = llama(c);
  r.attention = attention_with(a);
  r.embed_scale = static_cast<float>(c.positive("embedding_multiplier", 1));
  r.residual_scale = static_cast<float>(c.positive("residual_multiplier", 1));
  r.logit_scale = static_cast<float>(1 / c.positive("logits_scaling", 1));
  return r;
}

DecoderRecipe olmo2(const HfConfig& c) {
  AttentionOptions a = llama_attention(c);
  a.row_norms = true, a.eps = static_cast<float>(c.positive("rms_norm_eps"));
  DecoderRecipe r = llama(c);
  r.attention = attention_with(a);
  r.layer = post_norm_layer;
  return r;
}

}  // namespace weft::models
