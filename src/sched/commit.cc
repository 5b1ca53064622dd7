// Taking a step's results: tokens, ends, blocks.
#include <algorithm>
#include <new>

#include "base/check.h"
#include "sched/home.h"
#include "sched/scheduler.h"
#include "sched/sequence.h"

namespace weft {
namespace {

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

bool is_stop(const SamplingParams& sampling, int32_t token) {
  return (!sampling.ignore_eos && contains(sampling.eos_token_ids, token)) || contains(sampling.stop_token_ids, token);
}

}  // namespace

std::span<SequenceOutput> Scheduler::commit(StepResult& result) noexcept {
  WEFT_CHECK(records_in_flight_ > 0) << "a result came without a step in flight";
  StepRecord& record = records_[first_record_];
  WEFT_CHECK(result.step == record.step) << "result of step " << result.step << ", expected " << record.step;
  WEFT_CHECK(result.rows.size() == record.rows.size())
      << result.rows.size() << " rows, expected " << record.rows.size();
  first_record_ = (first_record_ + 1) % records_.size();
  --records_in_flight_;
  output_count_ = 0;
  for (size_t i = 0; i < record.rows.size(); ++i) commit_row(record.rows[i], result.rows[i]);
  return {outputs_.data(), output_count_};
}

void Scheduler::commit_row(const RowRecord& record, RowResult& result) {
  Sequence& sequence = *record.sequence;
  --sequence.in_flight;
  sequence.pending_samples -= record.row.sample;
  const bool same_epoch = record.epoch == sequence.epoch;
  if (same_epoch) sequence.slack -= record.row.drafts;
  if (sequence.state == Sequence::State::finished) {
    metrics_.discarded_tokens += result.tokens.size();
    if (sequence.in_flight == 0) retire(sequence);
    return;
  }
  const size_t outputs = output_count_;
  try {
    if (result.error.empty()) return take_result(record, result);
  } catch (const std::bad_alloc&) {
    output_count_ = outputs;
    result.error = "out of memory";  // short enough to need none
    result.error_code = Code::resource_exhausted;
  }
  // Its KV may be wrong as well: nothing of this step is published.
  SequenceOutput& output = next_output(sequence);
  output.reason = FinishReason::error;
  output.error.swap(result.error), output.error_code = result.error_code;
  end(sequence);
}

// Of a sequence that goes on or comes to its end.
void Scheduler::take_result(const RowRecord& record, RowResult& result) {
  Sequence& sequence = *record.sequence;
  const bool same_epoch = record.epoch == sequence.epoch;
  WEFT_CHECK(record.row.sample == !result.tokens.empty() || !result.error.empty())
      << "slot " << result.slot << " sampled unasked or not";
  const bool has_output =
      record.row.sample || !result.prompt_logprobs.empty() || !result.outputs.empty() || record.last;
  SequenceOutput* output = has_output ? &next_output(sequence) : nullptr;
  // Of a decode row only the host's tokens tell where it began, and its accepted drafts how far it went.
  const int accepted = std::max(0, static_cast<int>(result.tokens.size()) - 1);
  const int first = record.decode ? sequence.known() - 1 : record.row.first;
  if (same_epoch) sequence.scheduled += accepted;
  if (record.all_rows) sequence.rows_done = std::min(sequence.rows_end, record.row.first + record.row.tokens);
  if (output != nullptr) {
    output->prompt_logprobs.swap(result.prompt_logprobs);
    output->outputs.swap(result.outputs);
    output->draft_scores.swap(result.draft_scores);
    take_tokens(sequence, result, *output);
    if (sequence.pending_samples == 0) sequence.promised = std::min<int>(sequence.promised, output->drafts.size());
    if (record.last && !record.row.sample) {
      output->reason = sequence.task == Task::score ? FinishReason::stop : FinishReason::length;
    }
  }
  if (same_epoch) {
    WEFT_CHECK(sequence.computed == first) << "positions are missing";
    // Those of tokens behind the end are nobody's.
    sequence.computed = std::min(first + record.row.tokens + accepted, sequence.known());
    cache_of(sequence).commit(sequence.cache, sequence.tokens, sequence.computed);
  }
  if (output != nullptr && output->reason != FinishReason::none) end(sequence);
}

// Appends sampled tokens up to the first that ends the sequence. A stop goes before the length.
void Scheduler::take_tokens(Sequence& sequence, RowResult& result, SequenceOutput& output) {
  size_t taken = 0;
  while (taken < result.tokens.size() && output.reason == FinishReason::none) {
    const int32_t token = result.tokens[taken++];
    sequence.tokens.push_back(token);
    if (is_stop(*sequence.sampling, token)) output.reason = FinishReason::stop, output.stop_id = token;
    else if (sequence.outputs() >= sequence.max_outputs) output.reason = FinishReason::length;
  }
  count_drafts(sequence, result, taken, output);
  metrics_.generated_tokens += taken;
  metrics_.discarded_tokens += result.tokens.size() - taken;
  // Logits of each token; a row that ends a prompt has one token, so it is never cut.
  if (taken < result.tokens.size()) output.outputs.resize(output.outputs.size() / result.tokens.size() * taken);
  result.tokens.resize(taken);
  result.logprobs.resize(std::min(result.logprobs.size(), taken));
  output.tokens.swap(result.tokens);
  output.logprobs.swap(result.logprobs);
  output.drafts.swap(result.drafts);
}

void Scheduler::count_drafts(Sequence& sequence, const RowResult& result, size_t taken, SequenceOutput& output) {
  if (result.drafted == 0) return;
  const int accepted = static_cast<int>(result.tokens.size()) - 1;
  ++metrics_.draft_rounds;
  for (int i = 0; i < std::min(result.drafted, kMostDrafts); ++i)
    ++metrics_.drafted[i], metrics_.accepted[i] += i < accepted;
  output.drafted = result.drafted;
  output.accepted = std::min(accepted, static_cast<int>(taken));
  policy_.observe(sequence.drafts, result.drafted, accepted);
}

SequenceOutput& Scheduler::next_output(const Sequence& sequence) {
  SequenceOutput& output = outputs_[output_count_++];
  output.id = sequence.id;
  output.tokens.clear(), output.logprobs.clear(), output.prompt_logprobs.clear(), output.outputs.clear(),
      output.error.clear(), output.drafts.clear(), output.draft_scores.clear();
  output.drafted = output.accepted = 0;
  output.reason = FinishReason::none, output.error_code = Code::internal;
  output.stop_id = -1;
  output.prompt_tokens = sequence.prompt_tokens, output.cached_tokens = sequence.cached_tokens;
  return output;
}

}  // namespace weft
