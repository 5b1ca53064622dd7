// VILA and NVILA (LlavaLlamaModel): a SigLIP tower over tiles, a projector that merges neighbouring patches, and Qwen2
// or Llama as the language model. With dynamic S2 the image comes in several scales, whose feature maps are brought to
// one size and laid side by side as channels.
#include <algorithm>
#include <cmath>

#include "models/models.h"
#include "models/tiles.h"

namespace weft::models {

using namespace blocks;

namespace {

struct VilaShape {
  TileShape tile;
  int merge = 2;            // patches along each side that the projector merges
  std::vector<int> scales;  // S2: each scale over the first; empty: no S2
  int output_scale = 0;     // index of the scale whose map the features have
};

// The tiles of one scale as a map of rows x cols tiles, the first of which is tile `first`.
struct Map {
  int first, rows, cols;
};

// The rows of a scale's map that cell (y, x) of an out_rows x out_cols map averages over (adaptive average pooling).
void add_area(MixTable& mix, const TileShape& s, const Map& map, int y, int x, int out_rows, int out_cols) {
  const auto low = [](int i, int in, int out) { return i * in / out; };
  const auto high = [](int i, int in, int out) { return ((i + 1) * in + out - 1) / out; };
  const int in_rows = map.rows * s.grid, in_cols = map.cols * s.grid;
  if (mix.offsets.empty()) mix.offsets.push_back(0);
  for (int r = low(y, in_rows, out_rows); r < high(y, in_rows, out_rows); ++r)
    for (int c = low(x, in_cols, out_cols); c < high(x, in_cols, out_cols); ++c)
      mix.entries.push_back(s.row(map.first + r / s.grid * map.cols + c / s.grid, r % s.grid, c % s.grid));
  mix.offsets.push_back(static_cast<int32_t>(mix.entries.size()));
}

// One output row: the merge x merge patches of a tile from (y0, x0) on, zeros beyond the tile's edge. row(y, x) is a
// patch's row.
template <class Row>
void add_merged_tile(MixTable& mix, int grid, int merge, int y0, int x0, const Row& row) {
  for (int dy = 0; dy < merge; ++dy)
    for (int dx = 0; dx < merge; ++dx) {
      if (y0 + dy < grid && x0 + dx < grid) add_part(mix, {row(y0 + dy, x0 + dx)});
      else add_part(mix, {});
    }
}

// The output rows of a map of rows x cols tiles, in the order of the map's own rows. row(tile, y, x) is a patch's row.
template <class Row>
void add_merged_map(VisionInputs& in, MixTable& mix, int rows, int cols, int grid, int merge, const Row& row) {
  const int along = (grid + merge - 1) / merge;
  for (int y = 0; y < rows * along; ++y)
    for (int x = 0; x < cols * along; ++x, ++in.outputs) {
      const int tile = y / along * cols + x / along;
      add_merged_tile(mix, grid, merge, y % along * merge, x % along * merge,
                      [&](int py, int px) { return row(tile, py, px); });
    }
}

VisionInputs arrange_tiles(const PreparedMedia& m, const VilaShape& s) {
  VisionInputs in = tile_inputs(m, s.tile);
  const auto tiles = static_cast<int>(m.shape[0]);
  for (int t = 0; t < tiles; ++t)
    add_merged_map(in, in.mixes[0], 1, 1, s.tile.grid, s.merge, [&](int, int y, int x) { return s.tile.row(t, y, x); });
  return in;
}

VisionInputs arrange_scales(const PreparedMedia& m, const VilaShape& s) {
  VisionInputs in = tile_inputs(m, s.tile);
  std::vector<Map> maps;
  if (m.single) {
    int first = 0;
    for (size_t k = 0; k + 1 < s.scales.size(); ++k)
      maps.push_back({first, s.scales[k], s.scales[k]}), first += s.scales[k] * s.scales[k];
    maps.push_back({first, m.tile_rows, m.tile_columns});
  } else {
    maps.assign(s.scales.size(), {0, 1, 1});
  }
  const Map& target = maps[s.output_scale];
  const int rows = target.rows * s.tile.grid, cols = target.cols * s.tile.grid;
  for (int y = 0; y < rows; ++y)
    for (int x = 0; x < cols; ++x, ++in.mixed)
      for (const Map& map : maps) add_area(in.mixes[0], s.tile, map, y, x, rows, cols);
  add_merged_map(in, in.mixes[1], target.rows, target.cols, s.tile.grid, s.merge, [&](int tile, int y, int x) {
    return (tile / target.cols * s.tile.grid + y) * cols + tile % target.cols * s.tile.grid + x;
  });
  return in;
}

// "448,896,1344" as multiples of the first; the media processor has checked them.
std::vector<int> read_scales(const HfConfig& c) {
  std::vector<double> sizes;
  if (const Json* value = c.value("s2_scales"); value && value->is_string()) {
    const std::string& text = value->as_string();
    for (size_t at = 0; at <= text.size(); at = std::min(text.find(',', at), text.size()) + 1)
      sizes.push_back(std::atof(text.c_str() + at));
  } else {
    sizes = c.numbers("s2_scales");
  }
  std::vector<int> scales;
  for (double size : sizes) {
    if (!(sizes[0] >= 1 && size >= sizes[0] && size <= 64 * sizes[0]))
      return c.reject("s2_scales", "but must be sizes, the first the smallest"), std::vector<int>{1};
    scales.push_back(static_cast<int>(size / sizes[0]));
  }
  if (scales.empty()) c.reject("s2_scales", "but dynamic_s2 needs it");
  return scales.empty() ? std::vector<int>{1} : scales;
}

Value projector(PlanBuilder& b, Value x, const std::string& kind, int channels, int text) {
  const Scope w = Scope("mm_projector") / "layers";
  const PlanBuilder::Module inside(b, w);
  const NormOptions layer{NormKind::layer, 1e-5f, true};
  const auto gelu = [&](Value v) { return b.activate(v, kernels::Activation::gelu, false); };
  x = norm(b, w / 1, x, layer);
  if (kind == "mlp_downsample_3x3_fix") {
    x = gelu(dense(b, w / 2, x, 3 * channels));
    x = gelu(dense(b, w / 5, norm(b, w / 4, x, layer), text));
    return dense(b, w / 7, x, text);
  }
  x = gelu(dense(b, w / 2, x, text));
  return dense(b, w / 4, x, text);
}

}  // namespace

VisionTower vila_vision(const HfConfig& c) {
  const HfConfig v = c.sub("vision_tower_cfg"), p = c.sub("mm_projector_cfg");
  VilaShape s{.tile = tile_shape(v, 384, 14, ClassToken::none)};
  const std::string kind = p.choice("mm_projector_type", "mlp_downsample",
                                    {"mlp_downsample", "mlp_downsample_2x2_fix", "mlp_downsample_3x3_fix"});
  s.merge = kind == "mlp_downsample_3x3_fix" ? 3 : 2;
  const bool scaled = c.flag("dynamic_s2", false) || c.text("image_aspect_ratio", "resize") == "dynamic_s2";
  if (scaled) {
    s.scales = read_scales(c);
    const double index = c.number("s2_resize_output_to_scale_idx", -1);
    const double last = static_cast<double>(s.scales.size());
    s.output_scale = static_cast<int>(index < 0 ? last + index : index);
    if (s.output_scale < 0 || s.output_scale >= last)
      c.reject("s2_resize_output_to_scale_idx", "not the index of a scale"), s.output_scale = 0;
  } else if (c.flag("s2", false)) {
    c.reject("s2", "not supported (dynamic_s2 is)", Code::unsupported);
  }
  c.choice("mm_vision_select_feature", "cls_patch", {"cls_patch"});
  ClipOptions o{.layers = layers_up_to(c, "mm_vision_select_layer", -2, v.count("num_hidden_layers"))};
  o.act = activation(v, "hidden_act", "gelu_pytorch_tanh");
  o.norm.eps = static_cast<float>(v.positive("layer_norm_eps", 1e-6));
  o.patch_bias = true;
  const int text = text_config(c).count("hidden_size");

  PlanBuilder b(c.architecture());
  b.ignore(Scope("llm"));
  Value x = clip_tower(b, Scope("vision_tower") / "vision_model", v, s.tile, o);
  const PlanBuilder::Module inside(b, Scope("mm_projector"));
  if (scaled) x = b.mix_rows(x, 0, static_cast<int>(s.scales.size()), Rows::mixed);
  const int channels = x.cols;
  x = b.mix_rows(x, scaled ? 1 : 0, s.merge * s.merge, Rows::outputs);
  b.set_output(projector(b, x, kind, channels, text), HeadKind::features);
  VisionTower tower;
  tower.plan = b.take();
  tower.arrange = [s](const PreparedMedia& media) {
    return s.scales.empty() ? arrange_tiles(media, s) : arrange_scales(media, s);
  };
  tower.fits = [s](const PreparedMedia& media) {
    if (s.scales.empty()) return !media.shape.empty() && has_tiles(media, s.tile, media.shape[0]);
    if (!media.single) return has_tiles(media, s.tile, 1);
    int64_t tiles = int64_t{media.tile_rows} * media.tile_columns;
    for (size_t k = 0; k + 1 < s.scales.size(); ++k) tiles += int64_t{s.scales[k]} * s.scales[k];
    return media.tile_rows >= 1 && media.tile_columns >= 1 && has_tiles(media, s.tile, tiles);
  };
  return tower;
}

DecoderRecipe vila(const HfConfig& whole) {
  const HfConfig c = text_config(whole);
  const std::string kind = c.choice("model_type", "llama", {"llama", "qwen2", "mistral"});
  DecoderRecipe r = kind == "qwen2" ? qwen2(c) : kind == "mistral" ? mistral(c) : llama(c);
  r.root = "llm";
  r.embed = embed_with_features(r.embed, {"vision_tower", "mm_projector"});
  return r;
}

}  // namespace weft::models
