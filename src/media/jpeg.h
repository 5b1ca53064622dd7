// JPEG by libjpeg-turbo; see image.h for the conventions.
#pragma once

#include "media/image.h"

namespace weft {

// A decoded JPEG, not yet turned.
struct Jpeg {
  Image image;
  int orientation = 1;
};

Result<Jpeg> decode_jpeg(std::span<const std::byte> file, const ImageLimits& limits, const StopFlag* stop);
Result<ImageSize> read_jpeg_size(std::span<const std::byte> file, const ImageLimits& limits);

}  // namespace weft
