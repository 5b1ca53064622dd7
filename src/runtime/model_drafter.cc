#include "runtime/model_drafter.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "comm/process_ranks.h"

namespace weft {

std::vector<std::vector<LayerGroup>> ModelDrafter::groups_of(const DraftModel& model) {
  std::vector<std::vector<LayerGroup>> groups(model.stages.front().shares.ranks.size());
  for (const DraftStage& stage : model.stages)
    for (size_t rank = 0; rank < groups.size(); ++rank) {
      const std::vector<LayerGroup>& own = stage.shares.ranks[rank].plan.groups;
      groups[rank].insert(groups[rank].end(), own.begin(), own.end());
    }
  return groups;
}

ModelDrafter::ModelDrafter(DraftModel model, const RankTeam& ranks, DrafterLimits limits) noexcept
    : model_(std::move(model)), ranks_(ranks), team_(ranks.threads()), limits_(limits),
      groups_(groups_of(model_).front()) {}

Result<std::unique_ptr<ModelDrafter>> ModelDrafter::create(DraftModel model, const Model& target, const RankTeam& ranks,
                                                           std::vector<CacheMemory> caches,
                                                           const DrafterLimits& limits) {
  int read = 0;
  for (const Op& op : model.stages.front().whole.ops)
    if (std::holds_alternative<StatesOp>(op.kind) && op.pass == Pass::first) read = op.out->cols;
  if (model.reads_states() && (target.whole.taps.storage < 0 || target.whole.taps.cols != read))
    return fail(Code::internal, model.name, " reads ", read, " numbers of the target's state, which leaves ",
                target.whole.taps.cols);
  std::unique_ptr<ModelDrafter> drafter(new ModelDrafter(std::move(model), ranks, limits));
  drafter->table_blocks_ = (limits.max_seq_len + caches.front().tokens_per_block - 1) / caches.front().tokens_per_block;
  drafter->make_stages(caches);
  return drafter;
}

void ModelDrafter::make_stages(const std::vector<CacheMemory>& caches) {
  const auto depths = static_cast<int>(model_.stages.size()), batch = limits_.max_batch_size;
  // A depth has as many rows more as its tokens are further on; a draft_model's first token has one of its own.
  const int rows = limits_.max_num_tokens + batch * depths;
  int first_group = 0;
  for (const DraftStage& part : model_.stages) {
    Stage& stage = stages_.emplace_back();
    const size_t count = part.whole.groups.size();
    stage.first_group = first_group;
    std::vector<CacheMemory> own = caches;
    for (size_t rank = 0; rank < caches.size(); ++rank) {
      const CacheMemory& all = caches[rank];
      own[rank].base.assign(all.base.begin() + first_group, all.base.begin() + first_group + count);
      own[rank].block_stride_bytes.assign(all.block_stride_bytes.begin() + first_group,
                                          all.block_stride_bytes.begin() + first_group + count);
    }
    stage.executor = std::make_unique<RankedExecutor>(
        part.shares, *model_.table, ranks_, RankSpan{0, ranks_.ranks()}, std::move(own),
        ExecutorLimits{rows, limits_.all_logits ? rows : batch, batch, limits_.max_seq_len});
    stage.executor->summarise([this](const OutputColumns& columns, std::span<std::byte> to) {
      choose_in_part(columns, *reinterpret_cast<DraftChoice*>(to.data()));
    });
    for (int home = 0; home < stage.executor->homes(); ++home) {
      for (GroupInputs& group : stage.executor->inputs(home).groups)
        group.block_table.resize(static_cast<size_t>(batch) * table_blocks_);
      stage.homes.push_back({std::vector(count, std::vector<int32_t>(rows)), std::vector<int32_t>(rows)});
    }
    if (model_.reads_states()) {
      stage.kept.resize(static_cast<size_t>(batch) * part.whole.state.cols);
      zeros_.resize(std::max<size_t>(zeros_.size(), part.whole.state.cols));
    }
    first_group += static_cast<int>(count);
  }
  known_.assign(batch, -1), homes_.assign(batch, 0);
  runs_.resize(static_cast<size_t>(depths) * batch);
  goes_on_.resize(batch);
  proposals_.reserve(batch), chosen_.reserve(batch);
  choices_.resize(static_cast<size_t>(team_.size()) * batch);
}

std::vector<int32_t>& ModelDrafter::block_table(int group, int home) {
  size_t s = 0;
  while (s + 1 < stages_.size() && group >= stages_[s + 1].first_group) ++s;
  return stages_[s].executor->inputs(home).groups[group - stages_[s].first_group].block_table;
}

size_t ModelDrafter::arena_bytes() const {
  size_t bytes = 0;
  for (const Stage& stage : stages_) bytes += stage.executor->arena_bytes();
  return bytes;
}

void ModelDrafter::begin(std::span<const DraftRow> rows, const Taps& taps) {
  WEFT_CHECK(static_cast<int>(rows.size()) <= limits_.max_batch_size) << rows.size() << " sequences";
  rows_ = rows, taps_ = taps;
  int most = 0;
  for (size_t s = 0; s < rows.size(); ++s) {
    WEFT_CHECK(static_cast<int>(rows[s].next.size()) >= rows[s].rows) << "tokens behind rows are missing";
    goes_on_[s] = known_[rows[s].slot] == rows[s].first_position;
    if (rows[s].out) rows[s].out->clear();
    most = std::max(most, rows[s].drafts);
  }
  const auto depths = static_cast<int>(stages_.size());
  passes_ = rows.empty() ? 0 : depths + std::max(0, most - depths);
}

void ModelDrafter::walk(kernels::Part part) {
  for (int pass = 0; pass < passes_; ++pass) {
    if (part.index == 0) prepare(pass);
    team_.barrier();
    RankedExecutor& executor = *running_->executor;
    if (executor.has_rows()) {
      executor.walk_inside(part);
      executor.take_outputs(part);
    }
    team_.barrier();
    choose(part);
    team_.barrier();
    if (part.index == 0) collect(pass);
  }
}

void ModelDrafter::prepare(int pass) {
  const auto depths = static_cast<int>(stages_.size());
  Stage& stage = *(running_ = &stage_of(pass));
  for (int home = 0; home < stage.executor->homes(); ++home) {
    StepInputs& in = stage.executor->inputs(home);
    in.tokens = in.outputs = 0;
    in.pass = pass < depths ? Pass::first : Pass::chained;
    for (GroupInputs& group : in.groups) group.sequences.clear();
  }
  proposals_.clear();
  for (int s = 0; s < static_cast<int>(rows_.size()); ++s)
    if (pass < depths) add_first(pass, s);
    else add_chained(pass, s);
  stage.executor->prepare();
}

// The rows of a sequence whose token is known, and at a depth of multi-token prediction those whose token is a draft.
// These are run again when the tokens are known.
void ModelDrafter::add_first(int depth, int s) {
  const DraftRow& row = rows_[s];
  Stage& stage = stages_[depth];
  StepInputs& in = stage.executor->inputs(home_of(s));
  Run& run = run_of(depth, s);
  const int last = row.first_position + row.rows, more = static_cast<int>(row.next.size()) - row.rows;
  const bool proposes = row.drafts > depth && static_cast<int>(row.out->size()) == depth;
  const int further = more > 0 ? std::min(depth, more) : proposes ? depth : 0;
  const int end = std::min({last + further + 1, row.end, limits_.max_seq_len});
  const bool first_token = !model_.reads_states() && !goes_on_[s];
  run = {std::max(row.first_position + (first_token ? 0 : 1), model_.reads_states() ? depth + 1 : 0), 0, in.tokens, -1,
         home_of(s)};
  run.rows = std::max(0, end - run.begin);
  if (run.rows == 0) return;
  if (limits_.all_logits) run.first_output = in.outputs;
  for (int p = run.begin; p < end; ++p) {
    if (limits_.all_logits) in.summary_bytes[in.outputs] = 0, in.output_rows[in.outputs++] = in.tokens;
    add_row(stage, home_of(s), token_at(s, p), p, model_.reads_states() ? state_before(depth, s, p) : nullptr);
  }
  add_view(stage, run, row, depth);
  if (proposes && end == last + depth + 1) add_proposal(stage, in.tokens - 1, s, end);
}

// A row for the last draft, which has number `draft` - 1.
void ModelDrafter::add_chained(int draft, int s) {
  const DraftRow& row = rows_[s];
  if (row.drafts <= draft || static_cast<int>(row.out->size()) != draft) return;
  const auto depth = static_cast<int>(stages_.size()) - 1;
  const int position = row.first_position + row.rows + draft;
  if (position >= std::min(row.end, limits_.max_seq_len)) return;
  Stage& stage = stages_[depth];
  Run& run = run_of(depth, s);
  const float* state = model_.reads_states() ? state_of(stage, run, run.rows - 1) : nullptr;
  const StepInputs& in = stage.executor->inputs(home_of(s));
  run = {position, 1, in.tokens, in.outputs, home_of(s)};
  add_row(stage, home_of(s), row.out->back(), position, state);
  add_view(stage, run, row, depth);
  add_proposal(stage, run.first_row, s, position + 1);
}

void ModelDrafter::add_row(Stage& stage, int home, int32_t id, int position, const float* state) {
  StepInputs& in = stage.executor->inputs(home);
  const int row = in.tokens++;
  in.ids[row] = id >= 0 && id < model_.ids ? id : -1;  // placeholders of images may lie behind the table
  in.token_types[row] = 0;
  const int axes = stage.executor->plan().position_axes;
  for (int axis = 0; axis < axes; ++axis) in.positions[axis * (in.positions.size() / axes) + row] = position;
  stage.homes[home].ends[row] = position + 1;
  if (model_.reads_states()) in.states[row] = state;
  if (stage.executor->plan().takes_features) in.features[row] = nullptr;
}

void ModelDrafter::add_view(Stage& stage, const Run& run, const DraftRow& row, int depth) {
  const int home = homes_[row.slot];
  StepInputs& in = stage.executor->inputs(home);
  Stage::Home& own = stage.homes[home];
  const int first_key = std::max(row.first_key, model_.reads_states() ? depth + 1 : 0);
  for (size_t g = 0; g < in.groups.size(); ++g) {
    kernels::SequenceView view{run.first_row, run.rows, run.begin, static_cast<int64_t>(row.slot) * table_blocks_};
    if (first_key > 0) {
      const LayerGroup& group = groups_[stage.first_group + g];
      for (int i = 0; i < run.rows; ++i) {
        const int position = run.begin + i;
        int first = std::min(first_key, position);
        if (group.window() > 0) first = std::max(first, position + 1 - group.window());
        if (group.chunk() > 0) first = std::max(first, position / group.chunk() * group.chunk());
        own.starts[g][run.first_row + i] = first;
      }
      view.starts = own.starts[g].data() + run.first_row, view.ends = own.ends.data() + run.first_row;
    }
    in.groups[g].sequences.push_back(view);
  }
}

void ModelDrafter::add_proposal(Stage& stage, int token_row, int sequence, int position) {
  const int home = home_of(sequence);
  StepInputs& in = stage.executor->inputs(home);
  if (limits_.all_logits && in.pass == Pass::first) {
    proposals_.push_back({home, in.outputs - 1, sequence, position});  // the row's logits are kept anyway
    return;
  }
  in.output_rows[in.outputs] = token_row;
  in.summary_bytes[in.outputs] = in_parts(home) ? sizeof(DraftChoice) : 0;
  proposals_.push_back({home, in.outputs++, sequence, position});
}

int32_t ModelDrafter::token_at(int s, int position) const {
  const DraftRow& row = rows_[s];
  const int behind = position - row.first_position;
  if (behind == 0) return row.token;
  if (behind <= static_cast<int>(row.next.size())) return row.next[behind - 1];
  return (*row.out)[behind - row.rows - 1];
}

// What stands for the target's state in the row at `position` of a depth: the target's own, or what the depth before
// left there. It is not known behind a prefix that another sequence has computed; drafts are then worse for a moment.
const float* ModelDrafter::state_before(int depth, int s, int position) const {
  const DraftRow& row = rows_[s];
  if (depth == 0) {
    const float* taps = taps_.of_home[static_cast<size_t>(home_of(s))];
    return taps ? taps + (row.first_row + position - 1 - row.first_position) * taps_.ld : nullptr;
  }
  const Stage& before = stages_[depth - 1];
  const Run& run = run_of(depth - 1, s);
  if (position - 1 >= run.begin) return state_of(before, run, position - 1 - run.begin);
  return goes_on_[s] ? before.kept.data() + static_cast<size_t>(row.slot) * before.executor->plan().state.cols
                     : zeros_.data();
}

const float* ModelDrafter::state_of(const Stage& stage, const Run& run, int index) {
  const float* state = stage.executor->state(run.home);
  return state ? state + (run.first_row + index) * stage.executor->state_ld() : nullptr;
}

// Every thread looks at a part of the vocabulary.
void ModelDrafter::choose(kernels::Part part) {
  if (!decides()) return;
  constexpr int kUnit = 64;
  const RankedExecutor& executor = *running_->executor;
  const int units = (model_.vocab + kUnit - 1) / kUnit;
  const auto bound = [&](int index) {
    return std::min(model_.vocab, static_cast<int>(int64_t{units} * index / part.count) * kUnit);
  };
  DraftChoice* mine = choices_.data() + static_cast<size_t>(part.index) * limits_.max_batch_size;
  const int first = bound(part.index), last = bound(part.index + 1);
  for (const Proposal& p : proposals_) {
    DraftChoice& choice = *mine++;
    if (in_parts(p.home)) continue;
    choice = choose_draft({executor.row(p.home, p.output_row) + first, static_cast<size_t>(last - first)}, first,
                          model_.target_ids, rows_[p.sequence].noise, p.position);
  }
}

// The summary of a row, on the rank that has the part. All rows of such outputs are proposals.
void ModelDrafter::choose_in_part(const OutputColumns& part, DraftChoice& choice) const {
  const auto is_it = [&](const Proposal& p) { return p.home == part.home && p.output_row == part.row; };
  const auto p = std::find_if(proposals_.begin(), proposals_.end(), is_it);
  choice = choose_draft(part.values, part.first, model_.target_ids, rows_[p->sequence].noise, p->position);
}

DraftChoice ModelDrafter::best_of(size_t proposal) const {
  const Proposal& p = proposals_[proposal];
  DraftChoice best;
  if (in_parts(p.home)) {
    const std::span<const std::byte> parts = running_->executor->summaries(p.home, p.output_row);
    for (size_t at = 0; at < parts.size(); at += sizeof(DraftChoice))
      best = std::max(best, *reinterpret_cast<const DraftChoice*>(parts.data() + at));
    return best;
  }
  for (int thread = 0; thread < team_.size(); ++thread)
    best = std::max(best, choices_[static_cast<size_t>(thread) * limits_.max_batch_size + proposal]);
  return best;
}

void ModelDrafter::collect(int pass) {
  chosen_.clear();
  for (size_t i = 0; decides() && i < proposals_.size(); ++i) {
    const int32_t token = best_of(i).token;
    chosen_.push_back(model_.target_ids.empty() ? token : model_.target_ids[token]);
  }
  if (ranks_.processes() && !proposals_.empty()) share_choices();
  for (size_t i = 0; i < proposals_.size(); ++i) rows_[proposals_[i].sequence].out->push_back(chosen_[i]);
  if (pass + 1 == static_cast<int>(stages_.size())) remember();
}

// Rank 0 tells the others what it has chosen.
void ModelDrafter::share_choices() {
  if (decides()) return ranks_.processes()->send(std::as_bytes(std::span(chosen_)));
  const std::span<const std::byte> message = *ranks_.processes()->receive();
  WEFT_CHECK(message.size() == proposals_.size() * sizeof(int32_t)) << "ranks differ in what they draft";
  chosen_.resize(proposals_.size());
  std::memcpy(chosen_.data(), message.data(), message.size());
}

// What the next step needs of this one's first passes.
void ModelDrafter::remember() {
  for (size_t s = 0; s < rows_.size(); ++s) {
    const DraftRow& row = rows_[s];
    const int last = row.first_position + row.rows;
    for (size_t depth = 0; depth < stages_.size(); ++depth) {
      Stage& stage = stages_[depth];
      const Run& run = run_of(static_cast<int>(depth), static_cast<int>(s));
      const bool ran = last >= run.begin && last < run.begin + run.rows;
      if (depth == 0) known_[row.slot] = ran ? last : -1;
      if (depth + 1 == stages_.size() || !ran || !stage.executor->state(run.home)) continue;
      const float* state = state_of(stage, run, last - run.begin);
      const int cols = stage.executor->plan().state.cols;
      std::copy_n(state, cols, stage.kept.data() + static_cast<size_t>(row.slot) * cols);
    }
  }
}

ModelDrafter::Scores ModelDrafter::scores(int stage, int row) const {
  const RankedExecutor& executor = *stages_[stage].executor;
  const Run& run = run_of(stage, row);
  Scores scores{run.begin - (model_.reads_states() ? stage + 1 : 0), run.rows};
  if (run.rows == 0) return scores;
  scores.logits_ld = executor.output_ld();
  if (run.first_output >= 0) scores.logits = executor.row(run.home, run.first_output);
  if (!model_.reads_states()) return scores;
  scores.state = state_of(stages_[stage], run, 0), scores.state_ld = executor.state_ld();
  scores.state_cols = executor.plan().state.cols;
  return scores;
}

}  // namespace weft
