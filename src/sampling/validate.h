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

// An error names the field (also as Error::param()) and the value. Single numbers: as the table in parameters.h says.
// Besides: max_tokens and min_tokens not too small, logit_bias in [-100, 100], token ids of the request inside the
// vocabulary. The model's own eos_token_ids are not checked: those outside the vocabulary never match.
Status validate(const SamplingParams& params, const SamplingLimits& limits);

}  // namespace weft
