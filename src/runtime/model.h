// A model ready to run: the checkpoint, its recorded plan, the weights in packed form and where the special tokens are.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/hf_config.h"
#include "kernels/kernels.h"
#include "models/vision.h"
#include "plan/adapter_table.h"
#include "plan/plan.h"
#include "plan/rank_team.h"
#include "plan/ranked_executor.h"

namespace weft {

// A draft is made by the ranks of the last pipeline stage alone.
enum class PlanPart : uint8_t { target, draft };

struct ModelOptions {
  ComputeType dtype = ComputeType::automatic;
  KvCacheType kv_dtype = KvCacheType::automatic;  // fp8 is an error
  // positions that the engine makes room for; 0: all of the model's
  int max_seq_len = 0;
  bool dummy = false;  // random weights
  LoadMode load_mode = LoadMode::mmap;
  std::string mmproj;  // see Checkpoint::open
  Quantize quantize = Quantize::none;
  bool dequantize = false;    // see FormatOptions
  bool round_inputs = false;  // likewise
  PackWeights pack_weights = PackWeights::automatic;
  std::shared_ptr<const PackedCache> packed_cache;  // null: weights are packed anew each time
  std::vector<int> taps;                            // see blocks::build_model
  PlanPart part = PlanPart::target;
  int max_lora_rank = 0;  // adapters up to this rank may be added; 0: none
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
};

struct Model {
  std::shared_ptr<const Checkpoint> checkpoint;  // once all is loaded: without its files
  std::string architecture;
  Plan whole;  // as recorded, with its formats: what all ranks together compute
  PlanShares shares;
  const kernels::CpuTable* table = nullptr;
  kernels::WeightForm form = kernels::WeightForm::f32;
  DType kv_dtype = DType::f32;                // f32, bf16 or i8
  std::optional<models::VisionTower> vision;  // its plan after the passes
  Weights vision_weights;
  // Adapters: none where `adapters` is not set. The table is shared by all that run the model.
  std::optional<AdapterForm> adapters;
  std::map<std::string, AdapterModule> adapter_modules;
  std::shared_ptr<AdapterTable> adapter_table;
  int vocab = 0;  // token ids are below this; columns of the logits
  int max_positions = 0;
  std::string max_positions_from;      // the keys and the file that say so
  bool learned_positions = false;      // there are no positions beyond max_positions
  std::vector<int32_t> eos_token_ids;  // each ends an answer: those of generation_config.json and config.json, and more

  // Of the first rank. What a plan takes and gives, its kinds of ops and of caches are the same on all ranks.
  const Plan& plan() const { return shares.first().plan; }
  const Weights& weights() const { return shares.first().weights; }
  // Adds to eos_token_ids those that are not there yet; ids outside the vocabulary are left out with a warning.
  void add_end_ids(const std::vector<int32_t>& ids);
  // Of keys and values that live for one step (encoders), where nothing is to be gained from 8 bits: f32 or bf16.
  DType local_kv_dtype() const;
  // Bytes that one token takes in the cache while every layer keeps it, on all ranks of this process together.
  int64_t kv_bytes_per_token() const;
  int64_t weight_bytes() const;  // likewise
  // See Weights::check(). Asked behind every step: what was computed from damaged weights is not an answer.
  Status check_weights() const;
};

// Bytes that one token takes in the cache while every layer of these groups keeps it.
int64_t kv_bytes_per_token(const std::vector<LayerGroup>& groups, DType dtype);

// Opens and reads `path`, for all ranks of this process. Their threads pack the weights.
Result<Model> load_model(const std::string& path, const RankTeam& ranks, const ModelOptions& options);
// A rank's share of a recorded plan, before the passes.
Result<Plan> share_of(const Plan& whole, RankLayout layout, int rank, PlanPart part);
// Every rank's share of a recorded plan whose formats are chosen, through the passes and with its weights. `lent`: of a
// draft, what each rank has of the target, and what there is of it together.
Result<PlanShares> load_shares(const Plan& recorded, std::shared_ptr<const Checkpoint> checkpoint,
                               const kernels::CpuTable& table, const RankTeam& ranks, LoadOptions options,
                               PlanPart part, std::span<const Weights::Lent> lent = {},
                               const AdapterForm* adapters = nullptr);
// What the ranks of this process have of an adapter that check_adapter() found to be for the model.
Result<std::shared_ptr<const LoadedAdapter>> load_adapter(const Model& model, const Adapter& adapter);
// The form that products take their weights in, and the type of the cache, where the options leave them open.
kernels::WeightForm choose_form(ComputeType dtype, const Checkpoint& checkpoint, const HfConfig& config);
Result<DType> choose_kv_dtype(KvCacheType type, kernels::WeightForm form);
// The recorded plan alone, without weights (for `weft plan` and `weft inspect`).
Result<Plan> plan_of(const Checkpoint& checkpoint);

}  // namespace weft
