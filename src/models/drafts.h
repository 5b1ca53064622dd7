// Draft models that read a target's hidden states: EAGLE-3 heads, and the layers for multi-token prediction that
// DeepSeek-V3 has behind its last. Each is a plan of its own, recorded with the same blocks as any model.
//
// Row t of a draft has the target's state at position t and the token at t + 1, and predicts the token at t + 2. What
// it keeps in the cache is stored at position t + 1 (of the token), so that a block's entries depend on the tokens up
// to the block's end alone.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/hf_config.h"
#include "plan/plan_builder.h"

namespace weft::models {

// What a draft plan must know of its target: sizes, and how the weights that it may borrow are held.
struct DraftTarget {
  int hidden = 0, layers = 0, vocab = 0;
  int embed_rows = 0;
  float embed_scale = 1.0f;
  std::optional<kernels::WeightFormat> tied_embedding;  // a matrix in this format; else a table
  kernels::WeightFormat head;
};

// The layers after which an EAGLE-3 head reads the target's residual stream, as counts of layers, in the order of the
// features. `wanted`: the user's, in place of the checkpoint's; empty: none. Errors name the key and the number.
//
// Two ways to count are in use. The key eagle_aux_hidden_state_layer_ids of the file itself counts layers (0: the
// embeddings), as vLLM and speculators do; the same key inside eagle_config names the layer whose output it is, as
// SGLang does. Without either: 2, half of the layers, all but three.
Result<std::vector<int>> eagle3_taps(const HfConfig& config, const DraftTarget& target, const std::vector<int>& wanted);
// Errors: no EAGLE-3 head; hidden size, vocabulary or number of features that do not fit the target.
Result<Plan> eagle3_plan(const HfConfig& config, const Checkpoint& checkpoint, const DraftTarget& target, int features);
// The target's token ids by the draft's own; empty: they are the same.
Result<std::vector<int32_t>> eagle3_token_ids(const HfConfig& config, const Checkpoint& checkpoint, int vocab);

// One plan per layer for multi-token prediction; depth d predicts the token d + 2 behind its row's, from the state that
// depth d - 1 left in that row. They read the target's own checkpoint and borrow its embedding and head, of which
// published files hold copies. Errors: a model without such layers.
Result<std::vector<Plan>> mtp_plans(const HfConfig& config, const Checkpoint& checkpoint, const DraftTarget& target);

// The target's embedding and head as parts of a draft's plan.
Value borrow_embedding(PlanBuilder& b, const DraftTarget& target);
Matrix borrow_head(const DraftTarget& target);

}  // namespace weft::models
