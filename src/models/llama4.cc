// Llama 4, the language model: layers with rotary positions see their own chunk of the text only, every fourth layer has no
// positions and sees all of it with queries scaled by position; a mixture of experts whose weight multiplies the expert's input.
#include <algorithm>

#include "blocks/rope.h"
#include "models/models.h"

namespace weft::models {

using namespace blocks;

namespace {

struct Kinds {
  std::vector<bool> rope, sparse;
};

Kinds layer_kinds(const HfConfig& c, int layers) {
  Kinds kinds{std::vector<bool>(layers), std::vector<bool>(layers)};
  const std::vector<int> rope = c.indices("no_rope_layers");  // 1: has rope, in spite of the name
  if (!rope.empty() && static_cast<int>(rope.size()) != layers) c.reject("no_rope_layers", "but must have one entry per layer");
  const std::vector<LayerKind> types = c.layer_types(layers);
  const int every = c.count("no_rope_layer_interval", 4), step = c.count("interleave_moe_layer_step", 1);
  const std::vector<int> moe = c.indices("moe_layers");
  for (int i = 0; i < layers; ++i) {
    kinds.rope[i] = i < static_cast<int>(rope.size()) ? rope[i] != 0 : !types.empty() ? types[i] == LayerKind::chunk : (i + 1) % every != 0;
    kinds.sparse[i] = c.has("moe_layers") ? std::find(moe.begin(), moe.end(), i) != moe.end() : (i + 1) % step == 0;
  }
  return kinds;
}

ExpertsOptions experts_options(const HfConfig& c) {
  ExpertsOptions e{.hidden = c.count("hidden_size"), .width = c.count("intermediate_size"), .act = activation(c)};
  e.shared_width = e.width;
  e.rule = {.kind = kernels::RouteRule::Kind::sigmoid_after, .experts = c.count("num_local_experts"), .chosen = c.count("num_experts_per_tok", 1)};
  e.scale_input = e.fused = true;
  e.router = "router", e.shared = "shared_expert";
  check_rule(c, e.rule, "num_local_experts");
  return e;
}

}  // namespace

DecoderRecipe llama4(const HfConfig& whole) {
  const HfConfig c = text_config(whole);
  AttentionOptions local = llama_attention(c);
  local.rope = rope_angles(c.rope(LayerKind::full, 500000.0), local.head_dim);
  local.rope_interleaved = true;
  local.eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  AttentionOptions global = local;
  if (c.flag("use_qk_norm", true)) local.head_norm = kernels::HeadNorm::l2, local.norm_after_rope = true;
  local.cache = CacheSpec::Kind::chunk, local.span = c.count("attention_chunk_size", 8192);
  global.rope = {};
  if (c.flag("attn_temperature_tuning", true)) {
    global.temperature_floor = static_cast<float>(c.positive("floor_scale", 8192));
    global.temperature_scale = static_cast<float>(c.number("attn_scale", 0.1));
  }

  DecoderRecipe r = llama(c);
  if (whole.has("text_config")) r.root = "language_model";
  const Kinds kinds = layer_kinds(c, r.layers);
  const ExpertsOptions sparse = experts_options(c);
  const MlpOptions dense{.hidden = r.hidden, .width = c.count("intermediate_size_mlp", 16384), .act = activation(c)};
  r.layer = [=](PlanBuilder& b, Scope w, int i, Value x, const DecoderRecipe& own) {
    x = b.add(x, attention(b, w / "self_attn", norm(b, w / "input_layernorm", x, own.norm), kinds.rope[i] ? local : global));
    const Value h = norm(b, w / "post_attention_layernorm", x, own.norm);
    return b.add(x, kinds.sparse[i] ? experts(b, w / "feed_forward", h, sparse) : gated_mlp(b, w / "feed_forward", h, dense));
  };
  r.embed = [](PlanBuilder& b, Scope root, const DecoderRecipe& own) {
    b.ignore(Scope("vision_model")), b.ignore(Scope("multi_modal_projector"));
    return embed_tokens(b, root, own);
  };
  return r;
}

}  // namespace weft::models
