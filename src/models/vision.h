// Vision towers: a plan of their own that turns pixels into the features that stand in a prompt, and what the host
// prepares for it.
//
// A tower's rows are patches (and class tokens) of one image or video. Everything about where a patch stands - learned
// positions, rotary positions, which rows attend to each other, which are put together, dropped or padded - is a table
// that arrange() makes from the shapes of the prepared image, so that the plan itself is recorded once.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "checkpoint/hf_config.h"
#include "media/processor.h"
#include "plan/plan.h"
#include "plan/step_inputs.h"

namespace weft::models {

// The tower's inputs for one image or video.
struct VisionInputs {
  int rows = 0, mixed = 0, outputs = 0;
  std::vector<float> pixels;  // [rows, patch size]; zeros in rows that are no patch
  VisionIndices indices;
  // per row: the first key of its segment that it does not see; empty: it sees all
  std::vector<int32_t> ends;
  std::vector<int32_t> positions[2];       // per row: rotary axes; empty: not used
  std::vector<std::vector<int>> segments;  // per kind: the lengths of runs of rows that attend to each other
  MixTable mixes[2];
  // Feature i of the image is this output row, or the newline vector for -1. Empty: the output rows in order.
  std::vector<int32_t> features;
};

struct VisionTower {
  Plan plan;
  int newline = -1;  // vector of the plan that separates rows of features
  // Cross attention: the features are keys and values of the decoder's layers, [rows, layers, (k, v), kv_heads *
  // head_dim], and this many rows at most. 0: features stand in place of embeddings.
  int most_keys = 0;
  std::function<VisionInputs(const PreparedMedia&)> arrange;
  // Whether pixels and grids are as the family's processor makes them, so that arrange() finds what it reads. For
  // images that come from another server.
  std::function<bool(const PreparedMedia&)> fits;
};

// Features that an image gets.
inline int feature_rows(const VisionInputs& in) {
  return in.features.empty() ? in.outputs : static_cast<int>(in.features.size());
}

// The tower of the model that the configuration describes, or nothing for one without images. Errors as build_plan's.
Result<std::optional<VisionTower>> build_vision(const HfConfig& config);

// One per family.
VisionTower llava_next_vision(const HfConfig&);
VisionTower qwen_vision(const HfConfig&);
VisionTower llama4_vision(const HfConfig&);
VisionTower vila_vision(const HfConfig&);
VisionTower gemma3_vision(const HfConfig&);
VisionTower mllama_vision(const HfConfig&);

// ---- Parts that families share --------------------------------------------------------------------------------------

// Appends a list of rows that make one part of a mixed row.
void add_part(MixTable& table, std::initializer_list<int32_t> rows);
// Patches of a tile [3, side, side] at `pixels` as rows [channel, y, x], row-major, appended to `out`.
void append_patches(const float* pixels, int side, int patch, std::vector<float>& out);

}  // namespace weft::models
