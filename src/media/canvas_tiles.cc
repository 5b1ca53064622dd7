// Llama 4 and Mllama: the image put at the top left of a canvas of whole tiles, chosen so that it is scaled up as
// little or down as little as possible. Both come from the same original code; they differ in the precision of the
// choice, in the order of the candidates (which settles ties), in the whole image as one more tile, and in normalising.
// Reference: Llama4ImageProcessor, Llama4Processor and MllamaImageProcessor of transformers.
#include <algorithm>
#include <cmath>
#include <utility>

#include "media/pixels.h"

namespace weft {
namespace {

struct Grid {
  int rows, columns;
};

struct Rules {
  int side;
  int most_tiles;
  std::vector<Grid> grids;  // in the order that settles ties
  Filter filter;
  Levels levels;
  int positions = 1;  // Llama 4: features of one tile
};

// The candidate with the smallest scale of at least 1, or else the largest one below; then the smallest area, then the
// first.
template <class Float>
Grid choose_grid(const Image& image, const Rules& rules) {
  const auto scale_of = [&](Grid g) {
    return std::min(static_cast<Float>(g.columns * rules.side) / static_cast<Float>(image.width),
                    static_cast<Float>(g.rows * rules.side) / static_cast<Float>(image.height));
  };
  const auto better = [](Float a, Float b) { return a >= 1 ? b < 1 || a < b : b < 1 && a > b; };
  Grid best = rules.grids.front();
  for (const Grid g : rules.grids) {
    const Float scale = scale_of(g), so_far = scale_of(best);
    if (better(scale, so_far) || (scale == so_far && g.rows * g.columns < best.rows * best.columns)) best = g;
  }
  return best;
}

struct Size {
  int height, width;
};

// One side of the box that the image is scaled into, and the scale: at least a tile, at most the canvas. `single`: the
// reference has the canvas' sides as float32 tensors and the others as Python numbers, so a scale to the canvas is
// rounded to float32.
struct Side {
  int box;
  double scale;
  bool rounded;
};

Side side_of(int length, int tile, int canvas, bool single) {
  const int wished = std::max(length, tile);
  const bool rounded = single && canvas < wished;
  const int box = std::min(wished, canvas);
  return {box,
          rounded ? static_cast<double>(static_cast<float>(box) / static_cast<float>(length))
                  : static_cast<double>(box) / length,
          rounded};
}

int scaled(int length, const Side& by) {
  const double exact =
      by.rounded ? static_cast<double>(static_cast<float>(length) * static_cast<float>(by.scale)) : length * by.scale;
  return static_cast<int>(std::floor(exact));
}

Size size_on_canvas(const Image& image, Grid grid, int tile, bool single) {
  const Side h = side_of(image.height, tile, grid.rows * tile, single),
             w = side_of(image.width, tile, grid.columns * tile, single);
  const bool narrow =
      h.rounded || w.rounded ? static_cast<float>(w.scale) < static_cast<float>(h.scale) : w.scale < h.scale;
  if (narrow) return {std::max(std::min(scaled(image.height, w), h.box), 1), w.box};
  return {h.box, std::max(std::min(scaled(image.width, h), w.box), 1)};
}

Image on_canvas(const Image& image, Grid grid, const Rules& rules, bool single, const StopFlag* stop) {
  const Size size = size_on_canvas(image, grid, rules.side, single);
  Image canvas(grid.rows * rules.side, grid.columns * rules.side);
  paste(resize(image, size.height, size.width, rules.filter, stop), 0, 0, canvas);
  return canvas;
}

class Llama4 final : public MediaProcessor {
 public:
  Llama4(PromptForm form, Rules rules) : MediaProcessor(std::move(form)), rules_(std::move(rules)) {}

 protected:
  Result<PreparedMedia> prepare_one(const MediaInput& media, bool) const override {
    const Image& image = media.frames[0];
    const Grid grid = choose_grid<float>(image, rules_);
    PreparedMedia out;
    out.tile_rows = grid.rows;
    out.tile_columns = grid.columns;
    append_tiles(on_canvas(image, grid, rules_, true, media.stop), rules_.side, rules_.levels, out.pixel_values);
    const int tiles = grid.rows * grid.columns;
    if (tiles > 1)
      append_tiles(resize(image, rules_.side, rules_.side, rules_.filter, media.stop), rules_.side, rules_.levels,
                   out.pixel_values);
    const int all = tiles > 1 ? tiles + 1 : 1;
    out.shape = {all, 3, rules_.side, rules_.side};
    out.positions = {all * rules_.positions};
    return out;
  }

