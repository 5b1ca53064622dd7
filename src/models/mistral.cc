// Mistral: Llama whose attention may look back over a window only. Mixtral: Mistral with a mixture of experts. Phi 3:
// Mistral with q, k and v in one tensor, and gate and up in one.
#include "models/models.h"

namespace weft::models {

using namespace blocks;

static AttentionOptions mistral_attention(const HfConfig& c) {
  AttentionOptions a = llama_attention(c);
  if (c.has("sliding_window")) a.cache = CacheSpec::Kind::window, a.span = c.count("sliding_window");
  return a;
}

DecoderRecipe mistral(const HfConfig& c) {
  DecoderRecipe r = llama(c);
  r.attention = attention_with(mistral_attention(c));
  return r;
}

DecoderRecipe phi3(const HfConfig& c) {
  AttentionOptions a = mistral_attention(c);
  MlpOptions m = llama_mlp(c);
  a.fused = m.fused = true;
  DecoderRecipe r = decoder_frame(c);
  r.attention = attention_with(a), r.mlp = gated_mlp_with(m);
  return r;
}

void check_rule(const HfConfig& c, const kernels::RouteRule& rule, std::string_view key) {
  if (rule.experts > kernels::kMaxExperts) c.reject(key, "more experts than are supported", Code::unsupported);
  if (rule.chosen > kernels::kMaxChosen) c.reject("num_experts_per_tok", "more than are supported", Code::unsupported);
  if (rule.chosen > rule.experts) c.reject("num_experts_per_tok", "more than there are experts");
}

DecoderRecipe mixtral(const HfConfig& c) {
  ExpertsOptions e{.hidden = c.count("hidden_size"), .width = c.count("intermediate_size"), .act = activation(c)};
  e.rule = {.experts = c.count("num_local_experts"), .chosen = c.count("num_experts_per_tok", 2), .normalize = true};
  e.gate = "w1", e.up = "w3", e.down = "w2";
  check_rule(c, e.rule, "num_local_experts");
  DecoderRecipe r = mistral(c);
  r.mlp = experts_with(e);
  r.layer = [](PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& own) {
    x = b.add(x, own.attention(b, w / "self_attn", layer, norm(b, w / "input_layernorm", x, own.norm)));
    return b.add(x, own.mlp(b, w / "block_sparse_moe", layer, norm(b, w / "post_attention_layernorm", x, own.norm)));
  };
  return r;
}

}  // namespace weft::models
