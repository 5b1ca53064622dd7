// Nemotron: layer norms that scale by 1 + w, part of each head rotated, and a plain squared-ReLU MLP.
// Nemotron-NAS (DeciLM): Llama whose layers were thinned out by a search. Each has its own number of key/value heads
// and MLP width, and either half may be a single matrix or missing.
#include <cmath>

#include "models/models.h"

namespace weft::models {

using namespace blocks;

DecoderRecipe nemotron(const HfConfig& c) {
  DecoderRecipe r = decoder_frame(c.with_defaults(Json::object({{"rms_norm_eps", 1e-6}})));  // not its norm
  r.attention = attention_with(llama_attention(c));
  r.norm = {NormKind::layer_one_plus, static_cast<float>(c.positive("norm_eps")), true};
  MlpOptions mlp = llama_mlp(c);
  mlp.act = activation(c);
  r.mlp = [mlp](PlanBuilder& b, Scope w, int, Value x) { return plain_mlp(b, w, x, mlp); };
  return r;
}

namespace {

enum class Part : uint8_t { none, linear, whole };

struct NasLayer {
  Part attention = Part::whole, mlp = Part::whole;
  AttentionOptions a;
  MlpOptions m;
};

Part part_of(const HfConfig& block) {
  if (block.flag("no_op", false)) return Part::none;
  return block.flag("replace_with_linear", false) ? Part::linear : Part::whole;
}

// ffn_mult rounded to 6 decimals, then int(2/3 * ffn_mult * hidden) rounded up to a multiple of 256, as the published
// code does.
int ffn_width(const HfConfig& ffn, int hidden) {
  if (ffn.has("intermediate_size")) return ffn.count("intermediate_size");
  const double mult = std::round(ffn.positive("ffn_mult") * 1e6) / 1e6;
  const double width = std::trunc(2 * mult * hidden / 3);
  if (width <= HfConfig::kMaxCount) return (static_cast<int>(width) + 255) / 256 * 256;
  ffn.reject("ffn_mult", "which makes the MLP too wide");
  return 1;
}

NasLayer nas_layer(const HfConfig& c, const HfConfig& block, const AttentionOptions& parent) {
  const HfConfig attention = block.sub("attention"), ffn = block.sub("ffn");
  NasLayer layer{part_of(attention), part_of(ffn), parent, {}};
  for (const char* key : {"window_length", "num_sink_tokens", "sparsify"})
    if (attention.has(key)) attention.reject(key, "not supported", Code::unsupported);
  if (layer.attention == Part::whole) {
    const int group = attention.count("n_heads_in_group");
    if (parent.heads % group != 0) attention.reject("n_heads_in_group", "which does not divide num_attention_heads");
    else layer.a.kv_heads = parent.heads / group;
  }
  layer.m = {.hidden = parent.hidden,
             .width = 1,
             .act = activation(ffn.has("hidden_act") ? ffn : c),
             .bias = c.flag("mlp_bias", false)};
  if (layer.mlp == Part::whole) layer.m.width = ffn_width(ffn, parent.hidden);
  return layer;
}

Value square(PlanBuilder& b, Scope w, Value x) { return b.linear(x, {.sources = {whole(w, x.cols)}, .k = x.cols}); }

}  // namespace

DecoderRecipe nemotron_nas(const HfConfig& c) {
  const AttentionOptions parent = llama_attention(c);
  std::vector<NasLayer> layers;
  for (const HfConfig& block : c.list("block_configs")) layers.push_back(nas_layer(c, block, parent));
  DecoderRecipe r = decoder_frame(c);
  if (static_cast<int>(layers.size()) != r.layers)
    c.reject("num_hidden_layers", "but block_configs has " + std::to_string(layers.size()) + " entries");
  r.layer = [layers](PlanBuilder& b, Scope w, int i, Value x, const DecoderRecipe& own) {
    const NasLayer& layer = layers[i];
    if (layer.attention != Part::none) {
      const Value h = norm(b, w / "input_layernorm", x, own.norm);
      const Scope at = w / "self_attn";
      x = b.add(x, layer.attention == Part::linear ? square(b, at / "linear_attn", h) : attention(b, at, h, layer.a));
    }
    if (layer.mlp != Part::none) {
      const Value h = norm(b, w / "post_attention_layernorm", x, own.norm);
      x = b.add(
          x, layer.mlp == Part::linear ? square(b, w / "mlp" / "linear_mlp", h) : gated_mlp(b, w / "mlp", h, layer.m));
    }
    return x;
  };
  return r;
}

}  // namespace weft::models
