// Qwen2-VL and Qwen2.5-VL: the image resized to multiples of patch * merge within a number of pixels, then cut into
// patches in the order that the merger reads them: time, then blocks of merge x merge patches row by row, and inside a
// block its rows. A patch holds two frames; an image is used twice. Reference: Qwen2VLImageProcessor and
// Qwen2VLProcessor of transformers.
#include <algorithm>
#include <cmath>
#include <utility>

#include "media/pixels.h"

namespace weft {
namespace {

struct Rules {
  int patch, merge, frames;  // pixels, patches, frames
  int64_t min_pixels, max_pixels;
  Filter filter;
  Levels levels;
};

struct Size {
  int64_t height, width;
};

// The size nearest to the image's with sides that are multiples of `factor`, at least min and at most max pixels.
Result<Size> smart_size(int height, int width, int factor, const Rules& rules) {
  constexpr double kLargestRatio = 200;
  const double h = height, w = width, f = factor;
  if (std::max(h, w) / std::min(h, w) > kLargestRatio) {
    return fail(Code::invalid_argument, "one side is more than 200 times the other (", width, " x ", height,
                " pixels), which this model refuses");
  }
  Size size = {static_cast<int64_t>(std::nearbyint(h / f) * f), static_cast<int64_t>(std::nearbyint(w / f) * f)};
  if (size.height * size.width > rules.max_pixels) {
    const double shrink = std::sqrt(h * w / static_cast<double>(rules.max_pixels));
    size = {std::max(int64_t{factor}, static_cast<int64_t>(std::floor(h / shrink / f) * f)),
            std::max(int64_t{factor}, static_cast<int64_t>(std::floor(w / shrink / f) * f))};
  } else if (size.height * size.width < rules.min_pixels) {
    const double grow = std::sqrt(static_cast<double>(rules.min_pixels) / (h * w));
    size = {static_cast<int64_t>(std::ceil(h * grow / f) * f), static_cast<int64_t>(std::ceil(w * grow / f) * f)};
  }
  return size;
}

class QwenVl final : public MediaProcessor {
 public:
  QwenVl(PromptForm form, Rules image, Rules video, double tokens_per_second)
      : MediaProcessor(std::move(form)), image_(image), video_(video), tokens_per_second_(tokens_per_second) {}

 protected:
  Result<PreparedMedia> prepare_one(const MediaInput& media, bool) const override {
    const bool video = media.kind == MediaKind::video;
    const Rules& rules = video ? video_ : image_;
    const Image& first = media.frames.front();
    WEFT_TRY(const Size size, smart_size(first.height, first.width, rules.patch * rules.merge, rules));
    PreparedMedia out;
    out.merge = rules.merge;
    out.grid_frames = grid_frames(media, rules);
    out.grid_rows = static_cast<int>(size.height / rules.patch);
    out.grid_columns = static_cast<int>(size.width / rules.patch);
    WEFT_TRY(const int64_t patches, patches_of(media, rules, size));
    if (tokens_per_second_ > 0 && video) out.time_step = tokens_per_second_ * (rules.frames / media.fps);
    const int values = 3 * rules.frames * rules.patch * rules.patch;
    out.shape = {patches, values};
    out.pixel_values.resize(patches * values);
    std::vector<Image> frames;
    for (const Image& frame : media.frames) {
      frames.push_back(
          resize(frame, static_cast<int>(size.height), static_cast<int>(size.width), rules.filter, media.stop));
    }
    cut(frames, rules, out);
    out.positions = {static_cast<int>(patches / (rules.merge * rules.merge))};
    return out;
  }

  Result<Sizes> sizes(const MediaInput& media, bool) const override {
    const Rules& rules = media.kind == MediaKind::video ? video_ : image_;
    const Image& first = media.frames.front();
    WEFT_TRY(const Size size, smart_size(first.height, first.width, rules.patch * rules.merge, rules));
    WEFT_TRY(const int64_t patches, patches_of(media, rules, size));
    return Sizes{patches * 3 * rules.frames * rules.patch * rules.patch, size.height, size.width};
  }

  std::string expansion(const PreparedMedia& media) const override {
    const std::string& token = media.kind == MediaKind::image ? form().image : form().video;
    std::string text;
    for (int i = 0; i < media.feature_positions(); ++i) text += token;
    return text;
  }

 private:
  static constexpr int64_t kMostPatches = 262'144;  // 1.2 GB of values; the checkpoints' own limits lie below it

  static int grid_frames(const MediaInput& media, const Rules& rules) {
    return static_cast<int>((media.frames.size() + rules.frames - 1) / rules.frames);
  }

