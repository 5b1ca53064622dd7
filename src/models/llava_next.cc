// LLaVA-NeXT (LLaVA 1.6): a CLIP tower over the whole image and its tiles, a two-layer projector, and any language
// model behind it. The tiles' features are put together to a map, cut to the image's shape, and a newline vector closes
// each row of it.
#include <cmath>

#include "models/models.h"
#include "models/tiles.h"

namespace weft::models {

using namespace blocks;

namespace {

// The part of a map of ch x cw features that the image of h x w pixels covers: the padding is cut off on both sides.
struct Crop {
  int top, left, rows, cols;
};
Crop unpad(int h, int w, int ch, int cw) {
  const auto kept = [](double side, double scale) {
    return static_cast<int>(std::nearbyint(side * scale * 1e7) / 1e7);
  };
  if (static_cast<double>(w) / h > static_cast<double>(cw) / ch) {
    const int top = (ch - kept(h, static_cast<double>(cw) / w)) / 2;
    return {top, 0, ch - 2 * top, cw};
  }
  const int left = (cw - kept(w, static_cast<double>(ch) / h)) / 2;
  return {0, left, ch, cw - 2 * left};
}

// Output rows: the whole image's features, then those of the cropped map.
VisionInputs arrange(const PreparedMedia& media, const TileShape& s) {
  VisionInputs in = tile_inputs(media, s);
  const int n = s.grid;
  for (int y = 0; y < n; ++y)
    for (int x = 0; x < n; ++x) add_part(in.mixes[0], {s.row(0, y, x)}), in.features.push_back(in.outputs++);
  const Crop crop = unpad(media.height, media.width, media.tile_rows * n, media.tile_columns * n);
  for (int y = crop.top; y < crop.top + crop.rows; ++y) {
    for (int x = crop.left; x < crop.left + crop.cols; ++x) {
      add_part(in.mixes[0], {s.row(1 + y / n * media.tile_columns + x / n, y % n, x % n)});
      in.features.push_back(in.outputs++);
    }
    in.features.push_back(-1);
  }
  return in;
}

}  // namespace

VisionTower llava_next_vision(const HfConfig& c) {
  const HfConfig v = c.sub("vision_config");
  const TileShape shape = tile_shape(v, 224, 32, ClassToken::first);
  const int text = text_config(c).count("hidden_size");
  c.choice("vision_feature_select_strategy", "default", {"default"});
  ClipOptions o{.layers = layers_up_to(c, "vision_feature_layer", -2, v.count("num_hidden_layers"))};
  o.act = activation(v, "hidden_act", "quick_gelu");
  o.norm.eps = static_cast<float>(v.positive("layer_norm_eps", 1e-5));
  o.first_norm = "pre_layrnorm";  // sic
  PlanBuilder b(c.architecture());
  for (const char* scope : {"language_model", "vision_tower.vision_model.embeddings.position_ids"})
    b.ignore(Scope(scope));
  Value x = clip_tower(b, Scope("vision_tower.vision_model"), v, shape, o);
  const Scope projector("multi_modal_projector");
  const PlanBuilder::Module inside(b, projector);
  x = b.mix_rows(x, 0, 1, Rows::outputs);
  const bool bias = c.flag("multimodal_projector_bias", true);
  x = b.activate(dense(b, projector / "linear_1", x, text, bias), activation(c, "projector_hidden_act", "gelu"), false);
  b.set_output(dense(b, projector / "linear_2", x, text, bias), HeadKind::features);
  VisionTower tower;
  tower.newline = b.keep_vector(Scope("image_newline"), text);
  tower.plan = b.take();
  tower.arrange = [shape](const PreparedMedia& media) { return arrange(media, shape); };
  tower.fits = [shape](const PreparedMedia& media) {
    return media.height >= 1 && media.width >= 1 && media.tile_rows >= 1 && media.tile_columns >= 1 &&
           has_tiles(media, shape, 1 + int64_t{media.tile_rows} * media.tile_columns);
  };
  return tower;
}

DecoderRecipe llava_next(const HfConfig& whole) {
  const HfConfig c = text_config(whole);
  const std::string kind = c.text("model_type", "llama");
  DecoderRecipe r = kind == "mistral" ? mistral(c) : kind == "qwen2" ? qwen2(c) : llama(c);
  if (kind != "mistral" && kind != "qwen2" && kind != "llama")
    c.reject("model_type", "not a language model that is known here", Code::unsupported);
  r.root = "language_model";
  r.embed = embed_with_features(r.embed, {"vision_tower", "multi_modal_projector", "image_newline"});
  return r;
}

}  // namespace weft::models
