// Qwen2-VL and Qwen2.5-VL: a tower over any number of patches with rotary positions by row and column; each 2x2 block
// of patches becomes one feature. In Qwen2.5-VL most layers attend within windows of patches only. The language model
// is Qwen2 with positions on three axes.
#include <algorithm>
#include <cmath>

#include "models/models.h"
#include "models/tiles.h"

namespace weft::models {

using namespace blocks;

namespace {

struct QwenShape {
  int hidden = 0, heads = 0, patch_size = 0, merge = 2;
  int window = 0;  // merged blocks along a window's side; 0: no windows
};

// A patch: its index in the pixels, and its row and column in the image.
struct Patch {
  int32_t index, y, x;
};

// Patches in the order of the tower's rows: as they come, or window by window.
std::vector<Patch> ordered(const PreparedMedia& m, const QwenShape& s, std::vector<int>& windows) {
  const int mr = s.merge, rows = m.grid_rows / mr, cols = m.grid_columns / mr,
            step = s.window > 0 ? s.window : std::max(rows, cols);
  std::vector<Patch> patches;
  for (int t = 0; t < m.grid_frames; ++t)
    for (int wy = 0; wy < rows; wy += step)
      for (int wx = 0; wx < cols; wx += step) {
        const size_t before = patches.size();
        for (int by = wy; by < std::min(wy + step, rows); ++by)
          for (int bx = wx; bx < std::min(wx + step, cols); ++bx)
            for (int i = 0; i < mr * mr; ++i) {
              const int block = (t * rows + by) * cols + bx;
              patches.push_back({block * mr * mr + i, by * mr + i / mr, bx * mr + i % mr});
            }
        windows.push_back(static_cast<int>(patches.size() - before));
      }
  return patches;
}

VisionInputs arrange(const PreparedMedia& m, const QwenShape& s) {
  VisionInputs in;
  std::vector<int> windows;
  const std::vector<Patch> patches = ordered(m, s, windows);
  in.rows = static_cast<int>(patches.size());
  std::vector<int32_t> row_of(patches.size());
  for (int32_t r = 0; r < in.rows; ++r) {
    const Patch& p = patches[r];
    const float* from = m.pixel_values.data() + static_cast<size_t>(p.index) * s.patch_size;
    in.pixels.insert(in.pixels.end(), from, from + s.patch_size);
    in.positions[0].push_back(p.y), in.positions[1].push_back(p.x);
    row_of[p.index] = r;
  }
  in.segments = {std::vector<int>(m.grid_frames, m.grid_rows * m.grid_columns), windows};
  const int parts = s.merge * s.merge;
  in.outputs = in.rows / parts;
  for (int32_t i = 0; i < in.rows; ++i) add_part(in.mixes[0], {row_of[i]});
  return in;
}

RopeAngles vision_rope(int head_dim) {
  RopeAngles rope;
  const int quarter = head_dim / 4;
  for (int axis = 0; axis < 2; ++axis)
    for (int i = 0; i < quarter; ++i) {
      rope.inv_freq.push_back(static_cast<float>(1.0 / std::pow(10000.0, 4.0 * i / head_dim)));
      rope.axis_of.push_back(static_cast<uint8_t>(axis));
    }
  return rope;
}

}  // namespace

VisionTower qwen_vision(const HfConfig& c) {
  const bool second = c.architecture() == "Qwen2VLForConditionalGeneration";
  const HfConfig v = c.sub("vision_config");
  const int patch = v.count("patch_size", 14), frames = v.count("temporal_patch_size", 2), depth = v.count("depth", 32);
  QwenShape s{.hidden = second ? v.count("embed_dim", 1280) : v.count("hidden_size"),
              .heads = v.count("num_heads", 16),
              .patch_size = 3 * frames * patch * patch,
              .merge = v.count("spatial_merge_size", 2)};
  const int text = text_config(c).count("hidden_size");
  EncoderLayerOptions o{.hidden = s.hidden, .heads = s.heads};
  o.norm1 = "norm1", o.norm2 = "norm2", o.attention = "attn", o.out = "proj", o.fused = "qkv";
  // GGUF has q, k and v apart.
  if (c.tensor_rows("visual.blocks.0.attn.q_proj.weight", 0) > 0) o.fused.clear();
  if (s.hidden % (4 * s.heads) != 0) v.reject("num_heads", "which leaves no head size that four divides");
  o.rope = vision_rope(s.hidden / s.heads);
  std::vector<int> full;
  if (second) {
    o.width = static_cast<int>(s.hidden * v.positive("mlp_ratio", 4));
    o.act = activation(v, "hidden_act", "quick_gelu");
    o.norm.eps = 1e-6f;
  } else {
    o.width = v.count("intermediate_size", 3420);
    o.act = activation(v, "hidden_act", "silu");
    o.norm = {NormKind::rms, 1e-6f};
    o.gated = true;
    s.window = v.count("window_size", 112) / (patch * s.merge);
    if (s.window < 1) v.reject("window_size", "smaller than one feature");
    full = v.has("fullatt_block_indexes") ? v.indices("fullatt_block_indexes") : std::vector<int>{7, 15, 23, 31};
  }

  PlanBuilder b(c.architecture());
  for (const char* scope : {"model", "lm_head"}) b.ignore(Scope(scope));
  const Scope w("visual");
  const PlanBuilder::Module inside(b, w);
  Value x = patch_embedding(b, "visual.patch_embed.proj.weight", {s.hidden, 3, frames, patch, patch}, false);
  // Segments of kind 0 are frames; both models have them, so that a kind's number does not depend on which layers there
  // are.
  for (int i = 0; i < depth; ++i) {
    o.segments = second || std::find(full.begin(), full.end(), i) != full.end() ? 0 : 1;
    x = encoder_layer(b, w / "blocks" / i, x, o);
  }
  const int parts = s.merge * s.merge, wide = parts * s.hidden;
  x = b.mix_rows(norm(b, w / "merger" / "ln_q", x, o.norm), 0, parts, Rows::outputs);
  x = b.activate(dense(b, w / "merger" / "mlp" / 0, x, wide), kernels::Activation::gelu, false);
  b.set_output(dense(b, w / "merger" / "mlp" / 2, x, text), HeadKind::features);
  VisionTower tower;
  tower.plan = b.take();
  tower.arrange = [s](const PreparedMedia& media) { return arrange(media, s); };
  tower.fits = [s](const PreparedMedia& media) {
    constexpr int kMost = 1 << 14;  // along each axis
    const bool small = media.grid_frames >= 1 && media.grid_frames <= kMost && media.grid_rows >= s.merge &&
                       media.grid_rows <= kMost && media.grid_columns >= s.merge && media.grid_columns <= kMost;
    return small && media.grid_rows % s.merge == 0 && media.grid_columns % s.merge == 0 &&
           int64_t{media.grid_frames} * media.grid_rows * media.grid_columns * s.patch_size ==
               static_cast<int64_t>(media.pixel_values.size());
  };
  return tower;
}

DecoderRecipe qwen_vl(const HfConfig& whole) {
  const HfConfig c = text_config(whole);
  DecoderRecipe r = qwen2(c);
  r.embed = embed_with_features(r.embed, {"visual"});
  return r;
}

}  // namespace weft::models