  Result<Sizes> sizes(const MediaInput& media, bool) const override {
    const Grid grid = choose_grid<float>(media.frames[0], rules_);
    const int64_t side = rules_.side, tiles = int64_t{grid.rows} * grid.columns;
    return Sizes{(tiles > 1 ? tiles + 1 : 1) * 3 * side * side, grid.rows * side, grid.columns * side};
  }

  std::string expansion(const PreparedMedia& media) const override {
    std::string tile;
    for (int i = 0; i < rules_.positions; ++i) tile += "<|patch|>";
    std::string text = "<|image_start|>";
    if (media.tile_rows * media.tile_columns > 1) {
      for (int row = 0; row < media.tile_rows; ++row) {
        for (int column = 0; column < media.tile_columns; ++column)
          text += (column > 0 ? "<|tile_x_separator|>" : "") + tile;
        text += "<|tile_y_separator|>";
      }
    }
    return text + "<|image|>" + tile + "<|image_end|>";
  }

 private:
  Rules rules_;
};

class Mllama final : public MediaProcessor {
 public:
  Mllama(PromptForm form, Rules rules) : MediaProcessor(std::move(form)), rules_(std::move(rules)) {}

  // [1, images, most tiles, 3, S, S].
  Tensor reference_layout(std::span<const PreparedMedia> media, MediaKind kind) const override {
    Tensor all = MediaProcessor::reference_layout(media, kind);
    if (!all.shape.empty())
      all.shape = {1, static_cast<int64_t>(media.size()), rules_.most_tiles, 3, rules_.side, rules_.side};
    return all;
  }

 protected:
  // Always the most tiles; those behind the image's are zero.
  Result<PreparedMedia> prepare_one(const MediaInput& media, bool) const override {
    const Image& image = media.frames[0];
    const Grid grid = choose_grid<double>(image, rules_);
    PreparedMedia out;
    out.tile_rows = grid.rows;
    out.tile_columns = grid.columns;
    out.shape = {rules_.most_tiles, 3, rules_.side, rules_.side};
    append_tiles(on_canvas(image, grid, rules_, false, media.stop), rules_.side, rules_.levels, out.pixel_values);
    out.pixel_values.resize(static_cast<size_t>(rules_.most_tiles) * 3 * rules_.side * rules_.side);
    const auto same = [&](Grid g) { return g.rows == grid.rows && g.columns == grid.columns; };
    out.aspect_ratio_id = 1 + static_cast<int>(std::ranges::find_if(rules_.grids, same) - rules_.grids.begin());
    out.positions = {1};
    return out;
  }
  Result<Sizes> sizes(const MediaInput& media, bool) const override {
    const Grid grid = choose_grid<double>(media.frames[0], rules_);
    const int64_t side = rules_.side;
    return Sizes{rules_.most_tiles * 3 * side * side, grid.rows * side, grid.columns * side};
  }
  std::string expansion(const PreparedMedia&) const override { return form().image; }

