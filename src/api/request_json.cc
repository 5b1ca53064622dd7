// The table of request fields and what ties them together. See the header for the rules.
#include "api/request_json.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "api/request_fields.h"
#include "sampling/parameters.h"

namespace weft {

namespace {

using namespace request_fields;

constexpr size_t kMaxMembers = 1000;  // of a request; also keeps lookups cheap
constexpr int kMaxLogprobs = 20;      // for each token: OpenAI's limit in chats, and what validate() takes

constexpr unsigned bit(RequestKind kind) { return 1u << static_cast<unsigned>(kind); }
constexpr unsigned kChat = bit(RequestKind::chat), kCompletion = bit(RequestKind::completion);
constexpr unsigned kLines = bit(RequestKind::batch_line) | bit(RequestKind::score_line);
constexpr unsigned kHttp = kChat | kCompletion, kAll = kHttp | kLines;

// What the fields are read into; parts that need several fields wait here for finish().
struct Draft {
  RequestKind kind;
  const RequestRules& rules;
  const Json& body;
  ClientRequest out;
  Request request;
  std::vector<Request> prompts;  // of a completion, when it has a list
  bool echo_logprobs = false;
  std::optional<int> top_logprobs;
  bool logprobs_flag = false;
  Json template_arguments;  // reasoning_effort, documents
  bool parallel_tool_calls = true;
};

using Read = Status (*)(const std::string& field, const Json& value, Draft& draft);

struct Field {
  const char* name;
  unsigned kinds;  // where it is known; elsewhere it is an unknown field
  Read read;
};

// Readers of plain members: read<&SamplingParams::top_p>, read<&Request::cache_salt>, read<&ClientRequest::echo>.
template <class T>
auto read_value(const std::string& field, const Json& value) {
  if constexpr (std::is_same_v<T, bool>) return read_bool(field, value);
  else if constexpr (std::is_same_v<T, int>) return read_int(field, value);
  else if constexpr (std::is_same_v<T, float>) return read_float(field, value);
  else if constexpr (std::is_same_v<T, std::string>) return read_string(field, value);
  else return read_token_ids(field, value);
}
template <class T>
struct Unwrapped {
  using type = T;
};
template <class T>
struct Unwrapped<std::optional<T>> {
  using type = T;
};
template <class Owner, class T>
Owner owner_of(T Owner::*);
template <class Owner, class T>
T type_of(T Owner::*);

template <auto kMember>
Status read(const std::string& field, const Json& value, Draft& draft) {
  using Owner = decltype(owner_of(kMember));
  using Type = typename Unwrapped<decltype(type_of(kMember))>::type;
  WEFT_TRY(Type read, read_value<Type>(field, value));
  if constexpr (std::is_same_v<Owner, SamplingParams>) draft.request.sampling.*kMember = std::move(read);
  else if constexpr (std::is_same_v<Owner, Request>) draft.request.*kMember = std::move(read);
  else draft.out.*kMember = std::move(read);
  return {};
}

Status check_count(const Draft& draft, int64_t RequestLimits::*limit, size_t count, const std::string& field) {
  return check_limit(draft.rules.limits, limit, static_cast<int64_t>(count), field);
}

// A list of ids that a sampler looks at.
template <std::vector<int32_t> SamplingParams::*kMember>
Status read_id_list(const std::string& field, const Json& value, Draft& draft) {
  if (value.is_array())
    WEFT_RETURN_IF_ERROR(check_count(draft, &RequestLimits::list_items, value.items().size(), field));
  WEFT_TRY(draft.request.sampling.*kMember, read_id_set(field, value));
  return {};
}

Status ignore(const std::string&, const Json&, Draft&) { return {}; }

// Known, without effect on this engine unless set; then an error.
Status refuse(const std::string& field, const Json& value, Draft&) {
  const bool unset = (value.is_bool() && !value.as_bool()) || (value.is_string() && value.as_string().empty()) ||
                     (value.is_array() && value.items().empty()) || (value.is_object() && value.members().empty());
  if (unset) return {};
  return fail(Code::unsupported, field, " is not supported; leave it out").about(field);
}

// ---- the prompt

Status read_prompt_list(const Json& value, Draft& draft) {
  const Json::Array& items = value.items();
  if (items.empty()) return fail(Code::invalid_argument, "prompt is empty").about("prompt");
  if (items.front().is_number()) {
    WEFT_TRY(draft.request.prompt_token_ids, read_token_ids("prompt", value));
    return {};
  }
  WEFT_RETURN_IF_ERROR(check_count(draft, &RequestLimits::prompts, items.size(), "prompt"));
  for (size_t i = 0; i < items.size(); ++i) {
    Request one;
    const std::string here = "prompt[" + std::to_string(i) + "]";
    if (items.front().is_string()) {
      if (!items[i].is_string()) return wrong(here, "a string like the first prompt", items[i]);
      one.prompt = items[i].as_string();
    } else {
      if (!items[i].is_array()) return wrong(here, "a string, a token id or a list of token ids", items[i]);
      WEFT_TRY(one.prompt_token_ids, read_token_ids(here, items[i]));
      if (one.prompt_token_ids->empty()) return fail(Code::invalid_argument, here, " is empty").about(here);
    }
    draft.prompts.push_back(std::move(one));
  }
  return {};
}

Status read_prompt(const std::string& field, const Json& value, Draft& draft) {
  if (value.is_string()) {
    draft.request.prompt = value.as_string();
    return {};
  }
  if (!value.is_array()) return wrong(field, "a string, a list of strings, or token ids", value);
  if (draft.kind == RequestKind::completion) return read_prompt_list(value, draft);
  return wrong(field, "a string (token ids go to prompt_token_ids)", value);
}

Status read_prompt_ids(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(draft.request.prompt_token_ids, read_token_ids(field, value));
  if (draft.request.prompt_token_ids->empty()) return fail(Code::invalid_argument, field, " is empty").about(field);
  return {};
}

Status read_chat(const std::string&, const Json& value, Draft& draft) {
  WEFT_TRY(draft.request.messages,
           read_messages(value, draft.rules.images, {draft.request.images, draft.request.videos}));
  draft.request.local_files = draft.rules.local_files;
  return {};
}

Status read_images(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(draft.request.images, read_strings(field, value));
  draft.request.local_files = draft.rules.local_files;
  if (!draft.request.images.empty() && !draft.rules.images)
    return fail(Code::invalid_argument, "this model takes no images").about(field);
  return {};
}

Status read_videos(const std::string& field, const Json& value, Draft& draft) {
  if (!value.is_array()) return wrong(field, "a list of lists of frame files", value);
  draft.request.local_files = draft.rules.local_files;
  for (const Json& video : value.items()) {
    WEFT_TRY(std::vector<std::string> frames, read_strings(field, video));
    draft.request.videos.push_back(std::move(frames));
  }
  if (!draft.request.videos.empty() && !draft.rules.images)
    return fail(Code::invalid_argument, "this model takes no videos").about(field);
  return {};
}

Status read_template(const std::string& field, const Json& value, Draft& draft) {
  if (!draft.rules.chat_template)
    return fail(Code::unsupported, "chat_template in a request is not allowed by this server").about(field);
  WEFT_TRY(draft.request.chat_template, read_string(field, value));
  return check_count(draft, &RequestLimits::template_bytes, draft.request.chat_template->size(), field);
}

Status read_template_arguments(const std::string& field, const Json& value, Draft& draft) {
  if (!value.is_object()) return wrong(field, "an object", value);
  if (value.members().size() > kMaxMembers)
    return fail(Code::invalid_argument, field, " has more than ", kMaxMembers, " members").about(field);
  draft.request.chat_template_kwargs = value;
  return {};
}

Status read_reasoning_effort(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(std::string effort, read_string(field, value));
  draft.template_arguments.set(field, std::move(effort));
  return {};
}

Status read_documents(const std::string& field, const Json& value, Draft& draft) {
  if (!value.is_array()) return wrong(field, "a list of documents", value);
  draft.template_arguments.set(field, value);
  return {};
}

// ---- length and end

Status read_max_tokens(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const int64_t count, read_integer(field, value));
  const Json* echo = draft.body.find("echo");
  draft.out.no_output =
      count == 0 && draft.kind == RequestKind::completion && echo && echo->is_bool() && echo->as_bool();
  if (count < 1 && !draft.out.no_output)
    return fail(Code::invalid_argument, field, " must be at least 1, got ", count).about(field);
  draft.request.max_tokens = static_cast<int>(std::clamp<int64_t>(count, 1, std::numeric_limits<int>::max()));
  return {};
}

Status read_stop(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(draft.request.stop, read_stops(field, value, draft.rules.limits));
  return {};
}

Status read_min_tokens(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const int count, read_int(field, value));
  if (count < 0) return fail(Code::invalid_argument, field, " must not be negative, got ", count).about(field);
  draft.request.sampling.min_tokens = count;
  return {};
}

