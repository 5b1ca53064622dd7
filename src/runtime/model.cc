#include "runtime/model.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "models/models.h"
#include "plan/split.h"
#include "plan/stage.h"

namespace weft {

using kernels::WeightForm;

namespace {

Result<const kernels::CpuTable*> choose_table() {
  const kernels::CpuTable* table = kernels::cpu_table();
  if (!table)
    return fail(Code::invalid_argument, "WEFT_ISA names an instruction set that this machine or build does not have");
  return table;
}

DType kv_dtype_of(WeightForm form) { return form == WeightForm::f32 ? DType::f32 : DType::bf16; }

std::vector<int> end_ids_of(const HfConfig& config) {
  std::vector<int> ids = config.eos_token_ids();
  const std::vector<int> inner = models::text_config(config).eos_token_ids();
  ids.insert(ids.end(), inner.begin(), inner.end());
  return ids;
}

// `ids` were read from `file`, which the model can do without: if it is broken there, they are ignored.
std::vector<int> unless_broken(std::vector<int> ids, const HfConfig& file, const char* name) {
  if (file.status().ok()) return ids;
  log_warning(name, " is ignored: ", file.status().error().message());
  return {};
}

std::vector<int> generation_end_ids(const Json& file) {
  if (file.is_null()) return {};
  const HfConfig config(file, "generation_config.json");
  return unless_broken(config.eos_token_ids(), config, "generation_config.json");
}

// Every id that one of the files names ends an answer.
std::vector<int32_t> end_ids(const Checkpoint& checkpoint, const HfConfig& config) {
  std::vector<int> ids = generation_end_ids(checkpoint.generation_config());
  std::vector<int> more;
  if (ids.empty()) {
    more = end_ids_of(config);
  } else {
    const HfConfig again(checkpoint.config(), "config.json");
    more = unless_broken(end_ids_of(again), again, "eos_token_id of config.json");
  }
  ids.insert(ids.end(), more.begin(), more.end());
  return {ids.begin(), ids.end()};
}

}  // namespace

// Automatic: float32 files run in float32, all others in bfloat16.
WeightForm choose_form(ComputeType dtype, const Checkpoint& checkpoint, const HfConfig& config) {
  if (dtype == ComputeType::float32) return WeightForm::f32;
  if (dtype == ComputeType::bfloat16) return WeightForm::bf16;
  const std::string stored =
      config.has("text_config") && config.dtype().empty() ? config.sub("text_config").dtype() : config.dtype();
  return stored == "float32" && !checkpoint.is_gguf() ? WeightForm::f32 : WeightForm::bf16;
}

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

void Model::add_end_ids(const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) {
    if (id >= vocab) log_warning("eos_token_id ", id, " is outside the vocabulary of ", vocab, " and ignored");
    else if (id >= 0 && std::ranges::find(eos_token_ids, id) == eos_token_ids.end()) eos_token_ids.push_back(id);
  }
}

DType Model::local_kv_dtype() const { return kv_dtype == DType::i8 ? kv_dtype_of(form) : kv_dtype; }

int64_t Model::kv_bytes_per_token() const {
  int64_t bytes = 0;
  for (const PlanShare& share : shares.ranks) bytes += weft::kv_bytes_per_token(share.plan.groups, kv_dtype);
  return bytes;
}

Status Model::check_weights() const {
  for (const PlanShare& share : shares.ranks) WEFT_RETURN_IF_ERROR(share.weights.check());
  if (shares.alone) WEFT_RETURN_IF_ERROR(shares.alone->weights.check());
  return vision_weights.check();
}

int64_t Model::weight_bytes() const {
  int64_t bytes = 0;
  for (const PlanShare& share : shares.ranks) bytes += share.weights.bytes;
  return bytes;
}

