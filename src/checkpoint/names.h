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

// An expert's own matrix among the rows of a fused tensor [experts * rows, cols].
struct ExpertPart {
  std::string name;  // with its ".weight"
  int64_t first_row = 0, rows = 0;
};
// The parts of a fused tensor ("....experts.gate_up_proj", of `rows` rows for each expert) for the architecture that
// `config` names; nothing if it has no experts of that name.
std::vector<ExpertPart> expert_parts(const Json& config, std::string_view tensor, int64_t experts, int64_t rows);

}  // namespace weft