  static Result<int64_t> patches_of(const MediaInput& media, const Rules& rules, const Size& size) {
    const int64_t patches =
        int64_t{grid_frames(media, rules)} * (size.height / rules.patch) * (size.width / rules.patch);
    if (patches <= kMostPatches) return patches;
    return fail(Code::invalid_argument, "it has ", patches, " patches; at most ", kMostPatches, " are accepted");
  }

  // The frames beyond the last repeat it.
  static void cut(const std::vector<Image>& frames, const Rules& rules, PreparedMedia& out) {
    float* to = out.pixel_values.data();
    const int merge = rules.merge;
    for (int t = 0; t < out.grid_frames; ++t) {
      for (int block_row = 0; block_row < out.grid_rows; block_row += merge) {
        for (int block_column = 0; block_column < out.grid_columns; block_column += merge) {
          for (int i = 0; i < merge * merge; ++i) {
            to = put_patch(frames, rules, t, block_row + i / merge, block_column + i % merge, to);
          }
        }
      }
    }
  }

  // One patch: [channel, frame, y, x].
  static float* put_patch(const std::vector<Image>& frames, const Rules& rules, int t, int row, int column, float* to) {
    for (int c = 0; c < 3; ++c) {
      for (int f = 0; f < rules.frames; ++f) {
        const Image& frame = frames[std::min(static_cast<size_t>(t * rules.frames + f), frames.size() - 1)];
        for (int y = 0; y < rules.patch; ++y) {
          const uint8_t* from = frame.row(row * rules.patch + y) + size_t{3} * column * rules.patch + c;
          for (int x = 0; x < rules.patch; ++x, from += 3) *to++ = rules.levels.of[c][*from];
        }
      }
    }
    return to;
  }

  Rules image_, video_;
  double tokens_per_second_;  // 0: one M-RoPE position for each frame of the grid
};

Rules read_rules(Settings& settings) {
  Rules rules;
  rules.patch = settings.count("patch_size", 14);
  rules.merge = settings.count("merge_size", 2);
  rules.frames = settings.count("temporal_patch_size", 2);
  if (rules.patch > 256 || rules.merge > 16 || rules.frames > 16) {
    settings.fault(Code::unsupported, "patch_size, merge_size or temporal_patch_size", "is out of range (256, 16, 16)");
  }
  const double least = settings.number("min_pixels", settings.number("size.shortest_edge", 56 * 56));
  const double most = settings.number("max_pixels", settings.number("size.longest_edge", 28 * 28 * 1280));
  if (!(least >= 1 && most >= least && most <= 1e9)) {
    settings.fault(Code::data_corrupt, "min_pixels and max_pixels", "are not a range from 1 to 1e9");
    return rules;
  }
  rules.min_pixels = static_cast<int64_t>(least);
  rules.max_pixels = static_cast<int64_t>(most);
  rules.filter = read_filter(settings, Filter::bicubic);
  rules.levels = read_levels(settings, Rounding::fused, kClipMean, kClipStd);
  refuse_no_resize(settings);
  return rules;
}

}  // namespace

Result<std::unique_ptr<const MediaProcessor>> make_qwen_vl(const SettingsSource& source, Settings config) {
  WEFT_TRY(Settings processor, Settings::read(source, "processor_config.json"));
  WEFT_TRY(Settings pixels, Settings::read(source, "preprocessor_config.json", processor, "image_processor"));
  WEFT_TRY(Settings tokenizer, Settings::read(source, "tokenizer_config.json"));
  WEFT_TRY(Settings own_video, Settings::read(source, "video_preprocessor_config.json", processor, "video_processor"));
  Settings& video_pixels = own_video.has("video_processor_type") || own_video.has("patch_size") || own_video.has("size")
                               ? own_video
                               : pixels;
  const Rules image = read_rules(pixels), video = read_rules(video_pixels);
  const bool timed = config.text("model_type", "qwen2_vl") == "qwen2_5_vl";
  const double tokens_per_second = timed ? config.number("vision_config.tokens_per_second", 4) : 0;
  if (tokens_per_second < 0 || tokens_per_second > 100)
    config.fault(Code::data_corrupt, "vision_config.tokens_per_second", "is not from 0 to 100");
  PromptForm form;
  form.image_id = config.index("image_token_id", 151655);
  form.video_id = config.index("video_token_id", 151656);
  form.image = token_spelling(tokenizer, form.image_id, "<|image_pad|>");
  form.video = token_spelling(tokenizer, form.video_id, "<|video_pad|>");
  for (const Settings* file : {&config, &pixels, &tokenizer, &own_video}) WEFT_RETURN_IF_ERROR(file->status());
  return std::unique_ptr<const MediaProcessor>(
      std::make_unique<QwenVl>(std::move(form), image, video, tokens_per_second));
}

}  // namespace weft