 private:
  Rules rules_;
};

// From most tiles to one, by rows; grids of one shape (1 x 2, 2 x 4) stand together, where the largest of them comes
// first.
std::vector<Grid> llama4_grids(int most) {
  std::vector<std::vector<Grid>> shapes;
  for (int tiles = most; tiles >= 1; --tiles) {
    for (int rows = 1; rows <= tiles; ++rows) {
      if (tiles % rows != 0) continue;
      const Grid grid = {rows, tiles / rows};
      const auto same_shape = [&](const std::vector<Grid>& s) {
        return s[0].rows * grid.columns == grid.rows * s[0].columns;
      };
      const auto found = std::ranges::find_if(shapes, same_shape);
      if (found != shapes.end()) found->push_back(grid);
      else shapes.push_back({grid});
    }
  }
  std::vector<Grid> grids;
  for (const std::vector<Grid>& shape : shapes) grids.insert(grids.end(), shape.begin(), shape.end());
  return grids;
}

std::vector<Grid> mllama_grids(int most) {
  std::vector<Grid> grids;
  for (int rows = 1; rows <= most; ++rows) {
    for (int columns = 1; rows * columns <= most; ++columns) grids.push_back({rows, columns});
  }
  return grids;
}

int read_most_tiles(Settings& pixels, std::string_view path, int absent) {
  constexpr int kMost = 64;
  const int most = pixels.count(path, absent);
  if (most <= kMost) return most;
  pixels.fault(Code::unsupported, path, "is over 64 tiles");
  return absent;
}

}  // namespace

Result<std::unique_ptr<const MediaProcessor>> make_llama4(const SettingsSource& source, Settings config) {
  WEFT_TRY(Settings processor, Settings::read(source, "processor_config.json"));
  WEFT_TRY(Settings pixels, Settings::read(source, "preprocessor_config.json", processor, "image_processor"));
  Rules rules;
  rules.side = read_side(pixels, "size", config.count("vision_config.image_size", 336));
  rules.most_tiles = read_most_tiles(pixels, "max_patches", 16);
  rules.grids = llama4_grids(rules.most_tiles);
  rules.filter = read_filter(pixels, Filter::bilinear);
  rules.levels = read_levels(pixels, Rounding::bfloat16, kHalf, kHalf);
  refuse_no_resize(pixels);
  if (pixels.flag("resize_to_max_canvas", false))
    pixels.fault(Code::unsupported, "resize_to_max_canvas", "is true, which is not supported");
  const int patch = processor.count("patch_size", config.count("vision_config.patch_size", 14));
  const double ratio = processor.number("pixel_shuffle_ratio", config.number("vision_config.pixel_shuffle_ratio", 0.5));
  const double shrink = std::nearbyint(1 / (ratio * ratio));
  if (!(shrink >= 1)) config.fault(Code::data_corrupt, "vision_config.pixel_shuffle_ratio", "is not from 0 to 1");
  const int along = rules.side / patch;
  rules.positions = shrink >= 1 ? along * along / static_cast<int>(std::min(shrink, 1e6)) : 0;
  if (rules.positions < 1) processor.fault(Code::data_corrupt, "patch_size", "leaves no patch in a tile");
  PromptForm form;
  form.image = "<|image|>";
  form.feature = "<|patch|>";
  form.image_id = config.index("image_token_index", config.index("image_token_id", 200092));
  for (const Settings* file : {&config, &pixels, &processor}) WEFT_RETURN_IF_ERROR(file->status());
  return std::unique_ptr<const MediaProcessor>(std::make_unique<Llama4>(std::move(form), std::move(rules)));
}

Result<std::unique_ptr<const MediaProcessor>> make_mllama(const SettingsSource& source, Settings config) {
  WEFT_TRY(Settings processor, Settings::read(source, "processor_config.json"));
  WEFT_TRY(Settings pixels, Settings::read(source, "preprocessor_config.json", processor, "image_processor"));
  Rules rules;
  rules.side = read_side(pixels, "size", config.count("vision_config.image_size", 448));
  rules.most_tiles = read_most_tiles(pixels, "max_image_tiles", config.count("vision_config.max_num_tiles", 4));
  rules.grids = mllama_grids(rules.most_tiles);
  rules.filter = read_filter(pixels, Filter::bilinear);
  rules.levels = read_levels(pixels, Rounding::fused, kClipMean, kClipStd);
  refuse_no_resize(pixels);
  if (!pixels.flag("do_pad", true)) pixels.fault(Code::unsupported, "do_pad", "is false, which is not supported");
  PromptForm form;
  form.image = "<|image|>";
  form.image_id = config.index("image_token_index", config.index("image_token_id", 128256));
  for (const Settings* file : {&config, &pixels}) WEFT_RETURN_IF_ERROR(file->status());
  return std::unique_ptr<const MediaProcessor>(std::make_unique<Mllama>(std::move(form), std::move(rules)));
}

}  // namespace weft