// ---- sampling

Status read_temperature(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const float temperature, read_float(field, value));
  draft.request.sampling.temperature = temperature > 0 && temperature < kGreedyTemperature ? 0.0f : temperature;
  return {};
}

Status read_top_k(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const int64_t k, read_integer(field, value));
  if (k < -1) return fail(Code::invalid_argument, field, " must be -1 or 0 (off) or positive, got ", k).about(field);
  draft.request.sampling.top_k = static_cast<int>(std::clamp<int64_t>(k, 0, std::numeric_limits<int>::max()));
  return {};
}

Status read_seed(const std::string& field, const Json& value, Draft& draft) {
  if (!value.is_integer()) return wrong(field, "an integer of 64 bits", value);
  draft.request.seed = static_cast<uint64_t>(value.as_integer());
  return {};
}

// n and best_of.
template <int Request::*kMember>
Status read_choices(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const int64_t count, read_integer(field, value));
  const int64_t limit = draft.rules.limits.choices;
  if (count < 1) return fail(Code::invalid_argument, field, " must be at least 1, got ", count).about(field);
  if ((limit > 0 && count > limit) || count > std::numeric_limits<int>::max())
    return fail(Code::invalid_argument, field, " must be at most ", limit, " (--max-choices), got ", count)
        .about(field);
  draft.request.*kMember = static_cast<int>(count);
  return {};
}

