// Weights are computed in double, scaled to integers of at most 15 bits with as many fraction bits as the largest of
// them allows (at most 22), and summed in 32 bits: 255 times weights that add up to about 1 leaves room.
#include "media/resize.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/stop_flag.h"

namespace weft {
namespace {

double weight_at(double x, Filter filter) {
  x = std::fabs(x);
  if (filter == Filter::bilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// For each output: which inputs count, and how much.
struct Weights {
  struct Taps {
    int first, count;
  };
  std::vector<Taps> taps;        // one per output
  std::vector<int16_t> weights;  // `stride` per output
  size_t stride = 0;
  int bits = 0;  // the weights are in units of 2^-bits
};

Weights make_weights(int in, int out, Filter filter) {
  const double scale = static_cast<double>(in) / out, stretch = std::max(scale, 1.0), inverse = 1 / stretch;
  const double support = (filter == Filter::bilinear ? 1 : 2) * stretch;
  Weights w;
  w.stride = 2 * static_cast<size_t>(std::ceil(support)) + 1;
  std::vector<double> exact(w.stride * out);
  double largest = 0;
  for (int i = 0; i < out; ++i) {
    const double center = scale * (i + 0.5);
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int last = std::min(static_cast<int>(center + support + 0.5), in);
    const int count = std::clamp(last - first, 0, static_cast<int>(w.stride));
    double* row = exact.data() + w.stride * i;
    double sum = 0;
    for (int j = 0; j < count; ++j) sum += row[j] = weight_at((j + first - center + 0.5) * inverse, filter);
    for (int j = 0; j < count; ++j) {
      if (sum != 0) row[j] /= sum;
      largest = std::max(largest, row[j]);
    }
    w.taps.push_back({first, count});
  }
  while (w.bits < 22 && static_cast<int>(0.5 + largest * (1 << (w.bits + 1))) < (1 << 15)) ++w.bits;
  w.weights.resize(exact.size());
  for (size_t k = 0; k < exact.size(); ++k) {
    const double scaled = exact[k] * (1 << w.bits);
    w.weights[k] = static_cast<int16_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  }
  return w;
}

uint8_t to_byte(int sum, int bits) { return static_cast<uint8_t>(std::clamp(sum >> bits, 0, 255)); }

bool is_set(const StopFlag* stop) { return stop && stop->reason() != StopReason::none; }

Image resize_columns(const Image& in, int width, Filter filter, const StopFlag* stop) {
  const Weights w = make_weights(in.width, width, filter);
  Image out(in.height, width);
  for (int y = 0; y < in.height && !is_set(stop); ++y) {
    const uint8_t* row = in.row(y);
    uint8_t* to = out.row(y);
    for (int x = 0; x < width; ++x, to += 3) {
      const int16_t* weights = w.weights.data() + w.stride * x;
      const uint8_t* from = row + size_t{3} * w.taps[x].first;
      int r = 1 << (w.bits - 1), g = r, b = r;
      for (int j = 0; j < w.taps[x].count; ++j, from += 3) {
        r += from[0] * weights[j];
        g += from[1] * weights[j];
        b += from[2] * weights[j];
      }
      to[0] = to_byte(r, w.bits);
      to[1] = to_byte(g, w.bits);
      to[2] = to_byte(b, w.bits);
    }
  }
  return out;
}

// Row by row with a row of sums, so that the compiler vectorises over the samples.
Image resize_rows(const Image& in, int height, Filter filter, const StopFlag* stop) {
  const Weights w = make_weights(in.height, height, filter);
  Image out(height, in.width);
  const size_t samples = size_t{3} * in.width;
  std::vector<int32_t> sums(samples);
  for (int y = 0; y < height && !is_set(stop); ++y) {
    std::fill(sums.begin(), sums.end(), 1 << (w.bits - 1));
    for (int j = 0; j < w.taps[y].count; ++j) {
      const int weight = w.weights[w.stride * y + j];
      const uint8_t* from = in.row(w.taps[y].first + j);
      for (size_t k = 0; k < samples; ++k) sums[k] += from[k] * weight;
    }
    uint8_t* to = out.row(y);
    for (size_t k = 0; k < samples; ++k) to[k] = to_byte(sums[k], w.bits);
  }
  return out;
}

}  // namespace

Image resize(const Image& image, int height, int width, Filter filter, const StopFlag* stop) {
  WEFT_CHECK(height > 0 && width > 0 && image.height > 0 && image.width > 0) << height << " x " << width;
  if (width == image.width) return height == image.height ? image : resize_rows(image, height, filter, stop);
  Image out = resize_columns(image, width, filter, stop);
  return height == image.height ? out : resize_rows(out, height, filter, stop);
}

}  // namespace weft
