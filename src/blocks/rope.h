// Rotary frequencies from a checkpoint's rope configuration.
#pragma once

#include "checkpoint/hf_config.h"
#include "plan/plan_builder.h"

namespace weft::blocks {

// inv_freq[i] = theta^(-2i / dims) for i < dims / 2, changed as the configuration's kind says:
//   linear  all divided by factor
//   llama3  long wavelengths divided by factor, short ones kept, interpolated in between (Llama 3.1's published code)
//   yarn    the same idea with a ramp over the dimensions, and a factor on cos and sin (arXiv 2309.00071, as
//     transformers computes it)
//   longrope  each divided by a factor of its own, and a factor on cos and sin (arXiv 2402.13753)
// Sections (M-RoPE): the first frequencies turn by the first axis of the positions, and so on; they sum to dims / 2.
// `dims` are the rotated elements of a head (even).
RopeAngles rope_angles(const RopeConfig& config, int dims);

}  // namespace weft::blocks
