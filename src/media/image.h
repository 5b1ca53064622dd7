// Images as 8-bit RGB, and decoding them from files: JPEG, PNG, WebP and GIF. What a file is, its first bytes decide,
// never its name or a declared type. Files come from strangers, so sizes are checked against limits from the headers
// before pixels are allocated, and a file that breaks off or contradicts itself is an error, not half an image.
//
// Conventions (those of the processors of transformers, given a file):
// - the EXIF orientation is applied; colour profiles and gamma are not;
// - grey and palette become RGB; 16-bit samples give their high byte; CMYK JPEGs become RGB;
// - alpha is dropped: the colours stored under transparent pixels count, they are not laid over a background;
// - animated GIF and WebP give their first frame, an animated PNG its default image;
// - JPEG is decoded by libjpeg-turbo (accurate integer DCT, smooth upsampling), to the bit what the reference gets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"

namespace weft {

class StopFlag;

struct Image {
  int height = 0, width = 0;
  std::vector<uint8_t> rgb;  // [height, width, 3]

  Image() = default;
  // Black.
  Image(int rows, int columns) : height(rows), width(columns), rgb(size_t{3} * rows * columns) {}
  uint8_t* row(int y) { return rgb.data() + size_t{3} * width * y; }
  const uint8_t* row(int y) const { return rgb.data() + size_t{3} * width * y; }
};

struct ImageLimits {
  size_t max_file_bytes = size_t{32} << 20;
  int64_t max_pixels = 40'000'000;
  int max_side = 32'768;
  // What decoding may hold at once: the pixels, and what the format needs besides (a progressive JPEG its
  // coefficients).
  size_t max_decode_bytes = size_t{256} << 20;
};

// Decodes one file. Errors are invalid_argument and say what is wrong: no image format, a broken file, a limit. Any
// thread. `stop` is looked at row by row where the format allows it (GIF and WebP of 40 million pixels take a second in
// one piece): cancelled or deadline_exceeded once it is set.
Result<Image> decode_image(std::span<const std::byte> file, const ImageLimits& limits = {},
                           const StopFlag* stop = nullptr);

// What a file's header tells.
struct ImageSize {
  int height = 0, width = 0;  // as stored: EXIF may turn it
  int64_t decode_bytes = 0;   // that decode_image holds at once, the result included
};
// Reads the header only, and allocates nothing that depends on it. Errors: those of decode_image for it.
Result<ImageSize> read_image_size(std::span<const std::byte> file, const ImageLimits& limits = {});

// Identifies an image by its size and pixels: SHA-256 of height and width (8 bytes each, little endian) and the pixels'
// SHA-256. Two files with the same pixels have the same hash.
Digest content_hash(const Image& image);

}  // namespace weft
