#include "runtime/model.h"

#include <algorithm>

#include "base/log.h"
#include "models/models.h"
#include "plan/cpu_executor.h"

namespace weft {

using kernels::WeightForm;

namespace {

Result<const kernels::CpuTable*> choose_table() {
  const kernels::CpuTable* table = kernels::cpu_table();
  if (!table)
    return fail(Code::invalid_argument, "WEFT_ISA names an instruction set that this machine or build does not have");
  return table;
}

// Automatic: float32 files run in float32, all others in bfloat16.
WeightForm choose_form(ComputeType dtype, const Checkpoint& checkpoint, const HfConfig& config) {
  if (dtype == ComputeType::float32) return WeightForm::f32;
  if (dtype == ComputeType::bfloat16) return WeightForm::bf16;
  const std::string stored =
      config.has("text_config") && config.dtype().empty() ? config.sub("text_config").dtype() : config.dtype();
  return stored == "float32" && !checkpoint.is_gguf() ? WeightForm::f32 : WeightForm::bf16;
}

DType kv_dtype_of(WeightForm form) { return form == WeightForm::f32 ? DType::f32 : DType::bf16; }

Result<DType> choose_kv_dtype(KvCacheType type, WeightForm form) {
  switch (type) {
    case KvCacheType::automatic: return kv_dtype_of(form);
    case KvCacheType::float32: return DType::f32;
    case KvCacheType::bfloat16: return DType::bf16;
    case KvCacheType::int8: return DType::i8;
    case KvCacheType::fp8: break;
  }
  return fail(Code::unsupported, "--kv-cache-dtype fp8 is not available on this device yet; int8 is")
      .about("kv-cache-dtype");
}

// generation_config.json decides where generation ends; ids outside the vocabulary cannot be generated.
std::vector<int32_t> end_ids(const Checkpoint& checkpoint, const HfConfig& config, int vocab) {
  std::vector<int> ids;
  if (!checkpoint.generation_config().is_null()) {
    const HfConfig generation(checkpoint.generation_config(), "generation_config.json");
    ids = generation.eos_token_ids();
    if (const Status status = generation.status(); !status.ok()) {
      log_warning("generation_config.json is ignored: ", status.error().message());
      ids.clear();
    }
  }
  if (ids.empty()) ids = config.eos_token_ids();
  if (ids.empty()) ids = models::text_config(config).eos_token_ids();
  std::vector<int32_t> kept;
  for (int id : ids) {
    if (id < vocab) kept.push_back(id);
    else log_warning("eos_token_id ", id, " is outside the vocabulary of ", vocab, " and ignored");
  }
  return kept;
}

}  // namespace

DType Model::local_kv_dtype() const { return kv_dtype == DType::i8 ? kv_dtype_of(form) : kv_dtype; }

int64_t Model::kv_bytes_per_token() const {
  int64_t bytes = 0;
  for (const LayerGroup& group : plan.groups) {
    CacheSpec spec = group.spec;
    spec.dtype = kv_dtype;
    bytes += int64_t{group.layers} * spec.kv_heads * bytes_per_token(spec);
  }
  return bytes;
}

Result<Plan> plan_of(const Checkpoint& checkpoint) {
  const HfConfig config = HfConfig::of(checkpoint);
  return models::build_plan(config);
}

namespace {

Result<bool> choose_packing(const ModelOptions& options, const Model& model) {
  const bool possible = model.form == WeightForm::bf16 && options.quantize == Quantize::none;
  if (options.pack_weights != PackWeights::on)
    return options.pack_weights == PackWeights::automatic && possible && model.table->prefers_bf12;
  if (!possible)
    return fail(Code::invalid_argument, "--pack-weights on is for bfloat16 weights that are not quantised")
        .about("pack-weights");
  if (!model.table->pack_panel_bf12)
    return fail(Code::unsupported, "--pack-weights on: the kernels for ", model.table->isa,
                " have no products with packed weights, those for AVX-512 BF16 have")
        .about("pack-weights");
  return true;
}

}  // namespace

Result<Model> load_model(const std::string& path, ThreadTeam& team, const ModelOptions& options) {
  Model model;
  WEFT_TRY(model.checkpoint, options.dummy ? Checkpoint::open_dummy(path) : Checkpoint::open(path));
  const HfConfig config = HfConfig::of(*model.checkpoint, options.max_seq_len);
  WEFT_TRY(model.table, choose_table());
  WEFT_TRY(Plan recorded, models::build_plan(config));
  model.architecture = recorded.architecture;
  model.form = choose_form(options.dtype, *model.checkpoint, config);
  WEFT_TRY(model.kv_dtype, choose_kv_dtype(options.kv_dtype, model.form));
  models::ContextLimit limit = models::context_limit(config);
  model.max_positions = limit.positions, model.learned_positions = limit.learned;
  model.max_positions_from = limit.keys + (model.checkpoint->is_gguf() ? " of " : " in config.json of ") + path;
  WEFT_RETURN_IF_ERROR(config.status());
  recorded = choose_formats(std::move(recorded), *model.checkpoint, {model.form, options.quantize, options.dequantize});
  model.plan = prepare_plan(std::move(recorded), *model.table, model.form);
  model.vocab =
      model.plan.head == HeadKind::lm ? model.plan.output.cols : models::text_config(config).count("vocab_size");
  model.eos_token_ids = end_ids(*model.checkpoint, config, model.vocab);
  WEFT_RETURN_IF_ERROR(config.status());
  WEFT_TRY(const bool pack, choose_packing(options, model));
  LoadOptions load{.form = model.form, .progress = options.progress, .quantize = options.quantize, .pack = pack};
  auto weights = load_weights(model.plan, model.checkpoint, *model.table, team, load);
  if (!weights.ok()) return std::move(weights).error().with(model.architecture);
  model.weights = std::move(weights).value();
  WEFT_TRY(model.vision, models::build_vision(config));
  if (model.vision) {
    model.vision->plan = prepare_plan(std::move(model.vision->plan), *model.table, model.form);
    load.quantize = Quantize::none;
    auto vision = load_weights(model.vision->plan, model.checkpoint, *model.table, team, load);
    if (!vision.ok()) return std::move(vision).error().with(model.architecture);
    model.vision_weights = std::move(vision).value();
  }
  return model;
}

}  // namespace weft
