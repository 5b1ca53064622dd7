// The one thing that weft reads from EXIF data: how the image is to be turned.
#pragma once

#include <cstdint>
#include <span>

#include "media/image.h"

namespace weft {

// The orientation (tag 0x0112) in a TIFF block, 1 to 8 as in the EXIF standard. 1, which changes nothing, for anything
// else: no block, no such tag, a broken block. Reads only inside `tiff`; a leading "Exif\0\0" is skipped.
int exif_orientation(std::span<const uint8_t> tiff);

// The image turned and mirrored as `orientation` (1 to 8) says; other values leave it as it is.
Image apply_orientation(Image image, int orientation);

}  // namespace weft
