// What a prompt with images carries to the workers: the features that stand in place of embeddings, and positions on
// several axes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace weft {

// The features of one image or video, as a vision tower made them.
struct MediaFeatures {
  int rows = 0, cols = 0;
  std::vector<float> values;  // [rows, cols]
  const float* row(int i) const { return values.data() + static_cast<size_t>(i) * cols; }
};

struct MediaPrompt {
  // Features [first, first + count) of media `media` stand at positions position .. position + count - 1.
  struct Span {
    int position = 0, count = 0, media = 0, first = 0;
  };
  std::vector<Span> spans;                                     // by position, without overlap
  std::vector<std::shared_ptr<const MediaFeatures>> features;  // per media; set before the sequence is scheduled
  // Cross attention: which of the images' keys each token of the prompt sees; the last entry holds for generated tokens
  // too. The keys are the first real_rows[i] features of every image i, image after image, then the remaining features
  // of all images. Empty: no cross attention; the features replace embeddings.
  struct Keys {
    int32_t first = 0, end = 0;  // equal: none
  };
  std::vector<Keys> cross;
  std::vector<int> real_rows;
  // Positions of the prompt's tokens on each axis; empty: token i has position i. A generated token at index i has
  // position i + delta on every axis.
  std::array<std::vector<int32_t>, 3> positions;
  int32_t delta = 0;
};

}  // namespace weft
