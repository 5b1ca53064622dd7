// The one place that checks sampling parameters, for every way into the engine.
#pragma once

#include "base/result.h"
#include "core/sampling_params.h"

namespace weft {

struct SamplingLimits {
  int vocab_size = 0;
  int max_logprobs = 20;               // for logprobs and prompt_logprobs
  bool allow_zero_max_tokens = false;  // requests that only score or echo
};

// An error names the field (also as Error::param()) and the value. Accepted: temperature >= 0 and finite (0: greedy);
// top_k >= -1 (-1 and 0: off, larger than the vocabulary: off); top_p in (0, 1]; min_p in [0, 1]; presence_penalty and
// frequency_penalty in [-2, 2]; repetition_penalty > 0 and finite; logit_bias in [-100, 100]; min_tokens >= 0; token
// ids of the request inside the vocabulary. The model's own eos_token_ids are not checked: those outside the vocabulary
// never match.
Status validate(const SamplingParams& params, const SamplingLimits& limits);

}  // namespace weft
