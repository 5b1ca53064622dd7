#include "runtime/model_runner.h"

#include <algorithm>

#include "base/check.h"
#include "comm/process_ranks.h"
#include "runtime/step_message.h"
#include "sampling/candidates.h"

namespace weft {

namespace {

// From rank 0 to the others. False: it has closed.
bool share_options(ProcessRanks& processes, RunnerOptions& o) {
  if (processes.rank() == 0) {
    ByteWriter to;
    for (const int value : {o.max_batch_size, o.max_num_tokens, o.max_outputs, o.max_seq_len, o.tokens_per_block})
      to.put(value);
    to.put_all(o.max_blocks);
    to.put(o.most_drafts), to.put(o.draft_scores);
    processes.send(to.bytes());
    return true;
  }
  const auto message = processes.receive();
  if (!message) return false;
  ByteReader from(*message);
  for (int* value : {&o.max_batch_size, &o.max_num_tokens, &o.max_outputs, &o.max_seq_len, &o.tokens_per_block})
    *value = from.take<int>();
  o.max_blocks = from.take_all<int>();
  o.most_drafts = from.take<int>(), o.draft_scores = from.take<bool>();
  return true;
}

}  // namespace

ModelRunner::ModelRunner(Model model, const RankTeam& ranks, RunnerOptions options)
    : model_(std::move(model)), ranks_(ranks), options_(std::move(options)),
      places_(static_cast<size_t>(ranks.stages())) {
  walk_ = [this](int thread) { walk(thread); };
  if (model_.adapter_table && ranks_.processes() && ranks_.processes()->rank() == 0)
    model_.adapter_table->keep_changes();
}

Result<std::unique_ptr<ModelRunner>> ModelRunner::create(Model model, std::optional<DraftModel> draft,
                                                         const RankTeam& ranks, const RankTeam& draft_ranks,
                                                         RunnerOptions options) {
  if (ranks.processes() && !share_options(*ranks.processes(), options)) return std::unique_ptr<ModelRunner>();
  std::unique_ptr<ModelRunner> runner(new ModelRunner(std::move(model), ranks, std::move(options)));
  Status ready = runner->allocate(std::move(draft), draft_ranks);
  if (ranks.processes()) ready = ranks.processes()->agree(ready);
  WEFT_RETURN_IF_ERROR(ready);
  return runner;
}

Status ModelRunner::allocate(std::optional<DraftModel> draft, const RankTeam& draft_ranks) {
  std::vector<std::vector<LayerGroup>> draft_groups;
  for (const LayerGroup& group : model_.whole.groups) groups_.push_back({group, model_.kv_dtype});
  if (draft) {
    draft_groups = ModelDrafter::groups_of(*draft);
    for (const DraftStage& stage : draft->stages)
      for (const LayerGroup& group : stage.whole.groups) groups_.push_back({group, draft->kv_dtype});
  }
  const int count = ranks_.ranks() / ranks_.stages();
  std::vector<CacheMemory> draft_caches;
  for (int s = 0; s < ranks_.stages(); ++s) {
    WEFT_TRY(std::unique_ptr<StageRunner> stage,
             StageRunner::create(model_, ranks_, {s * count, count}, options_, draft_groups,
                                 draft ? draft->kv_dtype : DType::f32));
    draft_caches.insert(draft_caches.end(), stage->draft_caches().begin(), stage->draft_caches().end());
    stages_.push_back(std::move(stage));
  }
  for (int i = 0; i < threads().size(); ++i)
    scratch_.push_back(std::make_unique<Scratch>(model_.vocab, options_.max_seq_len));
  stages_.back()->executor().summarise([this](const OutputColumns& part, std::span<std::byte> to) {
    select_candidates(part.values, part.first, as_candidates(to), scratch(part.thread));
  });
  if (draft) {
    const DrafterLimits limits{options_.max_num_tokens, options_.max_batch_size, options_.max_seq_len,
                               options_.most_drafts, options_.draft_scores};
    WEFT_TRY(drafter_, ModelDrafter::create(std::move(*draft), model_, draft_ranks, std::move(draft_caches), limits));
  }
  if (options_.measure_ops) first().executor().measure_ops();
  if (options_.trace) first().executor().trace(*options_.trace);
  return {};
}

// A draft's cache and tables are those of the last stage, behind which it runs.
void ModelRunner::apply(size_t index, const StepBatch& batch) {
  StageRunner& stage = *stages_[index];
  const bool drafts = drafter_ && index + 1 == stages_.size();
  for (const Slot slot : batch.closes) stage.close_slot(slot);
  for (const SlotOpen& open : batch.opens) {
    stage.open_slot(open.slot, open.home, open.media.get());
    if (drafts) drafter_->open(open.slot, open.home);
  }
  stage.copy_blocks(batch.copies, batch.releases);
  stage.update_tables(batch.entries);
  const int own = static_cast<int>(model_.plan().groups.size());
  for (const TableEntry& entry : batch.entries) {
    if (!drafts || entry.group < own) continue;
    std::vector<int32_t>& table = drafter_->block_table(entry.group - own, stage.home(entry.slot));
    table[static_cast<size_t>(stage.table_offset(entry.slot) + entry.number)] = entry.block;
  }
}

void ModelRunner::enter(const StepBatch& batch) { apply(0, batch); }

// Every step to the stage behind its own.
void ModelRunner::move_on(const Turn& turn) {
  std::rotate(places_.begin(), places_.end() - 1, places_.end());
  Place& entered = places_.front();
  entered.batch = turn.entered, entered.replay = turn.replay, entered.lane = turn.lane;
  entered.has_rows = turn.entered && first().executor().has_rows();
  if (entered.has_rows && stages_.size() > 1) {
    entered.inputs.clear();
    write_inputs(first().executor(), model_.whole, entered.inputs);
  }
  for (size_t s = 1; s < stages_.size(); ++s) {
    const Place& place = places_[s];
    if (place.batch) apply(s, *place.batch);
    if (!place.has_rows) continue;
    ByteReader from(place.inputs.bytes());
    read_inputs(from, model_.whole, stages_[s]->executor());
  }
}

void ModelRunner::run(const Turn& turn) {
  move_on(turn);
  turn_ = &turn;
  if (stages_.size() == 1 && !ranks_.processes()) {
    if (turn.entered) first().executor().begin_step(turn.entered->step);
    if (places_.front().has_rows) first().executor().run(turn.tail ? *turn.tail : nullptr, turn.replay);
    if (turn.entered) finished_.store(turn.entered->step, std::memory_order_release);
    return;
  }
  bool any = turn.tail != nullptr;
  for (size_t s = 0; s < stages_.size(); ++s) {
    if (!places_[s].has_rows) continue;
    stages_[s]->executor().prepare(places_[s].replay, places_[s].lane);
    any = true;
  }
  if (any) threads().run(walk_);
  if (places_.back().batch) finished_.store(places_.back().batch->step, std::memory_order_release);
}

// A draft's layers are written behind the step; over pipeline stages nothing is known before its end.
int ModelRunner::written_layers(uint64_t step, int group) const {
  if (group >= static_cast<int>(model_.plan().groups.size())) return 0;
  if (finished_.load(std::memory_order_acquire) >= step) return layers(group);
  return stages_.size() == 1 ? stages_.front()->executor().written_layers(step, group) : 0;
}

void ModelRunner::walk(int thread) {
  const int each = threads().size() / static_cast<int>(stages_.size());
  const auto stage = static_cast<size_t>(thread / each);
  if (places_[stage].has_rows) stages_[stage]->executor().walk_inside({thread % each, each});
  if (!turn_->tail) return;
  const kernels::Part part{thread, threads().size()};
  stages_.back()->executor().take_outputs(part, turn_->finishes);
  threads().barrier();
  if (places_.front().has_rows) first().executor().run_behind(*turn_->tail, part);
  else (*turn_->tail)(part);
}

std::optional<DType> ModelRunner::other_type(int group, size_t bytes) const {
  for (const DType type : {DType::f32, DType::bf16, DType::i8})
    if (type != groups_[group].dtype && tile_bytes(groups_[group].whole, type) == bytes) return type;
  return std::nullopt;
}

void ModelRunner::read_block(int home, int group, int32_t block, const BlockPart& part,
                             std::span<std::byte> content) const {
  for (const auto& stage : stages_) stage->read_block(home, group, block, groups_[group].whole, part, content);
}

void ModelRunner::write_block(int home, int group, int32_t block, const BlockPart& part,
                              std::span<const std::byte> content) {
  for (const auto& stage : stages_) stage->write_block(home, group, block, groups_[group].whole, part, content);
}

const Taps& ModelRunner::taps() {
  const bool reads = drafter_ && drafter_->model().reads_states();
  const RankedExecutor& executor = results();
  taps_.ld = executor.taps_ld();
  taps_.of_home.clear();
  for (int home = 0; home < executor.homes(); ++home) taps_.of_home.push_back(reads ? executor.taps(home) : nullptr);
  return taps_;
}

void ModelRunner::announce(const StepBatch& batch, bool replay) {
  if (!ranks_.processes()) return;
  if (model_.adapter_table)
    for (const AdapterTable::Change& change : model_.adapter_table->take_changes()) {
      message_.clear();
      message_.put(MessageKind::adapter);
      write_adapter(change.number, change.files.get(), message_);
      ranks_.processes()->send(message_.bytes());
    }
  message_.clear();
  message_.put(MessageKind::step);
  write_changes(batch, message_);
  message_.put(replay);
  write_inputs(first().executor(), model_.whole, message_);
  ranks_.processes()->send(message_.bytes());
}

void ModelRunner::announce_drafts(std::span<const DraftRow> rows) {
  if (!ranks_.processes()) return;
  message_.clear();
  write_draft_rows(rows, message_);
  ranks_.processes()->send(message_.bytes());
}

}  // namespace weft
