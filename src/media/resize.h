// The resize of all image processors: separable, antialiased, on 8-bit samples with integer weights. To the bit that of
// torchvision on a CPU (interpolate with antialias on uint8), which is what transformers' default processors run.
// Horizontal pass first, then vertical, 8 bits in between; a pass whose size does not change is skipped.
#pragma once

#include "media/image.h"

namespace weft {

enum class Filter : unsigned char {
  bilinear,  // triangle of half-width 1
  bicubic,   // Keys' cubic with a = -0.5, half-width 2
};

// `height` and `width` are at least 1. Costs about in_height * out_width * 2 * filter width multiplications
// (downscaling widens the filter).
// Once `stop` is set the rest stays black, at a row: whoever gave it looks at it afterwards.
Image resize(const Image& image, int height, int width, Filter filter, const StopFlag* stop = nullptr);

}  // namespace weft
