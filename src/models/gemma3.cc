// Gemma 2: norms on both sides of each block, (1 + w) norms, every other layer windowed, soft caps on the scores and
// the logits. Gemma 3: no caps, a norm on every query and key head, five windowed layers for each full one, and a
// rotary base that differs between the two. With images: a SigLIP tower whose patches are averaged to a fixed number of
// soft tokens, which see each other in both directions.
#include <cmath>

#include "blocks/rope.h"
#include "models/models.h"
#include "models/tiles.h"

namespace weft::models {

using namespace blocks;

// Each layer's kind: `layer_types` in newer files, else every `every`-th is full.
static std::vector<LayerKind> layer_kinds(const HfConfig& c, int every) {
  const int layers = c.count("num_hidden_layers");
  std::vector<LayerKind> kinds = c.layer_types(layers);
  for (int i = static_cast<int>(kinds.size()); i < layers; ++i)
    kinds.push_back((i + 1) % every == 0 ? LayerKind::full : LayerKind::window);
  return kinds;
}

// What Gemma 2 and 3 share; `full` and `local`: the attention of full and of windowed layers.
static DecoderRecipe gemma(const HfConfig& c, AttentionOptions full, AttentionOptions local, int every) {
  full.scale = local.scale = 1.0f / std::sqrt(static_cast<float>(c.positive("query_pre_attn_scalar")));
  local.cache = CacheSpec::Kind::window, local.span = c.count("sliding_window");
  DecoderRecipe r = llama(c);
  r.tied_embeddings = c.flag("tie_word_embeddings", false);
  r.embed_scale = std::sqrt(static_cast<float>(r.hidden));
  r.norm.kind = NormKind::rms_one_plus;
  r.attention = [full, local, kinds = layer_kinds(c, every)](PlanBuilder& b, Scope w, int layer, Value x) {
    return attention(b, w, x, kinds[layer] == LayerKind::window ? local : full);
  };
  r.mlp = gated_mlp_with(
      {.hidden = r.hidden, .width = c.count("intermediate_size"), .act = activation(c, "hidden_activation")});
  r.layer = sandwich_layer;
  return r;
}

DecoderRecipe gemma2(const HfConfig& c) {
  const auto cap = [&](const char* key) { return c.has(key) ? static_cast<float>(c.positive(key)) : 0.0f; };
  AttentionOptions a = llama_attention(c);
  a.soft_cap = cap("attn_logit_softcapping");
  DecoderRecipe r = gemma(c, a, a, 2);
  r.logit_cap = cap("final_logit_softcapping");
  return r;
}

DecoderRecipe gemma3(const HfConfig& c) {
  AttentionOptions full = llama_attention(c);
  full.head_norm = kernels::HeadNorm::rms_one_plus;
  full.eps = static_cast<float>(c.positive("rms_norm_eps"));
  full.rope = rope_angles(c.rope(LayerKind::full), full.head_dim);
  AttentionOptions local = full;
  local.rope = rope_angles(c.rope(LayerKind::window), full.head_dim);
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"})
    if (c.has(key)) c.reject(key, "not supported", Code::unsupported);
  return gemma(c, full, local, c.count("sliding_window_pattern"));
}

namespace {

// Soft token (y, x) is the mean of a square of patches.
VisionInputs arrange(const PreparedMedia& media, const TileShape& s, int along) {
  VisionInputs in = tile_inputs(media, s);
  const int step = s.grid / along;
  MixTable& mix = in.mixes[0];
  mix.offsets.push_back(0);
  for (int y = 0; y < along; ++y)
    for (int x = 0; x < along; ++x, ++in.outputs) {
      for (int i = 0; i < step * step; ++i) mix.entries.push_back(s.row(0, y * step + i / step, x * step + i % step));
      mix.offsets.push_back(static_cast<int32_t>(mix.entries.size()));
    }
  return in;
}

}  // namespace

VisionTower gemma3_vision(const HfConfig& c) {
  const HfConfig v = c.sub("vision_config");
  const TileShape s = tile_shape(v, 224, 16, ClassToken::none);
  const int tokens = c.count("mm_tokens_per_image", 256), along = static_cast<int>(std::lround(std::sqrt(tokens)));
  if (along * along != tokens || s.grid % along != 0)
    c.reject("mm_tokens_per_image", "but must be a square whose side divides the patches along a side");
  ClipOptions o{.layers = v.count("num_hidden_layers")};
  o.act = activation(v, "hidden_act", "gelu_pytorch_tanh");
  o.norm.eps = static_cast<float>(v.positive("layer_norm_eps", 1e-6));
  o.patch_bias = o.last_norm = true;
  const int hidden = v.count("hidden_size"), text = text_config(c).count("hidden_size");
  PlanBuilder b(c.architecture());
  b.ignore(Scope("language_model"));
  Value x = clip_tower(b, Scope("vision_tower.vision_model"), v, s, o);
  const Scope w("multi_modal_projector");
  const PlanBuilder::Module inside(b, w);
  x = norm(b, w / "mm_soft_emb_norm", b.mix_rows(x, 0, 1, Rows::outputs), {NormKind::rms_one_plus, 1e-6f});
  // Stored [vision, text].
  x = b.linear(x, {.sources = {{.tensor = "multi_modal_projector.mm_input_projection_weight",
                                .rows = text,
                                .shape = {hidden, text},
                                .transposed = true}},
                   .k = hidden});
  b.set_output(x, HeadKind::features);
  VisionTower tower;
  tower.plan = b.take();
  tower.arrange = [s, along](const PreparedMedia& media) { return arrange(media, s, along); };
  tower.fits = [s](const PreparedMedia& media) { return has_tiles(media, s, 1); };
  return tower;
}

DecoderRecipe gemma3_with_images(const HfConfig& whole) {
  DecoderRecipe r = gemma3(text_config(whole));
  r.root = "language_model";
  r.embed = [embed = embed_with_features(r.embed, {"vision_tower", "multi_modal_projector"})](
                PlanBuilder& b, Scope root, const DecoderRecipe& own) {
    b.join_images();
    return embed(b, root, own);
  };
  return r;
}

}  // namespace weft::models
