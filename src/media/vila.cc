// VILA and NVILA (LlavaLlamaModel). A request's only image is cut into a grid of tiles: `dynamic` gives the grid and
// the whole image, `dynamic_s2` several scales of it; images among others are squeezed into one tile. Checkpoints have
// sub-folders, named by the last component of *_cfg._name_or_path. Reference: the repository of the original
// (llava/mm_utils.py, llava/model/llava_arch.py).
//
// The text has one placeholder per tile of a dynamic grid, else one per image; ids are expanded after tokenising: each
// placeholder's id is repeated once per feature and followed by the ids of "\n".
#include <algorithm>
#include <cmath>
#include <utility>

#include "media/pixels.h"

namespace weft {
namespace {

enum class Tiling : unsigned char { none, dynamic, dynamic_s2 };

struct Grid {
  int columns, rows;
};

struct Rules {
  int side;
  int positions;  // features of one tile
  Tiling tiling;
  int min_tiles, max_tiles;
  std::vector<int> multiples;  // dynamic_s2: each scale over the first
  int output_scale;            // index of the scale whose map the features have
  Filter filter;
  Levels levels;
};

// All grids with least to most tiles, fewest tiles first; the one whose shape is nearest to the image's. On an equal
// distance a later one takes over if the image has more than half of its pixels.
Grid nearest_grid(const Image& image, int least, int most, int side) {
  std::vector<Grid> grids;
  for (int tiles = least; tiles <= most; ++tiles) {
    for (int columns = 1; columns <= tiles; ++columns) {
      if (tiles % columns == 0) grids.push_back({columns, tiles / columns});
    }
  }
  const double shape = static_cast<double>(image.width) / image.height,
               area = static_cast<double>(image.width) * image.height;
  Grid best = {1, 1};
  double distance = INFINITY;
  for (const Grid g : grids) {
    const double d = std::fabs(shape - static_cast<double>(g.columns) / g.rows);
    if (d < distance || (d == distance && area > 0.5 * side * side * g.columns * g.rows)) best = g;
    distance = std::min(distance, d);
  }
  return best;
}

// What Python's str.strip() takes away.
constexpr std::string_view kSpaces[] = {
    "\t",       "\n",     "\v",     "\f",     "\r",     "\x1c",   "\x1d",   "\x1e",   "\x1f",   " ",
    "\xc2\x85", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
    "\u2007",   "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

std::string_view trimmed(std::string_view text) {
  const auto front = [&](std::string_view space) { return text.starts_with(space); };
  const auto back = [&](std::string_view space) { return text.ends_with(space); };
  const auto end = std::end(kSpaces);
  for (auto at = end; (at = std::ranges::find_if(kSpaces, front)) != end;) text.remove_prefix(at->size());
  for (auto at = end; (at = std::ranges::find_if(kSpaces, back)) != end;) text.remove_suffix(at->size());
  return text;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at = text.find(from); at != text.npos; at = text.find(from)) {
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

class Vila final : public MediaProcessor {
 public:
  Vila(PromptForm form, Rules rules) : MediaProcessor(std::move(form)), rules_(std::move(rules)) {}

  // Every message is trimmed, as the original does before its template; a dynamic grid's tiles are written out.
  std::string message_text(std::string_view content, std::span<const PreparedMedia> media) const override {
    return std::string(
        trimmed(is_dynamic(media) ? replaced(content, form().image, per_tile(media)) : std::string(content)));
  }

 protected:
  Result<PreparedMedia> prepare_one(const MediaInput& media, bool alone) const override {
    const Image& image = media.frames[0];
    const int side = rules_.side;
    PreparedMedia out;
    out.single = alone && rules_.tiling != Tiling::none;
    const auto add = [&](int columns, int rows) {
      append_tiles(resize(image, rows * side, columns * side, rules_.filter, media.stop), side, rules_.levels,
                   out.pixel_values);
    };
    if (!out.single) {
      add(1, 1);
      out.positions = {rules_.positions};
    } else if (rules_.tiling == Tiling::dynamic) {
      const Grid grid = nearest_grid(image, rules_.min_tiles, rules_.max_tiles, side);
      out.tile_columns = grid.columns;
      out.tile_rows = grid.rows;
      const int tiles = grid.columns * grid.rows;
      add(grid.columns, grid.rows);
      if (tiles > 1) add(1, 1);
      out.positions.assign(tiles > 1 ? tiles + 1 : 1, rules_.positions);
    } else {
      for (size_t s = 0; s + 1 < rules_.multiples.size(); ++s) add(rules_.multiples[s], rules_.multiples[s]);
      const int last = rules_.multiples.back();
      const Grid grid = nearest_grid(image, last * last, rules_.max_tiles, side);
      add(grid.columns, grid.rows);
      const int fixed = rules_.multiples[rules_.output_scale];
      const bool is_grid = rules_.output_scale + 1 == static_cast<int>(rules_.multiples.size());
      out.tile_columns = grid.columns;
      out.tile_rows = grid.rows;
      out.positions = {(is_grid ? grid.columns * grid.rows : fixed * fixed) * rules_.positions};
    }
    out.shape = {static_cast<int64_t>(out.pixel_values.size()) / (int64_t{3} * side * side), 3, side, side};
    return out;
  }

  // As prepare_one() adds them.
  Result<Sizes> sizes(const MediaInput& media, bool alone) const override {
    const int64_t side = rules_.side;
    Sizes sizes;
    const auto add = [&](int64_t columns, int64_t rows) {
      sizes.values += 3 * columns * rows * side * side;
      sizes.height = std::max(sizes.height, rows * side), sizes.width = std::max(sizes.width, columns * side);
    };
    if (!alone || rules_.tiling == Tiling::none) {
      add(1, 1);
    } else if (rules_.tiling == Tiling::dynamic) {
      const Grid grid = nearest_grid(media.frames[0], rules_.min_tiles, rules_.max_tiles, rules_.side);
      add(grid.columns, grid.rows);
      if (grid.columns * grid.rows > 1) add(1, 1);
    } else {
      for (size_t s = 0; s + 1 < rules_.multiples.size(); ++s) add(rules_.multiples[s], rules_.multiples[s]);
      const int last = rules_.multiples.back();
      const Grid grid = nearest_grid(media.frames[0], last * last, rules_.max_tiles, rules_.side);
      add(grid.columns, grid.rows);
    }
    return sizes;
  }

  std::string expansion(const PreparedMedia&) const override { return form().image; }

  Result<std::string> expand_text(std::string_view text, std::span<const PreparedMedia> media) const override {
    if (!is_dynamic(media)) return MediaProcessor::expand_text(text, media);
    size_t found = 0;
    for (size_t at = text.find(form().image); at != text.npos; at = text.find(form().image, at + form().image.size()))
      ++found;
    const size_t tiles = media[0].positions.size();
    if (found == tiles) return std::string(text);
    if (found == 1) return replaced(text, form().image, per_tile(media));
    return fail(Code::invalid_argument, "the prompt has ", found, " image placeholders (", form().image,
                "), but 1 image of ", tiles,
                " tiles was given: one placeholder for the image or one for each tile is wanted");
  }

  Result<std::vector<int32_t>> finish_ids(std::vector<int32_t> ids, std::span<const PreparedMedia> media,
                                          const Encode& encode) const override {
    if (media.empty()) return ids;
    WEFT_TRY(const std::vector<int32_t> newline, encode("\n", false));
    std::vector<int> blocks;
    for (const PreparedMedia& m : media) blocks.insert(blocks.end(), m.positions.begin(), m.positions.end());
    std::vector<int32_t> out;
    size_t next = 0;
    for (int32_t id : ids) {
      if (id != form().image_id || next == blocks.size()) {
        out.push_back(id);
        continue;
      }
      out.insert(out.end(), blocks[next++], id);
      out.insert(out.end(), newline.begin(), newline.end());
    }
    if (next < blocks.size()) {
      return fail(Code::unsupported, "the tokenizer does not make ", form().image, " the token ", form().image_id,
                  " in this prompt");
    }
    return out;
  }

 private:
  bool is_dynamic(std::span<const PreparedMedia> media) const {
    return rules_.tiling == Tiling::dynamic && media.size() == 1 && media[0].single;
  }
  std::string per_tile(std::span<const PreparedMedia> media) const {
    std::string text;
    for (size_t i = 0; i < media[0].positions.size(); ++i) text += form().image + "\n";
    return text;
  }

  Rules rules_;
};

// The sub-folder of a part: the last component of its config's _name_or_path.
std::string part_folder(Settings& config, const std::string& key, const std::string& absent) {
  const std::string path = config.text(key + "._name_or_path", absent);
  const std::string name = path.substr(path.find_last_of('/') + 1);
  return name.empty() || name == "." || name == ".." ? absent : name;
}

// "448,896,1344", or a list of numbers, over the first of them.
std::vector<int> read_scales(Settings& config) {
  std::vector<double> scales;
  const Json* value = config.find("s2_scales");
  if (value && value->is_string()) {
    const std::string& text = value->as_string();
    for (size_t at = 0; at <= text.size();) {
      const size_t end = std::min(text.find(',', at), text.size());
      scales.push_back(std::atof(text.substr(at, end - at).c_str()));
      at = end + 1;
    }
  } else {
    scales = config.numbers("s2_scales", {});
  }
  std::vector<int> multiples;
  for (double s : scales) {
    const bool fits = scales[0] >= 1 && s >= scales[0] && s <= 16 * scales[0];
    if (!fits)
      config.fault(Code::data_corrupt, "s2_scales",
                   "is not a list of sizes, the first the smallest, the others at most 16 times that");
    multiples.push_back(fits ? static_cast<int>(std::floor(s / scales[0])) : 1);
  }
  if (multiples.empty()) config.fault(Code::data_corrupt, "s2_scales", "is absent or empty, with dynamic_s2");
  return multiples.empty() ? std::vector<int>{1} : multiples;
}

// How many neighbours along a side the projector puts together.
int projector_block(Settings& config) {
  const std::string type = config.text("mm_projector_cfg.mm_projector_type", "mlp_downsample");
  if (type == "mlp_downsample" || type == "mlp_downsample_2x2_fix") return 2;
  if (type == "mlp_downsample_3x3_fix") return 3;
  if (type == "linear" || type == "identity" || type == "mlp2x_gelu") return 1;
  config.fault(Code::unsupported, "mm_projector_cfg.mm_projector_type", "is " + type + ", which is not supported");
  return 1;
}

void read_tiling(Settings& config, Rules& rules) {
  constexpr int kMostTiles = 144;
  const std::string aspect = config.text("image_aspect_ratio", "resize");
  rules.tiling = aspect == "dynamic" ? Tiling::dynamic : aspect == "dynamic_s2" ? Tiling::dynamic_s2 : Tiling::none;
  if (rules.tiling == Tiling::none && aspect != "resize") {
    config.fault(Code::unsupported, "image_aspect_ratio",
                 "is " + aspect + "; resize, dynamic and dynamic_s2 are supported");
  }
  if (config.flag("s2", false)) config.fault(Code::unsupported, "s2", "is true (only dynamic_s2 is supported)");
  rules.min_tiles = config.count("min_tiles", 1);
  rules.max_tiles = config.count("max_tiles", 12);
  rules.output_scale = 0;
  if (rules.tiling == Tiling::dynamic_s2) {
    rules.multiples = read_scales(config);
    const int scales = static_cast<int>(rules.multiples.size());
    const double wished = config.number("s2_resize_output_to_scale_idx", 0);
    if (wished < -scales || wished >= scales)
      config.fault(Code::data_corrupt, "s2_resize_output_to_scale_idx", "names no scale");
    else rules.output_scale = static_cast<int>(wished < 0 ? wished + scales : wished);
    if (rules.multiples.back() * rules.multiples.back() > rules.max_tiles)
      config.fault(Code::data_corrupt, "max_tiles", "is too few for s2_scales");
  }
  if (rules.min_tiles > rules.max_tiles || rules.max_tiles > kMostTiles) {
    config.fault(Code::unsupported, "min_tiles and max_tiles", "are not a range from 1 to 144");
  }
}

}  // namespace

Result<std::unique_ptr<const MediaProcessor>> make_vila(const std::string& folder, Settings config) {
  const std::string tower = folder + "/" + part_folder(config, "vision_tower_cfg", "vision_tower");
  const std::string llm = folder + "/" + part_folder(config, "llm_cfg", "llm");
  WEFT_TRY(Settings pixels, Settings::read(tower, "preprocessor_config.json"));
  WEFT_TRY(Settings tower_config, Settings::read(tower, "config.json"));
  WEFT_TRY(Settings llm_config, Settings::read(llm, "config.json"));
  WEFT_TRY(Settings tokenizer, Settings::read(llm, "tokenizer_config.json"));
  Rules rules;
  const int image_size = tower_config.count("image_size", config.count("vision_tower_cfg.image_size", 448));
  const int patch = tower_config.count("patch_size", config.count("vision_tower_cfg.patch_size", 14));
  rules.side = read_side(pixels, "size", image_size);
  rules.filter = read_filter(pixels, Filter::bicubic);
  rules.levels = read_levels(pixels, Rounding::stepwise, kHalf, kHalf);
  refuse_no_resize(pixels);
  read_tiling(config, rules);
  const int block = projector_block(config), along = (rules.side / patch + block - 1) / block;
  rules.positions = along * along;
  if (rules.positions < 1) tower_config.fault(Code::data_corrupt, "patch_size", "is larger than a tile");
  const std::string select = config.text("mm_vision_select_feature", "cls_patch");
  if (select != "cls_patch")
    config.fault(Code::unsupported, "mm_vision_select_feature", "is " + select + "; only cls_patch is supported");
  if (config.flag("mm_use_im_start_end", false))
    config.fault(Code::unsupported, "mm_use_im_start_end", "is true, which is not supported");
  PromptForm form;
  form.image = "<image>";
  // The original adds <vila/sentinel> and <image> behind the vocabulary; a saved tokenizer lists them.
  form.image_id = llm_config.count("vocab_size", config.count("llm_cfg.vocab_size", 151648)) + 1;
  if (const Json* added = tokenizer.find("added_tokens_decoder"); added && added->is_object()) {
    for (const auto& [id, token] : added->members()) {
      const Json* content = token.find("content");
      if (content && content->is_string() && content->as_string() == form.image) form.image_id = std::atoi(id.c_str());
    }
  }
  form.rewrites_messages = true;
  for (const Settings* file : {&config, &pixels, &tower_config, &llm_config, &tokenizer})
    WEFT_RETURN_IF_ERROR(file->status());
  return std::unique_ptr<const MediaProcessor>(std::make_unique<Vila>(std::move(form), std::move(rules)));
}

}  // namespace weft
