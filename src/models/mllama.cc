// Mllama (Llama 3.2 Vision). The tower reads up to four tiles as one sequence, with gates on its position embeddings
// and layers. The language model is Llama with cross-attention layers to the images between its own layers; a step
// without an image skips them. The keys and values of those layers are made with the image's features, once per image.
#include <algorithm>
#include <cmath>

#include "models/models.h"
#include "models/tiles.h"

namespace weft::models {

using namespace blocks;

namespace {

struct CrossOptions {
  int hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  float eps = 1e-5f;
  int kv_cols() const { return kv_heads * head_dim; }
  CacheSpec cache() const {
    return {.kind = CacheSpec::Kind::cross, .kv_heads = kv_heads, .k_dim = head_dim, .v_dim = head_dim};
  }
};

CrossOptions cross_options(const HfConfig& c) {
  return {c.count("hidden_size"), c.count("num_attention_heads"), c.kv_heads(), c.head_dim(),
          static_cast<float>(c.positive("rms_norm_eps"))};
}

HeadsOptions normed_heads(const CrossOptions& o, int heads) {
  return {.heads = heads, .dim = o.head_dim, .norm = kernels::HeadNorm::rms, .eps = o.eps};
}

// Rows that see no image attend to all images, as in the reference, and skip the layer's MLP; sequences without any
// image keep x unchanged.
Value cross_layer(PlanBuilder& b, Scope w, Value x, const CrossOptions& o, const DecoderRecipe& r, int layer) {
  const CacheRef cache = b.cross_cache(o.cache(), o.heads);
  b.begin_images_only();
  const Scope attention = w / "cross_attn";
  const int q_cols = o.heads * o.head_dim;
  Value q = b.linear(norm(b, w / "input_layernorm", x, r.norm),
                     {.sources = {whole(attention / "q_proj", q_cols)}, .k = o.hidden});
  q = b.heads(q, attention / "q_norm", {}, normed_heads(o, o.heads));
  const Value seen = b.attend(q, cache, o.heads, 1.0f / std::sqrt(static_cast<float>(o.head_dim)));
  const Value out = b.linear(seen, {.sources = {whole(attention / "o_proj", o.hidden)},
                                    .k = q_cols,
                                    .shard = Shard::rows,
                                    .shard_unit = o.head_dim});
  b.add_into(x, b.gate(out, w / "cross_attn_attn_gate", false, kHasImages));
  const Value mlp = r.mlp(b, w / "mlp", layer, norm(b, w / "post_attention_layernorm", x, r.norm));
  b.add_into(x, b.gate(mlp, w / "cross_attn_mlp_gate", false, kSeesImage));
  b.end_images_only();
  return x;
}

// ---- The tower ------------------------------------------------------------------------------------------------------

struct TowerShape {
  TileShape tile;
  int tiles = 4, padded = 0;  // rows of a tile with its padding
};

// The rows of all tiles, in the tower with the real ones first: they see everything, padding included; padding sees
// only them.
VisionInputs arrange(const PreparedMedia& media, const TowerShape& s) {
  VisionInputs in = tile_inputs(media, s.tile);
  const int rows = s.tile.rows(), real = media.tile_rows * media.tile_columns;
  for (int t = 0; t < s.tiles; ++t)
    for (int i = 0; i < rows; ++i) {
      in.indices.canvas_rows.push_back((media.aspect_ratio_id * s.tiles + t) * rows + i);
      in.indices.canvas_tiles.push_back(i == 0 ? -1 : media.aspect_ratio_id * s.tiles + t);
    }
  const auto add = [&](int tile, int row) {  // row < 0: padding
    if (row >= 0) add_part(in.mixes[0], {tile * rows + row});
    else add_part(in.mixes[0], {});
    in.indices.padded_canvas_tiles.push_back(media.aspect_ratio_id * s.tiles + tile);
    ++in.mixed;
  };
  for (int t = 0; t < real; ++t)
    for (int i = 0; i < rows; ++i) add_part(in.mixes[1], {in.mixed}), add(t, i);
  const int real_rows = in.mixed;
  for (int t = 0; t < s.tiles; ++t)
    for (int i = t < real ? rows : 0; i < s.padded; ++i) {
      if (i < rows) add_part(in.mixes[1], {in.mixed});
      add(t, i < rows ? i : -1);
    }
  in.outputs = s.tiles * rows;  // empty tiles too: rows of the text that see no image attend to everything
  in.segments = {{in.mixed}};
  for (int i = 0; i < in.mixed; ++i) in.ends.push_back(i < real_rows ? in.mixed : real_rows);
  return in;
}

EncoderLayerOptions layer_options(const HfConfig& v, bool gated) {
  EncoderLayerOptions o{.hidden = v.count("hidden_size"),
                        .heads = v.count("attention_heads"),
                        .width = v.count("intermediate_size"),
                        .act = activation(v, "hidden_act", "gelu")};
  o.norm.eps = static_cast<float>(v.positive("norm_eps", 1e-5));
  o.qkv_bias = o.out_bias = false;
  o.norm1 = "input_layernorm", o.norm2 = "post_attention_layernorm", o.out = "o_proj";
  if (gated) o.gate1 = "gate_attn", o.gate2 = "gate_ffn";
  if (o.hidden % o.heads != 0) v.reject("attention_heads", "which does not divide hidden_size");
  return o;
}

// Patch and class embeddings, plus three gated embeddings: of the tile, of the position in a tile, and of both
// together.
Value embed_tiles(PlanBuilder& b, Scope w, const TowerShape& s, int hidden, int ratios) {
  const int rows = s.tile.rows();
  const auto table = [&](const std::string& name, int64_t count, std::vector<int64_t> shape) {
    return TensorRows{name, 0, count, std::move(shape)};
  };
  Value x = patch_embedding(b, w.path() + ".patch_embedding.weight", {hidden, 3, s.tile.patch, s.tile.patch}, false);
  const Scope pre = w / "pre_tile_positional_embedding", positional = w / "gated_positional_embedding";
  const auto per_tile = [&](Scope at) {
    return table(at.path() + ".embedding.weight", int64_t{ratios} * s.tiles, {ratios, s.tiles * hidden});
  };
  x = b.add(x, b.gate(b.embed_by(IdSource::canvas_tiles, per_tile(pre), hidden), pre / "gate"));
  x = b.add(x, b.embed_by(IdSource::class_rows, table(w.path() + ".class_embedding", 1, {hidden}), hidden));
  x = b.add(
      x, b.gate(b.embed_by(IdSource::tile_rows, table(positional.path() + ".embedding", rows, {rows, hidden}), hidden),
                positional / "gate", true));
  const auto shape = std::vector<int64_t>{ratios, int64_t{s.tiles} * rows * hidden};
  return b.add(x, b.gate(b.embed_by(IdSource::canvas_rows,
                                    table((positional / "tile_embedding").path() + ".weight",
                                          int64_t{ratios} * s.tiles * rows, shape),
                                    hidden),
                         positional / "gate"));
}

}  // namespace

VisionTower mllama_vision(const HfConfig& c) {
  const HfConfig v = c.sub("vision_config"), t = text_config(c);
  TowerShape s{.tile = tile_shape(v, 448, 14, ClassToken::first), .tiles = v.count("max_num_tiles", 4)};
  s.padded = (s.tile.rows() + 7) / 8 * 8;
  const Json* listed = v.value("supported_aspect_ratios");
  const int ratios = 1 + (listed && listed->is_array() ? static_cast<int>(listed->items().size()) : 8);
  const EncoderLayerOptions plain = layer_options(v, false), gated = layer_options(v, true);
  const int hidden = plain.hidden, layers = v.count("num_hidden_layers"), globals = v.count("num_global_layers", 8);
  const std::vector<int> kept = v.indices("intermediate_layers_indices"), cross = t.indices("cross_attention_layers");
  const int wide = hidden * (1 + static_cast<int>(kept.size()));
  if (v.count("vision_output_dim", wide) != wide)
    v.reject("vision_output_dim", "but the kept layers make it " + std::to_string(wide));

  PlanBuilder b(c.architecture());
  b.ignore(Scope("language_model"));
  const Scope w("vision_model");
  const PlanBuilder::Module inside(b, w);
  Value x = norm(b, w / "layernorm_pre", embed_tiles(b, w, s, hidden, ratios), plain.norm);
  x = b.mix_rows(x, 0, 1, Rows::mixed);
  const Value all = b.buffer(wide, Rows::outputs);
  const auto keep = [&](Value state, int first, int step) {
    b.place(b.mix_rows(state, 1, 1, Rows::outputs), b.slice(all, first, (hidden - 1) * step + 1), step);
  };
  // The inputs of the kept layers are part of the output, their channels interleaved.
  for (int i = 0; i < layers; ++i) {
    for (size_t k = 0; k < kept.size(); ++k)
      if (kept[k] == i) keep(x, hidden + static_cast<int>(k), static_cast<int>(kept.size()));
    x = encoder_layer(b, w / "transformer" / "layers" / i, x, plain);
  }
  x = norm(b, w / "layernorm_post", x, plain.norm);
  const Scope post = w / "post_tile_positional_embedding";
  const TensorRows post_table{
      post.path() + ".embedding.weight", 0, int64_t{ratios} * s.tiles, {ratios, s.tiles * hidden}};
  x = b.add(x, b.gate(b.embed_by(IdSource::padded_canvas_tiles, post_table, hidden, Rows::mixed), post / "gate"));
  for (int i = 0; i < globals; ++i) x = encoder_layer(b, w / "global_transformer" / "layers" / i, x, gated);
  keep(x, 0, 1);

  const CrossOptions o = cross_options(t);
  const Value states = dense(b, Scope("multi_modal_projector"), all, o.hidden);
  const int kv = o.kv_cols();
  const Value keys = b.buffer(static_cast<int>(cross.size()) * 2 * kv, Rows::outputs);
  for (size_t k = 0; k < cross.size(); ++k) {
    const Scope at = Scope("language_model") / "model" / "layers" / cross[k] / "cross_attn";
    const Value both =
        b.linear(states, {.sources = {whole(at / "k_proj", kv), whole(at / "v_proj", kv)}, .k = o.hidden});
    b.heads(b.slice(both, 0, kv), at / "k_norm", {}, normed_heads(o, o.kv_heads));
    b.place(both, b.slice(keys, static_cast<int>(k) * 2 * kv, 2 * kv));
  }
  b.set_output(keys, HeadKind::features);
  VisionTower tower;
  tower.plan = b.take();
  tower.most_keys = s.tiles * s.tile.rows();
  tower.arrange = [s](const PreparedMedia& media) { return arrange(media, s); };
  tower.fits = [s](const PreparedMedia& media) {
    int ratios = 0;  // width by height in tiles
    for (int w = 1; w <= s.tiles; ++w) ratios += s.tiles / w;
    const int64_t real = int64_t{media.tile_rows} * media.tile_columns;
    return real >= 1 && real <= s.tiles && media.aspect_ratio_id >= 0 && media.aspect_ratio_id <= ratios &&
           has_tiles(media, s.tile, s.tiles);
  };
  return tower;
}

DecoderRecipe mllama(const HfConfig& whole) {
  constexpr int kExtraRows = 8;  // embed_tokens has rows for the image token and a reserve; lm_head has not
  const HfConfig c = text_config(whole);
  DecoderRecipe r = llama(c);
  r.root = "language_model";
  r.embed_rows = r.vocab + kExtraRows;
  r.layer = [cross = c.indices("cross_attention_layers"), o = cross_options(c)](PlanBuilder& b, Scope w, int layer,
                                                                                Value x, const DecoderRecipe& own) {
    if (std::find(cross.begin(), cross.end(), layer) == cross.end()) return pre_norm_layer(b, w, layer, x, own);
    // The tower's plan reads these.
    for (const char* name : {"k_proj", "v_proj", "k_norm"}) b.ignore(w / "cross_attn" / name);
    return cross_layer(b, w, x, o, own, layer);
  };
  r.embed = [](PlanBuilder& b, Scope root, const DecoderRecipe& own) {
    b.ignore(Scope("vision_model")), b.ignore(Scope("multi_modal_projector"));
    return embed_tokens(b, root, own);
  };
  return r;
}

}  // namespace weft::models
