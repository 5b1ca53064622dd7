// DeepSeek-V3 and R1: latent attention, and after the first layers a mixture of experts with a sigmoid router, groups
// of experts and shared experts.
#include <cmath>

#include "blocks/rope.h"
#include "models/models.h"

namespace weft::models {

using namespace blocks;

namespace {

LatentAttentionOptions attention_options(const HfConfig& c) {
  LatentAttentionOptions a;
  a.hidden = c.count("hidden_size"), a.heads = c.count("num_attention_heads");
  a.q_rank = c.is_null("q_lora_rank") ? 0 : c.count("q_lora_rank");
  a.kv_rank = c.count("kv_lora_rank");
  a.nope_dim = c.count("qk_nope_head_dim"), a.rope_dim = c.count("qk_rope_head_dim"), a.v_dim = c.count("v_head_dim");
  for (const char* key : {"qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank"})
    if (c.count(key) % 2 != 0) c.reject(key, "but must be even");
  a.bias = c.flag("attention_bias", false);
  // Hugging Face's files say neither: kv_b is whole, and the inner norms do not follow rms_norm_eps.
  a.split_kv_b = c.flag("kv_b_split", false);
  a.low_rank_eps = static_cast<float>(c.positive("latent_norm_eps", 1e-6));
  const RopeConfig rope = c.rope();
  a.rope = rope_angles(rope, a.rope_dim);
  a.rope_interleaved = c.flag("rope_interleave", true);
  // The published code multiplies the score scale by yarn's magnitude twice, for queries and keys.
  double magnitude = 1;
  if (rope.scaling == RopeConfig::Scaling::yarn && rope.mscale_all_dim)
    magnitude = 0.1 * *rope.mscale_all_dim * std::log(rope.factor) + 1;
  a.scale = static_cast<float>(magnitude * magnitude / std::sqrt(static_cast<double>(a.nope_dim + a.rope_dim)));
  return a;
}

ExpertsOptions experts_options(const HfConfig& c) {
  ExpertsOptions e{.hidden = c.count("hidden_size"), .width = c.count("moe_intermediate_size"), .act = activation(c)};
  e.shared_width = e.width * c.index("n_shared_experts");
  e.choice_bias = true;
  e.rule = {.kind = kernels::RouteRule::Kind::sigmoid,
            .experts = c.count("n_routed_experts"),
            .chosen = c.count("num_experts_per_tok"),
            .groups = c.count("n_group"),
            .kept_groups = c.count("topk_group"),
            .normalize = c.flag("norm_topk_prob", false),
            .scale = static_cast<float>(c.positive("routed_scaling_factor"))};
  c.choice("scoring_func", "sigmoid", {"sigmoid"});
  c.choice("topk_method", "noaux_tc", {"noaux_tc"});
  check_rule(c, e.rule, "n_routed_experts");
  if (e.rule.experts % e.rule.groups != 0) c.reject("n_group", "which does not divide n_routed_experts");
  else if (e.rule.kept_groups > e.rule.groups) c.reject("topk_group", "more than n_group");
  else if (e.rule.chosen > e.rule.kept_groups * (e.rule.experts / e.rule.groups))
    c.reject("num_experts_per_tok", "more than the chosen groups hold");
  return e;
}

}  // namespace

DecoderRecipe deepseek_v3(const HfConfig& c) {
  DecoderRecipe r = decoder_frame(c);
  const int layers = r.layers, drafts = c.index("num_nextn_predict_layers", 0);
  const int first = c.index("first_k_dense_replace"), every = c.count("moe_layer_freq", 1);
  r.attention = latent_attention_with(attention_options(c));
  r.mlp = [dense = llama_mlp(c), sparse = experts_options(c), first, every](PlanBuilder& b, Scope w, int i, Value x) {
    return i >= first && i % every == 0 ? experts(b, w, x, sparse) : gated_mlp(b, w, x, dense);
  };
  // Layers behind the last are for multi-token prediction.
  r.embed = [layers, drafts](PlanBuilder& b, Scope root, const DecoderRecipe& own) {
    for (int i = layers; i < layers + drafts; ++i) b.ignore(root / own.body / "layers" / i);
    return embed_tokens(b, root, own);
  };
  return r;
}

}  // namespace weft::models
