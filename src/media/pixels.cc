// Shared parts of the processors: see pixels.h.
#include "media/pixels.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace weft {
namespace {

// Round to nearest, ties to even; finite values only.
float to_bfloat16(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  bits += 0x7FFF + (bits >> 16 & 1);
  return std::bit_cast<float>(bits & 0xFFFF0000u);
}

std::array<float, 3> read_channels(Settings& settings, std::string_view path, std::array<double, 3> absent) {
  const std::vector<double> list = settings.numbers(path, {absent.begin(), absent.end()});
  if (list.size() != 3) {
    settings.fault(Code::data_corrupt, path, "does not have three numbers");
    return {1, 1, 1};
  }
  return {static_cast<float>(list[0]), static_cast<float>(list[1]), static_cast<float>(list[2])};
}

struct Normalisation {
  bool rescale, normalise;
  double factor;
  std::array<float, 3> mean, std;
};

Normalisation read_normalisation(Settings& settings, std::array<double, 3> mean, std::array<double, 3> std) {
  Normalisation n;
  n.rescale = settings.flag("do_rescale", true);
  n.normalise = settings.flag("do_normalize", true);
  n.factor = settings.number("rescale_factor", 1.0 / 255);
  if (n.rescale && !(n.factor > 0)) settings.fault(Code::data_corrupt, "rescale_factor", "is not above 0");
  n.mean = read_channels(settings, "image_mean", mean);
  n.std = read_channels(settings, "image_std", std);
  for (float s : n.std) {
    if (!(s > 0)) settings.fault(Code::data_corrupt, "image_std", "holds a number that is not above 0");
  }
  return n;
}

}  // namespace

Levels read_levels(Settings& settings, Rounding rounding, std::array<double, 3> mean, std::array<double, 3> std) {
  const Normalisation n = read_normalisation(settings, mean, std);
  const float factor = n.rescale ? static_cast<float>(n.factor) : 1.0f,
              fold = n.rescale ? static_cast<float>(1.0 / n.factor) : 1.0f;
  const auto rounded = [&](float x) { return rounding == Rounding::bfloat16 ? to_bfloat16(x) : x; };
  Levels levels;
  for (int c = 0; c < 3; ++c) {
    for (int x = 0; x < 256; ++x) {
      float value = static_cast<float>(x);  // exact in bfloat16 too
      if (rounding == Rounding::fused && n.normalise) {
        value = (value - n.mean[c] * fold) / (n.std[c] * fold);
      } else {
        value = rounded(value * factor);
        if (n.normalise) value = rounded(rounded(value - rounded(n.mean[c])) / rounded(n.std[c]));
      }
      levels.of[c][x] = value;
    }
  }
  return levels;
}

Filter read_filter(Settings& settings, Filter absent) {
  switch (settings.index("resample", absent == Filter::bilinear ? 2 : 3)) {
    case 2: return Filter::bilinear;
    case 3: return Filter::bicubic;
  }
  settings.fault(Code::unsupported, "resample", "is neither 2 (bilinear) nor 3 (bicubic)");
  return absent;
}

int read_side(Settings& settings, std::string_view path, int absent) {
  constexpr int kLargest = 4096;
  const std::string p(path);
  int side = absent;
  if (const Json* value = settings.find(path); value && !value->is_object()) {
    side = settings.count(path, absent);
  } else if (settings.has(p + ".shortest_edge")) {
    side = settings.count(p + ".shortest_edge", absent);
  } else if (value) {
    side = settings.count(p + ".height", absent);
    if (settings.count(p + ".width", side) != side) settings.fault(Code::unsupported, path, "is not a square");
  }
  if (side > kLargest) settings.fault(Code::unsupported, path, "is over 4096 pixels");
  return side;
}

void refuse_no_resize(Settings& settings) {
  if (!settings.flag("do_resize", true))
    settings.fault(Code::unsupported, "do_resize", "is false, which is not supported");
}

void paste(const Image& image, int top, int left, Image& canvas) {
  WEFT_CHECK(top >= 0 && left >= 0 && top + image.height <= canvas.height && left + image.width <= canvas.width);
  for (int y = 0; y < image.height; ++y) {
    std::memcpy(canvas.row(top + y) + size_t{3} * left, image.row(y), size_t{3} * image.width);
  }
}

void append_tiles(const Image& image, int side, const Levels& levels, std::vector<float>& out) {
  WEFT_CHECK(image.height % side == 0 && image.width % side == 0);
  const size_t plane = static_cast<size_t>(side) * side;
  for (int top = 0; top < image.height; top += side) {
    for (int left = 0; left < image.width; left += side) {
      out.resize(out.size() + 3 * plane);
      float* tile = out.data() + out.size() - 3 * plane;
      for (int y = 0; y < side; ++y) {
        const uint8_t* from = image.row(top + y) + size_t{3} * left;
        for (int x = 0; x < side; ++x, from += 3) {
          for (int c = 0; c < 3; ++c) tile[c * plane + static_cast<size_t>(y) * side + x] = levels.of[c][from[c]];
        }
      }
    }
  }
}

std::string token_spelling(Settings& tokenizer, int32_t id, std::string_view absent) {
  return tokenizer.text("added_tokens_decoder." + std::to_string(id) + ".content", absent);
}

}  // namespace weft
