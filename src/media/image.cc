// Tells the format from the first bytes and hands the file to its decoder: JPEG to libjpeg-turbo, the others to the
// bridge's crates.
#include "media/image.h"

#include <cstring>
#include <string_view>
#include <utility>

#include "base/bridge_call.h"
#include "media/exif.h"
#include "media/jpeg.h"

namespace weft {
namespace {

constexpr char kFormats[] = "JPEG, PNG, WebP and GIF are accepted";

WeftImageLimits limits_of(const ImageLimits& limits) {
  return {static_cast<uint64_t>(limits.max_pixels), static_cast<uint32_t>(limits.max_side), limits.max_decode_bytes};
}

Result<ImageSize> size_by_bridge(uint32_t format, std::span<const std::byte> file, const ImageLimits& limits) {
  const WeftImageLimits bridge_limits = limits_of(limits);
  uint32_t width = 0, height = 0;
  uint64_t bytes = 0;
  WeftError error;
  if (!weft_image_size(format, reinterpret_cast<const uint8_t*>(file.data()), file.size(), &bridge_limits, &width,
                       &height, &bytes, &error))
    return Error(Code::invalid_argument, bridge::take(error).message());
  // Its result is copied.
  return ImageSize{static_cast<int>(height), static_cast<int>(width),
                   static_cast<int64_t>(bytes) + int64_t{3} * width * height};
}

Result<Image> decode_by_bridge(uint32_t format, std::span<const std::byte> file, const ImageLimits& limits,
                               const StopFlag* stop) {
  const WeftImageLimits bridge_limits = limits_of(limits);
  WeftImage decoded;
  WeftError error;
  if (!weft_image_decode(format, reinterpret_cast<const uint8_t*>(file.data()), file.size(), &bridge_limits, &decoded,
                         &error, stop ? stop->byte() : nullptr)) {
    // A panic of a decoder is a broken file that the crate did not foresee: the caller's input, not our state.
    const int32_t code = error.code;
    const Error taken = bridge::take(error);
    WEFT_RETURN_IF_ERROR(check_stop(code == WEFT_STOPPED ? stop : nullptr));
    if (code == WEFT_RESOURCE_EXHAUSTED) return Error(Code::resource_exhausted, taken.message());
    return Error(Code::invalid_argument, taken.message());
  }
  Image image;
  image.height = static_cast<int>(decoded.height);
  image.width = static_cast<int>(decoded.width);
  image.rgb.assign(decoded.rgb.data, decoded.rgb.data + decoded.rgb.size);
  const int orientation =
      find_orientation({decoded.exif.data, decoded.exif.size}, {decoded.xmp.data, decoded.xmp.size});
  weft_bytes_free(decoded.rgb);
  weft_bytes_free(decoded.exif);
  weft_bytes_free(decoded.xmp);
  return apply_orientation(std::move(image), orientation);
}

enum class Format : uint8_t { jpeg, png, gif, webp };

// By the first bytes.
Result<Format> format_of(std::span<const std::byte> file, const ImageLimits& limits) {
  using namespace std::literals;
  if (file.empty()) return fail(Code::invalid_argument, "the image is empty (0 bytes)");
  if (file.size() > limits.max_file_bytes) {
    return fail(Code::invalid_argument, "the image's file has ", file.size(), " bytes; at most ", limits.max_file_bytes,
                " are accepted (--max-image-bytes)");
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with("\xFF\xD8\xFF"sv)) return Format::jpeg;
  if (text.starts_with("\x89PNG\r\n\x1A\n"sv)) return Format::png;
  if (text.starts_with("GIF87a"sv) || text.starts_with("GIF89a"sv)) return Format::gif;
  if (text.size() >= 12 && text.starts_with("RIFF"sv) && text.substr(8, 4) == "WEBP"sv) return Format::webp;
  const char* what = text.starts_with("BM"sv)                                     ? "a BMP image"
                     : text.starts_with("II*\0"sv) || text.starts_with("MM\0*"sv) ? "a TIFF image"
                     : text.size() >= 12 && text.substr(4, 8) == "ftypavif"sv     ? "an AVIF image"
                     : text.size() >= 12 && text.substr(4, 4) == "ftyp"sv         ? "a HEIC image or a video"
                     : text.substr(0, 512).find("<svg"sv) != text.npos            ? "an SVG drawing"
                                                                                  : "no image of a known format";
  return fail(Code::invalid_argument, "the bytes are ", what, "; ", kFormats);
}

uint32_t bridge_format(Format format) {
  return format == Format::png ? WEFT_IMAGE_PNG : format == Format::gif ? WEFT_IMAGE_GIF : WEFT_IMAGE_WEBP;
}

}  // namespace

Result<Image> decode_image(std::span<const std::byte> file, const ImageLimits& limits, const StopFlag* stop) {
  WEFT_TRY(const Format format, format_of(file, limits));
  if (format != Format::jpeg) return decode_by_bridge(bridge_format(format), file, limits, stop);
  WEFT_TRY(Jpeg jpeg, decode_jpeg(file, limits, stop));
  return apply_orientation(std::move(jpeg.image), jpeg.orientation);
}

Result<ImageSize> read_image_size(std::span<const std::byte> file, const ImageLimits& limits) {
  WEFT_TRY(const Format format, format_of(file, limits));
  WEFT_TRY(ImageSize size,
           format == Format::jpeg ? read_jpeg_size(file, limits) : size_by_bridge(bridge_format(format), file, limits));
  size.decode_bytes += int64_t{3} * size.width * size.height;  // turning it makes a copy
  return size;
}

Digest content_hash(const Image& image) {
  std::array<std::byte, 48> block{};
  for (int i = 0; i < 8; ++i) {
    block[i] = static_cast<std::byte>(static_cast<uint64_t>(image.height) >> (8 * i));
    block[8 + i] = static_cast<std::byte>(static_cast<uint64_t>(image.width) >> (8 * i));
  }
  const Digest pixels = sha256(std::as_bytes(std::span(image.rgb)));
  std::memcpy(block.data() + 16, pixels.data(), pixels.size());
  return sha256(block);
}

}  // namespace weft
