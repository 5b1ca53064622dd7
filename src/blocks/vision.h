// The parts that vision towers and their projectors are made of.
#pragma once

#include "blocks/blocks.h"

namespace weft::blocks {

// A matrix that may have a bias: w.weight [out, in], w.bias [out].
Value dense(PlanBuilder& b, Scope w, Value x, int out, bool bias = true);

// A pre-norm encoder layer. Rows attend to the rows of their own segment; `segments` is the kind of segments (index
// into VisionInputs::segments). Default names are those of CLIP and SigLIP.
struct EncoderLayerOptions {
  int hidden = 0, heads = 0, width = 0;
  kernels::Activation act = kernels::Activation::gelu;
  NormOptions norm{NormKind::layer, 1e-5f, true};
  bool qkv_bias = true, out_bias = true;
  bool gated = false;  // gate_proj, up_proj, down_proj with biases in place of fc1, fc2
  RopeAngles rope;     // empty: none
  bool rope_interleaved = false;
  int segments = 0;
  std::string norm1 = "layer_norm1", norm2 = "layer_norm2", attention = "self_attn", out = "out_proj";
  std::string gate1, gate2;  // of the two branches; empty: none
  std::string fused;         // the name of q, k and v in one matrix; empty: q_proj, k_proj, v_proj
};
Value encoder_layer(PlanBuilder& b, Scope w, Value x, const EncoderLayerOptions& o);

// The patch convolution as a product: stored [hidden, channels, (frames,) patch, patch], read as [hidden, patch_size].
Value patch_embedding(PlanBuilder& b, std::string tensor, std::vector<int64_t> shape, bool bias,
                      std::string bias_tensor = "");

}  // namespace weft::blocks
