// Orientation: a walk over the first directory of a TIFF block, a search in XMP, and the eight ways to turn an image.
#include "media/exif.h"

#include <cstring>
#include <string_view>
#include <utility>

namespace weft {
namespace {

struct Tiff {
  std::span<const uint8_t> bytes;
  bool little = true;
  bool has(size_t at, size_t size) const { return at <= bytes.size() && size <= bytes.size() - at; }
  uint32_t read(size_t at, int size) const {
    uint32_t value = 0;
    for (int i = 0; i < size; ++i) value |= uint32_t{bytes[at + i]} << (8 * (little ? i : size - 1 - i));
    return value;
  }
};

}  // namespace

std::optional<int> exif_orientation(std::span<const uint8_t> block) {
  constexpr uint32_t kOrientation = 0x0112, kShort = 3;
  if (block.size() >= 6 && std::memcmp(block.data(), "Exif\0\0", 6) == 0) block = block.subspan(6);
  Tiff tiff{block};
  if (!tiff.has(0, 8)) return std::nullopt;
  tiff.little = block[0] == 'I';
  if (block[0] != block[1] || (block[0] != 'I' && block[0] != 'M') || tiff.read(2, 2) != 42) return std::nullopt;
  size_t at = tiff.read(4, 4);
  if (!tiff.has(at, 2)) return std::nullopt;
  const uint32_t entries = tiff.read(at, 2);
  at += 2;
  for (uint32_t i = 0; i < entries && tiff.has(at, 12); ++i, at += 12) {
    if (tiff.read(at, 2) != kOrientation) continue;
    const uint32_t value = tiff.read(at + 2, 2) == kShort ? tiff.read(at + 8, 2) : tiff.read(at + 8, 4);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return std::nullopt;
}

int find_orientation(std::span<const uint8_t> exif, std::span<const uint8_t> xmp) {
  if (const std::optional<int> found = exif_orientation(exif)) return *found;
  const std::string_view text(reinterpret_cast<const char*>(xmp.data()), xmp.size());
  constexpr std::string_view kKey = "tiff:Orientation";
  for (size_t at = text.find(kKey); at != text.npos; at = text.find(kKey, at + 1)) {
    std::string_view rest = text.substr(at + kKey.size());
    if (rest.starts_with("=\"")) rest.remove_prefix(2);     // an attribute
    else if (rest.starts_with(">")) rest.remove_prefix(1);  // an element
    else continue;
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] >= '1' && rest[0] <= '8' ? rest[0] - '0' : 1;
  }
  return 1;
}

Image apply_orientation(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  // Where the pixel (y, x) of the result lies in the file: swapped axes first (5 to 8), then mirrored rows or columns.
  const bool swap = orientation >= 5;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const int height = swap ? image.width : image.height, width = swap ? image.height : image.width;
  Image turned(height, width);
  for (int y = 0; y < height; ++y) {
    uint8_t* out = turned.row(y);
    for (int x = 0; x < width; ++x, out += 3) {
      const int from_y = swap ? (flip_x ? width - 1 - x : x) : (flip_y ? height - 1 - y : y);
      const int from_x = swap ? (flip_y ? height - 1 - y : y) : (flip_x ? width - 1 - x : x);
      std::memcpy(out, image.row(from_y) + size_t{3} * from_x, 3);
    }
  }
  return turned;
}

}  // namespace weft
