// The parts that all processors share: the table from 8-bit levels to normalised floats, canvases, tiles, and the
// settings for them.
#pragma once

#include <array>
#include <memory>

#include "media/processor.h"
#include "media/resize.h"
#include "media/settings.h"

namespace weft {

// What each of the 256 levels becomes, per channel: rescaling and normalising are functions of one byte.
struct Levels {
  std::array<std::array<float, 256>, 3> of;
};

// The reference's arithmetic of rescaling (x times factor) and normalising (minus mean, over std).
enum class Rounding : unsigned char {
  fused,     // float32, both in one: (x - mean / factor) / (std / factor), torchvision's fused step
  stepwise,  // float32, one rounding per step (the numpy processors; VILA)
  bfloat16,  // bfloat16, one rounding per step (Llama 4)
};

// Reads do_rescale, rescale_factor, do_normalize, image_mean and image_std; the last two arguments are for where they
// are absent.
Levels read_levels(Settings& settings, Rounding rounding, std::array<double, 3> mean, std::array<double, 3> std);
// "resample": 2 is bilinear, 3 bicubic; others are faults (unsupported).
Filter read_filter(Settings& settings, Filter absent);
// The square side from "size": {height, width} (which must be equal), {shortest_edge} or a number.
int read_side(Settings& settings, std::string_view path, int absent);
// Faults for settings that would change the pixels in ways that are not implemented: do_resize false.
void refuse_no_resize(Settings& settings);

inline constexpr std::array<double, 3> kClipMean = {0.48145466, 0.4578275, 0.40821073};
inline constexpr std::array<double, 3> kClipStd = {0.26862954, 0.26130258, 0.27577711};
inline constexpr std::array<double, 3> kHalf = {0.5, 0.5, 0.5};

// `image` with its top left corner at (top, left) of `canvas`, in which it fits.
void paste(const Image& image, int top, int left, Image& canvas);
// Appends the S x S tiles of `image`, whose sides are multiples of S, row by row, each [3, S, S] through `levels`.
void append_tiles(const Image& image, int side, const Levels& levels, std::vector<float>& out);

// The spelling of token `id` in tokenizer_config.json's added_tokens_decoder; `absent` if it is not there.
std::string token_spelling(Settings& tokenizer, int32_t id, std::string_view absent);

// The families; each reads its files from `source` (VILA's have sub-folders). `config`: config.json.
Result<std::unique_ptr<const MediaProcessor>> make_llava_next(const SettingsSource& source, Settings config);
Result<std::unique_ptr<const MediaProcessor>> make_qwen_vl(const SettingsSource& source, Settings config);
Result<std::unique_ptr<const MediaProcessor>> make_llama4(const SettingsSource& source, Settings config);
Result<std::unique_ptr<const MediaProcessor>> make_mllama(const SettingsSource& source, Settings config);
Result<std::unique_ptr<const MediaProcessor>> make_vila(const std::string& folder, Settings config);
Result<std::unique_ptr<const MediaProcessor>> make_gemma3(const SettingsSource& source, Settings config);

}  // namespace weft
