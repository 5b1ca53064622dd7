#include "runtime/draft_model.h"

#include <algorithm>
#include <utility>

#include "models/drafts.h"
#include "models/models.h"
#include "plan/cpu_executor.h"
#include "plan/weight_formats.h"
#include "runtime/same_tokenizer.h"

namespace weft {

using kernels::WeightForm;
using models::DraftTarget;

namespace {

Result<std::shared_ptr<const Checkpoint>> open(const std::string& path, const ModelOptions& options) {
  return options.dummy ? Checkpoint::open_dummy(path) : Checkpoint::open(path, options.load_mode);
}

std::string described(const SpeculationOptions& options) {
  return options.method == DraftMethod::mtp ? "multi-token prediction" : "the draft " + options.model;
}

// The error with the draft's name, unless it says already where it comes from.
Error named(Error error, const SpeculationOptions& options) {
  const bool says = !options.model.empty() && error.message().find(options.model) != std::string::npos;
  return says ? error : std::move(error).with(described(options));
}

// The sizes of the target that its configuration tells.
Result<DraftTarget> read_target(const HfConfig& config) {
  DraftTarget target;
  const HfConfig c = models::text_config(config);
  target.hidden = c.count("hidden_size"), target.layers = c.count("num_hidden_layers");
  target.vocab = target.embed_rows = c.count("vocab_size");
  WEFT_RETURN_IF_ERROR(config.status());
  WEFT_RETURN_IF_ERROR(c.status());
  return target;
}

// The matrix behind the logits, past what is applied to them.
int head_matrix(const Plan& plan) {
  for (size_t i = plan.ops.size(); i-- > 0;)
    if (const auto* linear = std::get_if<LinearOp>(&plan.ops[i].kind); linear && plan.ops[i].out->rows == Rows::outputs)
      return linear->matrix;
  return -1;
}

const EmbedOp* token_embedding(const Plan& plan) {
  for (const Op& op : plan.ops)
    if (const auto* embed = std::get_if<EmbedOp>(&op.kind); embed && embed->ids == IdSource::tokens) return embed;
  return nullptr;
}

size_t table_of(const Plan& plan, const TensorRows& table) {
  return static_cast<size_t>(std::ranges::find(plan.tables, table) - plan.tables.begin());
}

// The parts of the loaded target that a draft may borrow.
struct Lender {
  DraftTarget target;
  std::vector<Weights::Lent> lent;  // of each rank, then of all together (PlanShares::alone)
};

Result<Lender> find_parts(const Model& model) {
  Lender lender;
  WEFT_TRY(lender.target, read_target(HfConfig::of(*model.checkpoint)));
  DraftTarget& t = lender.target;
  const int head = head_matrix(model.whole);
  const EmbedOp* embed = token_embedding(model.whole);
  if (head < 0 || !embed || model.whole.head != HeadKind::lm)
    return fail(Code::unsupported, model.architecture, " does not generate text, so nothing can be drafted for it");
  t.vocab = model.vocab, t.embed_scale = embed->scale;
  t.head = format_of(model.whole.matrices[head], model.form);
  if (embed->matrix >= 0) t.tied_embedding = format_of(model.whole.matrices[embed->matrix], model.form);
  t.embed_rows = embed->ids_below;
  const auto lend = [&](const PlanShare& share) {
    Weights::Lent& lent = lender.lent.emplace_back();
    const int own = head_matrix(share.plan);
    if (own < 0) return;  // of an earlier stage, which makes no drafts
    lent.head = share.weights.matrices[own];
    if (embed->matrix >= 0) lent.embedding = lent.head;
    else lent.table = share.weights.tables[table_of(share.plan, model.whole.tables[embed->table])];
  };
  for (const PlanShare& share : model.shares.ranks) lend(share);
  if (model.shares.alone) lend(*model.shares.alone);
  return lender;
}

bool packs(const ModelOptions& options, const DraftModel& draft) {
  if (draft.form != WeightForm::bf16 || options.quantize != Quantize::none) return false;
  return options.pack_weights == PackWeights::automatic ? draft.table->prefers_bf12
                                                        : options.pack_weights == PackWeights::on;
}

Result<DraftStage> load_stage(Plan recorded, const std::shared_ptr<const Checkpoint>& checkpoint,
                              const DraftModel& draft, const Lender& lender, const ModelOptions& options,
                              const RankTeam& ranks) {
  recorded = choose_formats(std::move(recorded), *checkpoint,
                            {draft.form, options.quantize, options.dequantize, options.round_inputs});
  DraftStage stage;
  const LoadOptions load{.form = draft.form,
                         .quantize = options.quantize,
                         .pack = packs(options, draft),
                         .packed_cache = options.packed_cache};
  WEFT_TRY(stage.shares, load_shares(recorded, checkpoint, *draft.table, ranks, load, PlanPart::draft, lender.lent));
  stage.whole = std::move(recorded);
  return stage;
}

// A draft in one plan with its target has the target's form.
Status choose_types(const SpeculationOptions& options, const Model& target, const ModelOptions& target_options,
                    const Checkpoint& checkpoint, const HfConfig& config, DraftModel& draft) {
  draft.form = target.form, draft.kv_dtype = target.kv_dtype;
  if (options.method == DraftMethod::mtp || options.one_model) return {};
  const bool same = options.dtype == ComputeType::automatic && target_options.dtype != ComputeType::automatic;
  draft.form = choose_form(same ? target_options.dtype : options.dtype, checkpoint, config);
  WEFT_TRY(draft.kv_dtype, choose_kv_dtype(target_options.kv_dtype, draft.form));
  return {};
}

Status load_eagle3(const SpeculationOptions& options, const Model& target, const ModelOptions& target_options,
                   const RankTeam& ranks, DraftModel& draft) {
  WEFT_TRY(const Lender lender, find_parts(target));
  WEFT_TRY(const std::shared_ptr<const Checkpoint> checkpoint, open(options.model, target_options));
  const HfConfig config = HfConfig::of(*checkpoint, target_options.max_seq_len);
  WEFT_TRY(draft.taps, models::eagle3_taps(config, lender.target, options.layers));
  WEFT_TRY(Plan plan, models::eagle3_plan(config, *checkpoint, lender.target, static_cast<int>(draft.taps.size())));
  WEFT_TRY(draft.target_ids, models::eagle3_token_ids(config, *checkpoint, lender.target.vocab));
  WEFT_RETURN_IF_ERROR(choose_types(options, target, target_options, *checkpoint, config, draft));
  WEFT_TRY(DraftStage stage, load_stage(std::move(plan), checkpoint, draft, lender, target_options, ranks));
  draft.stages.push_back(std::move(stage));
  draft.files = checkpoint->stamps();
  return {};
}

Status load_mtp(const Model& target, const ModelOptions& target_options, const RankTeam& ranks, DraftModel& draft) {
  WEFT_TRY(const Lender lender, find_parts(target));
  const HfConfig config = HfConfig::of(*target.checkpoint, target_options.max_seq_len);
  WEFT_TRY(std::vector<Plan> plans, models::mtp_plans(config, *target.checkpoint, lender.target));
  draft.taps = {lender.target.layers};
  draft.form = target.form, draft.kv_dtype = target.kv_dtype;
  for (Plan& plan : plans) {
    WEFT_TRY(DraftStage stage, load_stage(std::move(plan), target.checkpoint, draft, lender, target_options, ranks));
    draft.stages.push_back(std::move(stage));
  }
  return {};
}

Status load_whole(const SpeculationOptions& options, const Model& target, const ModelOptions& target_options,
                  const RankTeam& ranks, DraftModel& draft) {
  ModelOptions own = target_options;
  own.taps.clear(), own.part = PlanPart::draft;
  if (options.dtype != ComputeType::automatic) own.dtype = options.dtype;
  WEFT_TRY(Model model, load_model(options.model, ranks, own));
  if (model.whole.head != HeadKind::lm)
    return fail(Code::invalid_argument, model.architecture, " does not generate text");
  if (model.whole.cross_group)
    return fail(Code::unsupported, model.architecture, " has cross attention, which drafts are made without");
  if (model.vocab != target.vocab)
    return fail(Code::invalid_argument, "vocab_size is ", model.vocab, ", the target's is ", target.vocab);
  WEFT_RETURN_IF_ERROR(check_same_tokens(*model.checkpoint, *target.checkpoint));
  draft.files = model.checkpoint->stamps();
  draft.form = model.form, draft.kv_dtype = model.kv_dtype;
  draft.max_positions = model.max_positions, draft.max_positions_from = model.max_positions_from;
  draft.stages.push_back({model.whole, std::move(model.shares)});
  draft.model = std::make_unique<Model>(std::move(model));
  return {};
}

}  // namespace

int64_t DraftModel::weight_bytes() const {
  int64_t bytes = 0;
  for (const DraftStage& stage : stages)
    for (const PlanShare& share : stage.shares.ranks) bytes += share.weights.bytes;
  return bytes;
}

int64_t DraftModel::kv_bytes_per_token() const {
  int64_t bytes = 0;
  for (const DraftStage& stage : stages)
    for (const PlanShare& share : stage.shares.ranks) bytes += weft::kv_bytes_per_token(share.plan.groups, kv_dtype);
  return bytes;
}

Result<DraftInfo> inspect_draft(const SpeculationOptions& options, const std::string& target,
                                const ModelOptions& target_options) {
  DraftInfo info{options.method, {}};
  const bool automatic = options.method == DraftMethod::automatic;
  if (!automatic && options.method != DraftMethod::eagle3 && options.method != DraftMethod::mtp) return info;
  WEFT_TRY(const std::shared_ptr<const Checkpoint> checkpoint, open(target, target_options));
  const HfConfig config = HfConfig::of(*checkpoint);
  const auto sizes = read_target(config);
  if (!sizes.ok() && automatic) return info;
  if (!sizes.ok()) return sizes.error();
  if (options.method != DraftMethod::eagle3) {
    const auto plans = models::mtp_plans(config, *checkpoint, *sizes);
    if (plans.ok()) return DraftInfo{DraftMethod::mtp, {sizes->layers}};
    if (automatic) return info;
    return named(plans.error(), options);
  }
  WEFT_TRY(const std::shared_ptr<const Checkpoint> draft, open(options.model, target_options));
  auto taps = models::eagle3_taps(HfConfig::of(*draft), *sizes, options.layers);
  if (!taps.ok()) return named(std::move(taps).error(), options);
  info.taps = std::move(taps).value();
  return info;
}

Result<DraftModel> load_draft(const SpeculationOptions& options, const Model& target,
                              const ModelOptions& target_options, const RankTeam& ranks) {
  DraftModel draft;
  draft.method = options.method, draft.name = described(options), draft.table = target.table;
  Status loaded;
  switch (options.method) {
    case DraftMethod::eagle3: loaded = load_eagle3(options, target, target_options, ranks, draft); break;
    case DraftMethod::mtp: loaded = load_mtp(target, target_options, ranks, draft); break;
    case DraftMethod::draft_model: loaded = load_whole(options, target, target_options, ranks, draft); break;
    default: return fail(Code::invalid_argument, "this kind of speculation has no model");
  }
  if (!loaded.ok()) return named(std::move(loaded).error(), options);
  draft.vocab = draft.stages.back().whole.output.cols;
  draft.ids = token_embedding(draft.stages.front().whole)->ids_below;
  return draft;
}

}  // namespace weft
