// Files of pictures (JPEG, PNG, GIF, WebP): what decodes has its pixels, within the limits; the same each time.
#include <algorithm>

#include "media/image.h"
#include "target.h"

using namespace weft;

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(WEFT_TEST_DATA) + "/images"))
    if (entry.is_regular_file() && entry.file_size() > 0 && entry.file_size() < 8192 &&
        entry.path().extension() != ".json")
      seeds.push_back(seed_file("images/" + entry.path().filename().string()));
  std::ranges::sort(seeds);  // folders have no order
  require(seeds.size() > 20, "the pictures of the tests are there");
  return seeds;
}
std::vector<std::string> fuzz_words() {
  return {"IHDR",     "IDAT",     "PLTE",     "tRNS",         "IEND",     "acTL",     "fcTL",
          "eXIf",     "iTXt",     "GIF89a",   "\x21\xf9\x04", "\x2c",     "RIFF",     "WEBPVP8 ",
          "VP8L",     "VP8X",     "ALPH",     "ANMF",         "EXIF",     "\xff\xd8", "\xff\xc0",
          "\xff\xc2", "\xff\xda", "\xff\xdd", "\xff\xe1",     "\xff\xee", "\xff\xd9", std::string("Exif\0\0II*\0", 10),
          "Adobe"};
}

// The checksums of PNG's chunks.
void mend(std::string& input) {
  if (!input.starts_with("\x89PNG\r\n\x1a\n")) return;
  static const auto table = [] {
    std::vector<uint32_t> made(256);
    for (uint32_t i = 0; i < 256; ++i) {
      made[i] = i;
      for (int bit = 0; bit < 8; ++bit) made[i] = made[i] & 1 ? 0xedb88320u ^ made[i] >> 1 : made[i] >> 1;
    }
    return made;
  }();
  for (size_t at = 8; at + 12 <= input.size();) {
    size_t length = 0;
    for (size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<uint8_t>(input[at + i]);
    if (length > input.size() - at - 12) return;
    uint32_t sum = 0xffffffffu;
    for (size_t i = at + 4; i < at + 8 + length; ++i)
      sum = table[(sum ^ static_cast<uint8_t>(input[i])) & 255] ^ sum >> 8;
    for (size_t i = 0; i < 4; ++i) input[at + 8 + length + i] = static_cast<char>(~sum >> (24 - 8 * i));
    at += 12 + length;
  }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file = copy_of(data, size);
  ImageLimits limits;
  limits.max_pixels = 1'000'000, limits.max_decode_bytes = 16u << 20;
  const auto image = decode_image(std::as_bytes(std::span(file)), limits);
  if (!image.ok()) return require_message(image.error()), 0;
  require(image->width > 0 && image->height > 0, "a picture has a size");
  require(static_cast<int64_t>(image->width) * image->height <= limits.max_pixels &&
              std::max(image->width, image->height) <= limits.max_side,
          "a picture is within the limits");
  require(image->rgb.size() == size_t{3} * image->width * image->height, "a picture has all its pixels");
  if (size % 8 == 0) {
    const auto again = decode_image(std::as_bytes(std::span(file)), limits);
    require(again.ok() && again->rgb == image->rgb, "a file gives the same pixels each time");
  }
  return 0;
}