Status read_cache_salt(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(draft.request.cache_salt, read_string(field, value));
  if (draft.request.cache_salt.empty()) return fail(Code::invalid_argument, field, " must not be empty").about(field);
  return {};
}

Status read_priority(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const int64_t priority, read_integer(field, value));
  if (priority < 0 || priority > 100)
    return fail(Code::invalid_argument, field, " must be between 0 and 100, got ", priority).about(field);
  draft.request.priority = static_cast<int>(priority);
  return {};
}

Status read_timeout(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const float seconds, read_float(field, value));
  if (!(seconds > 0))
    return fail(Code::invalid_argument, field, " must be a number of seconds above 0, got ", seconds).about(field);
  draft.request.timeout_s = seconds;
  return {};
}

Status read_logit_bias(const std::string& field, const Json& value, Draft& draft) {
  if (value.is_object())
    WEFT_RETURN_IF_ERROR(check_count(draft, &RequestLimits::list_items, value.members().size(), field));
  WEFT_TRY(draft.request.sampling.logit_bias, read_biases(field, value));
  return {};
}

Status read_bad_words(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(std::vector<std::vector<int32_t>> words, read_banned(field, value, draft.rules));
  std::vector<std::vector<int32_t>>& banned = draft.request.sampling.bad_words;
  banned.insert(banned.end(), std::make_move_iterator(words.begin()), std::make_move_iterator(words.end()));
  return {};
}

