// From JSON to requests: the body of an HTTP call or one line of a `weft batch` / `weft score` file becomes a Request.
// One table of fields serves all four forms, so that a sampling field means the same everywhere.
//
// Checked here: JSON types, structure, and what needs only the request itself. Ranges of sampling values are checked by
// validate() (src/sampling) when the engine gets the request. A null counts as an absent field. Unknown fields are
// ignored and passed to RequestRules::ignored; a known field that cannot be honoured is an error that says so.
//
// All errors carry the field they are about (Error::param) and the offending value.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/engine.h"
#include "api/limits.h"
#include "base/json.h"
#include "base/result.h"
#include "forms/tool_calls.h"

namespace weft {

enum class RequestKind : uint8_t {
  chat,        // POST /v1/chat/completions
  completion,  // POST /v1/completions
  batch_line,  // a line of `weft batch --requests`
  score_line,  // a line of `weft score --requests`
};

// What the model and the operator allow, and where a request's values come from when it says nothing.
struct RequestRules {
  SamplingParams defaults;                      // Engine::default_sampling()
  bool images = false;                          // the model takes images
  const ToolForm* tool_form = &generic_form();  // Engine::answer_format(), for `strict` functions
  bool local_files = false;                     // and they may be files
  bool chat_template = false;                   // a request may bring its own template
  int completion_max_tokens = 16;  // of completions and of lines with a prompt; chats go on to the end of the context
  RequestLimits limits;            // Engine::options()
  // Whether there is an adapter of this name (Engine::has_adapter()); absent: there are none.
  std::function<bool(const std::string& name)> is_adapter;
  // Text to ids without special tokens, for `bad_words`. Absent: bad_words is an error.
  std::function<Result<std::vector<int32_t>>(const std::string& text)> encode;
  std::function<void(const std::string& field)> ignored;  // called for each unknown field; may be empty
};

// A request as the client sent it: what the engine needs, and what only concerns the form of the answer.
struct ClientRequest {
  std::optional<std::string> custom_id;
  std::string model;              // empty: not named
  std::vector<Request> requests;  // one, or one for each prompt of a completion
  bool stream = false, include_usage = false, continuous_usage = false;
  bool echo = false;       // the answer's text begins with the prompt's
  bool no_output = false;  // max_tokens 0 with echo: the engine is asked for one token, which is not shown
  bool return_token_ids = false, tokens_as_ids = false;
  int logprobs = -1;         // alternatives shown for each token; -1: no logprobs
  int prompt_logprobs = -1;  // as the client asked (echo with logprobs sets only the engine's)
  ToolMode tool_mode = ToolMode::none;
  std::vector<std::string> tool_names;  // of the declared functions; of mode `named` only the chosen one
  bool strict_tools = false;            // of mode `automatic`: calls are held to their form by the guide
  bool parallel_tool_calls = true;      // false: of several calls that the model writes only the first counts
  Json tool_parameters;                 // their parameters' schemas by name
  bool parse_tool_calls = true;         // false: they stay in the content, and tool_mode is none
  bool separate_reasoning = true;       // thoughts go to reasoning_content; false: they stay in the content
  bool include_reasoning = true;        // false: thoughts are not sent at all
};

// Whether lines of `weft batch` have this field; others are ignored there.
bool is_batch_field(std::string_view name);

Result<ClientRequest> parse_request(const Json& body, RequestKind kind, const RequestRules& rules);

// Names of all fields that a request of this kind may have, but for those that are one number of sampling
// (sampling/parameters.h).
std::vector<std::string> request_fields_of(RequestKind kind);

// Bytes that the requests of a call take while they wait and run, tokens of text estimated.
int64_t memory_of(const ClientRequest& call);

}  // namespace weft
