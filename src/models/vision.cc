#include "models/vision.h"

#include "models/models.h"
#include "models/tiles.h"

namespace weft::models {

using namespace blocks;

Result<std::optional<VisionTower>> build_vision(const HfConfig& config) {
  const std::string name = config.architecture();
  WEFT_RETURN_IF_ERROR(config.status());
  for (const Architecture& architecture : architectures()) {
    if (architecture.name != name || !architecture.vision) continue;
    VisionTower tower = architecture.vision(config);
    WEFT_RETURN_IF_ERROR(config.status());
    return std::optional<VisionTower>(std::move(tower));
  }
  return std::optional<VisionTower>();
}

void add_part(MixTable& table, std::initializer_list<int32_t> rows) {
  if (table.offsets.empty()) table.offsets.push_back(0);
  table.entries.insert(table.entries.end(), rows);
  table.offsets.push_back(static_cast<int32_t>(table.entries.size()));
}

void append_patches(const float* pixels, int side, int patch, std::vector<float>& out) {
  for (int y = 0; y + patch <= side; y += patch)
    for (int x = 0; x + patch <= side; x += patch)
      for (int c = 0; c < 3; ++c)
        for (int row = 0; row < patch; ++row) {
          const float* from = pixels + (static_cast<size_t>(c) * side + y + row) * side + x;
          out.insert(out.end(), from, from + patch);
        }
}

TileShape tile_shape(const HfConfig& v, int image, int patch, ClassToken token) {
  TileShape s{v.count("image_size", image), v.count("patch_size", patch), 0, token};
  s.grid = s.side / s.patch;
  if (s.side % s.patch != 0 && token != ClassToken::none) v.reject("patch_size", "which does not divide image_size");
  return s;
}

VisionInputs tile_inputs(const PreparedMedia& media, const TileShape& s) {
  VisionInputs in;
  const auto tiles = static_cast<int>(media.shape.empty() ? 0 : media.shape[0]);
  const size_t tile_floats = size_t{3} * s.side * s.side, row_floats = size_t{3} * s.patch * s.patch;
  in.rows = tiles * s.rows();
  in.pixels.reserve(in.rows * row_floats);
  for (int t = 0; t < tiles; ++t) {
    if (s.token == ClassToken::first) in.pixels.resize(in.pixels.size() + row_floats);
    append_patches(media.pixel_values.data() + t * tile_floats, s.side, s.patch, in.pixels);
    if (s.token == ClassToken::last) in.pixels.resize(in.pixels.size() + row_floats);
    for (int i = 0; i < s.rows(); ++i) {
      const bool is_class =
          (s.token == ClassToken::first && i == 0) || (s.token == ClassToken::last && i + 1 == s.rows());
      in.indices.class_rows.push_back(is_class ? 0 : -1);
      in.indices.tile_rows.push_back(i);
    }
  }
  in.segments = {std::vector<int>(tiles, s.rows())};
  return in;
}

bool has_tiles(const PreparedMedia& media, const TileShape& s, int64_t tiles) {
  constexpr int64_t kMostTiles = 1 << 12;
  const size_t floats = size_t{3} * static_cast<size_t>(s.side) * static_cast<size_t>(s.side);
  return tiles >= 1 && tiles <= kMostTiles && media.shape == std::vector<int64_t>{tiles, 3, s.side, s.side} &&
         media.pixel_values.size() == static_cast<size_t>(tiles) * floats;
}

Value clip_tower(PlanBuilder& b, Scope w, const HfConfig& v, const TileShape& s, const ClipOptions& o) {
  const int hidden = v.count("hidden_size");
  const Scope embeddings = w / "embeddings";
  const PlanBuilder::Module inside(b, w);
  Value x = patch_embedding(b, (embeddings / "patch_embedding").path() + ".weight", {hidden, 3, s.patch, s.patch},
                            o.patch_bias, (embeddings / "patch_embedding").path() + ".bias");
  if (s.token != ClassToken::none)
    x = b.add(x, b.embed_by(IdSource::class_rows,
                            {.tensor = (embeddings / "class_embedding").path(), .rows = 1, .shape = {hidden}}, hidden));
  x = b.add(x, b.embed_by(IdSource::tile_rows, embeddings / "position_embedding", s.rows(), hidden));
  EncoderLayerOptions layer{.hidden = hidden,
                            .heads = v.count("num_attention_heads"),
                            .width = v.count("intermediate_size"),
                            .act = o.act,
                            .norm = o.norm};
  if (hidden % layer.heads != 0) v.reject("num_attention_heads", "which does not divide hidden_size");
  if (!o.first_norm.empty()) x = norm(b, w / o.first_norm, x, o.norm);
  const int layers = v.count("num_hidden_layers");
  for (int i = 0; i < layers; ++i) {
    const Scope at = w / "encoder" / "layers" / i;
    if (i < o.layers) x = encoder_layer(b, at, x, layer);
    else b.ignore(at);
  }
  if (o.last_norm) x = norm(b, w / "post_layernorm", x, o.norm);
  else b.ignore(w / "post_layernorm");
  b.ignore(w / "head");
  return x;
}

int layers_up_to(const HfConfig& c, std::string_view key, int absent, int layers) {
  const double layer = c.number(key, absent);
  const double used = layer < 0 ? layers + 1 + layer : layer;
  if (used == static_cast<int>(used) && used >= 0 && used <= layers) return static_cast<int>(used);
  c.reject(key, "but must name one of the tower's layers", Code::unsupported);
  return 0;
}

EmbedFn embed_with_features(EmbedFn embed, std::vector<std::string> unused) {
  return [embed = std::move(embed), unused = std::move(unused)](PlanBuilder& b, Scope root, const DecoderRecipe& r) {
    for (const std::string& scope : unused) b.ignore(Scope(scope));
    return b.merge_features(embed(b, root, r));
  };
}

}  // namespace weft::models