Status read_bad_ids(const std::string& field, const Json& value, Draft& draft) {
  if (value.is_array())
    WEFT_RETURN_IF_ERROR(check_count(draft, &RequestLimits::list_items, value.items().size(), field));
  WEFT_TRY(const std::vector<int32_t> ids, read_id_set(field, value));
  for (const int32_t id : ids) draft.request.sampling.bad_words.push_back({id});
  return {};
}

Status read_processor_list(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(draft.request.sampling.logits_processors, read_processors(field, value));
  return {};
}

// ---- logprobs

Status check_alternatives(const std::string& field, int count, int limit) {
  if (count < 0 || count > limit)
    return fail(Code::invalid_argument, field, " must be between 0 and ", limit, ", got ", count).about(field);
  return {};
}

// Chats: a switch, with the number in top_logprobs. Completions and lines: the number itself. Lines take both forms.
Status read_logprobs(const std::string& field, const Json& value, Draft& draft) {
  if (value.is_bool() && draft.kind != RequestKind::completion) {
    draft.logprobs_flag = value.as_bool();
    return {};
  }
  if (draft.kind == RequestKind::chat) return wrong(field, "true or false", value);
  WEFT_TRY(const int count, read_int(field, value));
  WEFT_RETURN_IF_ERROR(check_alternatives(field, count, kMaxLogprobs));
  draft.out.logprobs = count;
  return {};
}

Status read_top_logprobs(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(draft.top_logprobs, read_int(field, value));
  return check_alternatives(field, *draft.top_logprobs, kMaxLogprobs);
}

Status read_prompt_logprobs(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const int count, read_int(field, value));
  WEFT_RETURN_IF_ERROR(check_alternatives(field, count, kMaxLogprobs));
  draft.out.prompt_logprobs = count;
  return {};
}

Status read_logprobs_mode(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const std::string mode, read_string(field, value));
  if (mode != "raw_logprobs" && mode != "processed_logprobs")
    return wrong(field, "\"raw_logprobs\" or \"processed_logprobs\"", value);
  draft.request.sampling.processed_logprobs = mode == "processed_logprobs";
  return {};
}

// ---- form of the answer

Status read_stream_options(const std::string& field, const Json& value, Draft& draft) {
  if (!value.is_object()) return wrong(field, "an object", value);
  const auto flag = [&](const char* name, bool& target) -> Status {
    const Json* member = value.find(name);
    if (!member || member->is_null()) return {};
    WEFT_TRY(target, read_bool(field + "." + name, *member));
    return {};
  };
  WEFT_RETURN_IF_ERROR(flag("include_usage", draft.out.include_usage));
  bool continuous = false;
  WEFT_RETURN_IF_ERROR(flag("continuous_usage_stats", continuous));
  draft.out.continuous_usage = continuous && draft.out.include_usage;
  return {};
}

Status read_parallel_calls(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(draft.parallel_tool_calls, read_bool(field, value));
  return {};
}

// llama.cpp's spelling of separate_reasoning.
Status read_reasoning_format(const std::string& field, const Json& value, Draft& draft) {
  WEFT_TRY(const std::string format, read_string(field, value));
  if (format != "none" && format != "auto" && format != "deepseek")
    return wrong(field, "\"none\", \"auto\" or \"deepseek\"", value);
  draft.out.separate_reasoning = format != "none";
  return {};
}

// A number of sampling that has no entry below.
Status read_parameter(const SamplingParameter& parameter, const Json& value, SamplingParams& sampling) {
  return std::visit(
      [&](auto member) -> Status {
        using Number = std::remove_reference_t<decltype(sampling.*member)>;
        WEFT_TRY(sampling.*member, read_value<Number>(parameter.name, value));
        return {};
      },
      parameter.member);
}

