// Tensor names as the recipes use them, whichever version of transformers saved the file.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "checkpoint/builder.h"

namespace weft {

// Renames a folder's tensors for the architecture that `config` names:
//   - names of transformers 4.52 and later ("model.language_model.layers...", "model.vision_tower...", towers without
//     "vision_model."), and names saved from the bare decoder ("layers...", "embed_tokens...")
//   - experts in one tensor ("experts.gate_up_proj" [experts, 2 width, hidden], "experts.down_proj"), as views of each
//     expert's part
//   - the output matrix alone of a pair that is tied: it then is the embedding
// A name whose new form is taken already stays as it is.
Status apply_names(CheckpointBuilder& builder, const Json& config);
// What one tensor is called then.
std::string name_of_tensor(const Json& config, std::string_view name);

}  // namespace weft
