// Shared by the parts of the request parser (request_json.cc, request_chat.cc, request_guide.cc, request_sampling.cc):
// readers of single JSON values that name the field in their errors. Not for use outside of them, but for
// speculative_config.cc, which takes the readers of single values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "api/request_json.h"

namespace weft::request_fields {

// The value as it may stand in a message: one line, at most some sixty bytes.
std::string shown(const Json& value);

// "temperature must be a number, got \"hot\"", about the field.
Error wrong(const std::string& field, std::string_view must_be, const Json& got);

Result<bool> read_bool(const std::string& field, const Json& value);
// An integer, also one written as 1e1 or 4.0.
Result<int64_t> read_integer(const std::string& field, const Json& value);
Result<int> read_int(const std::string& field, const Json& value);  // that fits in 32 bits
Result<float> read_float(const std::string& field, const Json& value);
Result<std::string> read_string(const std::string& field, const Json& value);
Result<std::vector<std::string>> read_strings(const std::string& field, const Json& value);
Result<std::vector<int32_t>> read_token_ids(const std::string& field, const Json& value);
// The same without repetitions, in the order in which they first occur.
Result<std::vector<int32_t>> read_id_set(const std::string& field, const Json& value);

// request_chat.cc: checks an array of messages and brings it to one form, that of adapt_conversation(): no member is
// null but content, calls are complete, parts are texts, {"type": "image"}, whose address goes to `media.images`, and
// videos likewise.
struct MediaAddresses {
  std::vector<std::string>& images;
  std::vector<std::vector<std::string>>& videos;  // frames of each
};
Result<Json> read_messages(const Json& value, bool images_allowed, MediaAddresses media);

// Checks `tools` and `tool_choice` (either may be null) and applies them: tools for the template, a guide where a call
// is forced or a function is strict. `form`: how the model writes calls.
Status read_tools(const Json* tools, const Json* tool_choice, bool parallel_calls, const ToolForm& form,
                  ClientRequest& out, Request& request);

// tool_guide.cc. Of a forced call: the arguments of the one function that is named, or a list of {"name", "arguments"}.
Result<GuideSpec> forced_call_guide(const std::vector<const Json*>& functions, bool named, bool parallel_calls);
// Of calls that the model makes when it wants to: in its own form, with the arguments of strict functions held to their
// schemas.
Result<GuideSpec> strict_call_guide(const std::vector<const Json*>& functions, const ToolForm& form);
// Of an answer that is one or more such calls, or JSON as `answer` (of kind json_object or json_schema) asks for.
Result<GuideSpec> call_or_answer_guide(const std::vector<const Json*>& functions, const ToolForm& form,
                                       const GuideSpec& answer);

// request_fields.cc: the adapter that the request is for, which may be asked for as its model.
Status read_adapter(const std::string& model, const RequestRules& rules, Request& request);

// request_sampling.cc: a list of {"name", "params"} or of names; whether there are such processors is for the engine to
// say.
Result<std::vector<ProcessorChoice>> read_processors(const std::string& field, const Json& value);
// A stop string, or a list of them.
Result<std::vector<std::string>> read_stops(const std::string& field, const Json& value, const RequestLimits& limits);
// Words as token ids, each as it stands at the start of a text and behind a space.
Result<std::vector<std::vector<int32_t>>> read_banned(const std::string& field, const Json& value,
                                                      const RequestRules& rules);
// An object from token ids to numbers; of a token that is named twice, the last one counts.
Result<std::vector<std::pair<int32_t, float>>> read_biases(const std::string& field, const Json& value);
// The fields of beam search, all together; after n and best_of.
Status read_beams(const Json& body, int64_t max_width, Request& request);

// request_amounts.cc: whether what the fields amount to together is within the limits. `prompts`: of a completion that
// has several, in place of the request's own.
Status check_amounts(const Request& request, std::span<const Request> prompts, const ClientRequest& out,
                     const RequestLimits& limits);

// request_guide.cc: the constraint of the fields that may hold one (response_format, guided_*, structured_outputs,
// regex, ...). More than one is an error.
Result<GuideSpec> read_guide(const Json& body);
bool is_guide_field(std::string_view name);
std::vector<std::string> guide_fields();  // all of them

}  // namespace weft::request_fields