const Field kFields[] = {
    {"custom_id", kLines, read<&ClientRequest::custom_id>},
    {"model", kAll, read<&ClientRequest::model>},
    {"prompt", kCompletion | kLines, read_prompt},
    {"prompt_token_ids", kCompletion | kLines, read_prompt_ids},
    {"messages", kChat | kLines, read_chat},
    {"images", kAll, read_images},
    {"videos", kAll, read_videos},
    {"text_pair", kLines, read<&Request::text_pair>},
    {"token_type_ids", kLines, read<&Request::token_type_ids>},
    {"add_special_tokens", kAll, read<&Request::add_special_tokens>},
    {"add_generation_prompt", kAll, read<&Request::add_generation_prompt>},
    {"continue_final_message", kAll, read<&Request::continue_final_message>},
    {"chat_template", kAll, read_template},
    {"chat_template_kwargs", kAll, read_template_arguments},
    {"reasoning_effort", kAll, read_reasoning_effort},
    {"documents", kAll, read_documents},
    {"tools", kAll, ignore},  // in finish(), with tool_choice
    {"tool_choice", kAll, ignore},
    {"parallel_tool_calls", kAll, read_parallel_calls},
    {"functions", kChat | kLines, refuse},
    {"function_call", kChat | kLines, refuse},
    {"separate_reasoning", kChat, read<&ClientRequest::separate_reasoning>},
    {"include_reasoning", kChat, read<&ClientRequest::include_reasoning>},
    {"reasoning_format", kChat, read_reasoning_format},
    {"parse_tool_calls", kChat, read<&ClientRequest::parse_tool_calls>},  // llama.cpp's
    {"max_tokens", kAll, read_max_tokens},
    {"max_completion_tokens", kAll, read_max_tokens},
    {"min_tokens", kAll, read_min_tokens},
    {"stop", kAll, read_stop},
    {"stop_token_ids", kAll, read_id_list<&SamplingParams::stop_token_ids>},
    {"ignore_eos", kAll, read<&SamplingParams::ignore_eos>},
    {"include_stop_str_in_output", kAll, read<&Request::include_stop_str_in_output>},
    {"skip_special_tokens", kAll, read<&Request::skip_special_tokens>},
    {"n", kAll, read_choices<&Request::n>},
    {"best_of", kAll, read_choices<&Request::best_of>},
    {"use_beam_search", kAll, ignore},  // these in finish(), together
    {"beam_width", kAll, ignore},
    {"length_penalty", kAll, ignore},
    {"early_stopping", kAll, ignore},
    {"beam_search_diversity_rate", kAll, ignore},
    {"diversity_penalty", kAll, ignore},
    {"seed", kAll, read_seed},
    // Of the numbers in sampling/parameters.h only those with rules of their own.
    {"temperature", kAll, read_temperature},
    {"top_k", kAll, read_top_k},
    {"speculative.n_max", kAll, read<&SamplingParams::max_draft_tokens>},  // llama.cpp's name of max_draft_tokens
    {"logit_bias", kAll, read_logit_bias},
    {"allowed_token_ids", kAll, read_id_list<&SamplingParams::allowed_token_ids>},
    {"bad_words", kAll, read_bad_words},
    {"bad_token_ids", kAll, read_bad_ids},
    {"logits_processors", kAll, read_processor_list},
    {"logprobs", kAll, read_logprobs},
    {"top_logprobs", kAll, read_top_logprobs},
    {"prompt_logprobs", kAll, read_prompt_logprobs},
    {"logprobs_mode", kAll, read_logprobs_mode},
    {"return_context_logits", kAll, read<&SamplingParams::context_logits>},
    {"return_generation_logits", kAll, read<&SamplingParams::generation_logits>},
    {"lora", kAll, read<&Request::lora>},
    {"cache_salt", kAll, read_cache_salt},
    {"priority", kAll, read_priority},
    {"timeout", kAll, read_timeout},
    {"echo", kCompletion, read<&ClientRequest::echo>},
    {"stream", kHttp, read<&ClientRequest::stream>},
    {"stream_options", kHttp, read_stream_options},
    {"return_token_ids", kAll, read<&ClientRequest::return_token_ids>},
    {"return_tokens_as_token_ids", kHttp, read<&ClientRequest::tokens_as_ids>},
    {"user", kAll, ignore},
    {"echo", kLines, refuse},
    {"stream", kLines, ignore},  // a file is answered whole
    {"stream_options", kLines, ignore},
    // Known elsewhere, not to be had here.
    {"suffix", kAll, refuse},
    {"truncate_prompt_tokens", kAll, refuse},
    {"thinking_token_budget", kAll, refuse},
    {"lora_request", kAll, refuse},
    {"disaggregated_params", kAll, refuse},
    {"mm_processor_kwargs", kAll, refuse},
    {"media_io_kwargs", kAll, refuse},
    {"modalities", kChat, ignore},
    {"audio", kChat, refuse},
    {"prediction", kChat, refuse},
    {"web_search_options", kChat, refuse},
};

