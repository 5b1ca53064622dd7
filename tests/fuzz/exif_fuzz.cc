// EXIF blocks, XMP texts and the turning of pictures: an orientation is one of eight, and turning keeps the pixels.
#include <algorithm>

#include "media/exif.h"
#include "target.h"

using namespace weft;

std::vector<std::string> fuzz_seeds() {
  const std::string little("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", 26);
  const std::string big(
      "MM\0*\0\0\0\x08\0\x02\x01\0\0\x04\0\0\0\x01\0\0\0\x09\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0", 38);
  return {little,
          std::string("Exif\0\0", 6) + big,
          big,
          "<x:xmpmeta><tiff:Orientation>8</tiff:Orientation>",
          "tiff:Orientation=\"5\"",
          "..tiff:Orientation>0",
          "..tiff:Orientation>9"};
}
std::vector<std::string> fuzz_words() {
  return {"II*",
          "MM",
          std::string("Exif\0\0", 6),
          std::string("\x12\x01", 2),
          std::string("\x01\x12", 2),
          "tiff:Orientation",
          "=\"",
          "\xff\xff\xff\xff",
          std::string("\0\0\0\0", 4)};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> bytes(data, data + size);
  const auto found = exif_orientation(bytes);
  require(!found || (*found >= 1 && *found <= 8), "an orientation is one of eight");
  const std::span<const uint8_t> all(bytes);
  const size_t half = size / 2;
  const int either = find_orientation(all.first(half), all.subspan(half));
  require(either >= 1 && either <= 8, "there is always an orientation");
  Image image(2, 3);
  for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i);
  const std::vector<uint8_t> before = image.rgb;
  Image turned = apply_orientation(image, found.value_or(either));
  require(turned.width * turned.height == 6 && turned.rgb.size() == before.size(), "a turned picture has its pixels");
  std::vector<uint8_t> a = before, b = turned.rgb;
  std::ranges::sort(a), std::ranges::sort(b);
  require(a == b, "turning moves pixels and changes none");
  return 0;
}
