// What a step gives to the plan: ids, positions, what the rows see.
#include <algorithm>

#include "runtime/worker.h"

namespace weft {

// Where the row begins and ends. One that follows the slot's last token begins there, wherever that is; its drafts
// follow, as far as the sequence may still go on. Nothing is left of a row whose sequence has all of its outputs.
Worker::StepRow Worker::extent(const StepBatch::Row& row) const {
  StepRow at{.slot = row.slot, .home = runner_->first().home(row.slot), .first = row.first, .tokens = row.tokens};
  at.first_row = inputs_.inputs(at.home).tokens;
  if (slots_[row.slot].failed) return at.tokens = 0, at;
  if (row.source == TokenSource::host && row.drafts == 0) return at;
  const SlotData& slot = slots_[row.slot];
  const int known = static_cast<int>(slot.sampler.tokens().size());
  const int left = slot.sampler.prompt_tokens() + slot.max_outputs - known;
  at.first = left <= 0 ? known : known - 1;
  at.drafts = left <= 0 ? 0 : std::min({row.drafts, static_cast<int>(slot.drafts.size()), left});
  at.tokens = left <= 0 ? 0 : 1 + at.drafts;
  return at;
}

void Worker::fill_inputs(const StepBatch& batch, std::vector<StepRow>& rows) {
  for (int home = 0; home < inputs_.homes(); ++home) inputs_.inputs(home).tokens = inputs_.inputs(home).outputs = 0;
  size_t next_token = 0;
  rows.clear();
  for (const StepBatch::Row& row : batch.rows) {
    StepRow& at = rows.emplace_back(extent(row));
    StepInputs& in = inputs_.inputs(at.home);
    const SlotData& slot = slots_[row.slot];
    if (row.source == TokenSource::host) {
      for (int i = 0; i < row.tokens; ++i, ++next_token)
        if (at.tokens > 0) in.ids[in.tokens + i] = batch.tokens[next_token];
    } else if (at.tokens > 0) {
      in.ids[in.tokens] = slot.last_token;
    }
    std::copy_n(slot.drafts.begin(), at.drafts, in.ids.begin() + in.tokens + at.tokens - at.drafts);
    for (int i = 0; i < at.tokens; ++i) fill_token(in, slot, at.first + i);
    if (inputs_.takes_adapters()) std::fill_n(in.adapter_of.begin() + at.first_row, at.tokens, slot.adapter);
    if (model_.plan().takes_features) fill_features(slot, at);
    if (model_.plan().joined_images) fill_ends(slot, at);
    at.first_output = in.outputs;
    int wanted = 0, skipped = 0;
    if (row.logits == LogitRows::all) wanted = at.tokens;
    else if (row.logits == LogitRows::first) wanted = std::min(at.tokens, 1);
    else if (row.logits == LogitRows::last) wanted = std::min(at.tokens, 1 + at.drafts), skipped = at.tokens - wanted;
    for (int i = 0; i < wanted; ++i, ++in.outputs)
      in.output_rows[in.outputs] = at.first_row + skipped + i, in.summary_bytes[in.outputs] = 0;
    at.outputs = wanted;
    at.samples = row.sample && at.tokens > 0 ? 1 + at.drafts : 0;
  }
  for (int home = 0; home < inputs_.homes(); ++home) {
    fill_groups(home, rows);
    if (model_.plan().cross_group) fill_cross(home, rows);
  }
  inputs_.begin();
}

// The inputs of the step's next row besides its id: token `position` of a sequence.
void Worker::fill_token(StepInputs& in, const SlotData& slot, int position) const {
  const int row = in.tokens++;
  in.token_types[row] = slot.token_types.empty() ? 0 : slot.token_types[position];
  in.positions[row] = position;
  if (!slot.media || slot.media->positions[0].empty()) {
    for (int axis = 1; axis < model_.plan().position_axes; ++axis)
      in.positions[axis * options_.runner.max_num_tokens + row] = position;
    return;
  }
  const bool prompt = position < static_cast<int>(slot.media->positions[0].size());
  for (int axis = 0; axis < model_.plan().position_axes; ++axis)
    in.positions[axis * options_.runner.max_num_tokens + row] =
        prompt ? slot.media->positions[axis][position] : position + slot.media->delta;
}

// Where the rows of a sequence find features of images.
void Worker::fill_features(const SlotData& slot, const StepRow& row) {
  StepInputs& in = inputs_.inputs(row.home);
  const float** features = in.features.data() + row.first_row;
  std::fill_n(features, row.tokens, nullptr);
  if (!slot.media) return;
  for (const MediaPrompt::Span& span : slot.media->spans) {
    const int begin = std::max(span.position, row.first),
              end = std::min(span.position + span.count, row.first + row.tokens);
    for (int i = begin; i < end; ++i) in.ids[row.first_row + i - row.first] = -1;  // may lie behind the table
    for (int i = begin; i < end; ++i)
      features[i - row.first] = slot.media->features[span.media]->row(span.first + i - span.position);
  }
}

// Which keys of their images a home's rows see.
void Worker::fill_cross(int home, const std::vector<StepRow>& rows) {
  StepInputs& in = inputs_.inputs(home);
  in.cross.block_table.clear(), in.cross.sequences.clear();
  in.has_images = false;
  for (const StepRow& row : rows) {
    if (row.tokens == 0 || row.home != home) continue;
    const int first = row.first_row;
    const MediaPrompt* media = slots_[row.slot].media.get();
    int keys = 0;
    if (media)
      for (const auto& features : media->features) keys += features->rows;
    in.has_images |= media != nullptr;
    for (int i = 0; i < row.tokens; ++i) {
      MediaPrompt::Keys seen;
      if (media) seen = media->cross[std::min<size_t>(row.first + i, media->cross.size() - 1)];
      const bool sees = seen.first < seen.end;
      in.row_flags[first + i] = static_cast<uint8_t>((media ? kHasImages : 0) | (sees ? kSeesImage : 0));
      in.cross_starts[first + i] = sees ? seen.first : 0, in.cross_ends[first + i] = sees ? seen.end : keys;
    }
    const auto offset = static_cast<int64_t>(in.cross.block_table.size());
    for (int i = 0; i < (keys + kCrossBlock - 1) / kCrossBlock; ++i)
      in.cross.block_table.push_back(row.slot * runner_->first().cross_blocks() + i);
    in.cross.sequences.push_back(
        {first, row.tokens, 0, offset, in.cross_ends.data() + first, in.cross_starts.data() + first});
  }
}

// What an image's tokens see: all of the image, which lies in one step (the scheduler does not cut it).
void Worker::fill_ends(const SlotData& slot, const StepRow& row) {
  int32_t* ends = inputs_.inputs(row.home).ends.data() + row.first_row;
  for (int i = 0; i < row.tokens; ++i) ends[i] = row.first + i + 1;
  if (!slot.media) return;
  for (const MediaPrompt::Span& span : slot.media->spans)
    for (int i = std::max(span.position, row.first); i < std::min(span.position + span.count, row.first + row.tokens);
         ++i)
      ends[i - row.first] = span.position + span.count;
}

void Worker::fill_groups(int home, const std::vector<StepRow>& rows) {
  StepInputs& in = inputs_.inputs(home);
  for (GroupInputs& group : in.groups) {
    group.sequences.clear();
    for (const StepRow& row : rows) {
      if (row.tokens == 0 || row.home != home) continue;
      const int32_t* ends = model_.plan().joined_images ? in.ends.data() + row.first_row : nullptr;
      group.sequences.push_back({row.first_row, row.tokens, row.first, runner_->first().table_offset(row.slot), ends});
    }
  }
  for (GroupInputs& group : in.local_groups) {
    group.sequences.clear();
    for (const StepRow& row : rows)
      if (row.tokens > 0 && row.home == home)
        group.sequences.push_back({.first_row = row.first_row, .rows = row.tokens});
  }
}

}  // namespace weft