const Field* find_field(std::string_view name, RequestKind kind) {
  for (const Field& field : kFields)
    if ((field.kinds & bit(kind)) != 0 && name == field.name) return &field;
  return nullptr;
}

// ---- what needs several fields

Status finish_prompt(Draft& draft) {
  const Request& request = draft.request;
  const int given = request.prompt.has_value() + request.prompt_token_ids.has_value() + request.messages.has_value() +
                    !draft.prompts.empty();
  const char* const wanted = draft.kind == RequestKind::chat         ? "messages"
                             : draft.kind == RequestKind::completion ? "prompt"
                                                                     : "prompt, prompt_token_ids or messages";
  const char* const param = draft.kind == RequestKind::chat ? "messages" : "prompt";
  if (given == 0) return fail(Code::invalid_argument, wanted, " is missing").about(param);
  if (given > 1)
    return fail(Code::invalid_argument, "give only one of prompt, prompt_token_ids and messages").about(param);
  if (request.continue_final_message && draft.body.find("add_generation_prompt") == nullptr)
    draft.request.add_generation_prompt = false;
  if (request.continue_final_message && draft.request.add_generation_prompt)
    return fail(Code::invalid_argument, "continue_final_message cannot be combined with add_generation_prompt")
        .about("continue_final_message");
  if (draft.template_arguments.is_null()) return {};
  for (Json::Member& member : draft.template_arguments.members())
    if (!request.chat_template_kwargs.find(member.first))
      draft.request.chat_template_kwargs.set(member.first, std::move(member.second));
  return {};
}

Status finish_lengths(Draft& draft) {
  Request& request = draft.request;
  if (!request.max_tokens && !request.messages) request.max_tokens = draft.rules.completion_max_tokens;
  // Over HTTP that is surely a mistake; in a file of requests the length simply ends it first.
  const bool http = draft.kind == RequestKind::chat || draft.kind == RequestKind::completion;
  if (http && request.max_tokens && request.sampling.min_tokens > *request.max_tokens)
    return fail(Code::invalid_argument, "min_tokens must not exceed max_tokens (", *request.max_tokens, "), got ",
                request.sampling.min_tokens)
        .about("min_tokens");
  if (request.best_of != 0 && request.best_of < request.n)
    return fail(Code::invalid_argument, "best_of must be at least n (", request.n, "), got ", request.best_of)
        .about("best_of");
  if (draft.out.stream && request.best_of > request.n)
    return fail(Code::invalid_argument, "best_of above n cannot be combined with stream").about("best_of");
  return {};
}

