// The one thing that weft reads from EXIF data: how the image is to be turned.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "media/image.h"

namespace weft {

// The orientation (tag 0x0112) in a TIFF block, 1 to 8 as in the EXIF standard; 1, which changes nothing, for a value
// that is none of these. Nothing if there is no block, no such tag, or a broken block. Reads only inside `tiff`; a
// leading "Exif\0\0" is skipped.
std::optional<int> exif_orientation(std::span<const uint8_t> tiff);

// The orientation that counts: the EXIF block's, or if that has none the first tiff:Orientation of the XMP text, or 1.
int find_orientation(std::span<const uint8_t> exif, std::span<const uint8_t> xmp);

// The image turned and mirrored as `orientation` (1 to 8) says; other values leave it as it is.
Image apply_orientation(Image image, int orientation);

}  // namespace weft
