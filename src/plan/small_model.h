// Small models of every shape that ranks share differently, for the tests of split.cc: two layers of attention and of
// what follows it, recorded as blocks/ records them.
#pragma once

#include <string>

#include "plan/plan_builder.h"

namespace weft {

struct SmallModel {
  enum class Mlp : uint8_t { gated, plain, experts, experts_of_one_tensor, experts_of_scaled_rows };
  std::string name;
  int hidden = 64, heads = 8, kv_heads = 8, dim = 16, width = 128, vocab = 200;
  Mlp mlp = Mlp::gated;
  int experts = 8, chosen = 3;
  bool fused = false;          // one tensor each for q, k, v and for gate, up
  bool biases = false;         // of all matrices
  bool row_norms = false;      // one norm over all heads
  bool head_norms = false;     // a norm of each head
  bool tied = false;           // head and embedding
  bool latent = false;         // latent attention, of `heads`
  bool shared_expert = false;  // besides the experts
  bool skips = false;          // the second layer has a matrix in the place of its attention, and no MLP
  bool cross = false;          // a layer between the two, for steps with images alone (Mllama)
  bool taps = false;           // the stream before and behind the second layer is kept
  float soft_cap = 0;          // of the logits
  HeadKind head = HeadKind::lm;
};

Plan record(const SmallModel& m);

}  // namespace weft
