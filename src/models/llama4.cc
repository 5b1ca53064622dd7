// Llama 4. The tower: an encoder with rotary positions by row and column; each 2x2 block of its patches becomes one
// feature. The language model: layers with rotary positions attend within a chunk of the text only; every fourth layer
// has no rotary positions and attends to all of the text, with queries scaled by position. A mixture of experts whose
// routing weight multiplies the expert's input.
#include <algorithm>
#include <cmath>

#include "blocks/rope.h"
#include "models/models.h"
#include "models/tiles.h"

namespace weft::models {

using namespace blocks;

namespace {

struct Kinds {
  std::vector<bool> rope, sparse;
};

Kinds layer_kinds(const HfConfig& c, int layers) {
  Kinds kinds{std::vector<bool>(layers), std::vector<bool>(layers)};
  const std::vector<int> rope = c.indices("no_rope_layers");  // 1: has rope, in spite of the name
  if (!rope.empty() && static_cast<int>(rope.size()) != layers)
    c.reject("no_rope_layers", "but must have one entry per layer");
  const std::vector<LayerKind> types = c.layer_types(layers);
  const int every = c.count("no_rope_layer_interval", 4), step = c.count("interleave_moe_layer_step", 1);
  const std::vector<int> moe = c.indices("moe_layers");
  for (int i = 0; i < layers; ++i) {
    kinds.rope[i] = i < static_cast<int>(rope.size()) ? rope[i] != 0
                    : !types.empty()                  ? types[i] == LayerKind::chunk
                                                      : (i + 1) % every != 0;
    kinds.sparse[i] = c.has("moe_layers") ? std::find(moe.begin(), moe.end(), i) != moe.end() : (i + 1) % step == 0;
  }
  return kinds;
}

ExpertsOptions experts_options(const HfConfig& c) {
  ExpertsOptions e{.hidden = c.count("hidden_size"), .width = c.count("intermediate_size"), .act = activation(c)};
  e.shared_width = e.width;
  e.rule = {.kind = kernels::RouteRule::Kind::sigmoid_after,
            .experts = c.count("num_local_experts"),
            .chosen = c.count("num_experts_per_tok", 1)};
  e.scale_input = true;
  e.router = "router", e.shared = "shared_expert";
  check_rule(c, e.rule, "num_local_experts");
  return e;
}

}  // namespace

DecoderRecipe llama4(const HfConfig& whole) {
  const HfConfig c = text_config(whole);
  AttentionOptions local = llama_attention(c);
  local.rope = rope_angles(c.rope(LayerKind::full), local.head_dim);
  local.rope_interleaved = true;
  local.eps = static_cast<float>(c.positive("rms_norm_eps"));
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
  ExpertsOptions sparse = experts_options(c);
  // llm-compressor stores each expert's matrices by themselves.
  const auto first = std::find(kinds.sparse.begin(), kinds.sparse.end(), true) - kinds.sparse.begin();
  const std::string own = (r.root.empty() ? "" : r.root + ".") + "model.layers." + std::to_string(first) +
                          ".feed_forward.experts.0.gate_proj.weight";
  sparse.fused = c.tensor_rows(own, 0) == 0;
  const MlpOptions dense{.hidden = r.hidden, .width = c.count("intermediate_size_mlp", 16384), .act = activation(c)};
  r.layer = [=](PlanBuilder& b, Scope w, int i, Value x, const DecoderRecipe& own) {
    x = b.add(
        x, attention(b, w / "self_attn", norm(b, w / "input_layernorm", x, own.norm), kinds.rope[i] ? local : global));
    const Value h = norm(b, w / "post_attention_layernorm", x, own.norm);
    return b.add(
        x, kinds.sparse[i] ? experts(b, w / "feed_forward", h, sparse) : gated_mlp(b, w / "feed_forward", h, dense));
  };
  if (whole.has("vision_config")) r.embed = embed_with_features(r.embed, {"vision_model", "multi_modal_projector"});
  return r;
}

namespace {

// Each output row joins a block of merge x merge patches, row by row; the class token is dropped.
VisionInputs arrange(const PreparedMedia& media, const TileShape& s, int merge) {
  VisionInputs in = tile_inputs(media, s);
  const auto tiles = static_cast<int>(media.shape[0]);
  for (int t = 0; t < tiles; ++t) {
    // Rotary positions count from 1; the class token is not rotated.
    for (int i = 0; i < s.rows(); ++i) {
      const bool is_class = i + 1 == s.rows();
      in.positions[0].push_back(is_class ? 0 : i % s.grid + 1);
      in.positions[1].push_back(is_class ? 0 : i / s.grid + 1);
    }
    for (int y = 0; y < s.grid; y += merge)
      for (int x = 0; x < s.grid; x += merge, ++in.outputs)
        for (int i = 0; i < merge * merge; ++i) add_part(in.mixes[0], {s.row(t, y + i / merge, x + i % merge)});
  }
  return in;
}

RopeAngles vision_rope(int head_dim, double theta) {
  RopeAngles rope;
  for (int axis = 0; axis < 2; ++axis)
    for (int i = 0; i < head_dim / 4; ++i) {
      rope.inv_freq.push_back(static_cast<float>(1.0 / std::pow(theta, 4.0 * i / head_dim)));
      rope.axis_of.push_back(static_cast<uint8_t>(axis));
    }
  return rope;
}

}  // namespace

VisionTower llama4_vision(const HfConfig& c) {
  const HfConfig v = c.sub("vision_config");
  const TileShape s = tile_shape(v, 448, 14, ClassToken::last);
  const int hidden = v.count("hidden_size"), heads = v.count("num_attention_heads"),
            text = text_config(c).count("hidden_size");
  const int merge = static_cast<int>(std::lround(1 / v.positive("pixel_shuffle_ratio", 0.5)));
  if (merge < 1 || s.grid % merge != 0) v.reject("pixel_shuffle_ratio", "which does not divide the patches of a tile");
  EncoderLayerOptions o{.hidden = hidden,
                        .heads = heads,
                        .width = v.count("intermediate_size"),
                        .act = activation(v, "hidden_act", "gelu")};
  o.norm.eps = static_cast<float>(v.positive("norm_eps", 1e-5));
  o.norm1 = "input_layernorm", o.norm2 = "post_attention_layernorm", o.out = "o_proj";
  if (hidden % (4 * heads) != 0) v.reject("num_attention_heads", "which leaves no head size that four divides");
  o.rope = vision_rope(hidden / heads, v.positive("rope_theta", 10000)), o.rope_interleaved = true;

  PlanBuilder b(c.architecture());
  b.ignore(Scope("language_model"));
  const Scope w("vision_model");
  const PlanBuilder::Module inside(b, w);
  const int size = 3 * s.patch * s.patch;
  Value x = b.linear(b.input(size), {.sources = {whole(w / "patch_embedding" / "linear", hidden)}, .k = size});
  x = b.add(x, b.embed_by(IdSource::class_rows,
                          {.tensor = "vision_model.class_embedding", .rows = 1, .shape = {hidden}}, hidden));
  x = b.add(x, b.embed_by(IdSource::tile_rows, {.tensor = "vision_model.positional_embedding_vlm", .rows = s.rows()},
                          hidden));
  x = norm(b, w / "layernorm_pre", x, o.norm);
  const int layers = v.count("num_hidden_layers");
  for (int i = 0; i < layers; ++i) x = encoder_layer(b, w / "model" / "layers" / i, x, o);
  x = b.mix_rows(norm(b, w / "layernorm_post", x, o.norm), 0, merge * merge, Rows::outputs);
  // The adapter activates twice.
  const Scope adapter = w / "vision_adapter" / "mlp";
  x = b.activate(dense(b, adapter / "fc1", x, v.count("projector_input_dim", 4096), false), kernels::Activation::gelu,
                 false);
  x = b.activate(dense(b, adapter / "fc2", x, v.count("projector_output_dim", 4096), false), kernels::Activation::gelu,
                 false);
  b.set_output(dense(b, Scope("multi_modal_projector") / "linear_1", x, text, false), HeadKind::features);
  VisionTower tower;
  tower.plan = b.take();
  tower.arrange = [s, merge](const PreparedMedia& media) { return arrange(media, s, merge); };
  tower.fits = [s](const PreparedMedia& media) { return !media.shape.empty() && has_tiles(media, s, media.shape[0]); };
  return tower;
}

}  // namespace weft::models
