// LLaVA-NeXT ("anyres"): the image fitted into the best of a list of resolutions on black, cut into tiles, behind one
// tile with the whole image squeezed. Reference: LlavaNextImageProcessor and LlavaNextProcessor of transformers.
#include <algorithm>
#include <cmath>
#include <utility>

#include "media/pixels.h"

namespace weft {
namespace {

struct Size {
  int height, width;
};

struct Rules {
  int side;     // S, of a tile
  int patches;  // along a tile's side
  std::vector<Size> resolutions;
  Filter filter;
  Levels levels;
};

// The resolution that keeps most of the image's pixels; among equals the one that wastes least, then the first.
Size best_resolution(const Image& image, const std::vector<Size>& resolutions) {
  Size best = resolutions.front();
  int64_t most = -1, least_waste = 0;
  for (const Size& r : resolutions) {
    const double scale =
        std::min(static_cast<double>(r.width) / image.width, static_cast<double>(r.height) / image.height);
    const int64_t fitted = static_cast<int64_t>(image.width * scale) * static_cast<int64_t>(image.height * scale);
    const int64_t kept = std::min(fitted, int64_t{image.width} * image.height);
    const int64_t waste = int64_t{r.width} * r.height - kept;
    if (kept > most || (kept == most && waste < least_waste)) best = r, most = kept, least_waste = waste;
  }
  return best;
}

// The largest size with the image's shape inside `box`.
Size fit(const Image& image, Size box) {
  const double scale_w = static_cast<double>(box.width) / image.width,
               scale_h = static_cast<double>(box.height) / image.height;
  if (scale_w < scale_h) return {std::min(static_cast<int>(std::ceil(image.height * scale_w)), box.height), box.width};
  return {box.height, std::min(static_cast<int>(std::ceil(image.width * scale_h)), box.width)};
}

// Python's round(x, 7): the decimal with seven places nearest to x. Matters only where x lies within rounding of a
// whole number.
int64_t whole_after_round7(double x) { return static_cast<int64_t>(std::nearbyint(x * 1e7) / 1e7); }

// Rows and columns of the feature map of rows x columns that show the image and not its black borders.
Size unpadded(int height, int width, int rows, int columns) {
  if (static_cast<double>(width) / height > static_cast<double>(columns) / rows) {
    const int64_t used = whole_after_round7(height * (static_cast<double>(columns) / width));
    return {static_cast<int>(rows - (rows - used) / 2 * 2), columns};
  }
  const int64_t used = whole_after_round7(width * (static_cast<double>(rows) / height));
  return {rows, static_cast<int>(columns - (columns - used) / 2 * 2)};
}

class LlavaNext final : public MediaProcessor {
 public:
  LlavaNext(PromptForm form, Rules rules) : MediaProcessor(std::move(form)), rules_(std::move(rules)) {}

  // [images, most tiles, 3, S, S], zeros behind the tiles of the others.
  Tensor reference_layout(std::span<const PreparedMedia> media, MediaKind kind) const override {
    Tensor all;
    if (media.empty() || kind != MediaKind::image) return all;
    const size_t tile = size_t{3} * rules_.side * rules_.side;
    int64_t most = 0;
    for (const PreparedMedia& m : media) most = std::max(most, m.shape[0]);
    all.shape = {static_cast<int64_t>(media.size()), most, 3, rules_.side, rules_.side};
    all.values.resize(media.size() * most * tile);
    for (size_t i = 0; i < media.size(); ++i)
      std::ranges::copy(media[i].pixel_values, all.values.begin() + i * most * tile);
    return all;
  }

