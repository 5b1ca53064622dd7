// Towers that read square tiles (CLIP, SigLIP, Llama 4's), and what decoders of vision-language models share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "blocks/vision.h"
#include "models/vision.h"

namespace weft::models {

enum class ClassToken : unsigned char { none, first, last };

// A tile's rows: grid x grid patches and perhaps a class token.
struct TileShape {
  int side = 0, patch = 0, grid = 0;
  ClassToken token = ClassToken::none;
  int rows() const { return grid * grid + (token != ClassToken::none); }
  // Row of the step for a patch.
  int32_t row(int tile, int y, int x) const { return tile * rows() + (token == ClassToken::first) + y * grid + x; }
};
// From a vision_config; the defaults are the family's.
TileShape tile_shape(const HfConfig& vision, int image, int patch, ClassToken token);

// Pixels, class_rows and tile_rows of the indices, and one segment per tile.
VisionInputs tile_inputs(const PreparedMedia& media, const TileShape& shape);

// Whether the image's pixels are so many tiles of this shape.
bool has_tiles(const PreparedMedia& media, const TileShape& shape, int64_t tiles);

// Patches, positions and `layers` encoder layers under CLIP's names (w: "...vision_model").
struct ClipOptions {
  int layers = 0;
  kernels::Activation act = kernels::Activation::quick_gelu;
  blocks::NormOptions norm{blocks::NormKind::layer, 1e-5f, true};
  bool patch_bias = false, last_norm = false;
  std::string first_norm;
};
Value clip_tower(PlanBuilder& b, Scope w, const HfConfig& vision, const TileShape& shape, const ClipOptions& o);

// How many layers give hidden state `key` of a tower, where 0 is what enters the first and -1 what leaves the last.
int layers_up_to(const HfConfig& c, std::string_view key, int absent, int layers);

// The embedding of a decoder whose prompts hold features; `unused` scopes belong to the tower.
blocks::EmbedFn embed_with_features(blocks::EmbedFn embed, std::vector<std::string> unused);

}  // namespace weft::models
