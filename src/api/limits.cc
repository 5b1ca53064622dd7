#include "api/limits.h"

namespace weft {

namespace {

constexpr RequestLimit kLimits[] = {
    {&RequestLimits::json_bytes, "--max-json-memory", true, "memory that the JSON of a body takes", 413},
    {&RequestLimits::prompts, "--max-prompts", false, "prompts of a completion, inputs of a scoring call", 400},
    {&RequestLimits::choices, "--max-choices", false, "choices: n, best_of and beam_width", 400},
    {&RequestLimits::sequences, "--max-sequences", false, "sequences of a request, prompts times choices", 400},
    {&RequestLimits::prompt_bytes, "--max-prompt-bytes", true, "text of a request's prompts, templates rendered", 413},
    {&RequestLimits::prompt_tokens, "--max-prompt-tokens", false, "tokens of its prompts, times choices", 413},
    {&RequestLimits::list_items, "--max-list-items", false,
     "entries of logit_bias, allowed_token_ids, stop_token_ids and bad_token_ids, each", 400},
    {&RequestLimits::bad_words, "--max-bad-words", false, "entries of bad_words", 400},
    {&RequestLimits::bad_word_bytes, "--max-bad-word-bytes", true, "text of all bad_words together", 400},
    {&RequestLimits::stop_strings, "--max-stop-strings", false, "stop strings", 400},
    {&RequestLimits::stop_bytes, "--max-stop-bytes", true, "text of all stop strings together", 400},
    {&RequestLimits::guide_bytes, "--max-guide-bytes", true,
     "text of a schema, grammar, expression, tag or list of choices", 400},
    {&RequestLimits::template_bytes, "--max-template-bytes", true, "a chat template that a request brings", 400},
    {&RequestLimits::logits, "--max-logits", false, "values of return_context_logits and return_generation_logits",
     400},
    {&RequestLimits::answer_bytes, "--max-answer-memory", true,
     "memory of an answer that is not streamed: text, token ids, logprobs", 413},
    {&RequestLimits::request_bytes, "--max-request-memory", true,
     "memory of a request's prompts and parameters, which each prompt has for itself", 413},
};

}  // namespace

std::span<const RequestLimit> request_limits() { return kLimits; }

RequestLimits RequestLimits::none() {
  RequestLimits limits;
  for (const RequestLimit& row : kLimits) limits.*row.member = 0;
  return limits;
}

Status check_limit(const RequestLimits& limits, int64_t RequestLimits::*member, int64_t amount,
                   const std::string& field) {
  const int64_t limit = limits.*member;
  if (limit == 0 || amount <= limit) return {};
  for (const RequestLimit& row : kLimits)
    if (row.member == member)
      return fail(row.status == 413 ? Code::too_large : Code::invalid_argument, field, " asks for ", amount,
                  row.bytes ? " bytes" : "", "; at most ", limit, " are allowed of: ", row.what, " (", row.flag, ")")
          .about(field);
  return {};
}

}  // namespace weft
