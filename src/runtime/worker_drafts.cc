// Drafts from a model, behind the target's sampling: what it is given, and what becomes of its proposals.
#include <algorithm>

#include "runtime/worker.h"

namespace weft {

// The rows that the drafter reads: those of the target's step whose tokens are true. Its own cache goes along with the
// target's even where nothing is proposed, unless the step says to leave it alone.
void Worker::begin_drafts(const Lane& lane) {
  const StepBatch& batch = *lane.step.batch;
  draft_rows_.clear(), draft_row_of_.clear();
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    if (batch.rows[r].propose < 0 || lane.rows[r].tokens == 0 || !lane.step.result->rows[r].error.empty()) continue;
    const size_t before = draft_rows_.size();
    add_draft_row(batch.rows[r], lane.rows[r]);
    if (draft_rows_.size() > before) draft_row_of_.push_back(static_cast<int>(r));
  }
  runner_->announce_drafts(draft_rows_);
  if (!draft_rows_.empty()) model_drafter_->begin(draft_rows_, runner_->taps());
}

// Prompt and output so far. A sequence that scores is followed by the token that the target would choose, once all of
// its prompt is computed.
std::span<const int32_t> Worker::draft_tokens(const StepBatch::Row& row, const StepRow& at) {
  SlotData& slot = slots_[row.slot];
  if (slot.sampler.is_open()) return slot.sampler.tokens();
  if (at.first + at.tokens < static_cast<int>(slot.prompt.size()) || row.logits == LogitRows::none) return slot.prompt;
  const float* logits = output_of(at, at.outputs - 1);
  slot.scored = slot.prompt.copy();
  slot.scored.push_back(static_cast<int32_t>(std::max_element(logits, logits + model_.vocab) - logits));
  return slot.scored;
}

void Worker::add_draft_row(const StepBatch::Row& row, const StepRow& at) {
  SlotData& slot = slots_[row.slot];
  const std::span<const int32_t> tokens = draft_tokens(row, at);
  const int known = static_cast<int>(tokens.size());
  const bool generates = slot.sampler.is_open();
  const int end = generates ? slot.sampler.prompt_tokens() + slot.max_outputs
                            : std::min(static_cast<int>(slot.prompt.size()) + 1, options_.runner.max_seq_len);
  DraftRow draft{.slot = row.slot, .first_row = at.first_row, .first_position = at.first};
  draft.rows = std::min(row.sample ? known - 1 - at.first : at.tokens, known - 1 - at.first);
  if (draft.rows <= 0 || at.first + 1 >= end || (generates && known >= end)) return;
  // A draft_model's entries that were left out are made up for; the states that others would need are gone.
  const bool gap = slot.drafted_to >= 0 && slot.drafted_to != at.first + 1;
  if (gap && !model_drafter_->model().reads_states()) {
    const int room = options_.runner.max_num_tokens / std::max<int>(1, static_cast<int>(finishing_->rows.size()));
    draft.first_position = slot.drafted_to - 1;
    draft.rows = std::min(known - 1 - draft.first_position, std::max(1, room));
  } else if (gap) {
    slot.first_key = at.first + 1;
  }
  const int last = draft.first_position + draft.rows;
  slot.drafted_to = last + 1;
  draft.token = tokens[static_cast<size_t>(draft.first_position)];
  draft.next = tokens.subspan(static_cast<size_t>(draft.first_position) + 1);
  draft.end = end, draft.first_key = slot.first_key;
  if (row.propose > 0 && row.sample && last == known - 1) {
    draft.drafts = std::min(row.propose, end - known);
    draft.noise = {slot.sampler.params().temperature, slot.sampler.seed()}, draft.out = &slot.drafts;
  }
  draft_rows_.push_back(draft);
}

void Worker::end_drafts(StepResult& result) {
  for (size_t i = 0; i < draft_rows_.size(); ++i) {
    const DraftRow& draft = draft_rows_[i];
    RowResult& out = result.rows[static_cast<size_t>(draft_row_of_[i])];
    if (options_.draft_scores && !slots_[draft.slot].sampler.is_open()) take_draft_scores(static_cast<int>(i), out);
    if (draft.drafts == 0) continue;
    keep_valid(*draft.out, draft.drafts);
    out.drafts = *draft.out;
  }
}

void Worker::take_draft_scores(int draft_row, RowResult& out) const {
  const DraftModel& draft = model_drafter_->model();
  for (int stage = 0; stage < static_cast<int>(draft.stages.size()); ++stage) {
    const ModelDrafter::Scores scores = model_drafter_->scores(stage, draft_row);
    RowResult::DraftScores& taken = out.draft_scores.emplace_back();
    taken.depth = stage, taken.position = scores.position, taken.rows = scores.rows;
    for (int r = 0; r < scores.rows; ++r) {
      const float* logits = scores.logits + r * scores.logits_ld;
      taken.logits.insert(taken.logits.end(), logits, logits + draft.vocab);
      if (!scores.state) continue;
      const float* state = scores.state + r * scores.state_ld;
      taken.states.insert(taken.states.end(), state, state + scores.state_cols);
    }
  }
}

}  // namespace weft
