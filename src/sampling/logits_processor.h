// The hooks through which a user's code may change logits before anything else of the sampler sees them. A kind of
// processor has a name under which requests select it; from the request's parameters it makes one processor for each
// sequence. Plugins with the C interface (include/weft/logits_processor.h) are wrapped into these classes by the
// runtime; programs that link the library may hand in kinds of their own (EngineOptions::logits_processor_kinds).
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace weft {

// What a processor may know of its sequence. Valid during the call.
struct SlotView {
  std::span<const int32_t> tokens;  // prompt, output, and under speculation the drafts before this position
  int prompt_tokens = 0;            // the first this many are the prompt
  std::span<const int32_t> output() const { return tokens.subspan(static_cast<size_t>(prompt_tokens)); }
};

// Of one sequence. `process` changes `logits` [vocab] in place; it must be a function of its arguments and its own
// construction alone (a step can be computed again after a preemption, and positions are verified ahead under
// speculation). Called by any thread of the team, never twice at once for one sequence. An error fails the request; it
// must not throw.
class LogitsProcessor {
 public:
  virtual ~LogitsProcessor() = default;
  virtual Status process(std::span<float> logits, const SlotView& view) = 0;
};

// A row of a step for a batched kind. It sets `status` to fail that row only.
struct ProcessorRow {
  std::span<float> logits;
  SlotView view;
  LogitsProcessor* processor = nullptr;  // of this row's sequence, made by the same kind
  Status status;
};

class LogitsProcessorKind {
 public:
  virtual ~LogitsProcessorKind() = default;
  virtual const std::string& name() const = 0;
  // `params`: JSON text. The error is the user's: bad parameters. Any thread, several at once.
  virtual Result<std::shared_ptr<LogitsProcessor>> create(const std::string& params, int vocab_size) const = 0;
  // True: process_rows is called once per step with all rows of this kind, instead of process() of each.
  virtual bool batched() const { return false; }
  virtual void process_rows(std::span<ProcessorRow> rows) const {
    for (ProcessorRow& row : rows) row.status = row.processor->process(row.logits, row.view);
  }
};

// Whether a processor left values that a sampler can use: no NaN and no +infinity.
inline bool usable_logits(std::span<const float> logits) {
  bool usable = true;
  for (const float logit : logits) usable &= logit < INFINITY;  // false for NaN
  return usable;
}
constexpr const char* kProcessorNotFinite = "a logits processor left a value that is not a number or infinite";

}  // namespace weft
