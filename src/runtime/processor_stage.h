// The logits processors of the open slots. Processors that work on one row run inside the samplers, spread over the
// threads. A slot with a batched processor has all of its processors run here instead, before sampling and in their
// order: on copies of the logits (beam search: of the logprobs), so that raw logprobs stay those of the model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/sampling_params.h"
#include "core/step.h"
#include "runtime/logits_plugin.h"
#include "sampling/sampler.h"

namespace weft {

class ProcessorStage {
 public:
  ProcessorStage(ProcessorKinds kinds, int slots, int vocab_size);

  // The processors for the slot's sampler; none where they run here. An error fails the sequence.
  Result<std::vector<std::shared_ptr<LogitsProcessor>>> open(Slot slot, const SamplingParams& params);
  void close(Slot slot);

  // For each step: begin(), add() for each row, and run() once the logits are computed, all on one thread. Rows must
  // keep their addresses until then.
  void begin();
  // Registers the row if its slot has processors that run here.
  void add(Slot slot, SampleRow& row);
  bool empty() const { return rows_.empty(); }
  // Points the rows to the processed logits, or sets their error.
  void run();

 private:
  struct Row {
    SampleRow* sample = nullptr;
    const std::vector<NamedProcessor>* processors = nullptr;
  };
  void run_round(size_t round);
  void run_kind(const LogitsProcessorKind& kind, size_t round);

  const ProcessorKinds kinds_;
  const size_t vocab_;
  Scratch scratch_;
  std::vector<std::vector<NamedProcessor>> slots_;  // per slot; empty where nothing is to be done here
  std::vector<Row> rows_;
  std::vector<float> copies_;  // [rows, vocab]
  std::vector<ProcessorRow> batch_;
  std::vector<std::vector<int32_t>> histories_;  // per row behind drafts: tokens and drafts
  std::vector<size_t> batch_rows_;
};

}  // namespace weft
