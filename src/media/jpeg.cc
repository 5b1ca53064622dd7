// JPEG by libjpeg-turbo. The library reports errors by a call that must not return, so each step runs under setjmp, in
// functions that hold no object with a destructor. Warnings that mean lost image data (the file breaks off, bits that
// are no code) count as errors; the library itself would go on with grey. Missing only the end marker of a baseline
// file is forgiven.
#include "media/jpeg.h"

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include <jpeglib.h>

#include <jerror.h>

#include "base/stop_flag.h"
#include "media/exif.h"

#ifndef LIBJPEG_TURBO_VERSION
#error "jpeglib.h is not libjpeg-turbo's: other libraries of that name give other pixels"
#endif

namespace weft {
namespace {

struct Decoder {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  jpeg_progress_mgr progress;
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
  bool has_header = false;
  const unsigned char* file = nullptr;
  size_t file_size = 0;
  const StopFlag* stop = nullptr;
  uint8_t* rgb = nullptr;   // where read_rows writes
  uint8_t* cmyk = nullptr;  // one row, for four-channel files
};

bool is_stopped(const Decoder& d) { return d.stop && d.stop->reason() != StopReason::none; }

Decoder& decoder_of(j_common_ptr info) { return *static_cast<Decoder*>(info->client_data); }

[[noreturn]] void stop(j_common_ptr info) {
  Decoder& d = decoder_of(info);
  info->err->format_message(info, d.message);
  std::longjmp(d.jump, 1);
}

void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;  // a trace
  switch (info->err->msg_code) {
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC: stop(info);
    case JWRN_JPEG_EOF:
      if (!decoder_of(info).has_header || jpeg_has_multiple_scans(&decoder_of(info).info)) stop(info);
  }
}

void on_progress(j_common_ptr info) {
  Decoder& d = decoder_of(info);
  if (is_stopped(d)) std::longjmp(d.jump, 1);
  // Work that a small file may ask for: each scan goes over all pixels and may cost a few bytes.
  constexpr int kScans = 256;
  constexpr int64_t kPixelScans = 1'500'000'000;
  const int64_t pixel_scans = int64_t{d.info.image_width} * d.info.image_height * d.info.input_scan_number;
  if (d.info.input_scan_number > kScans || pixel_scans > kPixelScans) {
    std::snprintf(d.message, sizeof d.message, "%d scans are too many for its size", d.info.input_scan_number);
    std::longjmp(d.jump, 1);
  }
}

// Runs one step of the library; false when it stopped, with `message` set.
bool run(Decoder& d, void (*step)(Decoder&)) {
  if (setjmp(d.jump)) return false;
  step(d);
  return true;
}

void read_header(Decoder& d) {
  jpeg_create_decompress(&d.info);
  d.info.client_data = &d;
  d.info.progress = &d.progress;
  jpeg_mem_src(&d.info, d.file, d.file_size);
  jpeg_save_markers(&d.info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&d.info, TRUE);
  d.has_header = true;
}

void start(Decoder& d) {
  const bool four = d.info.jpeg_color_space == JCS_CMYK || d.info.jpeg_color_space == JCS_YCCK;
  d.info.out_color_space = four ? JCS_CMYK : JCS_RGB;
  d.info.dct_method = JDCT_ISLOW;
  d.info.do_fancy_upsampling = TRUE;
  jpeg_start_decompress(&d.info);
}

// One row of CMYK as Adobe writes it (255 = no ink), in the rounding of Pillow's conversion.
void cmyk_to_rgb(const uint8_t* in, uint8_t* out, unsigned width) {
  for (unsigned x = 0; x < width; ++x, in += 4, out += 3) {
    for (int c = 0; c < 3; ++c) {
      const unsigned product = (255u - in[c]) * in[3] + 128;
      out[c] = static_cast<uint8_t>(in[3] - ((product + (product >> 8)) >> 8));
    }
  }
}

void read_rows(Decoder& d) {
  while (d.info.output_scanline < d.info.output_height && !is_stopped(d)) {
    uint8_t* out = d.rgb + size_t{3} * d.info.output_width * d.info.output_scanline;
    JSAMPROW row = d.cmyk ? d.cmyk : out;
    jpeg_read_scanlines(&d.info, &row, 1);
    if (d.cmyk) cmyk_to_rgb(d.cmyk, out, d.info.output_width);
  }
}

// From the saved APP1 segments: EXIF (whose parts are joined) and XMP (of which the last counts).
int orientation(const jpeg_decompress_struct& info) {
  constexpr std::string_view kExif("Exif\0\0", 6), kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  std::vector<uint8_t> exif;
  std::span<const uint8_t> xmp;
  for (const jpeg_marker_struct* m = info.marker_list; m; m = m->next) {
    const std::string_view text(reinterpret_cast<const char*>(m->data), m->data_length);
    if (text.starts_with(kExif)) exif.insert(exif.end(), m->data + kExif.size(), m->data + m->data_length);
    else if (text.starts_with(kXmp)) xmp = {m->data + kXmp.size(), m->data_length - kXmp.size()};
  }
  return find_orientation(exif, xmp);
}

// What the library holds for the coefficients of a file that comes in several scans, at two bytes each.
size_t coefficient_bytes(jpeg_decompress_struct& info) {
  if (!jpeg_has_multiple_scans(&info)) return 0;
  size_t bytes = 0;
  for (int c = 0; c < info.num_components; ++c) {
    const jpeg_component_info& part = info.comp_info[c];
    bytes += size_t{part.width_in_blocks} * part.height_in_blocks * DCTSIZE2 * sizeof(JCOEF);
  }
  return bytes;
}

Status check_limits(Decoder& d, const ImageLimits& limits) {
  const int64_t width = d.info.image_width, height = d.info.image_height;
  if (width * height > limits.max_pixels || width > limits.max_side || height > limits.max_side) {
    return fail(Code::invalid_argument, "the image is too large: ", width, " x ", height, " pixels; at most ",
                limits.max_pixels, " pixels (--max-image-pixels) and ", limits.max_side, " on a side are accepted");
  }
  if (static_cast<size_t>(width * height) * 3 + coefficient_bytes(d.info) > limits.max_decode_bytes) {
    return fail(Code::invalid_argument, "the image is too large: decoding ", width, " x ", height,
                " pixels of a JPEG in several scans takes more than ", limits.max_decode_bytes, " bytes");
  }
  return {};
}

Result<Jpeg> decode(Decoder& d, const ImageLimits& limits) {
  const auto broken = [&]() -> Error {
    if (is_stopped(d)) return d.stop->check().error();
    return fail(Code::invalid_argument, "broken or unsupported JPEG image: ", d.message);
  };
  if (!run(d, read_header)) return broken();
  WEFT_RETURN_IF_ERROR(check_limits(d, limits));
  if (!run(d, start)) return broken();
  Jpeg jpeg{Image(d.info.output_height, d.info.output_width), orientation(d.info)};
  std::vector<uint8_t> cmyk(d.info.out_color_space == JCS_CMYK ? size_t{4} * d.info.output_width : 0);
  d.rgb = jpeg.image.rgb.data();
  d.cmyk = cmyk.empty() ? nullptr : cmyk.data();
  if (!run(d, read_rows) || is_stopped(d)) return broken();
  return jpeg;
}

void prepare(Decoder& d, std::span<const std::byte> file) {
  d.info.err = jpeg_std_error(&d.errors);
  d.info.client_data = &d;
  d.errors.error_exit = stop;
  d.errors.emit_message = on_message;
  d.errors.output_message = [](j_common_ptr) {};
  d.progress.progress_monitor = on_progress;
  d.file = reinterpret_cast<const unsigned char*>(file.data());
  d.file_size = file.size();
}

Result<ImageSize> read_size(Decoder& d, const ImageLimits& limits) {
  if (!run(d, read_header))
    return fail(Code::invalid_argument, "broken or unsupported JPEG image: ", std::string_view(d.message));
  WEFT_RETURN_IF_ERROR(check_limits(d, limits));
  const auto height = static_cast<int>(d.info.image_height), width = static_cast<int>(d.info.image_width);
  return ImageSize{height, width, int64_t{3} * height * width + static_cast<int64_t>(coefficient_bytes(d.info))};
}

}  // namespace

Result<Jpeg> decode_jpeg(std::span<const std::byte> file, const ImageLimits& limits, const StopFlag* stop) {
  Decoder d{};
  prepare(d, file);
  d.stop = stop;
  Result<Jpeg> result = decode(d, limits);
  jpeg_destroy_decompress(&d.info);
  return result;
}

Result<ImageSize> read_jpeg_size(std::span<const std::byte> file, const ImageLimits& limits) {
  Decoder d{};
  prepare(d, file);
  Result<ImageSize> result = read_size(d, limits);
  jpeg_destroy_decompress(&d.info);
  return result;
}

}  // namespace weft
