#include "sampling/validate.h"

#include <cmath>

namespace weft {
namespace {

template <class T>
Status in_range(const char* field, T value, T low, T high) {
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
  if (!(p.temperature >= 0) || !std::isfinite(p.temperature))
    return fail(Code::invalid_argument, "temperature must be a finite number of at least 0, not ", p.temperature)
        .about("temperature");
  if (p.top_k < -1)
    return fail(Code::invalid_argument, "top_k must be -1 or 0 (off) or positive, not ", p.top_k).about("top_k");
  if (!(p.top_p > 0 && p.top_p <= 1))
    return fail(Code::invalid_argument, "top_p must be above 0 and at most 1, not ", p.top_p).about("top_p");
  WEFT_RETURN_IF_ERROR(in_range("min_p", p.min_p, 0.0f, 1.0f));
  if (!(p.top_p_decay > 0 && p.top_p_decay <= 1))
    return fail(Code::invalid_argument, "top_p_decay must be above 0 and at most 1, not ", p.top_p_decay)
        .about("top_p_decay");
  if (!(p.top_p_min > 0 && p.top_p_min <= 1))
    return fail(Code::invalid_argument, "top_p_min must be above 0 and at most 1, not ", p.top_p_min)
        .about("top_p_min");
  WEFT_RETURN_IF_ERROR(in_range("presence_penalty", p.presence_penalty, -2.0f, 2.0f));
  WEFT_RETURN_IF_ERROR(in_range("frequency_penalty", p.frequency_penalty, -2.0f, 2.0f));
  if (!(p.repetition_penalty > 0) || !std::isfinite(p.repetition_penalty))
    return fail(Code::invalid_argument, "repetition_penalty must be a finite number above 0, not ",
                p.repetition_penalty)
        .about("repetition_penalty");
  if (p.prompt_ignore_length < 0)
    return fail(Code::invalid_argument, "prompt_ignore_length must not be negative, but is ", p.prompt_ignore_length)
        .about("prompt_ignore_length");
  if (p.no_repeat_ngram_size < 0)
    return fail(Code::invalid_argument, "no_repeat_ngram_size must not be negative, but is ", p.no_repeat_ngram_size)
        .about("no_repeat_ngram_size");
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
