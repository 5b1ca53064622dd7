// The hooks through which a user's code may change logits before anything else of the sampler sees them. Plugins with a C interface
// are wrapped into these classes by the runtime.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"

namespace weft {

// What a processor may know of its sequence. Valid during the call.
struct SlotView {
  std::span<const int32_t> tokens;  // prompt, output, and under speculation the drafts before this position
  int prompt_tokens = 0;            // the first this many are the prompt
  std::span<const int32_t> output() const { return tokens.subspan(static_cast<size_t>(prompt_tokens)); }
};

// Of one request. `process` changes `logits` [vocab] in place; it must be a function of its arguments and its own construction alone
// (a step can be computed again after a preemption, and positions are verified ahead under speculation). Called by any thread of
// the team, never twice at once for one request. An error fails the request; it must not throw.
class LogitsProcessor {
 public:
  virtual ~LogitsProcessor() = default;
  virtual Status process(std::span<float> logits, const SlotView& view) = 0;
};

// Of a whole step: called once with all rows that asked for it, before the samplers, by the runtime, on copies of the logits. It sets
// `status` of a row to fail that row only.
struct ProcessorRow {
  std::span<float> logits;
  SlotView view;
  Status status;
};
class BatchLogitsProcessor {
 public:
  virtual ~BatchLogitsProcessor() = default;
  virtual void process(std::span<ProcessorRow> rows) = 0;
};

}  // namespace weft