int64_t kv_bytes_per_token(const std::vector<LayerGroup>& groups, DType dtype) {
  int64_t bytes = 0;
  for (const LayerGroup& group : groups) {
    CacheSpec spec = group.spec;
    spec.dtype = dtype;
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

Result<Plan> share_of(const Plan& whole, RankLayout layout, int rank, PlanPart part) {
  if (part == PlanPart::target) return split_plan(whole, layout, rank);
  const bool last_stage = rank / layout.tensor == layout.pipeline - 1;
  const int place = rank % layout.tensor;
  layout.pipeline = 1;
  WEFT_TRY(Plan share, split_plan(whole, layout, place));
  return last_stage ? share : without_ops(std::move(share));
}

Result<PlanShares> load_shares(const Plan& recorded, std::shared_ptr<const Checkpoint> checkpoint,
                               const kernels::CpuTable& table, const RankTeam& ranks, LoadOptions options,
                               PlanPart part, std::span<const Weights::Lent> lent, const AdapterForm* adapters) {
  PlanShares shares;
  // They point at each other.
  shares.ranks.reserve(static_cast<size_t>(ranks.ranks()));
  const auto load = [&](Plan plan, size_t number) -> Result<PlanShare> {
    PlanShare share;
    if (adapters) share.adapted = prepare_plan(plan, table, options.form, adapters);
    share.plan = prepare_plan(std::move(plan), table, options.form);
    if (!lent.empty()) options.lent = lent[number];
    const auto begin = std::chrono::steady_clock::now();
    WEFT_TRY(share.weights, load_weights(share.plan, checkpoint, table, ranks.threads(), options));
    share.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return share;
  };
  for (int local = 0; local < ranks.ranks(); ++local) {
    WEFT_TRY(Plan plan, share_of(recorded, ranks.layout(), ranks.first_rank() + local, part));
    // Threads of several NUMA nodes read what lies near them.
    if (ranks.threads().spans_nodes()) options.others.clear();
    options.first_thread = local * ranks.threads_per_rank(), options.threads = ranks.threads_per_rank();
    WEFT_TRY(PlanShare share, load(std::move(plan), static_cast<size_t>(local)));
    shares.ranks.push_back(std::move(share));
    options.others.push_back({&shares.ranks.back().plan, &shares.ranks.back().weights});
  }
  if (ranks.layout().homes() == 1 || ranks.layout().pipeline > 1 || ranks.processes()) return shares;
  if (cuts_experts(recorded, ranks.layout())) return shares;  // no rank has a whole expert
  options.others.clear();
  for (const PlanShare& share : shares.ranks) options.others.push_back({&share.plan, &share.weights});
  WEFT_TRY(shares.alone, load(recorded, shares.ranks.size()));
  return shares;
}

Result<std::shared_ptr<const LoadedAdapter>> load_adapter(const Model& model, const Adapter& adapter) {
  const auto loaded = std::make_shared<LoadedAdapter>();
  const auto pack = [&](const PlanShare& share) {
    return pack_adapter(*share.adapted, adapter, *model.table, *model.adapters);
  };
  for (const PlanShare& share : model.shares.ranks) {
    WEFT_TRY(AdapterWeights weights, pack(share));
    loaded->ranks.push_back(std::move(weights));
  }
  if (model.shares.alone) {
    WEFT_TRY(loaded->alone, pack(*model.shares.alone));
  }
  return std::shared_ptr<const LoadedAdapter>(loaded);
}

Result<Model> load_model(const std::string& path, const RankTeam& ranks, const ModelOptions& options) {
  Model model;
  WEFT_TRY(model.checkpoint, options.dummy ? Checkpoint::open_dummy(path, options.mmproj)
                                           : Checkpoint::open(path, options.load_mode, options.mmproj));
  const HfConfig config = HfConfig::of(*model.checkpoint, options.max_seq_len);
  WEFT_TRY(model.table, choose_table());
  WEFT_TRY(Plan recorded, models::build_plan(config, options.taps));
  model.architecture = recorded.architecture;
  model.form = choose_form(options.dtype, *model.checkpoint, config);
  WEFT_TRY(model.kv_dtype, choose_kv_dtype(options.kv_dtype, model.form));
  models::ContextLimit limit = models::context_limit(config);
  model.max_positions = limit.positions, model.learned_positions = limit.learned;
  model.max_positions_from = limit.keys + (model.checkpoint->is_gguf() ? " of " : " in config.json of ") + path;
  WEFT_RETURN_IF_ERROR(config.status());
  if (options.round_inputs) {
    if (options.quantize != Quantize::none)
      return fail(Code::invalid_argument,
                  "--activation-quantization checkpoint is for weights as they are stored, and "
                  "--quantize makes others")
          .about("activation-quantization");
    WEFT_RETURN_IF_ERROR(check_input_rounding(recorded, *model.checkpoint));
  }
  model.whole = choose_formats(std::move(recorded), *model.checkpoint,
                               {model.form, options.quantize, options.dequantize, options.round_inputs});
  model.vocab =
      model.whole.head == HeadKind::lm ? model.whole.output.cols : models::text_config(config).count("vocab_size");
  model.add_end_ids(end_ids(*model.checkpoint, config));
  WEFT_RETURN_IF_ERROR(config.status());
  WEFT_TRY(const bool pack, choose_packing(options, model));
  LoadOptions load{.form = model.form,
                   .progress = options.progress,
                   .quantize = options.quantize,
                   .pack = pack,
                   .packed_cache = options.packed_cache};
  if (options.max_lora_rank > 0) {
    // A of an adapter is for the input as it was.
    for (const Op& op : model.whole.ops)
      if (std::holds_alternative<ArrangeOp>(op.kind))
        return fail(Code::unsupported, "--lora: ", op.path,
                    " reads its input in another order, scaled or rounded (act "
                    "order, factors of the input, --activation-quantization), which adapters are not made for; "
                    "--dequantize on widens the weights instead")
            .about("lora");
    model.adapters = AdapterForm{model.form, options.max_lora_rank};
    model.adapter_modules = adapter_modules(model.whole);
    model.adapter_table = std::make_shared<AdapterTable>(kMaxAdapters);
  }
  auto shares = load_shares(model.whole, model.checkpoint, *model.table, ranks, load, options.part, {},
                            model.adapters ? &*model.adapters : nullptr);
  if (!shares.ok()) return std::move(shares).error().with(model.architecture);
  model.shares = std::move(shares).value();
  WEFT_TRY(model.vision, models::build_vision(config));
  if (model.vision) {
    model.vision->plan = prepare_plan(std::move(model.vision->plan), *model.table, model.form);
    load.quantize = Quantize::none;
    auto vision = load_weights(model.vision->plan, model.checkpoint, *model.table, ranks.threads(), load);
    if (!vision.ok()) return std::move(vision).error().with(model.architecture);
    model.vision_weights = std::move(vision).value();
  }
  return model;
}

}  // namespace weft
