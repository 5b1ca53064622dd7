// Who proposes tokens from the text alone (n-grams; a program's own drafter). Drafts from a model are the runtime's
// (runtime/model_drafter.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/media_prompt.h"
#include "core/sampling_params.h"
#include "core/step.h"

namespace weft {

struct DraftContext {
  Slot slot = 0;
  std::span<const int32_t> tokens;  // prompt and output
  int prompt_tokens = 0;
  const SamplingParams* params = nullptr;
  uint64_t seed = 0;
  const MediaPrompt* media = nullptr;  // the prompt's images: token ids inside their spans mean nothing; null: none
};

// All calls come from the step thread. Nothing that it proposes can change an answer, so it may use whatever it knows;
// but what it learned of a sequence may only be used for sequences of the same salt, since acceptance shows in the time
// that an answer takes.
class Drafter {
 public:
  virtual ~Drafter() = default;
  virtual void open(Slot, const std::array<uint64_t, 4>& /*salt*/) {}
  // `tokens`: all that the sequence had.
  virtual void close(Slot, std::span<const int32_t> /*tokens*/, int /*prompt_tokens*/) {}
  // Appends at most `most` tokens that may follow.
  virtual void propose(const DraftContext& context, int most, std::vector<int32_t>& drafts) = 0;
};

}  // namespace weft
