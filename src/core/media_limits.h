// What the images and videos of requests may take: of one request, known from the files' headers before anything is
// decoded, and of all requests together.
#pragma once

#include <cstdint>

namespace weft {

struct MediaLimits {
  // Of one request.
  int64_t max_images = 1024;  // images and frames of videos
  int64_t max_file_bytes = int64_t{32} << 20;
  int64_t max_total_file_bytes = int64_t{64} << 20;
  int64_t max_pixels = 40'000'000;         // of one image or frame
  int64_t max_total_pixels = 200'000'000;  // of all of them
  // What the vision tower reads, as floats: a video or tiles can be larger than the pixels.
  int64_t max_prepared_bytes = int64_t{256} << 20;
  // Of all requests at once: files, pixels while they are decoded and resized, and what waits for the vision tower.
  int64_t max_held_bytes = int64_t{512} << 20;
  // How long a request waits until others have given back what it needs; then it is refused (429).
  int wait_ms = 2'000;
};

}  // namespace weft
