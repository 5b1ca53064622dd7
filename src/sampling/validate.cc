#include "sampling/validate.h"

#include "sampling/parameters.h"

namespace weft {
namespace {

Status in_range(const char* field, int value, int low, int high) {
  if (value >= low && value <= high) return {};
  return fail(Code::invalid_argument, field, " must be between ", low, " and ", high, ", not ", value).about(field);
}

Status in_vocabulary(const char* field, int32_t id, int vocab_size) {
  if (id >= 0 && id < vocab_size) return {};
  return fail(Code::invalid_argument, field, " has the token id ", id, ", which is outside the vocabulary of ",
              vocab_size)
      .about(field);
}

}  // namespace

Status validate(const SamplingParams& p, const SamplingLimits& limits) {
  for (const SamplingParameter& parameter : sampling_parameters()) WEFT_RETURN_IF_ERROR(check_range(parameter, p));
  const int least = limits.allow_zero_max_tokens ? 0 : 1;
  if (p.max_tokens < least)
    return fail(Code::invalid_argument, "max_tokens must be at least ", least, ", not ", p.max_tokens)
        .about("max_tokens");
  if (p.min_tokens < 0)
    return fail(Code::invalid_argument, "min_tokens must not be negative, but is ", p.min_tokens).about("min_tokens");
  WEFT_RETURN_IF_ERROR(in_range("logprobs", p.logprobs, -1, limits.max_logprobs));
  WEFT_RETURN_IF_ERROR(in_range("prompt_logprobs", p.prompt_logprobs, -1, limits.max_logprobs));
  for (const auto& [id, bias] : p.logit_bias) {
    WEFT_RETURN_IF_ERROR(in_vocabulary("logit_bias", id, limits.vocab_size));
    if (!(bias >= -100 && bias <= 100))
      return fail(Code::invalid_argument, "logit_bias of token ", id, " must be between -100 and 100, not ", bias)
          .about("logit_bias");
  }
  for (int32_t id : p.stop_token_ids) WEFT_RETURN_IF_ERROR(in_vocabulary("stop_token_ids", id, limits.vocab_size));
  for (int32_t id : p.allowed_token_ids)
    WEFT_RETURN_IF_ERROR(in_vocabulary("allowed_token_ids", id, limits.vocab_size));
  for (const std::vector<int32_t>& word : p.bad_words) {
    if (word.empty()) return fail(Code::invalid_argument, "bad_words has an empty entry").about("bad_words");
    for (int32_t id : word) WEFT_RETURN_IF_ERROR(in_vocabulary("bad_words", id, limits.vocab_size));
  }
  return {};
}

}  // namespace weft
