#include "runtime/processor_stage.h"

#include <algorithm>

#include "sampling/choose.h"

namespace weft {

ProcessorStage::ProcessorStage(ProcessorKinds kinds, int slots, int vocab_size)
    : kinds_(std::move(kinds)), vocab_(static_cast<size_t>(vocab_size)), scratch_(vocab_size),
      slots_(static_cast<size_t>(slots)) {}

Result<std::vector<std::shared_ptr<LogitsProcessor>>> ProcessorStage::open(Slot slot, const SamplingParams& params) {
  std::vector<std::shared_ptr<LogitsProcessor>> for_sampler;
  if (params.logits_processors.empty()) return for_sampler;
  WEFT_TRY(std::vector<NamedProcessor> made,
           create_processors(kinds_, params.logits_processors, static_cast<int>(vocab_)));
  if (std::any_of(made.begin(), made.end(), [](const NamedProcessor& one) { return one.kind->batched(); })) {
    slots_[slot] = std::move(made);
    return for_sampler;
  }
  for (NamedProcessor& one : made) for_sampler.push_back(std::move(one.processor));
  return for_sampler;
}

void ProcessorStage::close(Slot slot) { slots_[slot].clear(); }

void ProcessorStage::begin() { rows_.clear(); }

void ProcessorStage::add(Slot slot, SampleRow& row) {
  if (!slots_[slot].empty()) rows_.push_back({&row, &slots_[slot]});
}

void ProcessorStage::run() {
  copies_.resize(rows_.size() * vocab_);
  size_t rounds = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    SampleRow& row = *rows_[i].sample;
    if (!usable_logits(row.logits)) row.error = kNotFinite;
    const std::span<float> copy{copies_.data() + i * vocab_, vocab_};
    if (row.error.empty() && row.state->params().beam_candidates > 0)
      row.error = log_softmax(row.logits, copy, scratch_);
    else std::copy(row.logits.begin(), row.logits.end(), copy.begin());
    row.raw_logits = row.logits;
    row.logits = copy;
    rounds = std::max(rounds, rows_[i].processors->size());
  }
  for (size_t round = 0; round < rounds; ++round) run_round(round);
}

// The round-th processor of every row, together for those of one kind.
void ProcessorStage::run_round(size_t round) {
  for (const std::shared_ptr<const LogitsProcessorKind>& kind : kinds_) run_kind(*kind, round);
}

void ProcessorStage::run_kind(const LogitsProcessorKind& kind, size_t round) {
  batch_.clear(), batch_rows_.clear();
  histories_.resize(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    const std::vector<NamedProcessor>& processors = *rows_[i].processors;
    const SampleRow& row = *rows_[i].sample;
    if (round >= processors.size() || processors[round].kind.get() != &kind || !row.error.empty()) continue;
    std::span<const int32_t> tokens = row.state->tokens();
    if (!row.pending.empty()) {
      histories_[i].assign(tokens.begin(), tokens.end());
      histories_[i].insert(histories_[i].end(), row.pending.begin(), row.pending.end());
      tokens = histories_[i];
    }
    batch_.push_back({{copies_.data() + i * vocab_, vocab_},
                      {tokens, row.state->prompt_tokens()},
                      processors[round].processor.get(),
                      {}});
    batch_rows_.push_back(i);
  }
  if (batch_.empty()) return;
  kind.process_rows(batch_);
  for (size_t b = 0; b < batch_.size(); ++b) {
    SampleRow& row = *rows_[batch_rows_[b]].sample;
    if (!batch_[b].status.ok()) row.error = batch_[b].status.error().message();
    else if (!usable_logits(batch_[b].logits)) row.error = kProcessorNotFinite;
  }
}

}  // namespace weft
