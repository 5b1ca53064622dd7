// Decoding against Pillow (tests/data/images, made by tests/media/make_images.py): images of every kind, the public
// bad-input corpus, and files cut or damaged at random, which must end in an image or an error, within the limits.
#include "media/image.h"
#include "base/stop_flag.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <random>
#include <string_view>

#include "base/files.h"
#include "base/json.h"
#include "media/exif.h"

namespace weft {
namespace {

const std::string kFolder = std::string(WEFT_TEST_DATA) + "/images/";

std::string hex(const Digest& digest) {
  std::string text;
  for (uint8_t byte : digest) text += "0123456789abcdef"[byte >> 4], text += "0123456789abcdef"[byte & 15];
  return text;
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

Json expected() { return read_json_file(kFolder + "expected.json").value(); }

std::array<double, 3> mean_of(const Image& image) {
  std::array<double, 3> sum{};
  for (size_t i = 0; i < image.rgb.size(); ++i) sum[i % 3] += image.rgb[i];
  for (double& s : sum) s /= static_cast<double>(image.height) * image.width;
  return sum;
}

TEST(Decode, ImagesOfEveryKind) {
  const Json cases = expected();
  for (const auto& [name, want] : cases.members()) {
    SCOPED_TRACE(name);
    const std::string file = read_file(kFolder + name).value();
    const Result<Image> got = decode_image(bytes_of(file));
    const std::string decode = want.find("decode")->as_string();
    if (!got.ok()) {
      EXPECT_NE(decode, "ok") << got.error().to_string();
      EXPECT_EQ(got.error().code(), Code::invalid_argument) << got.error().to_string();
      EXPECT_FALSE(got.error().message().empty());
      continue;
    }
    EXPECT_NE(decode, "error");
    EXPECT_EQ(got->rgb.size(), size_t{3} * got->height * got->width);
    const Result<ImageSize> size = read_image_size(bytes_of(file));
    ASSERT_TRUE(size.ok()) << size.error().to_string();
    const bool turned = size->height == got->width && size->width == got->height;
    EXPECT_TRUE(turned || (size->height == got->height && size->width == got->width));
    EXPECT_GE(size->decode_bytes, static_cast<int64_t>(got->rgb.size()));
    if (!want.find("sha256")) continue;
    EXPECT_EQ(got->height, want.find("shape")->items()[0].as_integer());
    EXPECT_EQ(got->width, want.find("shape")->items()[1].as_integer());
    const std::array<double, 3> mean = mean_of(*got);
    for (int c = 0; c < 3; ++c) EXPECT_NEAR(mean[c], want.find("mean")->items()[c].as_number(), 0.001);
    EXPECT_EQ(hex(sha256(std::as_bytes(std::span(got->rgb)))), want.find("sha256")->as_string());
  }
}

TEST(Decode, AStopFlagEndsIt) {
  StopFlag stop;
  stop.set(StopReason::client_left);
  for (const char* name : {"photo.png", "s420.jpg", "s420_progressive.jpg", "palette.gif", "lossy80.webp"}) {
    const Result<Image> got = decode_image(bytes_of(read_file(kFolder + name).value()), {}, &stop);
    ASSERT_FALSE(got.ok()) << name;
    EXPECT_EQ(got.error().code(), Code::cancelled) << name << ": " << got.error().to_string();
  }
}

TEST(Decode, FormatsThatAreNotTakenAreNamed) {
  for (const auto& [name, word] : {std::pair{"not.bmp", "BMP"},
                                   {"not.tiff", "TIFF"},
                                   {"corpus_svg.0.svg", "SVG"},
                                   {"corpus_not_image.0.png", "no image"}}) {
    const Result<Image> got = decode_image(bytes_of(read_file(kFolder + name).value()));
    ASSERT_FALSE(got.ok()) << name;
    EXPECT_NE(got.error().message().find(word), std::string::npos) << got.error().message();
    EXPECT_NE(got.error().message().find("JPEG, PNG, WebP and GIF are accepted"), std::string::npos);
  }
}

TEST(Decode, LimitsAreCheckedFromTheHeader) {
  const ImageLimits few_pixels = {.max_pixels = 53 * 37 - 1}, short_side = {.max_side = 52},
                    little_memory = {.max_decode_bytes = 53 * 37 * 3};
  for (const char* name :
       {"photo.png", "s420.jpg", "s420_progressive.jpg", "palette.gif", "lossless.webp", "lossy80.webp"}) {
    const std::string file = read_file(kFolder + name).value();
    EXPECT_TRUE(decode_image(bytes_of(file), {.max_pixels = 53 * 37, .max_side = 53}).ok()) << name;
    EXPECT_TRUE(decode_image(bytes_of(file), {.max_file_bytes = file.size()}).ok()) << name;
    const Result<Image> large = decode_image(bytes_of(file), {.max_file_bytes = file.size() - 1});
    ASSERT_FALSE(large.ok()) << name;
    EXPECT_NE(large.error().message().find("(--max-image-bytes)"), std::string::npos) << large.error().message();
    for (const ImageLimits& limits : {few_pixels, short_side}) {
      const Result<Image> got = decode_image(bytes_of(file), limits);
      ASSERT_FALSE(got.ok()) << name;
      EXPECT_NE(got.error().message().find("too large: 53 x 37"), std::string::npos) << got.error().message();
      EXPECT_NE(got.error().message().find("pixels (--max-image-pixels)"), std::string::npos) << got.error().message();
      const Result<ImageSize> size = read_image_size(bytes_of(file), limits);
      ASSERT_FALSE(size.ok()) << name;
      EXPECT_EQ(size.error().message(), got.error().message());
    }
    // Baseline JPEG and plain PNG need nothing but the result; the others hold more while they decode.
    const bool plain = std::string_view(name) == "photo.png" || std::string_view(name) == "s420.jpg";
    EXPECT_EQ(decode_image(bytes_of(file), little_memory).ok(), plain) << name;
  }
}

// A canvas of 1 x 1 around a frame whose own header says 16383 x 16383.
TEST(Decode, WebpFrameLargerThanItsCanvas) {
  std::string vp8(10, '\0');
  vp8.replace(3, 7, std::string("\x9D\x01\x2A\xFF\x3F\xFF\x3F", 7));
  const auto chunk = [](const std::string& kind, const std::string& body) {
    std::string size(4, '\0');
    for (int i = 0; i < 4; ++i) size[i] = static_cast<char>(body.size() >> (8 * i));
    return kind + size + body;
  };
  const std::string body = "WEBP" + chunk("VP8X", std::string(10, '\0')) + chunk("VP8 ", vp8);
  std::string file = chunk("RIFF", body);
  const Result<Image> got = decode_image(bytes_of(file));
  ASSERT_FALSE(got.ok());
  EXPECT_NE(got.error().message().find("too large"), std::string::npos) << got.error().message();
}

// Every file cut at many places and with bytes changed: an image within the limits or invalid_argument, and no memory
// to speak of.
TEST(Decode, DamagedFiles) {
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  const ImageLimits limits = {.max_pixels = 1 << 18, .max_decode_bytes = 4 << 20};
  std::mt19937 random(7);
  int images = 0, errors = 0;
  const auto check = [&](const std::string& file, const std::string& name) {
    const Result<Image> got = decode_image(bytes_of(file), limits);
    if (got.ok()) {
      ++images;
      ASSERT_LE(int64_t{got->height} * got->width, limits.max_pixels) << name;
      ASSERT_EQ(got->rgb.size(), size_t{3} * got->height * got->width) << name;
    } else {
      ++errors;
      ASSERT_EQ(got.error().code(), Code::invalid_argument) << name << ": " << got.error().to_string();
    }
  };
  const Json cases = expected();
  for (const auto& [name, want] : cases.members()) {
    const std::string file = read_file(kFolder + name).value();
    for (size_t cut = 0; cut < file.size(); cut += 1 + file.size() / 64) check(file.substr(0, cut), name);
    for (int round = 0; round < 64 && !file.empty(); ++round) {
      std::string damaged = file;
      for (int i = 0; i <= round % 4; ++i) {
        // Headers first: there a byte decides sizes.
        const size_t at = random() % (round % 2 ? damaged.size() : std::min<size_t>(damaged.size(), 64));
        damaged[at] = static_cast<char>(random());
      }
      check(damaged, name);
    }
  }
  EXPECT_GT(images, 500);
  EXPECT_GT(errors, 2000);
  getrusage(RUSAGE_SELF, &after);
#if !defined(__SANITIZE_ADDRESS__)
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 48 << 10) << "KiB of growth";
#endif
}

// Half a baseline JPEG used to be an image that ends in grey.
TEST(Decode, TruncatedJpegsAreErrors) {
  for (const char* name : {"s420.jpg", "s444_progressive.jpg", "gray.jpg", "corpus_restart_markers.0.jpg"}) {
    const std::string file = read_file(kFolder + name).value();
    for (const size_t cut : {file.size() / 2, file.size() * 3 / 4, file.size() - 40}) {
      EXPECT_FALSE(decode_image(bytes_of(file.substr(0, cut))).ok())
          << name << " cut at " << cut << " of " << file.size();
    }
  }
}

TEST(Exif, OrientationInBothByteOrders) {
  const std::string little("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 22),
      big("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0", 22);
  const auto orientation = [](const std::string& text) {
    return exif_orientation({reinterpret_cast<const uint8_t*>(text.data()), text.size()}).value_or(0);
  };
  EXPECT_EQ(orientation(little), 6);
  EXPECT_EQ(orientation(big), 8);
  EXPECT_EQ(orientation(std::string("Exif\0\0", 6) + little), 6);
  for (size_t cut = 0; cut < little.size(); ++cut) EXPECT_EQ(orientation(little.substr(0, cut)), 0) << cut;
  std::string far = little;
  far[4] = far[5] = far[6] = far[7] = '\xFF';  // the directory lies behind the end
  EXPECT_EQ(orientation(far), 0);
  std::string odd = little;
  odd[18] = 9;
  EXPECT_EQ(orientation(odd), 1);
}

TEST(ContentHash, SizeAndPixels) {
  Image a(2, 3), b(3, 2), c(2, 3);
  EXPECT_EQ(content_hash(a), content_hash(c));
  EXPECT_NE(content_hash(a), content_hash(b));  // the same bytes in another shape
  c.rgb[7] = 1;
  EXPECT_NE(content_hash(a), content_hash(c));
}

}  // namespace
}  // namespace weft
