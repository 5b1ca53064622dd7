// A model that proposes tokens for another one: its plans and weights, ready to run beside the target.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/speculation.h"
#include "runtime/model.h"

namespace weft {

// One plan of a draft, every rank's share of it. Its cache entry for the target's row t (with the token at t + 1 +
// depth) lies at that token's position.
struct DraftStage {
  Plan whole;  // as recorded, with its formats
  PlanShares shares;
};

// Not copied: weights point into the target's, which must outlive it.
struct DraftModel {
  DraftMethod method = DraftMethod::none;
  std::string name;  // for messages: the file or folder
  // One, or one for each depth of multi-token prediction: depth d's rows have the token d behind the first's, and the
  // state that depth d - 1 left in the row.
  std::vector<DraftStage> stages;
  const kernels::CpuTable* table = nullptr;
  kernels::WeightForm form = kernels::WeightForm::f32;
  DType kv_dtype = DType::f32;      // of its cache groups: f32, bf16 or i8
  std::vector<int> taps;            // what it reads of the target (ModelOptions::taps)
  std::vector<int32_t> target_ids;  // the target's id of each of its tokens; empty: the same
  int vocab = 0;                    // columns of its logits
  int ids = 0;                      // token ids that it can read are below this
  int max_positions = 0;
  std::string max_positions_from;
  FileStamps files;              // that it was read from, where they are its own
  std::unique_ptr<Model> model;  // draft_model: what the stage's plan and weights are of

  bool reads_states() const { return method != DraftMethod::draft_model; }
  int64_t weight_bytes() const;        // that are its own
  int64_t kv_bytes_per_token() const;  // while every layer keeps it
};

// What must be known of a draft before its target is loaded.
struct DraftInfo {
  DraftMethod method =
      DraftMethod::none;  // what "auto" is for this target: mtp where it has the layers, else as it was
  std::vector<int> taps;  // for ModelOptions of the target
};

// `target`: the path of the target's checkpoint. Opens it only where the method asks for it; errors name the draft.
Result<DraftInfo> inspect_draft(const SpeculationOptions& options, const std::string& target,
                                const ModelOptions& target_options);

// The draft for a target that was loaded with the taps of inspect_draft(). `ranks` pack the weights and run them
// later: the target's, or as many of its own. In one plan with the target (mtp, eagle3 unless one_model is false)
// everything has the target's form; else options.dtype counts. Errors: what does not fit the target (hidden size,
// vocabulary, tokenizer, layers), and all tensors that are missing together.
Result<DraftModel> load_draft(const SpeculationOptions& options, const Model& target,
                              const ModelOptions& target_options, const RankTeam& ranks);

}  // namespace weft
