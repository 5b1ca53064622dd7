// The bodies of chat and completion responses, whole or in chunks, as OpenAI's API defines them (with vLLM's additions:
// stop_reason, token_ids, prompt_logprobs).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/engine.h"
#include "api/request_json.h"
#include "base/json.h"
#include "forms/tool_calls.h"

namespace weft {

// What all chunks of a response have in common.
struct AnswerHead {
  std::string id;  // "chatcmpl-..."
  int64_t created_s = 0;
  std::string model;
  std::string fingerprint;
};

class AnswerWriter {
 public:
  AnswerWriter(const Engine& engine, bool chat, const ClientRequest& request, AnswerHead head);

  // A whole response.
  std::string answer(Json::Array choices, const Usage& usage, const Json& prompt_logprobs,
                     const std::vector<std::string>& warnings) const;
  // An error's body, with what had been spent on the answer when it failed.
  std::string failure(Json error, const Usage& usage, const std::vector<std::string>& warnings) const;
  // One event of a stream; `usage` may be null.
  std::string chunk(Json choice, const Usage* usage) const;
  std::string usage_chunk(const Usage& usage) const;
  std::string warnings_chunk(const std::vector<std::string>& warnings) const;

  // Token lists in the API's form, null if the request did not ask for logprobs. `offset` is where the first token
  // begins in the choice's text, in characters; it is advanced past the tokens (completions).
  Json logprobs(const std::vector<TokenInfo>& tokens, size_t& offset) const;
  // vLLM's form: null for the first token, then {"id": {"logprob", "rank", "decoded_token"}, ...}.
  Json prompt_logprobs(const std::vector<TokenInfo>& prompt) const;
  // [[...], ...] of `cols` each.
  static Json logits(const std::vector<float>& values, size_t cols);
  static Json token_ids(const std::vector<TokenInfo>& tokens);
  // `id_stem`: what the ids of the choice's calls have in common.
  static Json tool_calls(const std::vector<ToolCall>& calls, const std::string& id_stem);
  // One step of a call in a stream: id, type and name at first, then arguments only.
  static Json tool_call_delta(const ToolDelta& delta, const std::string& id_stem);

 private:
  Json chat_logprobs(const std::vector<TokenInfo>& tokens) const;
  Json completion_logprobs(const std::vector<TokenInfo>& tokens, size_t& offset) const;
  std::string shown_token(int32_t id) const;

  const Engine& engine_;
  const bool chat_;
  const bool tokens_as_ids_;
  const int logprobs_;
  const bool drafts_;  // the engine speculates
  const AnswerHead head_;
  std::string chunk_head_;  // up to the choices
};

// `drafts`: with the numbers of speculation, in weft's names and OpenAI's.
Json usage_json(const Usage& usage, bool drafts);
// A number that JSON can hold: log(0) is written as -9999, as OpenAI does.
Json logprob_json(float logprob);

}  // namespace weft