Status finish_logprobs(Draft& draft) {
  ClientRequest& out = draft.out;
  if (draft.logprobs_flag) out.logprobs = draft.top_logprobs.value_or(0);
  else if (draft.top_logprobs.value_or(0) > 0 && out.logprobs < 0)
    return fail(Code::invalid_argument, "top_logprobs needs logprobs to be true").about("top_logprobs");
  if (out.stream && out.prompt_logprobs >= 0)
    return fail(Code::unsupported, "prompt_logprobs cannot be combined with stream").about("prompt_logprobs");
  const SamplingParams& sampling = draft.request.sampling;
  if (out.stream && (sampling.context_logits || sampling.generation_logits)) {
    const char* const field = sampling.context_logits ? "return_context_logits" : "return_generation_logits";
    return fail(Code::unsupported, field, " cannot be combined with stream").about(field);
  }
  draft.request.sampling.logprobs = out.logprobs;
  draft.request.sampling.prompt_logprobs = out.echo ? std::max(out.logprobs, out.prompt_logprobs) : out.prompt_logprobs;
  return {};
}

Status finish(Draft& draft) {
  WEFT_RETURN_IF_ERROR(finish_prompt(draft));
  WEFT_RETURN_IF_ERROR(read_adapter(draft.out.model, draft.rules, draft.request));
  WEFT_RETURN_IF_ERROR(read_beams(draft.body, draft.rules.limits.choices, draft.request));
  WEFT_RETURN_IF_ERROR(finish_lengths(draft));
  WEFT_RETURN_IF_ERROR(finish_logprobs(draft));
  ClientRequest& out = draft.out;
  const Json* stream_options = draft.body.find("stream_options");
  if ((bit(draft.kind) & kHttp) != 0 && !out.stream && stream_options && !stream_options->is_null())
    return fail(Code::invalid_argument, "stream_options needs stream to be true").about("stream_options");
  WEFT_TRY(draft.request.guide, read_guide(draft.body));
  WEFT_RETURN_IF_ERROR(read_tools(draft.body.find("tools"), draft.body.find("tool_choice"), draft.parallel_tool_calls,
                                  *draft.rules.tool_form, out, draft.request));
  if (!draft.request.messages || !out.parse_tool_calls) out.tool_mode = ToolMode::none;
  WEFT_RETURN_IF_ERROR(check_amounts(draft.request, draft.prompts, out, draft.rules.limits));
  if (draft.prompts.empty()) {
    out.requests.push_back(std::move(draft.request));
    return {};
  }
  for (Request& prompt : draft.prompts) {
    Request one = draft.request;
    one.prompt = std::move(prompt.prompt);
    one.prompt_token_ids = std::move(prompt.prompt_token_ids);
    out.requests.push_back(std::move(one));
  }
  return {};
}

}  // namespace

bool is_batch_field(std::string_view name) {
  return find_field(name, RequestKind::batch_line) || find_sampling_parameter(name) || is_guide_field(name);
}

std::vector<std::string> request_fields_of(RequestKind kind) {
  std::vector<std::string> names;
  for (const Field& field : kFields)
    if ((field.kinds & bit(kind)) != 0) names.emplace_back(field.name);
  for (const std::string& name : guide_fields()) names.push_back(name);
  return names;
}

Result<ClientRequest> parse_request(const Json& body, RequestKind kind, const RequestRules& rules) {
  if (!body.is_object()) return fail(Code::invalid_argument, "a request must be a JSON object, got ", body.type_name());
  if (body.members().size() > kMaxMembers)
    return fail(Code::invalid_argument, "a request may have at most ", kMaxMembers, " fields");
  Draft draft{kind, rules, body};
  draft.request.sampling = rules.defaults;
  for (const auto& [name, value] : body.members()) {
    if (value.is_null() || body.find(name) != &value) continue;  // of several, the last one counts
    if (const Field* field = find_field(name, kind)) WEFT_RETURN_IF_ERROR(field->read(name, value, draft));
    else if (const SamplingParameter* number = find_sampling_parameter(name))
      WEFT_RETURN_IF_ERROR(read_parameter(*number, value, draft.request.sampling));
    else if (!is_guide_field(name) && rules.ignored) rules.ignored(name);
  }
  WEFT_RETURN_IF_ERROR(finish(draft));
  return std::move(draft.out);
}

}  // namespace weft
