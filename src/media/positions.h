// What follows from where the images stand in a prompt: three-axis positions for the Qwen models (M-RoPE), and the rows
// from which Mllama's cross attention sees each image.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "media/processor.h"

namespace weft {

// Positions of a prompt for M-RoPE, axes time, row, column.
struct MropePositions {
  std::array<std::vector<int32_t>, 3> axes;  // each [tokens]
  // A generated token at index i (i >= tokens) has the position i + delta on all three axes.
  int32_t delta = 0;
};

// Text counts up on all axes together. The features of an image or video that starts at p have p + trunc(frame *
// time_step), p + row, p + column of the merged grid; the text behind goes on at 1 + the largest of them (as the
// original, transformers 4 and vLLM; transformers 5.23 leaves out the time there). `spans` are those of the prompt with
// `tokens` ids; every medium of the Qwen processors is one span. Source: get_rope_index of Qwen2-VL and Qwen2.5-VL in
// transformers.
MropePositions mrope_positions(int64_t tokens, std::span<const FeatureSpan> spans,
                               std::span<const PreparedMedia> media);

// Rows of a prompt.
struct RowRange {
  int64_t first = 0, end = 0;  // first <= row < end
  bool operator==(const RowRange&) const = default;
};

// For each image in order the rows that see it: from its token up to the next image's; images that follow each other
// directly are seen together, by the rows of the last of them. The last ones are seen to the end, and by every
// generated token. A row sees the image's tile_rows * tile_columns tiles. Source: get_cross_attention_token_mask of
// Mllama's processor.
std::vector<RowRange> cross_attention_rows(int64_t tokens, std::span<const FeatureSpan> spans);

}  // namespace weft