 protected:
  Result<PreparedMedia> prepare_one(const MediaInput& media, bool) const override {
    const Image& image = media.frames[0];
    const int side = rules_.side;
    const Size box = best_resolution(image, rules_.resolutions), size = fit(image, box);
    PreparedMedia out;
    append_tiles(resize(image, side, side, rules_.filter, media.stop), side, rules_.levels, out.pixel_values);
    Image canvas(box.height, box.width);
    paste(resize(image, size.height, size.width, rules_.filter, media.stop), (box.height - size.height) / 2,
          (box.width - size.width) / 2, canvas);
    append_tiles(canvas, side, rules_.levels, out.pixel_values);
    out.tile_rows = box.height / side;
    out.tile_columns = box.width / side;
    out.shape = {1 + int64_t{out.tile_rows} * out.tile_columns, 3, side, side};
    const int n = rules_.patches;
    const Size map = unpadded(image.height, image.width, out.tile_rows * n, out.tile_columns * n);
    out.positions = {n * n + map.height * map.width + map.height};
    return out;
  }
  Result<Sizes> sizes(const MediaInput& media, bool) const override {
    const Size box = best_resolution(media.frames[0], rules_.resolutions);
    const int64_t side = rules_.side, pixels = int64_t{box.height} * box.width;
    return Sizes{3 * (side * side + pixels), std::max(side, int64_t{box.height}), std::max(side, int64_t{box.width})};
  }
  std::string expansion(const PreparedMedia& media) const override {
    std::string text;
    for (int i = 0; i < media.feature_positions(); ++i) text += form().image;
    return text;
  }

 private:
  Rules rules_;
};

std::vector<Size> read_resolutions(Settings& pixels, Settings& config, int side) {
  Settings& source = pixels.has("image_grid_pinpoints") ? pixels : config;
  const Json* list = source.find("image_grid_pinpoints");
  if (!list) return {{side, 2 * side}, {2 * side, side}, {2 * side, 2 * side}, {3 * side, side}, {side, 3 * side}};
  std::vector<Size> sizes;
  const auto extent = [&](const Json& value) {
    const bool fits = value.is_integer() && value.as_integer() >= side && value.as_integer() <= 64 * int64_t{side} &&
                      value.as_integer() % side == 0;
    return fits ? static_cast<int>(value.as_integer()) : 0;
  };
  if (list->is_array()) {
    for (const Json& item : list->items()) {
      if (!item.is_array() || item.items().size() != 2) continue;
      const Size size = {extent(item.items()[0]), extent(item.items()[1])};
      if (size.height > 0 && size.width > 0) sizes.push_back(size);
    }
  }
  if (!list->is_array() || sizes.empty() || sizes.size() != list->items().size()) {
    source.fault(Code::data_corrupt, "image_grid_pinpoints",
                 "is not a list of [height, width] in multiples of the tile's side");
    return {{side, side}};
  }
  return sizes;
}

}  // namespace

Result<std::unique_ptr<const MediaProcessor>> make_llava_next(const SettingsSource& source, Settings config) {
  WEFT_TRY(Settings processor, Settings::read(source, "processor_config.json"));
  WEFT_TRY(Settings pixels, Settings::read(source, "preprocessor_config.json", processor, "image_processor"));
  WEFT_TRY(Settings tokenizer, Settings::read(source, "tokenizer_config.json"));
  Rules rules;
  rules.side = read_side(pixels, "size", config.count("vision_config.image_size", 336));
  if (read_side(pixels, "crop_size", rules.side) != rules.side)
    pixels.fault(Code::unsupported, "crop_size", "differs from size");
  const int patch = processor.count("patch_size", config.count("vision_config.patch_size", 14));
  rules.patches = rules.side / patch;
  if (rules.patches < 1) processor.fault(Code::data_corrupt, "patch_size", "is larger than a tile");
  rules.filter = read_filter(pixels, Filter::bicubic);
  rules.levels = read_levels(pixels, Rounding::fused, kClipMean, kClipStd);
  refuse_no_resize(pixels);
  rules.resolutions = read_resolutions(pixels, config, rules.side);
  const std::string keep =
      processor.text("vision_feature_select_strategy", config.text("vision_feature_select_strategy", "default"));
  if (keep != "default")
    config.fault(Code::unsupported, "vision_feature_select_strategy",
                 "is not default, the only one that goes with tiles");
  PromptForm form;
  form.image_id = config.index("image_token_index", config.index("image_token_id", 32000));
  form.image = processor.text("image_token", token_spelling(tokenizer, form.image_id, "<image>"));
  for (const Settings* file : {&config, &pixels, &processor, &tokenizer}) WEFT_RETURN_IF_ERROR(file->status());
  return std::unique_ptr<const MediaProcessor>(std::make_unique<LlavaNext>(std::move(form), std::move(rules)));
}

}  // namespace weft
