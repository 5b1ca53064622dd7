// What the fields of a request amount to together: sequences, text, memory.
#include <algorithm>

#include "api/request_fields.h"

namespace weft {

namespace {

size_t text_bytes(const std::optional<std::string>& text) { return text ? text->size() : 0; }

int64_t guide_bytes(const GuideSpec& guide) {
  size_t bytes = guide.text.size();
  for (const std::string& choice : guide.choices) bytes += choice.size() + sizeof choice;
  return static_cast<int64_t>(bytes);
}

// Bytes of what a request has besides its prompt.
int64_t parameter_bytes(const Request& request) {
  const SamplingParams& p = request.sampling;
  int64_t bytes = sizeof request + guide_bytes(request.guide) + text_bytes(request.chat_template);
  bytes += request.tools.memory() + request.chat_template_kwargs.memory();
  bytes += sizeof(int64_t) * (p.logit_bias.size() + p.allowed_token_ids.size() + p.stop_token_ids.size());
  for (const std::vector<int32_t>& word : p.bad_words) bytes += sizeof word + sizeof(int64_t) * word.size();
  for (const std::string& stop : request.stop) bytes += 64 * stop.size();  // a state of the automaton for each byte
  for (const ProcessorChoice& choice : p.logits_processors) bytes += choice.params.size();
  return bytes;
}

// Ids, text, and what the scheduler notes of each token.
int64_t prompt_bytes(const Request& request) {
  const size_t ids = request.prompt_token_ids ? request.prompt_token_ids->size() : 0;
  return static_cast<int64_t>(8 * (ids + text_bytes(request.prompt) + text_bytes(request.text_pair)));
}

int choices_of(const Request& request) {
  return std::max({request.n, request.best_of, request.beams ? request.beams->width : 1});
}

}  // namespace

// What the fields together amount to.
Status request_fields::check_amounts(const Request& request, std::span<const Request> prompts, const ClientRequest& out,
                                     const RequestLimits& limits) {
  const char* const field = request.messages ? "messages" : request.prompt_token_ids ? "prompt_token_ids" : "prompt";
  WEFT_RETURN_IF_ERROR(check_limit(limits, &RequestLimits::guide_bytes, guide_bytes(request.guide), "response_format"));
  const int64_t choices = choices_of(request), count = static_cast<int64_t>(std::max<size_t>(1, prompts.size()));
  WEFT_RETURN_IF_ERROR(
      check_limit(limits, &RequestLimits::sequences, count * choices, request.beams ? "beam_width" : "n"));
  int64_t text = text_bytes(request.prompt) + text_bytes(request.text_pair), tokens = 0;
  int64_t memory = count * parameter_bytes(request) + prompt_bytes(request);
  const auto ids = [](const Request& r) { return r.prompt_token_ids ? r.prompt_token_ids->size() : 0; };
  tokens += ids(request);
  for (const Request& one : prompts) text += text_bytes(one.prompt), tokens += ids(one), memory += prompt_bytes(one);
  WEFT_RETURN_IF_ERROR(check_limit(limits, &RequestLimits::prompt_bytes, text, field));
  WEFT_RETURN_IF_ERROR(check_limit(limits, &RequestLimits::prompt_tokens, tokens * choices, field));
  WEFT_RETURN_IF_ERROR(check_limit(limits, &RequestLimits::request_bytes, memory, field));
  const bool keeps = !out.stream && (out.logprobs >= 0 || out.return_token_ids);
  if (!keeps || !request.max_tokens) return {};
  const int64_t per_token = sizeof(TokenInfo) + sizeof(TokenLogprob) * std::max(0, out.logprobs);
  return check_limit(limits, &RequestLimits::answer_bytes, per_token * *request.max_tokens * choices * count,
                     "max_tokens");
}

int64_t memory_of(const ClientRequest& call) {
  int64_t bytes = sizeof call;
  for (const Request& request : call.requests)
    bytes += parameter_bytes(request) + prompt_bytes(request) * choices_of(request);
  return bytes;
}

}  // namespace weft
